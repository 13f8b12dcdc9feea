"""Training: exact resume, deterministic batches, and a loss that falls."""

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file

from ecomap import dataset
from ecomap import train_transformer as training
from ecomap.card import read_card, training_digests
from ecomap.checkpoint import latest_checkpoint
from ecomap.config import load_config
from ecomap.dataset import cache_key, cached_latents, load_vae
from ecomap.errors import ConfigError, DataError
from ecomap.loop import learning_rate
from ecomap.model import load_bundle
from ecomap.places import places_digest
from ecomap.schema import read_dataset, write_dataset
from ecomap.train_config import (
    AutoencoderTrainConfig,
    DropConfig,
    OptimConfig,
    StartConfig,
    TrainConfig,
)
from ecomap.train_transformer import draw_doors, draw_index, train
from tests.fakes import make_tile, write_tiles, write_vae

QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("world")
    write_tiles(root / "tiles")
    write_vae(root / "vae")
    return root


def config(world, steps=4, **optim):
    small = {
        "num_layers": 2, "num_heads": 2, "head_width": 8, "joint_attention_width": 40,
        "max_latent_side": 8, "text_width": 16, "text_heads": 2, "climate_width": 24,
        "climate_layers": 1,
    }  # fmt: skip
    return TrainConfig(
        dataset=world / "tiles", vae=world / "vae", cache=world / "cache", transformer=small,
        batch_size=8, bf16=False,
        optim={"steps": steps, "warmup_steps": 1, "checkpoint_every": 2, "log_every": 1} | optim,
    )  # fmt: skip


def weights(folder):
    return {
        str(path.relative_to(folder)): load_file(path)
        for path in sorted(folder.rglob("*.safetensors"))
    }


