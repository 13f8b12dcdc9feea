"""Spatial splits: whole places, whole blocks, and a gap that is really there."""

import pytest

from data_prep.splits import SplitConfig, assign_splits, block_split, leakage_report, split_dataset
from ecomap.errors import RequestError
from ecomap.schema import read_dataset, read_summary, write_dataset
from tests.fakes import make_tile

PIXEL_DEG = 0.1
SIZE_PX = 20
TILE_DEG = 2.0


def tile(lat, lon, month="2020-01", **changes):
    """A geographic tile of 2 by 2 degrees."""
    half = TILE_DEG / 2
    return make_tile(
        location_id=f"{lat}_{lon}", lat=lat, lon=lon, month=month, crs="EPSG:4326",
        transform=(PIXEL_DEG, 0, lon - half, 0, -PIXEL_DEG, lat + half),
        width_px=SIZE_PX, height_px=SIZE_PX, **changes,
    )  # fmt: skip


@pytest.fixture(scope="module")
def world():
    """Two months of a grid of overlapping tiles around the globe."""
    return [
        tile(lat, lon, month)
        for lat in range(-40, 41, 1)
        for lon in range(-179, 180, 2)
        for month in ("2020-01", "2020-07")
    ]


CONFIG = SplitConfig(block_deg=8, test_frac=0.05, val_frac=0.03, buffer_tiles=1.0)


@pytest.fixture(scope="module")
def split(world):
    return assign_splits(world, CONFIG)


def test_all_months_of_a_place_are_on_one_side(split):
    sides = {}
    for record in split:
        sides.setdefault(record.place_id, set()).add(record.split)
    assert {len(found) for found in sides.values()} == {1}
    assert {record.split for record in split} == {"train", "val", "test", "buffer"}


def gap_tiles(a, b):
    """Larger of the gaps along both axes, in tiles, straight from the coordinates."""
    lon = abs(a.lon - b.lon)
    return max(abs(a.lat - b.lat) - TILE_DEG, min(lon, 360 - lon) - TILE_DEG) / TILE_DEG


def test_no_training_tile_is_nearer_to_a_held_out_one_than_the_buffer(split):
    places = {record.place_id: record for record in split}.values()
    training = [r for r in places if r.split == "train"]
    held_out = [r for r in places if r.split in ("test", "val")]
    smallest = min(gap_tiles(a, b) for a in training for b in held_out)
    assert smallest == pytest.approx(1.0)  # the grid has tiles exactly there, also over 180 degrees


def test_the_report_measures_the_same_gap_and_distances(split):
    report = leakage_report(split)
    assert report["train_test"]["gap_tiles"] == pytest.approx(1.0)
    # One tile of latitude is 2 degrees; at 41 degrees one of longitude is shorter.
    assert 2 * 111.195 * 0.75 < report["train_test"]["edge_km"] <= 2 * 111.195 + 0.1
    assert report["train_test"]["centre_km"] > report["train_test"]["edge_km"]
    assert sum(report["tiles"].values()) == len(split)


def test_a_side_does_not_change_when_the_dataset_grows(world, split):
    half = assign_splits(world[: len(world) // 2], CONFIG)
    # A tile may leave the buffer when no held-out neighbour is left, but never change sides.
    before = {record.tile_id: record.split for record in split}
    for record in half:
        assert {record.split, before[record.tile_id]} not in ({"train", "test"}, {"val", "test"})


def test_blocks_are_drawn_in_the_fractions_asked():
    sides = [block_split(i, j, CONFIG) for i in range(100) for j in range(100)]
    assert sides.count("test") / len(sides) == pytest.approx(0.05, abs=0.01)
    assert sides.count("val") / len(sides) == pytest.approx(0.03, abs=0.01)


def test_a_tile_over_two_sides_is_set_aside():
    config = SplitConfig(block_deg=10, test_frac=0.5, val_frac=0.0)
    for column in range(36):
        here, there = (block_split(9, c % 36, config) for c in (column, column + 1))
        edge = -180 + 10 * (column + 1)
        if here != there and edge < 180:
            assert assign_splits([tile(5, edge)], config)[0].split == "buffer"
            return
    pytest.fail("no border between two sides on this row")


def test_impossible_settings_are_refused(world):
    with pytest.raises(RequestError, match="must stay below 1"):
        assign_splits(world[:1], SplitConfig(test_frac=0.6, val_frac=0.5))
    with pytest.raises(RequestError, match="block_deg is -5"):
        assign_splits(world[:1], SplitConfig(block_deg=-5))
    with pytest.raises(RequestError, match="neither may be negative"):
        assign_splits(world[:1], SplitConfig(test_frac=-0.1))
    with pytest.raises(RequestError, match="at least 1"):
        assign_splits(world[:1], SplitConfig(buffer_tiles=0.5))


def test_a_dataset_folder_is_divided_in_place(world, tmp_path):
    write_dataset(tmp_path, world[:400], summary={"kept": 400})
    report = split_dataset(tmp_path, CONFIG)
    assert read_dataset(tmp_path) == assign_splits(world[:400], CONFIG)
    summary = read_summary(tmp_path)
    assert summary["kept"] == 400
    assert summary["split"]["report"] == report


def test_the_distance_between_edges_is_that_of_all_pairs(monkeypatch):
    tiles = [
        make_tile(
            location_id=f"{row}-{column}", lat=55 + row / 7, lon=(356 + column / 5) % 360 - 180,
            ground_sampling_distance_m=10, width_px=512, height_px=512,
        )
        for row in range(30)
        for column in range(40)
    ]  # fmt: skip
    records = assign_splits(tiles, SplitConfig(block_deg=1, test_frac=0.3, val_frac=0.1))
    fast = leakage_report(records)
    monkeypatch.setattr("data_prep.splits.MAX_REACH_DEG", 0.0)  # all pairs
    assert leakage_report(records) == fast
    assert 0 < fast["train_test"]["edge_km"] < 20
