"""Scenes larger than the model's images: the climate of their windows."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

import ecomap.scene
import ecomap.scene_records
from ecomap.card import BundleCard
from ecomap.evolution import EvolveSettings
from ecomap.scene_records import window_record
from ecomap.starts import EncodedStarts
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
        monkeypatch.setattr(ecomap.scene_records, "open_normals", lambda: table)
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


class Denoising:
    """Stands for the networks of a window; remembers where it was asked."""

    def predict_pair(self, latents, sigma, *, need_uncond):
        self.device = latents.device
        return torch.zeros(latents.shape), None


def scene_windows(bundle, **changes):
    """The windows of a scene of 2 x 3 cells, and what they lie on."""
    record = make_tile(width_px=24, height_px=16)
    cells = torch.zeros(1, 16, 2, 2)
    encoded = EncodedStarts(
        records=[(record,)] * 2, latents=cells.expand(2, -1, -1, -1), valid=torch.ones(2, 1, 2, 2),
        source=torch.zeros(2, 1, 2, 2, dtype=torch.int64), lost=cells, seen=cells, there=cells,
        edges={},
    )  # fmt: skip
    fields = {"height_m": None, "has_own_climates": False} | changes
    return ecomap.scene._Windows(
        bundle, encoded, [record] * 2, [(0, 0), (0, 1)], EvolveSettings(doors=()), **fields
    )


def test_windows_are_denoised_where_the_model_is(monkeypatch):
    model = Denoising()
    bundle = SimpleNamespace(device=torch.device("meta"), card=BundleCard(name="far"))
    windows = scene_windows(bundle)
    monkeypatch.setattr(windows, "_open", lambda index: model)
    velocity = windows._window_velocity(torch.ones(2, 16, 2, 2), [0, 1], 0.5)
    assert model.device.type == "meta"
    assert velocity.device.type == "cpu"


def test_height_counts_once_where_windows_have_climates_of_their_own():
    height = np.arange(6.0).reshape(2, 3)
    bundle = SimpleNamespace(device=torch.device("cpu"), card=BundleCard(name="near"))
    above_scene = scene_windows(bundle, height_m=height)._heights(0, 1)
    assert above_scene.tolist() == [[1, 2], [4, 5]]
    above_window = scene_windows(bundle, height_m=height, has_own_climates=True)._heights(0, 1)
    assert above_window.tolist() == [[-2, -1], [1, 2]]