def test_an_interrupted_run_resumes_to_the_same_weights(world, tmp_path, monkeypatch):
    straight = train(config(world), tmp_path / "straight", console=QUIET)
    original, calls = training.flow_loss, []

    def interrupted(*args, **kwargs):
        if kwargs["step"] == 3 and not calls:
            calls.append(1)
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    monkeypatch.setattr(training, "flow_loss", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(config(world), tmp_path / "halting", console=QUIET)
    resumed = train(config(world), tmp_path / "halting", console=QUIET)
    first, second = weights(straight), weights(resumed)
    assert first.keys() == second.keys()
    for name, tensors in first.items():
        for key, value in tensors.items():
            assert torch.equal(value, second[name][key]), f"{name} {key}"
    logs = [
        (tmp_path / f / "metrics.jsonl").read_text().splitlines() for f in ("straight", "halting")
    ]
    losses = [[json.loads(line).get("loss") for line in log] for log in logs]
    assert losses[0] == losses[1]


def test_a_run_folder_holds_config_and_versions_and_refuses_another_run(world, tmp_path):
    train(config(world, steps=1), tmp_path, console=QUIET)
    assert load_config(tmp_path / "config.yaml", TrainConfig) == config(world, steps=1)
    path = tmp_path / "versions.json"
    (used,) = json.loads(path.read_text())
    assert used["torch"] == torch.__version__.split("+")[0]
    older = used | {"torch": "2.0"}
    path.write_text(json.dumps([older]))
    train(config(world, steps=1), tmp_path, console=QUIET)
    assert json.loads(path.read_text()) == [older, used]
    with pytest.raises(ConfigError, match="another config"):
        train(config(world, steps=2), tmp_path, console=QUIET)


def test_the_loss_falls_and_the_bundle_loads(world, tmp_path):
    folder = train(
        config(world, steps=60, learning_rate=3e-3, log_every=1, validate_every=1000,
               checkpoint_every=1000, ema_decay=0.5),
        tmp_path,
        console=QUIET,
    )  # fmt: skip
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["val_loss"] < 0.9 * lines[0]["loss"]
    bundle = load_bundle(folder, device="cpu")
    assert bundle.card.imagery == "made"
    assert bundle.card.training["places_sha256"] == places_digest(
        r for r in read_dataset(world / "tiles") if r.split == "train"
    )
    assert bundle.card.trained_variables == ("temperature_c", "precipitation_mm_day")
    assert bundle.card.training["tiles"] == 24
    assert bundle.climate_encoder is not None


def test_every_record_comes_once_an_epoch_in_a_new_order():
    first = [draw_index(20, 6, 0, step)[0] for step in range(3)]
    second = [draw_index(20, 6, 0, step)[0] for step in range(3, 6)]
    assert max(Counter(np.concatenate(first).tolist()).values()) == 1
    assert draw_index(20, 6, 0, 3)[1] == 1
    assert not np.array_equal(np.concatenate(first), np.concatenate(second))
    assert np.array_equal(first[1], draw_index(20, 6, 0, 1)[0])
    assert not np.array_equal(first[0], draw_index(20, 6, 1, 0)[0])


def test_doors_open_as_often_as_configured():
    drop = DropConfig(text_and_tokens=0.5, tokens_only=0.1, text_only=0.2, nothing=0.2)
    text, tokens = draw_doors(20_000, drop, torch.Generator().manual_seed(0))
    assert (text & tokens).float().mean() == pytest.approx(0.5, abs=0.02)
    assert (~text & tokens).float().mean() == pytest.approx(0.1, abs=0.02)
    assert (text & ~tokens).float().mean() == pytest.approx(0.2, abs=0.02)


def test_latents_are_cached_in_the_order_of_the_records_and_read_again(world, tmp_path):
    vae, records = load_vae(world / "vae"), read_dataset(world / "tiles")[:5]
    folder = world / "tiles"
    first = cached_latents(vae, records, folder, tmp_path, batch_size=2)
    assert first.shape == (5, 16, 2, 2)
    backwards = cached_latents(vae, records[::-1], folder, tmp_path, batch_size=2)
    np.testing.assert_allclose(first[::-1], backwards, atol=2e-3)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.npy")}
    assert len(files) == 2
    cached_latents(vae, records, folder, tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.npy")} == files
    with torch.no_grad():
        next(iter(vae.parameters())).add_(1.0)
    cached_latents(vae, records, folder, tmp_path)
    assert len(list(tmp_path.glob("*.npy"))) == 3


def test_a_frame_that_changes_without_changing_size_is_encoded_again(world, tmp_path):
    vae, records = load_vae(world / "vae"), read_dataset(world / "tiles")[:2]
    shutil.copytree(world / "tiles", tmp_path / "tiles")
    before = cache_key(vae, records, tmp_path / "tiles")
    assert before == cache_key(vae, records, world / "tiles")
    path = tmp_path / "tiles" / records[1].image_path
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)
    assert cache_key(vae, records, tmp_path / "tiles") != before


def test_the_card_takes_its_words_from_the_config_and_its_sources_from_the_records(world):
    records = [make_tile(attribution="A", climate_source="B"), make_tile(attribution="A")]
    words = {"imagery": "maps", "limits": "none", "attribution": ("C",)}
    card = training.make_card(config(world).model_copy(update=words), records)
    assert (card.imagery, card.limits, card.attribution) == ("maps", "none", ("A", "B", "C"))


def test_learning_rate_rises_stays_and_falls():
    optim = OptimConfig(steps=10, learning_rate=1.0, warmup_steps=4, decay_steps=5)
    rates = [learning_rate(step, optim) for step in range(10)]
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1, 0.8, 0.6, 0.4, 0.2])


def test_a_dataset_without_sides_is_refused(world, tmp_path):
    from ecomap.schema import write_dataset

    records = [r.model_copy(update={"split": "train"}) for r in read_dataset(world / "tiles")]
    write_dataset(tmp_path / "tiles", records)
    changed = config(world).model_copy(update={"dataset": tmp_path / "tiles"})
    with pytest.raises(DataError, match="0 validation tiles"):
        train(changed, tmp_path / "run", console=QUIET)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("autoencoder", AutoencoderTrainConfig), ("base", TrainConfig)],
)
def test_every_shipped_config_is_valid(name, kind):
    path = Path(__file__).parents[1] / "configs" / "tiny" / f"{name}.yaml"
    assert load_config(path, kind).optim.steps > 1000


def test_null_tokens_grow_from_one_to_all():
    steps = [0, 10, 15, 20, 99]
    assert [training.ramped_null_tokens(256, (10, 20), s) for s in steps] == [1, 1, 16, 256, 256]
    assert training.ramped_null_tokens(256, (0, 0), 0) == 256


