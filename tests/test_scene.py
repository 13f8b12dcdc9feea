"""Scenes larger than the model's images: the climate of their windows."""

import numpy as np
import pytest

import ecomap.scene
from ecomap.scene import window_record
from tests.fakes import make_tile

SCENE_PX, WINDOW_PX = 128, 32
OF_SCENE = {"temperature_c": 10.0, "precipitation_mm_day": 2.0}
"""Normals of the scene, in all months."""


class MadeNormals:
    """A table in which windows have another climate than their scene."""

    cell_deg = 0.5

    def __init__(self, **of_window):
        self.of_window = OF_SCENE | of_window

    def climate(self, lat, lon, footprint):
        level = OF_SCENE if footprint[0] > 5 else self.of_window
        return {name: np.full(12, value) for name, value in level.items()}

    def land_frac(self, lat, lon, footprint):
        return 0.75


@pytest.fixture
def window_under(monkeypatch):
    """What a window of a scene becomes where its own normals are given."""

    def make(scene, **of_window):
        table = MadeNormals(**of_window)
        monkeypatch.setattr(ecomap.scene, "open_normals", lambda: table)
        return window_record(scene, 0, 0, WINDOW_PX)

    return make


def wide_scene(**changes):
    """A scene of 950 km."""
    size = {"ground_sampling_distance_m": 7413.0, "width_px": SCENE_PX, "height_px": SCENE_PX}
    return make_tile(**(size | changes))


def test_a_window_has_the_climate_of_its_own_ground(window_under):
    scene = wide_scene(
        temperature_c=12.0, temperature_c_history=(None, *[13.0] * 11),
        precipitation_mm_day=5.0, precipitation_mm_day_normals=(0.0, 4.0) * 6,
    )  # fmt: skip
    window = window_under(scene, temperature_c=7.0, precipitation_mm_day=3.0)
    assert window.temperature_c == 9.0
    assert window.temperature_c_history == (None, *[10.0] * 11)
    assert window.temperature_c_normals is None
    assert window.precipitation_mm_day == 7.5
    assert window.precipitation_mm_day_normals == (0.0, 6.0) * 6
    assert window.land_frac == 0.75


def test_ground_without_rain_has_none_under_a_wetter_climate_either(window_under):
    window = window_under(wide_scene(precipitation_mm_day=5.0), precipitation_mm_day=0.0)
    assert window.precipitation_mm_day == 0.0


def test_ground_that_is_many_times_wetter_is_shifted(window_under):
    window = window_under(wide_scene(precipitation_mm_day=5.0), precipitation_mm_day=12.0)
    assert window.precipitation_mm_day == 15.0
