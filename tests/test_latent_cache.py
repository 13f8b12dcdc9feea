"""Every sample gets its own latents, in any order, from a cache of any history."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ecomap import kept_rows, latent_cache
from ecomap.autoencoder import load_vae
from ecomap.errors import DataError
from ecomap.frame_variants import Variants, cut, place_of
from ecomap.imagery import FrameReader
from ecomap.latent_cache import LatentTable, kept_latents
from ecomap.latents import encode, to_pixels
from ecomap.schema import read_dataset
from tests.fakes import made_image, make_tile, write_tiles, write_vae

FLOAT16 = 2.0**-10
"""Twice the rounding of half precision."""

CROPS = Variants(16, count=3, flips=True)


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    return load_vae(write_vae(tmp_path_factory.mktemp("vae")))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_tiles(tmp_path_factory.mktemp("tiles"), num_places=6, size_px=32)


@torch.no_grad()
def direct(vae, folder, record, variant: int, variants: Variants, change=None) -> torch.Tensor:
    """Latents of one sample, with nothing kept."""
    size = (variants.crop_px or record.height_px, variants.crop_px or record.width_px)
    image = cut(FrameReader(folder).read(record), place_of(record, variant, variants), size)
    image = image if change is None else change(image)
    return encode(vae, to_pixels(torch.from_numpy(image[None].copy())))[0]


def assert_own(table: LatentTable, records, vae, folder, variants: Variants) -> None:
    """Batches drawn at random hold, for each sample, what encoding it alone gives."""
    rng = np.random.default_rng(4)
    for _ in range(3):
        index = rng.integers(0, len(records), 8)
        variant = rng.integers(0, variants.count, 8)
        found = table.read(index, variant)
        for row, i, v in zip(found, index, variant, strict=True):
            expected = direct(vae, folder, records[i], int(v), variants)
            torch.testing.assert_close(row, expected, atol=1e-4, rtol=FLOAT16)


def count_encoded(monkeypatch) -> list[str]:
    """Ids of tiles as they are encoded."""
    encoded: list[str] = []
    call = latent_cache._Encoder.__call__

    def counted(self, windows):
        encoded.extend(window.record.tile_id for window in windows)
        return call(self, windows)

    monkeypatch.setattr(latent_cache._Encoder, "__call__", counted)
    return encoded


def test_a_sample_keeps_its_latents_however_records_and_batches_are_ordered(
    tmp_path, vae, folder, monkeypatch
) -> None:
    """The fault of a list that is indexed by the number of the batch: shuffle, and all is wrong."""
    monkeypatch.setattr(kept_rows, "SEGMENT_ROWS", 5)
    records = read_dataset(folder)
    shuffled = [records[i] for i in np.random.default_rng(1).permutation(len(records))]
    table = kept_latents(vae, records, folder, tmp_path, variants=CROPS, batch_size=4)
    assert_own(table, records, vae, folder, CROPS)
    encoded = count_encoded(monkeypatch)
    for order in (shuffled, records[::-1], shuffled[3:9]):
        other = kept_latents(vae, order, folder, tmp_path, variants=CROPS)
        assert_own(other, order, vae, folder, CROPS)
    assert encoded == []
    # Samples differ, else nothing above would show a mistake.
    every = table.read(np.repeat(np.arange(18), 3), np.tile(np.arange(3), 18))
    assert len({row.numpy().tobytes() for row in every}) == 54


def test_what_the_table_says_of_itself(tmp_path, vae, folder) -> None:
    records = read_dataset(folder)
    table = kept_latents(vae, records, folder, tmp_path, variants=CROPS)
    assert (len(table), table.num_variants, table.shape) == (18, 3, (16, 2, 2))
    whole = kept_latents(vae, records, folder, tmp_path)
    assert (whole.num_variants, whole.shape) == (1, (16, 4, 4))
    index, variant = np.array([2, 7]), np.array([0, 0])
    assert whole.read(index, variant).dtype == torch.float32
    assert torch.equal(whole.weights(index, variant), torch.ones(2, 1, 4, 4))
    assert whole.mean_weight == 1.0
    assert_own(whole, records, vae, folder, Variants())


def test_only_what_is_new_is_encoded(tmp_path, vae, monkeypatch) -> None:
    folder = write_tiles(tmp_path / "tiles", num_places=5)
    records, cache = read_dataset(folder), tmp_path / "cache"
    encoded = count_encoded(monkeypatch)
    kept_latents(vae, records[:6], folder, cache)
    assert sorted(encoded) == sorted(record.tile_id for record in records[:6])
    encoded.clear()
    kept_latents(vae, records[3:8], folder, cache)
    assert sorted(encoded) == sorted(record.tile_id for record in records[6:8])
    encoded.clear()
    Image.fromarray(made_image(999, 16, 16)).save(folder / str(records[1].image_path))
    table = kept_latents(vae, records[:8], folder, cache)
    assert encoded == [records[1].tile_id]
    assert_own(table, records[:8], vae, folder, Variants())


def test_another_autoencoder_look_size_or_precision_has_its_own_rows(tmp_path, vae, folder) -> None:
    records = read_dataset(folder)[:2]
    index, variant = np.arange(2), np.zeros(2, np.int64)
    table = kept_latents(vae, records, folder, tmp_path)

    def dark(image: np.ndarray) -> np.ndarray:
        return image // 2

    looked = kept_latents(vae, records, folder, tmp_path, look=("dark", dark))
    for row, record in zip(looked.read(index, variant), records, strict=True):
        expected = direct(vae, folder, record, 0, Variants(), dark)
        torch.testing.assert_close(row, expected, atol=1e-4, rtol=FLOAT16)
    torch.manual_seed(9)
    other_vae = load_vae(write_vae(tmp_path / "vae"))
    for parameter in other_vae.parameters():
        parameter.mul_(1.1)
    other = kept_latents(other_vae, records, folder, tmp_path)
    rounded = kept_latents(vae, records, folder, tmp_path, bf16=True)
    found = [t.read(index, variant) for t in (table, looked, other, rounded)]
    for number, first in enumerate(found):
        assert not any(torch.equal(first, second) for second in found[number + 1 :])
    assert len(list((tmp_path / "latents").iterdir())) == 4
    assert len(list((tmp_path / "weights").iterdir())) == 1  # which do not depend on any of it


def write_masked(folder: Path) -> list:
    """Two tiles of 32 px: one with a black corner, one whole; a mask for the first."""
    image = np.maximum(made_image(1, 32, 32), 1)
    image[:8, :12] = 0
    Image.fromarray(image).save(folder / "a.png")
    Image.fromarray(np.maximum(made_image(2, 32, 32), 1)).save(folder / "b.png")
    (folder / "masks").mkdir()
    hidden = np.zeros((32, 32), np.uint8)
    hidden[24:26, 16:24] = 255
    Image.fromarray(hidden).save(folder / "masks" / "a.png")
    return [
        make_tile(location_id=n, image_path=f"{n}.png", width_px=32, height_px=32) for n in "ba"
    ]


def test_weights_are_shares_of_valid_pixels_of_the_same_window(tmp_path, vae) -> None:
    records = write_masked(tmp_path)
    cache, masks = tmp_path / "cache", tmp_path / "masks"
    table = kept_latents(vae, records, tmp_path, cache, cloud_masks=masks)
    expected = torch.ones(2, 1, 4, 4)
    expected[1, 0, 0, :2] = torch.tensor([0.0, 0.5])
    expected[1, 0, 3, 2] = 0.75
    zeros = np.zeros(2, np.int64)
    assert torch.equal(table.weights(np.arange(2), zeros), expected)
    assert table.mean_weight == pytest.approx(expected.mean().item())
    assert table.num_unmasked == 1
    unmasked = kept_latents(vae, records, tmp_path, cache)
    assert unmasked.weights(np.array([1]), zeros[:1])[0, 0, 3, 2] == 1
    assert unmasked.weights(np.array([1]), zeros[:1])[0, 0, 0, 0] == 0
    assert unmasked.num_unmasked == 0
    flips = Variants(count=8, flips=True)
    flipped = kept_latents(vae, records, tmp_path, cache, variants=flips, cloud_masks=masks)
    for variant in range(8):
        place = place_of(records[1], variant, flips)
        turned = cut(expected[1, 0].numpy(), place, (4, 4)).copy()
        found = flipped.weights(np.array([1]), np.array([variant]))[0, 0]
        assert torch.equal(found, torch.from_numpy(turned))


def test_a_new_mask_is_read_and_nothing_is_encoded_again(tmp_path, vae, monkeypatch) -> None:
    records = write_masked(tmp_path)
    cache, masks = tmp_path / "cache", tmp_path / "masks"
    one, zero = np.array([1]), np.array([0])
    kept_latents(vae, records, tmp_path, cache, cloud_masks=masks)
    Image.fromarray(np.full((32, 32), 1, np.uint8)).save(masks / "a.png")
    encoded = count_encoded(monkeypatch)
    table = kept_latents(vae, records, tmp_path, cache, cloud_masks=masks)
    assert not table.weights(one, zero).any()
    assert encoded == []


def test_each_mosaic_is_decoded_once_for_latents_and_once_for_weights(
    tmp_path, vae, monkeypatch
) -> None:
    for number in range(4):
        Image.fromarray(made_image(number, 32, 64)).save(tmp_path / f"{number}.png")
    records = [
        make_tile(
            location_id=str(column), month=f"2021-0{number + 1}", image_path=f"{number}.png",
            window_px=(16 * column, 16, 16, 16),
        )
        for column in range(4) for number in range(4)
    ]  # fmt: skip
    decoded: list[str] = []
    load = FrameReader._load

    def counted(self, path, *rest):
        if (path, rest[0]) not in self._cache:
            decoded.append(path)
        return load(self, path, *rest)

    monkeypatch.setattr(FrameReader, "_load", counted)
    table = kept_latents(vae, records, tmp_path, tmp_path / "cache", batch_size=3)
    assert sorted(decoded) == sorted([f"{number}.png" for number in range(4)] * 2)
    assert_own(table, records, vae, tmp_path, Variants())


def test_what_is_held_in_memory_does_not_grow_with_the_dataset(
    tmp_path, vae, folder, monkeypatch
) -> None:
    """Never more than a batch of windows and a segment of rows, and tables hold numbers only."""
    monkeypatch.setattr(latent_cache, "MAX_PIXELS", 5 * 32 * 32)
    monkeypatch.setattr(kept_rows, "SEGMENT_ROWS", 7)
    batches: list[int] = []
    call = latent_cache._Encoder._encode

    def counted(self, images):
        batches.append(len(images))
        return call(self, images)

    monkeypatch.setattr(latent_cache._Encoder, "_encode", counted)
    table = kept_latents(vae, read_dataset(folder), folder, tmp_path, batch_size=32)
    assert max(batches) == 5
    assert sum(batches) == 18 + 1  # and the window that tells the shape
    for path in tmp_path.rglob("*.json"):
        assert len(json.loads(path.read_text())["keys"]) <= 7
    kept = [value for value in vars(table).values() if isinstance(value, np.ndarray)]
    assert sum(array.nbytes for array in kept) == 2 * 18 * 8


def test_latents_that_are_not_finite_name_their_tile(tmp_path, vae, folder, monkeypatch) -> None:
    records = read_dataset(folder)[:5]
    call = latent_cache._Encoder._encode

    def broken(self, images):
        found = call(self, images)
        if len(images) > 1:
            found[3, 0, 1, 1] = 1e5
        return found

    monkeypatch.setattr(latent_cache._Encoder, "_encode", broken)
    ordered = sorted(records, key=lambda record: record.image_path)
    with pytest.raises(DataError, match=f"The latents of {ordered[3].tile_id} .* are not finite"):
        kept_latents(vae, records, folder, tmp_path)


def test_a_changed_file_is_refused_where_its_size_changed(tmp_path, vae) -> None:
    folder = write_tiles(tmp_path / "tiles", num_places=5)
    records = read_dataset(folder)
    Image.fromarray(made_image(1, 16, 24)).save(folder / str(records[4].image_path))
    with pytest.raises(DataError, match=f"16 x 24 px for {records[4].tile_id}"):
        kept_latents(vae, records, folder, tmp_path / "cache")
