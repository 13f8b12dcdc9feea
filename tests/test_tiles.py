"""What is known of a tile, the table of all tiles, and how tiles are grouped."""

import pickle

import numpy as np
import pandas as pd
import pytest

from ecomap.errors import DataError, ImageError
from ecomap.schema import CLIMATE, LandCover
from ecomap.tiles import EXTREMES, SEASONS, ScoredTile, group_masks, tile_of, tile_table
from tests.fakes import make_tile


def scored(key="a", **fields) -> ScoredTile:
    return ScoredTile(key=key, **fields)


def test_a_record_gives_all_that_it_knows():
    history = tuple(float(m) for m in range(12))
    record = make_tile(temperature_c_history=history, land_frac=0.5, cloud_frac=0.25)
    tile = tile_of(record)
    assert (tile.key, tile.place, tile.month) == (record.tile_id, record.place_id, "2021-03")
    assert tile.climate == {"temperature_c": 4.5, "precipitation_mm_day": 1.25}
    assert tile.history == {"temperature_c": history}
    assert tile.normals == {}
    assert (tile.land_frac, tile.cloud_frac, tile.split) == (0.5, 0.25, "unassigned")
    assert tile.record is record


@pytest.mark.parametrize(
    ("lat", "lon", "block"),
    [(10.0, 20.0, "1,2"), (9.99, 19.99, "0,1"), (-0.01, -179.9, "-1,-18"), (0.0, 0.0, "0,0")],
)
def test_a_block_is_a_cell_of_ten_degrees(lat, lon, block):
    assert scored(lat=lat, lon=lon, place="p").block == block


def test_without_a_position_the_block_is_the_place():
    assert scored(place="p").block == "p"
    assert scored().block is None


@pytest.mark.parametrize(
    ("month", "lat", "season"),
    [
        ("2020-12", 50.0, "winter"),
        ("2020-02", 50.0, "winter"),
        ("2020-03", 50.0, "spring"),
        ("2020-08", 50.0, "summer"),
        ("2020-11", 0.0, "autumn"),
        ("2020-12", -1.0, "summer"),
        ("2020-06", -1.0, "winter"),
        ("2020-09", -1.0, "spring"),
    ],
)
def test_seasons_turn_with_the_hemisphere(month, lat, season):
    assert scored(month=month, lat=lat).season == season


def test_a_season_needs_month_and_hemisphere():
    assert scored(month="2020-01").season is None
    assert scored(lat=3.0).season is None


def test_the_table_has_lags_as_months_before():
    history = tuple(float(m) for m in range(12))  # oldest first: 11 is last month
    table = tile_table([tile_of(make_tile(temperature_c_history=history))])
    row = table.iloc[0]
    lags = [row["temperature_c"], *(row[f"temperature_c_lag{k}"] for k in (1, 2, 3))]
    assert lags == [4.5, 11.0, 10.0, 9.0]
    assert np.isnan(row["precipitation_mm_day_lag1"])
    assert (row["month_index"], row["year"], row["season"]) == (2, 2021, "spring")
    assert row["land_cover"] == "Grasslands"


def test_the_table_of_what_nobody_knows_is_empty_cells_not_errors():
    table = tile_table([scored("a"), scored("b", month="2020-05")])
    assert table.index.tolist() == ["a", "b"]
    assert table.loc["a", "place"] is None
    assert np.isnan(table.loc["a", "month_index"])
    assert table.loc["b", "month_index"] == 4
    assert set(CLIMATE) <= set(table.columns)
    assert all(table[name].dtype == np.float64 for name in CLIMATE)


def test_groups_follow_the_usual_order_and_leave_out_what_is_not_known():
    table = tile_table(
        [
            scored("a", land_cover=LandCover.BARREN, month="2020-11"),
            scored("b", land_cover=LandCover.GRASSLANDS, month="2019-02"),
            scored("c"),
        ]
    )
    covers = group_masks(table, "land_cover")
    assert list(covers) == [LandCover.GRASSLANDS.label, LandCover.BARREN.label]
    assert covers[LandCover.BARREN.label].tolist() == [True, False, False]
    assert list(group_masks(table, "month")) == ["02", "11"]
    assert list(group_masks(table, "year")) == ["2019", "2020"]
    assert group_masks(table, "season") == {}


def test_extremes_have_ecomappers_thresholds_and_overlap():
    climate = [
        {"temperature_c": -10.0, "precipitation_mm_day": 0.01},
        {"temperature_c": 30.0, "precipitation_mm_day": 9.99},
        {"temperature_c": 29.9, "solar_radiation_mj_m2_day": 25.0},
        {},
    ]
    table = tile_table([scored(str(i), climate=values) for i, values in enumerate(climate)])
    found = {
        name: np.flatnonzero(mask).tolist() for name, mask in group_masks(table, "extreme").items()
    }
    assert found == {
        "low temperature": [0],
        "high temperature": [1],
        "low precipitation": [0],
        "high solar radiation": [2],
    }
    assert set(found) < set(EXTREMES)


def test_seasons_are_grouped_in_their_order():
    tiles = [scored(str(m), month=f"2020-{m:02d}", lat=1.0) for m in (10, 7, 1, 4)]
    assert tuple(group_masks(tile_table(tiles), "season")) == SEASONS


def test_errors_of_images_travel_between_processes():
    error = pickle.loads(pickle.dumps(ImageError("blank", "a.png is blank.")))
    assert (error.reason, str(error)) == ("blank", "a.png is blank.")
    assert isinstance(error, DataError)


def test_tiles_can_be_pickled():
    tile = tile_of(make_tile())
    assert pickle.loads(pickle.dumps(tile)) == tile
    assert isinstance(tile_table([tile]), pd.DataFrame)
