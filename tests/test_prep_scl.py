"""Classes counted inside a tile, and the ranking made of them."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from data_prep.scl import SceneClass, TileStats, rank, shared_class, tile_stats


def stats(*, clear: float = 1.0, valid: float = 1.0, snow: float = 0.0) -> TileStats:
    return TileStats(
        valid_frac=valid,
        clear_frac=clear,
        cloud_frac=0,
        unclassified_frac=0,
        snow_frac=snow,
        water_frac=0,
        saturated_frac=0,
    )


def test_the_codes_are_those_of_the_product():
    assert [c.value for c in SceneClass] == list(range(12))
    assert SceneClass(3).name == "CLOUD_SHADOW"
    assert SceneClass(8).name == "CLOUD_MEDIUM_PROBABILITY"
    assert SceneClass(10).name == "THIN_CIRRUS"


def test_shares_are_of_the_valid_pixels():
    # 20 pixels, 4 without data, 16 valid
    classes = np.array([[0, 0, 0, 0], [3, 8, 9, 10], [4, 4, 5, 6], [11, 11, 1, 2], [7, 4, 4, 6]])
    found = tile_stats(classes.astype(np.uint8))
    assert found.valid_frac == 16 / 20
    assert found.nodata_frac == pytest.approx(4 / 20)
    assert found.cloud_frac == 4 / 16
    assert found.clear_frac == 9 / 16  # 4 4 5 6 11 11 4 4 6
    assert found.unclassified_frac == 1 / 16
    assert found.snow_frac == 2 / 16
    assert found.water_frac == 2 / 16
    assert found.saturated_frac == 1 / 16


def test_a_block_has_a_class_if_its_pixels_agree():
    classes = np.array([[4, 4, 6, 4], [4, 4, 6, 6], [0, 0, 9, 9], [0, 0, 9, 9]], np.uint8)
    assert shared_class(classes, 2).tolist() == [[4, 7], [0, 9]]
    assert shared_class(classes, 1).tolist() == classes.tolist()
    assert shared_class(classes[:2], 2).shape == (1, 2)


def test_snow_is_clear_and_not_cloud():
    found = tile_stats(np.full((3, 5), SceneClass.SNOW_OR_ICE, np.uint8))
    assert (found.clear_frac, found.cloud_frac, found.snow_frac) == (1, 0, 1)


def test_a_mask_leaves_pixels_out():
    classes = np.array([[4, 9, 9], [0, 4, 9]], np.uint8)
    mask = np.array([[True, True, False], [True, True, False]])
    found = tile_stats(classes, mask)
    assert (found.valid_frac, found.cloud_frac) == (3 / 4, 1 / 3)
    with pytest.raises(ValueError, match="No pixel"):
        tile_stats(classes, np.zeros_like(mask))


def test_a_tile_without_data_has_no_shares():
    found = tile_stats(np.zeros((2, 3), np.uint8))
    assert (found.valid_frac, found.clear_frac, found.cloud_frac) == (0, 0, 0)
    assert not found.is_perfect


@given(arrays(np.uint8, (6, 7)))
def test_shares_lie_between_0_and_1_and_do_not_overlap(classes: np.ndarray):
    found = tile_stats(classes)
    assert 0 <= found.valid_frac <= 1
    assert found.clear_frac + found.cloud_frac + found.saturated_frac <= 1 + 1e-12


def test_clear_ground_ranks_before_cover_in_whole_per_cent():
    best = stats(clear=0.951, valid=0.5)
    assert rank(best) == (95, 50)
    assert rank(best) > rank(stats(clear=0.944, valid=1.0))
    assert rank(stats(clear=0.953, valid=0.6)) > rank(best)
    assert rank(stats(clear=0.954, valid=0.501)) == rank(best)


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_nothing_ranks_above_a_perfect_tile(a: float, b: float, c: float, d: float):
    if stats(clear=a, valid=b).is_perfect:
        assert rank(stats(clear=c, valid=d)) <= rank(stats(clear=a, valid=b))


@pytest.mark.parametrize(
    ("clear", "valid", "expected"), [(0.996, 0.996, True), (0.994, 1, False), (1, 0.994, False)]
)
def test_perfect_is_a_hundred_per_cent_rounded(clear: float, valid: float, expected: bool):
    assert stats(clear=clear, valid=valid).is_perfect is expected


def test_snow_ranks_as_any_other_ground():
    assert rank(stats(clear=1.0, snow=1.0)) == (100, 100) == rank(stats(clear=1.0))
    assert rank(stats(clear=1.0, snow=0.9)) > rank(stats(clear=0.9))
    assert stats(clear=1.0, snow=0.5).is_perfect


@pytest.mark.parametrize(("num_unclassified", "cloud"), [(80, 0.1), (81, 0.91)])
def test_mostly_unclassified_ground_is_cloud(num_unclassified: int, cloud: float):
    classes = np.full(100, 4, np.uint8)
    classes[:num_unclassified] = SceneClass.UNCLASSIFIED
    classes[-10:] = SceneClass.THIN_CIRRUS
    found = tile_stats(classes.reshape(10, 10))
    assert found.cloud_frac == pytest.approx(cloud)
    assert found.unclassified_frac == num_unclassified / 100


PICKS = {
    "2017-08": "2017-08-27", "2017-09": "2017-09-23", "2017-10": "2017-10-23",
    "2017-11": "2017-11-22", "2017-12": "2017-12-17", "2018-01": "2018-01-16",
    "2018-02": "2018-02-25", "2018-03": "2018-03-25", "2018-04": "2018-04-26",
    "2018-05": "2018-05-06", "2018-06": "2018-06-28", "2018-07": "2018-07-23",
    "2018-08": "2018-08-02", "2018-09": "2018-09-23", "2018-10": "2018-10-08",
    "2018-11": "2018-11-17",
}  # fmt: skip
"""Each seen to be clear, with a small cloud in 2017-09; in 2017-10 all four passes are cloud."""


@pytest.mark.shared
def test_the_clearest_pass_of_each_real_month_is_picked(shared_data: Path):
    (path,) = (shared_data / "worldcereal" / "00002806639B424A").glob("S2_L2A_20m_*.nc")
    with xr.open_dataset(path, mask_and_scale=False) as series:
        days = series["timestamp"].values.astype("datetime64[D]").astype(str)
        counted = {day: tile_stats(c) for day, c in zip(days, series["SCL"].values, strict=True)}
    picks = {
        month: max((day for day in counted if day[:7] == month), key=lambda d: rank(counted[d]))
        for month in sorted({day[:7] for day in counted})
    }
    assert picks == PICKS
    clouds = {day: counted[day].cloud_frac for day in picks.values()}
    assert clouds.pop("2017-10-23") > 0.95
    assert max(clouds.values()) < 0.03
