"""Training of the feature network: targets by hand, exact resumption, learning what is there."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from ecomap import train_features
from ecomap.config import load_config
from ecomap.errors import ConfigError, DataError, DivergenceError
from ecomap.feature_batches import (
    UNKNOWN_CLASS,
    alter,
    climate_scales,
    draw_batch,
    draw_crop,
    make_targets,
)
from ecomap.feature_network import (
    FeatureNetwork,
    FeatureNetworkConfig,
    Reading,
    Scale,
    load_feature_network,
)
from ecomap.places import places_digest
from ecomap.schema import LandCover, read_dataset, write_dataset
from ecomap.train import TASKS
from ecomap.train import train as train_any
from ecomap.train_autoencoder import open_frames
from ecomap.train_config import FeatureTrainConfig, OptimConfig
from ecomap.train_features import feature_loss, held_out_figures, held_out_images, train
from tests.fakes import made_image, make_tile
from tests.second_run import refused_during

QUIET = Console(quiet=True)
SIZE = 32


@pytest.fixture(scope="module")
def tiles(tmp_path_factory):
    """Places whose colour says their class, brightness their temperature, in two seasons."""
    folder = tmp_path_factory.mktemp("tiles")
    (folder / "images").mkdir()
    records = []
    for place in range(16):
        is_warm, is_barren = place % 2, place // 2 % 2
        for month in (1, 7):
            image = np.full((40, SIZE, 3), 40 + 60 * is_warm, np.uint8)
            image[..., 0 if is_barren else 1] += 80
            image[..., 2] += 50 * (month == 7)
            name = f"images/{place}_{month}.png"
            Image.fromarray(image).save(folder / name)
            records.append(
                make_tile(
                    location_id=str(place), month=f"2004-{month:02d}", lat=3.0 * place,
                    width_px=SIZE, height_px=40, image_path=name,
                    split="val" if place >= 12 else "train", attribution="made by hand",
                    land_cover=LandCover.BARREN if is_barren else LandCover.CROPLANDS,
                    temperature_c=30.0 if is_warm else -10.0, precipitation_mm_day=1.0 + is_warm,
                )
            )  # fmt: skip
    write_dataset(folder, records)
    return folder


def config(folder, **changes) -> FeatureTrainConfig:
    optim = {
        "steps": 4, "learning_rate": 3e-3, "warmup_steps": 2, "ema_decay": 0.9, "log_every": 1,
        "validate_every": 2, "checkpoint_every": 2,
    }  # fmt: skip
    fields = {
        "datasets": (folder,), "dataset_weights": (1.0,), "input_size_px": SIZE, "widths": (8, 16),
        "blocks": (1, 1), "batch_size": 8, "num_validation": 8, "bf16": False,
        "imagery": "made-up colours", "limits": "none", "max_gain": 1.02, "max_tint": 1.01,
    }  # fmt: skip
    optim |= {key: changes.pop(key) for key in list(changes) if key in optim}
    return FeatureTrainConfig(**(fields | changes), optim=OptimConfig(**optim))


def test_scales_are_mean_and_spread_of_what_is_known():
    records = [make_tile(temperature_c=t, precipitation_mm_day=p) for t, p in
               ((0.0, 0.0), (10.0, np.e - 1), (None, 0.0))]  # fmt: skip
    scales = climate_scales(records)
    assert scales["temperature_c"] == Scale(log=False, mean=5.0, std=5.0)
    rain = scales["precipitation_mm_day"]
    assert rain.log
    assert rain.mean == pytest.approx(1 / 3)
    assert rain.std == pytest.approx(np.std([0, 1, 0]))
    assert "solar_radiation_mj_m2_day" not in scales


def test_climate_that_nothing_can_be_learnt_of_is_refused():
    with pytest.raises(DataError, match=r"temperature_c is 4\.5 in all training records"):
        climate_scales([make_tile(), make_tile()])
    unknown = make_tile(temperature_c=None, precipitation_mm_day=None)
    with pytest.raises(DataError, match="None of 1 training records knows its climate"):
        climate_scales([unknown])


def test_targets_by_hand():
    scales = {
        "temperature_c": Scale(log=False, mean=5.0, std=5.0),
        "precipitation_mm_day": Scale(log=True, mean=0.0, std=2.0),
    }
    found = make_targets(
        [
            make_tile(land_cover=17, month="2021-02", temperature_c=15.0, precipitation_mm_day=0.0),
            make_tile(land_cover=None, month="2021-02", lat=-1.0, temperature_c=None),
        ],
        scales,
    )
    assert found.land_cover.tolist() == [16, UNKNOWN_CLASS]
    assert found.season_month.tolist() == [1, 7]
    assert found.climate[0].tolist() == [2.0, 0.0]
    assert found.climate[1, 0].isnan()
    assert found.climate[1, 1] == pytest.approx(np.log(2.25) / 2)


def reading_of(cover: torch.Tensor, month: torch.Tensor, climate: torch.Tensor) -> Reading:
    return Reading(torch.zeros(len(cover), 4), cover, month, climate)


def test_the_loss_by_hand_leaves_out_what_is_not_known():
    scales = {"temperature_c": Scale(log=False, mean=0.0, std=1.0)}
    records = [
        make_tile(land_cover=1, temperature_c=3.0),
        make_tile(land_cover=None, temperature_c=None),
    ]
    targets = make_targets(records, scales)
    reading = reading_of(torch.zeros(2, 17), torch.zeros(2, 12), torch.tensor([[1.0], [9.0]]))
    loss, parts = feature_loss(reading, targets, 0.5)
    # Even logits: log 17 and log 12; one known temperature, 2 away.
    assert parts == pytest.approx(
        {"land_cover": np.log(17), "season_month": np.log(12), "climate": 2.0}
    )
    assert loss.item() == pytest.approx(np.log(17) + np.log(12) + 0.5 * 2.0)


def test_a_batch_that_knows_no_class_and_no_climate_still_has_gradients():
    scales = {"temperature_c": Scale(log=False, mean=0.0, std=1.0)}
    targets = make_targets([make_tile(land_cover=None, temperature_c=None)], scales)
    leaves = [torch.zeros(1, n, requires_grad=True) for n in (17, 12, 1)]
    loss, parts = feature_loss(reading_of(*leaves), targets, 2.0)
    loss.backward()
    assert parts["land_cover"] == parts["climate"] == 0.0
    assert all(leaf.grad is not None and leaf.grad.isfinite().all() for leaf in leaves)
    assert leaves[1].grad.abs().sum() > 0


def test_the_same_step_draws_the_same_batch_and_another_one_another(tiles):
    sources, settings = open_frames((tiles,), "train"), config(tiles)
    images, records = draw_batch(sources, settings, 3)
    again, same = draw_batch(sources, settings, 3)
    assert images.shape == (8, SIZE, SIZE, 3)
    assert images.dtype == np.uint8
    assert np.array_equal(images, again)
    assert records == same
    assert not np.array_equal(images, draw_batch(sources, settings, 4)[0])
    assert all(record.split == "train" for record in records)


def test_crops_are_squares_in_all_eight_orientations_and_no_smaller_than_allowed(tiles):
    ramp = np.zeros((40, 32, 3), np.uint8)
    ramp[..., 0] = 6 * np.arange(40)[:, None]
    ramp[..., 1] = 7 * np.arange(32)
    whole = config(tiles, min_crop_frac=1.0)
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(60):
        crop = draw_crop(ramp, whole, rng).astype(int)
        assert crop.shape == (SIZE, SIZE, 3)
        down, right = crop[-1, 0] - crop[0, 0], crop[0, -1] - crop[0, 0]
        assert {abs(down[0]) + abs(right[0]), abs(down[1]) + abs(right[1])} == {186, 217}
        seen.add((*np.sign(down[:2]), *np.sign(right[:2])))
    assert len(seen) == 8
    half = config(tiles, min_crop_frac=0.5)
    spans = [int(np.ptp(draw_crop(ramp, half, rng)[..., 1])) for _ in range(60)]
    assert min(spans) < 150 < 200 < max(spans)
    assert min(spans) >= 7 * 14  # 16 px, their ends softened by resizing


def test_altered_crops_stay_near_in_colour(tiles):
    image = made_image(1, SIZE, SIZE)
    still = config(tiles, max_gain=1.0, max_tint=1.0, max_noise=0.0, jpeg_probability=0.0)
    rng = np.random.default_rng(0)
    assert np.array_equal(alter(image, still, rng), image)
    bright = np.full((SIZE, SIZE, 3), 100, np.uint8)
    gained = config(tiles, max_gain=1.2, max_tint=1.1, max_noise=0.0, jpeg_probability=0.0)
    means = np.array([alter(bright, gained, rng).mean((0, 1)) for _ in range(200)])
    assert 100 / 1.33 < means.min() < 85
    assert 118 < means.max() < 133
    ratios = means[:, 0] / means[:, 1]
    assert 1.1 < ratios.max() < 1.1**2 + 0.02
    noisy = config(tiles, max_gain=1.0, max_tint=1.0, max_noise=4.0, jpeg_probability=0.0)
    spreads = [alter(bright, noisy, rng).std() for _ in range(50)]
    assert min(spreads) < 1
    assert 3 < max(spreads) < 4.3
    pressed = config(tiles, max_gain=1.0, max_tint=1.0, max_noise=0.0, jpeg_probability=1.0)
    changed = alter(image, pressed, rng).astype(int) - image
    assert 0 < np.abs(changed).mean() < 8


def test_figures_of_held_out_images_are_in_the_units_of_users(tiles):
    class Oracle(FeatureNetwork):
        """Says class 12, season month 1 and 20 degrees of every image."""

        def forward(self, inputs):
            count = len(inputs)
            covers, months = torch.zeros(count, 17), torch.zeros(count, 12)
            covers[:, 11] = months[:, 0] = 50.0
            return reading_of(covers, months, torch.ones(count, 1))

    scales = {"temperature_c": Scale(log=False, mean=10.0, std=10.0)}
    network = Oracle(
        FeatureNetworkConfig(input_size_px=SIZE, widths=(8,), blocks=(1,), climate=scales)
    )
    records = [
        make_tile(land_cover=12, month="2021-01", temperature_c=20.0),
        make_tile(land_cover=3, month="2021-11", temperature_c=17.0),
        make_tile(land_cover=None, month="2021-07", lat=-10.0, temperature_c=None),
        make_tile(land_cover=12, month="2021-07", temperature_c=29.0),
    ]
    images = np.zeros((4, SIZE, SIZE, 3), np.uint8)
    found = held_out_figures(network, images, records, batch_size=3)
    assert found == pytest.approx(
        {
            "land_cover_accuracy": 2 / 3,
            "month_error": (0 + 2 + 0 + 6) / 4,
            "temperature_c_error": (0 + 3 + 9) / 3,
        }
    )


def test_held_out_images_are_whole_frames_in_the_size_of_the_network(tiles):
    (frames,) = open_frames((tiles,), "val")
    images, records = held_out_images(frames, 3, SIZE)
    assert images.shape == (3, SIZE, SIZE, 3)
    assert [r.tile_id for r in records] == [frames.records[i].tile_id for i in (0, 4, 7)]


def test_a_run_learns_and_its_card_says_from_what(tiles, tmp_path):
    settings = config(tiles, steps=60, validate_every=60, checkpoint_every=60)
    folder = train(settings, tmp_path / "run", console=QUIET)
    assert folder == tmp_path / "run" / "feature_network"
    network = load_feature_network(folder)
    card = network.config.card
    figures = card["validation"][tiles.name]
    assert figures["land_cover_accuracy"] > 0.8
    assert figures["temperature_c_error"] < 12  # 20 for the mean of all
    training = [r for r in read_dataset(tiles) if r.split == "train"]
    assert card["training"]["places_sha256"] == places_digest(training)
    assert (card["training"]["tiles"], card["training"]["places"]) == (24, 12)
    assert card["training"]["config"]["datasets"] == [tiles.name]
    assert (card["name"], card["imagery"]) == ("ecomap-eo", "made-up colours")
    assert card["attribution"] == ["made by hand"]
    assert str(tiles.parent) not in json.dumps(card)
    lines = [
        json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    ]
    assert lines[-2]["loss"] < 0.8 * lines[0]["loss"]
    assert lines[-1][f"val_month_error_{tiles.name}"] == pytest.approx(
        figures["month_error"], abs=0.5
    )


def test_an_interrupted_run_ends_with_the_same_weights(tiles, tmp_path, monkeypatch):
    settings = config(tiles, steps=6)
    whole = train(settings, tmp_path / "whole", console=QUIET)
    calls = []

    def interrupted(*args):
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return feature_loss(*args)

    part = tmp_path / "part"
    with monkeypatch.context() as patch:
        patch.setattr(train_features, "feature_loss", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(settings, part, console=QUIET)
    assert [p.name for p in sorted((part / "checkpoints").iterdir())][-1] == "step_00000004"
    resumed = train(settings, part, console=QUIET)
    for name in ("model.safetensors", "config.json"):
        assert (resumed / name).read_bytes() == (whole / name).read_bytes()


def test_no_other_run_gets_in_while_the_result_is_saved(tiles, tmp_path, monkeypatch):
    seen = refused_during(
        monkeypatch, train_features, ("FeatureNetwork", "save_feature_network"), folder=tmp_path,
        other=config(tiles, steps=99), dataset=tiles,
    )  # fmt: skip
    train(config(tiles, steps=1), tmp_path, console=QUIET)
    assert seen == ["FeatureNetwork", "save_feature_network", "save_feature_network"]


def test_the_verb_knows_the_task_and_what_it_needs(tiles, tmp_path):
    assert TASKS["features"][1] == "ecomap.train_features"
    path = tmp_path / "features.yaml"
    path.write_text(
        f"task: features\ndatasets: [{tiles}]\ndataset_weights: [1]\ninput_size_px: 32\n"
        "widths: [8, 16]\nblocks: [1, 1]\nbatch_size: 4\noptim: {steps: 1}\n"
    )
    done = train_any(path, output=tmp_path / "run", device="cpu")
    assert done.result == tmp_path / "run" / "feature_network"
    assert load_feature_network(done.result).config.widths == (8, 16)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ("dataset_weights=[1, 1]", "one weight for each of 1 datasets"),
        ("dataset_weights=[0]", "must not be negative or all 0"),
        ("widths=[8, 12]", "positive multiples of 8"),
        ("widths=[8, 16, 24]", "blocks"),
        ("blocks=[1, 0]", "must be 1 or more"),
        ("min_crop_frac=0", "greater than 0"),
        ("max_gain=0.5", "greater than or equal to 1"),
    ],
)
def test_settings_that_cannot_be_trained_are_refused(tiles, changes, words):
    given = ["datasets=[a]", "dataset_weights=[1]", "widths=[8, 16]", "blocks=[1, 1]", changes]
    with pytest.raises(ConfigError, match=words):
        load_config(None, FeatureTrainConfig, given)


def test_a_loss_that_is_not_finite_ends_the_run(tiles, tmp_path):
    with pytest.raises(DivergenceError, match="lower optim"):
        train(config(tiles, learning_rate=1e30, steps=20), tmp_path, console=QUIET)