def test_a_run_does_not_go_on_when_its_records_were_split_again(world, tmp_path):
    shutil.copytree(world / "tiles", tmp_path / "tiles")
    settings = config(world, steps=2).model_copy(update={"dataset": tmp_path / "tiles"})
    train(settings, tmp_path / "run", console=QUIET)
    records = read_dataset(tmp_path / "tiles")
    moved = [
        r.model_copy(update={"split": "test"}) if r.place_id == records[0].place_id else r
        for r in records
    ]
    assert moved != records
    write_dataset(tmp_path / "tiles", moved)
    with pytest.raises(ConfigError, match="on other records"):
        train(settings, tmp_path / "run", console=QUIET)


def test_a_checkpoint_of_other_shapes_says_so(world, tmp_path):
    train(config(world, steps=2), tmp_path, console=QUIET)
    path = latest_checkpoint(tmp_path / "checkpoints") / "state.safetensors"
    tensors = load_file(path)
    key = next(k for k in tensors if k.startswith("climate_encoder/"))
    save_file(tensors | {key: torch.zeros(3, 5)}, path)
    with pytest.raises(DataError, match="does not fit climate_encoder"):
        train(config(world, steps=2), tmp_path, console=QUIET)


def test_an_interrupted_cache_of_latents_ends_like_one_that_was_not(world, tmp_path, monkeypatch):
    vae, records = load_vae(world / "vae"), read_dataset(world / "tiles")[:9]
    straight = cached_latents(vae, records, world / "tiles", tmp_path / "a", batch_size=2)
    real, count = dataset.encode, [0]

    def halting(*args):
        count[0] += 1
        if count[0] == 4:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(dataset, "encode", halting)
    with pytest.raises(KeyboardInterrupt):
        cached_latents(vae, records, world / "tiles", tmp_path / "b", batch_size=2)
    assert not list((tmp_path / "b").glob("latents_????????????????.npy"))
    count[0] = 100
    resumed = cached_latents(vae, records, world / "tiles", tmp_path / "b", batch_size=2)
    np.testing.assert_allclose(resumed, straight, atol=2e-3)
    assert sorted(p.suffix for p in (tmp_path / "b").iterdir()) == [".npy"]


def test_impossible_shares_are_refused():
    with pytest.raises(ValueError, match="one of the four shares"):
        DropConfig(text_and_tokens=0, tokens_only=0, text_only=0, nothing=0)
    with pytest.raises(ValueError, match="greater than or equal to 0"):
        DropConfig(text_only=-0.1)


def test_training_starts_from_the_parts_that_are_named(world, tmp_path):
    first = train(config(world, steps=2), tmp_path / "first", console=QUIET)
    start = {"bundle": first, "parts": ("transformer",)}
    changed = config(world, steps=1, learning_rate=1e-12, ema_decay=0)
    changed = type(changed)(**(changed.model_dump() | {"start": start, "seed": 5}))
    second = train(changed, tmp_path / "second", console=QUIET)
    before, after = weights(first), weights(second)
    name = "transformer/diffusion_pytorch_model.safetensors"
    for key, value in before[name].items():
        torch.testing.assert_close(after[name][key], value, atol=2e-3, rtol=0)
    card, old = read_card(second), read_card(first)
    assert card.training["started_from"] == old.training
    assert training_digests(card) == {old.training["places_sha256"]}
    elsewhere = {"places_sha256": "x", "started_from": {"tiles": 3}}
    assert training_digests(card.model_copy(update={"training": elsewhere})) == {"x", None}
    name = "climate_encoder/diffusion_pytorch_model.safetensors"
    assert any((before[name][key] - after[name][key]).abs().max() > 0.01 for key in before[name])
    bad = changed.model_copy(update={"start": StartConfig(bundle=first, parts=("vae",))})
    with pytest.raises(ConfigError, match=r"start.parts names 'vae'"):
        train(bad, tmp_path / "third", console=QUIET)


def test_unknown_masks_are_refused(world, tmp_path):
    with pytest.raises(ConfigError, match="masks is 'none'"):
        train(config(world).model_copy(update={"masks": "none"}), tmp_path, console=QUIET)
