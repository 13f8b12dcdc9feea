"""Climate as maps: the level of the tokens, the pattern of the normals or of the ground."""

from typing import get_args

import numpy as np
import pytest

from ecomap.climate import transform
from ecomap.climate_maps import LAPSE_RATE_C_PER_M, MAP_CHANNELS, climate_maps
from ecomap.normals import footprint_of, open_normals
from ecomap.transformer_config import ControlChannel
from tests.fakes import make_tile

ALPS = {"lat": 46.0, "lon": 9.0}
WIDE = {"ground_sampling_distance_m": 7413.0, "width_px": 128, "height_px": 128}


def wide_tile(month=7, **changes):
    """A tile of 950 km under its normals, as a dataset has it."""
    bare = make_tile(**(ALPS | WIDE | {"month": f"2004-{month:02d}"}))
    normals = open_normals().climate(bare.lat, bare.lon, footprint_of(bare))
    fields = {"climate_kind": "normal"}
    for name, values in normals.items():
        fields[name] = float(values[month - 1])
        fields[f"{name}_normals"] = tuple(values.tolist())
        fields[f"{name}_history"] = tuple(np.roll(values, 1 - month).tolist())
    return bare.model_copy(update=fields | changes)


def maps(record, reference=None, *, channels=("temperature_now",), shape=(16, 16), **rest):
    return climate_maps(channels, [record], [reference], shape, **rest)


def test_every_map_is_a_channel_of_a_config():
    assert set(MAP_CHANNELS) <= set(get_args(ControlChannel))
    assert len(MAP_CHANNELS) == 9


def test_a_tile_under_its_normals_shows_the_table_s_own_pattern():
    record = wide_tile()
    found = maps(record)["temperature_now"]
    assert found.shape == (1, 1, 16, 16)
    assert found.dtype == np.float32
    extent = footprint_of(record)
    rows = ALPS["lat"] + extent[0] * (0.5 - (np.arange(16) + 0.5) / 16)
    columns = ALPS["lon"] + extent[1] * ((np.arange(16) + 0.5) / 16 - 0.5)
    expected = open_normals().interpolate("temperature_c", rows, columns)[6]
    assert np.allclose(found[0, 0], transform("temperature_c", expected), atol=1e-5)
    assert found[0, 0].std() > 0.1  # mountains and plains


def test_the_level_is_the_record_s_own():
    plain, warm = maps(wide_tile()), maps(wide_tile(temperature_c=wide_tile().temperature_c + 3))
    difference = warm["temperature_now"] - plain["temperature_now"]
    assert np.allclose(difference, 0.2, atol=1e-6)  # 3 degC of a scale of 15
    wet = wide_tile(precipitation_mm_day=2 * wide_tile().precipitation_mm_day)
    channel = "precipitation_now"
    dry = maps(wide_tile(), channels=(channel,))[channel]
    doubled = maps(wet, channels=(channel,))[channel]
    assert np.allclose(np.expm1(doubled * 0.7 + 1), 2 * np.expm1(dry * 0.7 + 1), rtol=1e-4)


def test_a_tile_without_rain_has_none_in_its_wetter_cells():
    channel = "precipitation_now"
    assert np.ptp(maps(wide_tile(), channels=(channel,))[channel]) > 0.1
    found = maps(wide_tile(precipitation_mm_day=0.0), channels=(channel,))[channel]
    assert (found == np.float32(transform("precipitation_mm_day", np.array(0.0)))).all()


def test_a_season_is_the_mean_of_three_months():
    month = [maps(wide_tile(m))["temperature_now"] for m in (5, 6, 7)]
    season = maps(wide_tile(7), channels=("temperature_season",))["temperature_season"]
    assert np.allclose(season, np.mean(month, axis=0), atol=1e-5)


def test_change_is_the_difference_to_the_reference():
    july, january = wide_tile(7), wide_tile(1)
    found = maps(july, january, channels=("temperature_change",))["temperature_change"]
    expected = maps(july)["temperature_now"] - maps(january)["temperature_now"]
    assert np.allclose(found, expected, atol=1e-6)
    assert not maps(july, july, channels=("temperature_change",))["temperature_change"].any()
    assert not maps(july, None, channels=("temperature_change",))["temperature_change"].any()


def test_what_is_not_known_is_zero():
    blank = wide_tile(temperature_c=None, temperature_c_history=None)
    names = ("temperature_now", "temperature_season", "temperature_change", "solar_now")
    for values in maps(blank, wide_tile(), channels=names).values():
        assert not values.any()


def test_a_variable_without_normals_is_flat():
    record = make_tile(solar_radiation_mj_m2_day=18.5)
    found = maps(record, channels=("solar_now",), shape=(2, 2))["solar_now"]
    assert np.allclose(found, 0.5)


def test_elevation_takes_the_place_of_the_pattern():
    height = np.array([[-500.0, 500.0], [0.0, 0.0]])
    record = wide_tile()
    found = maps(record, shape=(2, 2), height_m=height)["temperature_now"][0, 0] * 15 + 10
    expected = record.temperature_c + LAPSE_RATE_C_PER_M * height
    assert np.allclose(found, expected, atol=1e-4)


def test_a_small_tile_has_one_climate():
    found = maps(make_tile(**ALPS), shape=(2, 2))["temperature_now"][0, 0]
    assert np.ptp(found) < 1e-3
    assert found.mean() == pytest.approx(transform("temperature_c", np.array(4.5)), abs=1e-2)


def test_other_channels_are_left_to_others():
    assert maps(wide_tile(), channels=("months_gap", "canny")) == {}
