"""Windows whose climates stand for those of a scene."""

import numpy as np
import pytest

from ecomap.scene_records import MAX_CLIMATES, window_records
from tests.fakes import make_tile

SIDE_PX = 32


def scene(width_px, height_px, metres=7413.0):
    return make_tile(
        width_px=width_px, height_px=height_px, ground_sampling_distance_m=metres, lat=10.0,
        lon=20.0,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("size", "metres"),
    [((32, 32), 7413), ((64, 64), 10), ((64, 24), 7413)],
    ids=["one window", "one climate", "smaller than a window"],
)
def test_a_record_stands_for_itself_where_windows_do_not_differ(size, metres):
    record = scene(*size, metres)
    assert window_records(SIDE_PX, record, 0.5) == [record]


def test_a_small_scene_is_all_of_its_windows():
    found = window_records(SIDE_PX, scene(64, 48), 0.5)
    assert len(found) == 6
    assert {(window.width_px, window.height_px) for window in found} == {(SIDE_PX, SIDE_PX)}
    assert len({window.temperature_c for window in found}) > 1


@pytest.mark.parametrize(
    ("size", "rows", "columns"), [((320, 320), 4, 4), ((640, 32), 1, 16), ((40, 640), 8, 2)]
)
def test_windows_of_a_large_scene_are_few_and_reach_its_edges(size, rows, columns):
    record = scene(*size)
    found = window_records(SIDE_PX, record, 0.5)
    lats, lons = sorted({w.lat for w in found}), sorted({w.lon for w in found})
    assert (len(lats), len(lons)) == (rows, columns)
    assert len(found) == rows * columns <= MAX_CLIMATES
    degrees = 7413 / 111_195
    assert lats[-1] - lats[0] == pytest.approx((size[1] - SIDE_PX) * degrees)
    assert lats[-1] + lats[0] == pytest.approx(2 * record.lat)
    assert lons[-1] + lons[0] == pytest.approx(2 * record.lon)
    if rows > 2:
        steps = np.diff(lats)
        assert max(steps) < 2 * min(steps)
