"""Blocks of tiles that may be drawn as if they were independent."""

import pytest

from ecomap.blocks import extent_deg, with_blocks
from ecomap.tiles import ScoredTile, tile_of
from tests.fakes import make_tile


def tile(key, lat, lon, *, size_deg=8.0):
    """A tile of a geographic grid, ``size_deg`` wide and high."""
    pixel = size_deg / 16
    transform = (pixel, 0.0, lon - size_deg / 2, 0.0, -pixel, lat + size_deg / 2)
    return tile_of(
        make_tile(location_id=key, lat=lat, lon=lon, crs="EPSG:4326", transform=transform)
    )


def blocks(*tiles):
    return [one.block for one in with_blocks(tiles)[0]]


def test_cells_whose_tiles_overlap_are_one_block():
    found = blocks(tile("a", 5, 8), tile("b", 5, 12), tile("c", 5, 41))
    assert found[0] == found[1] != found[2]


def test_chains_of_overlaps_are_one_block():
    found = blocks(tile("a", 5, 5), tile("b", 5, 12), tile("c", 5, 19), tile("d", 5, 26))
    assert len(set(found)) == 1


def test_tiles_that_touch_do_not_overlap():
    found = blocks(tile("a", 5, 6), tile("b", 5, 14))
    assert len(set(found)) == 2


def test_tiles_of_a_cell_are_one_block_however_small():
    assert len(set(blocks(tile("a", 1, 1, size_deg=0.1), tile("b", 9, 9, size_deg=0.1)))) == 1


def test_overlap_crosses_the_date_line():
    assert len(set(blocks(tile("a", 5, 179), tile("b", 5, -179)))) == 1


def test_blocks_are_found_over_all_parts_together():
    first, second = with_blocks([tile("a", 5, 8)], [tile("b", 5, 12)])
    assert first[0].block == second[0].block
    assert first[0].key.startswith("made/a/a")


def test_tiles_without_position_keep_their_place_and_without_record_their_cell():
    found = blocks(
        ScoredTile(key="x", place="p"), ScoredTile(key="y"), ScoredTile(key="z", lat=5.0, lon=9.9),
        ScoredTile(key="w", lat=5.0, lon=10.1),
    )  # fmt: skip
    assert found == ["p", None, "0,0", "0,1"]


def test_no_tiles_have_no_blocks():
    assert with_blocks([]) == [[]]


def test_the_extent_of_a_tile_in_metres_widens_towards_the_poles():
    record = make_tile(lat=60.0, ground_sampling_distance_m=1000.0, width_px=10, height_px=20)
    height, width = extent_deg(record)
    assert height == pytest.approx(20_000 / 111_320)
    assert width == pytest.approx(2 * 10_000 / 111_320)
