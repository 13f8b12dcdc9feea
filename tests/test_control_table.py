"""What training sees of a reference is what sampling makes of the same image."""

from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from ecomap import control_table
from ecomap.autoencoder import load_vae
from ecomap.control_table import kept_edges, open_control, references_of
from ecomap.controls import ControlSpec, encode_control
from ecomap.frame_variants import Variants, cut, place_of
from ecomap.imagery import FrameReader
from ecomap.latent_cache import kept_latents
from ecomap.schema import read_dataset
from tests.fakes import make_tile, write_tiles, write_vae

CHANNELS = ("reference_valid", "lineart_standard", "months_gap", "canny")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = write_tiles(tmp_path_factory.mktemp("tiles"), num_places=5, size_px=32)
    for seed, path in enumerate(sorted((folder / "images").iterdir())):
        image = np.array(Image.open(path))
        row, column = np.random.default_rng(seed).integers(2, 20, 2)
        image[row : row + 9, column : column + 7] = 255 - image.mean((0, 1)).astype(np.uint8) // 2
        image[-6:, -6:] = [250, 5, 90]
        if path.name == "2_1.png":
            image[:8, :12] = 0
        Image.fromarray(image).save(path)
    return folder


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    return load_vae(write_vae(tmp_path_factory.mktemp("vae")))


def open_table(data, vae, cache, spec, variants, **options):
    records = read_dataset(data)
    references = references_of(spec, records)
    keep = partial(kept_latents, vae, folder=data, cache=cache, **options)
    table = open_control(spec, references, keep=keep, variants=variants, folder=data, cache=cache)
    return records, table


def read(table, index, *, draw=0.0, variant=0, has_control=True):
    count = len(index)
    return table.read(
        np.array(index), np.full(count, draw), np.full(count, variant), np.full(count, has_control)
    )


@pytest.mark.parametrize("image", ["reference", "canny"])
@pytest.mark.parametrize(
    "variants", [Variants(), Variants(crop_px=16, count=3, flips=True)], ids=["tiles", "windows"]
)
def test_training_and_sampling_make_the_same_control(data, vae, tmp_path, image, variants):
    spec = ControlSpec(image=image, channels=CHANNELS, max_gap_months=4)
    records, table = open_table(data, vae, tmp_path, spec, variants)
    by_id, edges = {record.tile_id: record for record in records}, 0
    for variant in range(variants.count):
        for i, record in enumerate(records):
            if record.month not in ("2004-05", "2004-09"):
                continue
            month = {"2004-05": "2004-01", "2004-09": "2004-05"}[record.month]
            reference = by_id[f"{record.place_id}/{month}"]
            side = variants.crop_px or 32
            # The window of the target, not of the reference.
            place = place_of(record, variant, variants)
            frame = cut(FrameReader(data).read(reference), place, (side, side))
            expected = encode_control(spec, vae, frame[None], gap_months=4)
            control = read(table, [i], variant=variant)
            assert control.shape == (1, 20, side // 8, side // 8)
            torch.testing.assert_close(control, expected, rtol=1e-3, atol=1e-3)
            edges += int(expected[:, 19].any())
    assert edges > 5  # the tiles have some


def test_missing_data_of_the_reference_is_told(data, vae, tmp_path):
    spec = ControlSpec(channels=("reference_valid",))
    records, table = open_table(data, vae, tmp_path, spec, Variants())
    target = next(i for i, r in enumerate(records) if (r.location_id, r.month) == ("2", "2004-05"))
    valid = read(table, [target])[0, 16]
    assert valid[0].tolist() == [0.0, 0.5, 1.0, 1.0]
    assert (valid[1:] == 1).all()


def test_who_has_no_reference_or_no_control_sees_nothing(data, vae, tmp_path):
    spec = ControlSpec(channels=("months_gap", "reference_valid"), max_gap_months=4)
    records, table = open_table(data, vae, tmp_path, spec, Variants())
    first = [i for i, record in enumerate(records) if record.month == "2004-01"]
    later = [i for i, record in enumerate(records) if record.month != "2004-01"]
    assert table.references.without.tolist() == first
    assert not read(table, first).any()
    assert read(table, later).flatten(1).any(1).all()
    assert not read(table, later, has_control=False).any()


def test_a_spec_bounds_its_references():
    records = [make_tile(month=f"2021-0{m}", cloud_frac=m / 10) for m in (1, 2, 3, 4)]
    spec = ControlSpec(max_gap_months=2, max_reference_cloud_frac=0.15, wrap_year=True)
    assert references_of(spec, records).without.tolist() == [0, 3]
    wide = ControlSpec(max_gap_months=11, wrap_year=True)
    assert not len(references_of(wide, records).without)
    assert references_of(wide, records[:1], pool=records[1:]).pool == records[1:]


def test_the_draw_chooses_among_references(data, vae, tmp_path):
    spec = ControlSpec(channels=("months_gap",), max_gap_months=8)
    records, table = open_table(data, vae, tmp_path, spec, Variants())
    last = [i for i, record in enumerate(records) if record.month == "2004-09"]
    gaps = [read(table, last, draw=draw)[:, 16, 0, 0] for draw in (0.0, 0.99)]
    assert {tuple(gap.unique().tolist()) for gap in gaps} == {(0.5,), (1.0,)}


def test_edges_are_made_once_and_again_when_a_file_changes(data, tmp_path, monkeypatch):
    records = read_dataset(data)[:6]
    variants = Variants(crop_px=16, count=2)
    calls = []
    make = control_table.edge_cells
    monkeypatch.setattr(
        control_table, "edge_cells", lambda name, f: calls.append(len(f)) or make(name, f)
    )
    everything = np.repeat(np.arange(6), 2), np.tile(np.arange(2), 6)
    first = kept_edges("canny", records, data, tmp_path, variants=variants)(*everything)
    assert sum(calls) == 12
    calls.clear()
    # In another order, rows are found by what they show.
    again = kept_edges("canny", records[::-1], data, tmp_path, variants=variants)
    assert torch.equal(again(5 - everything[0], everything[1]), first)
    assert not calls
    path = data / records[0].image_path
    before = path.read_bytes()
    try:
        Image.fromarray(np.array(Image.open(path))[::-1]).save(path)
        changed = kept_edges("canny", records, data, tmp_path, variants=variants)(*everything)
    finally:
        path.write_bytes(before)
    assert sum(calls) == 2
    assert not torch.equal(changed[:2], first[:2])
    assert torch.equal(changed[2:], first[2:])


def test_clouds_of_the_reference_are_told(data, vae, tmp_path):
    masks = tmp_path / "masks"
    (masks / "images").mkdir(parents=True)
    hidden = np.zeros((32, 32), np.uint8)
    hidden[:, 16:] = 255
    Image.fromarray(hidden).save(masks / "images" / "3_1.png")
    spec = ControlSpec(channels=("reference_valid",))
    records, table = open_table(data, vae, tmp_path / "cache", spec, Variants(), cloud_masks=masks)
    target = next(i for i, r in enumerate(records) if (r.location_id, r.month) == ("3", "2004-05"))
    assert read(table, [target])[0, 16].mean(0).tolist() == [1.0, 1.0, 0.0, 0.0]
