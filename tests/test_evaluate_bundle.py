"""What a bundle makes of the tiles of a dataset."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from ecomap.autoencoder import build_autoencoder
from ecomap.card import DOORS, BundleCard
from ecomap.errors import RequestError
from ecomap.evaluate_bundle import (
    CONDITIONS,
    SEED_STRIDE,
    SHARED_NOTE,
    UNSURE_NOTE,
    Reconstructed,
    autoencoder_floor,
    generate_systems,
    open_maker,
    training_note,
)
from ecomap.image_store import as_made
from ecomap.imagery import FrameReader
from ecomap.latents import decode, encode, to_image, to_pixels
from ecomap.model import load_bundle
from ecomap.outputs import read_provenance
from ecomap.places import choose_targets, places_digest
from ecomap.sample import generate_images, prompt_of
from ecomap.schema import read_dataset, read_summary
from ecomap.tiles import Frame
from tests.fakes import write_random_bundle
from tests.made_world import CARD, SIDE_PX, Album, Painter, made_up_world, painter_maker, scored


@pytest.fixture(scope="module")
def targets():
    found = choose_targets(
        made_up_world().tiles, num_places=6, months=(2, 5, 9), splits=("test",), seed=0
    )
    return found.chosen


@pytest.fixture(scope="module")
def generated(targets, tmp_path_factory):
    """One full run, shared by the tests that only read it."""
    painter, folder = Painter(), tmp_path_factory.mktemp("generated")
    return generate_systems(painter_maker(folder, painter), targets, seed=3), painter, folder


def test_the_model_is_told_what_the_conditions_say(generated, targets):
    calls = {}
    for records, seeds, doors in generated[1].calls:
        # 18 images in batches of 16: two calls a condition
        kind = "unconditional" if not doors else "generated"
        if doors and len(calls.get("generated", ())) == 18:
            kind = "shuffled"
        calls.setdefault(kind, []).extend(zip(records, seeds, strict=True))
    own, shuffled, free = (calls[k] for k in ("generated", "shuffled", "unconditional"))
    assert [seed for _, seed in own] == [3 + index // 3 for index in range(18)]
    assert [seed for _, seed in own] == [seed for _, seed in shuffled]
    assert [seed for _, seed in free] == [3 + SEED_STRIDE + index for index in range(18)]
    assert [record for record, _ in own] == [as_made(t.record, CARD) for t in targets]
    for (record, _), (other, _) in zip(own, shuffled, strict=True):
        assert record.tile_id == other.tile_id
        assert record.temperature_c_normals != other.temperature_c_normals or (
            record.precipitation_mm_day_normals != other.precipitation_mm_day_normals
        )


def test_each_condition_is_a_set_under_the_keys_of_the_targets(generated, targets):
    sets = {one.name: one for one in generated[0]}
    assert list(sets) == list(CONDITIONS)
    for name, one in sets.items():
        assert (one.kind, one.description) == CONDITIONS[name]
        assert [tile.key for tile in one.tiles] == [tile.key for tile in targets]
        # a null is scored as if its images showed the climate of the targets
        assert [tile.climate for tile in one.tiles] == [tile.climate for tile in targets]
        assert one.read(0).rgb.shape == (SIDE_PX, SIDE_PX, 3)
    assert [one.kind for one in sets.values()] == ["generated", "null", "null"]


def test_each_folder_is_a_dataset_that_can_be_scored_again(generated, targets):
    sets, _, folder = generated
    for one in sets:
        records, reader = read_dataset(folder / one.name), FrameReader(folder / one.name)
        assert [record.tile_id for record in records] == [tile.key for tile in targets]
        for index, (record, target) in enumerate(zip(records, targets, strict=True)):
            np.testing.assert_array_equal(reader.read(record), one.read(index).rgb)
            assert record.temperature_c == target.climate["temperature_c"]
            assert record == one.tiles[index].record
        summary = read_summary(folder / one.name)
        assert summary["synthetic"] is True
        assert (summary["condition"], summary["settings"]) == (one.name, {"steps": 20})


def test_files_tell_what_the_model_was_told_not_what_is_scored(generated):
    sets = {one.name: one for one in generated[0]}
    shuffled = sets["shuffled_climate"]
    for tile, path in zip(shuffled.tiles, shuffled.paths, strict=True):
        told = read_provenance(path)["record"]
        assert {name: told[name] for name in tile.climate} != tile.climate
    assert read_provenance(sets["unconditional"].paths[0])["doors"] == []


def test_a_second_run_makes_nothing_and_more_places_keep_the_first_ones(generated, tmp_path):
    tiles = made_up_world().tiles
    painter = Painter()
    for num, made in ((3, 9), (3, 0), (4, 3)):
        painter.calls.clear()
        chosen = choose_targets(
            tiles, num_places=num, months=(2, 5, 9), splits=("test",), seed=0
        ).chosen
        generate_systems(
            painter_maker(tmp_path, painter), chosen, conditions=("generated",), seed=0
        )
        assert sum(len(call[0]) for call in painter.calls) == made
    assert [path.name for path in tmp_path.iterdir()] == ["generated"]
    assert len(read_dataset(tmp_path / "generated")) == 12


def test_requests_that_cannot_be_made_are_refused(targets, tmp_path):
    maker = painter_maker(tmp_path)
    with pytest.raises(RequestError, match=r"\['other'\] are unknown; choose from"):
        generate_systems(maker, targets, conditions=("generated", "other"), seed=0)
    bare = [*targets, replace(targets[0], key="bare", record=None)]
    with pytest.raises(RequestError, match="1 of 19 tiles, such as bare, have no record"):
        generate_systems(maker, bare, seed=0)
    with pytest.raises(RequestError, match="0 of 0 tiles have no record"):
        generate_systems(maker, [], seed=0)
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    card = BundleCard(
        name="untrained", image_size_px=SIDE_PX, doors=DOORS, grid="geographic",
        trained_variables=("temperature_c", "precipitation_mm_day"), attribution=("someone",),
        ground_sampling_distance_m=1000.0,
    )  # fmt: skip
    return load_bundle(write_random_bundle(tmp_path_factory.mktemp("b"), card), device="cpu")


def test_a_bundle_makes_its_own_images(bundle, targets, tmp_path):
    lines = []
    maker = open_maker(bundle, tmp_path, steps=2, guidance=1.5, progress=lines.append)
    generated, free = generate_systems(
        maker, targets[:4], conditions=("generated", "unconditional"), seed=5
    )
    records = [as_made(tile.record, bundle.card) for tile in targets[:4]]
    expected = generate_images(bundle, records, seeds=[5, 5, 5, 6], steps=2, guidance=1.5)
    for index, image in enumerate(expected):
        assert np.abs(generated.read(index).rgb.astype(int) - image).max() <= 1
    told = read_provenance(generated.paths[0])
    assert told["bundle"] == bundle.identity
    assert (told["steps"], told["guidance"], told["solver"]) == (2, 1.5, "dpmpp_2m")
    assert (told["device"], told["attribution"]) == ("cpu", ["someone"])
    assert "ecomap_code" not in told["versions"]
    assert len(told["code"]) == 12
    assert told["prompt"] == prompt_of(records[0]).long
    assert read_provenance(free.paths[0])["prompt"] is None
    assert lines[-1] == "unconditional: 4 of 4 images"


def test_the_autoencoder_floor_is_the_bundles_autoencoder(bundle):
    tiles = [scored("a"), scored("b")]
    rng = np.random.default_rng(0)
    valid = rng.random((16, 24)) > 0.5
    frames = [Frame(rgb=rng.integers(0, 256, (16, 24, 3)).astype(np.uint8), valid=valid), None]
    floor = autoencoder_floor(bundle, Album(tiles=tiles, frames=frames))
    with torch.no_grad():
        pixels = to_pixels(torch.from_numpy(frames[0].rgb)[None])
        expected = to_image(decode(bundle.vae, encode(bundle.vae, pixels))).numpy()[0]
    found = floor.read(0)
    assert found.rgb.dtype == np.uint8
    assert np.abs(found.rgb.astype(int) - expected).max() <= 1
    np.testing.assert_array_equal(found.valid, valid)
    assert (floor.name, floor.kind, floor.tiles) == ("autoencoder", "floor", tiles)


def test_images_of_any_size_pass_through_the_autoencoder():
    torch.manual_seed(0)
    vae = build_autoencoder((8, 8, 8, 8), image_size_px=16).eval()
    rgb = np.random.default_rng(1).integers(0, 256, (19, 30, 3)).astype(np.uint8)
    whole = np.pad(rgb, [(0, 5), (0, 2), (0, 0)], mode="edge")

    def through(image):
        frame = Frame(rgb=image, valid=np.ones(image.shape[:2], bool))
        album = Album(tiles=[scored("a")], frames=[frame])
        return Reconstructed(source=album, vae=vae, identity="v", tiles=album.tiles).read(0)

    found = through(rgb)
    assert found.rgb.shape == (19, 30, 3)
    assert found.valid.shape == (19, 30)
    np.testing.assert_array_equal(found.rgb, through(whole).rgb[:19, :30])


def test_reconstructions_are_told_apart_by_bundle_and_source(bundle):
    class Signed(Album):
        def signature(self, index):
            return f"file {index}"

    tiles, frames = [scored("a"), scored("b")], [None, None]
    floor = autoencoder_floor(bundle, Signed(tiles=tiles, frames=frames))
    assert floor.signature(0) != floor.signature(1)
    assert json.dumps(bundle.identity)[1:-1] in floor.signature(0)
    assert autoencoder_floor(bundle, Album(tiles=tiles, frames=frames)).signature(0) is None


def test_the_note_says_whether_the_bundle_learnt_from_the_training_side():
    tiles = [scored("a", split="train"), scored("b", split="test")]
    digest = places_digest([tiles[0].record])
    same = {"places_sha256": digest}
    for training, is_known in (
        (same, True),
        (same | {"started_from": same}, True),
        (same | {"started_from": {"places_sha256": "0"}}, False),
        (same | {"started_from": {}}, False),
        ({"places_sha256": "0"}, False),
        ({}, False),
    ):
        note = training_note(BundleCard(name="b", training=training), tiles)
        assert note == (None if is_known else UNSURE_NOTE)
    nobody = BundleCard(name="b", training={"places_sha256": places_digest([])})
    assert training_note(nobody, tiles[1:]) == UNSURE_NOTE


def test_the_note_says_where_months_and_not_places_are_held_out():
    tiles = [scored("a", split="train"), scored("a", split="test"), scored("b", split="test")]
    card = BundleCard(name="b", training={"places_sha256": places_digest([tiles[0].record])})
    assert training_note(card, tiles) == SHARED_NOTE.format(count=1)
