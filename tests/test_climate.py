"""Climate features and changes, with values by hand."""

import numpy as np
import pytest

from ecomap.climate import (
    CHANNELS,
    Change,
    apply_changes,
    at_level,
    climate_features,
    known_variables,
    parse_change,
    transform,
    values_alone,
)
from ecomap.errors import RequestError, SchemaError
from ecomap.schema import CLIMATE, SERIES_MONTHS, make_record
from tests.fakes import make_tile

T, P, R = "temperature_c", "precipitation_mm_day", "solar_radiation_mj_m2_day"
NORMALS_T = tuple(float(v) for v in range(12))
"""January 0 to December 11."""


def record(**changes):
    fields = {
        "source": "made", "location_id": "1", "month": "2021-03", "lat": 10, "lon": 20,
        "ground_sampling_distance_m": 10, "width_px": 8, "height_px": 6, "license": "none",
    }  # fmt: skip
    return make_record(fields | changes, where="test")


def test_climatology_of_a_series_follows_the_calendar_and_ends_with_the_own_month():
    values = climate_features(record(temperature_c_normals=NORMALS_T, climate_kind="normal"))
    expected = [2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 0, 1, 2]  # March before to March
    np.testing.assert_allclose(
        values.values[:, 0, 0], transform(T, np.array(expected, float)), rtol=1e-6
    )
    assert values.values.shape == (SERIES_MONTHS, len(CLIMATE), len(CHANNELS))


def test_anomalies_of_normals_are_unknown_and_not_zero():
    features = climate_features(
        record(temperature_c=2.0, temperature_c_normals=NORMALS_T, climate_kind="normal")
    )
    assert features.known[:, 0].tolist() == [[True, False, False]] * SERIES_MONTHS
    assert not features.known[:, 1:].any()
    assert not features.values[~features.known].any()


def test_anomalies_and_their_running_sum_are_observed_minus_normal():
    history = [float(v) for v in [2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 0, 1]]
    history[10] += 3.0  # January three degrees too warm
    history[3] = None
    features = climate_features(
        record(temperature_c=2.0 - 1.5, temperature_c_history=tuple(history),
               temperature_c_normals=NORMALS_T)
    )  # fmt: skip
    anomaly, total = features.values[:, 0, 1] * 3.0, features.values[:, 0, 2] * 12.0
    assert anomaly[10] == pytest.approx(3.0)
    assert anomaly[12] == pytest.approx(-1.5)
    assert total[[9, 10, 11, 12]].tolist() == pytest.approx([0, 3, 3, 1.5])
    assert not features.known[3, 0, 1]
    assert features.known[3, 0, 0]


def test_without_normals_the_values_stand_in_and_anomalies_are_unknown():
    features = climate_features(record(solar_radiation_mj_m2_day=22.0))
    assert features.known[-1, 2].tolist() == [True, False, False]
    assert features.values[-1, 2, 0] == pytest.approx(1.0)


def test_values_alone_are_told_as_of_a_place_without_normals():
    months = {"temperature_c": 2.0, "temperature_c_history": NORMALS_T}
    observed = record(**months, temperature_c_normals=NORMALS_T)
    assert climate_features(observed).known[:, 0].all()
    assert values_alone(observed) == record(**months)
    usual = observed.model_copy(update={"climate_kind": "normal"})
    assert values_alone(usual) is usual


def test_precipitation_enters_by_its_logarithm():
    value = transform(P, np.array([0.0, np.e - 1]))
    assert value[1] - value[0] == pytest.approx(1 / 0.7)


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("+2", "offset", 2),
        ("-10", "offset", -10),
        ("x0.5", "factor", 0.5),
        ("=21.5", "absolute", 21.5),
        ("=-3", "absolute", -3),
        ("×2", "factor", 2),
    ],
)
def test_changes_are_read(text, kind, value):
    name = P if kind == "factor" else T
    assert parse_change(text, CLIMATE[name]) == Change(kind, value)


@pytest.mark.parametrize("text", ["2", "warm", "", "x", "+", "++2", "x-1"])
def test_what_is_no_change_is_refused_with_the_forms(text):
    with pytest.raises(RequestError, match=r"--precipitation"):
        parse_change(text, CLIMATE[P])


def test_temperature_cannot_be_scaled():
    with pytest.raises(RequestError, match="no natural zero"):
        parse_change("x2", CLIMATE[T])


def test_an_offset_is_sustained_over_month_history_and_normals():
    before = record(
        temperature_c=2.0, temperature_c_history=(None, *NORMALS_T[1:]),
        temperature_c_normals=NORMALS_T,
    )  # fmt: skip
    after = apply_changes(before, {T: Change("offset", 4.0)})
    assert after.temperature_c == 6.0
    assert after.temperature_c_history == (None, *(v + 4 for v in NORMALS_T[1:]))
    assert after.temperature_c_normals == tuple(v + 4 for v in NORMALS_T)
    assert after.precipitation_mm_day is None


def test_an_absolute_value_is_reached_by_a_factor_for_precipitation():
    before = record(precipitation_mm_day=2.0, precipitation_mm_day_normals=(1.0,) * 12)
    after = apply_changes(before, {P: Change("absolute", 5.0)})
    assert after.precipitation_mm_day == pytest.approx(5.0)
    assert after.precipitation_mm_day_normals == pytest.approx((2.5,) * 12)


def test_an_absolute_value_is_reached_by_an_offset_where_nothing_falls():
    before = record(precipitation_mm_day=0.0, precipitation_mm_day_normals=(0.0, 1.0) * 6)
    after = apply_changes(before, {P: Change("absolute", 2.0)})
    assert after.precipitation_mm_day == pytest.approx(2.0)
    assert after.precipitation_mm_day_normals == pytest.approx((2.0, 3.0) * 6)


def test_rain_in_a_nearly_dry_month_does_not_drown_the_wet_season():
    before = record(precipitation_mm_day=0.01, precipitation_mm_day_normals=(0.01, 8.0) * 6)
    after = apply_changes(before, {P: Change("absolute", 2.0)})
    assert after.precipitation_mm_day == pytest.approx(2.0)
    assert max(after.precipitation_mm_day_normals) == pytest.approx(9.99)


@pytest.mark.parametrize(
    ("name", "level", "wanted", "expected"),
    [
        (P, 2.0, 3.0, [0.0, 1.5, 6.0]),
        (P, 2.0, 10.0, [0.0, 5.0, 20.0]),
        (P, 2.0, 10.5, [8.5, 9.5, 12.5]),  # more than five times: shifted
        (P, 2.0, 0.0, [0.0, 0.0, 0.0]),
        (P, 0.0, 1.0, [1.0, 2.0, 5.0]),
        (R, 2.0, 1.0, [0.0, 0.5, 2.0]),
        (T, 2.0, 0.0, [-2.0, -1.0, 2.0]),
        (T, 2.0, -73.5, [-75.0, -74.5, -71.5]),
    ],
)
def test_values_are_brought_to_another_level(name, level, wanted, expected):
    values = np.array([0.0, 1.0, 4.0])
    assert at_level(name, values, level, wanted).tolist() == expected
    assert [float(at_level(name, value, level, wanted)) for value in values.tolist()] == expected


@pytest.mark.parametrize("wanted", [0.0, 0.7, 6.0, 40.0])
def test_a_level_is_reached_as_a_change_reaches_it(wanted):
    before = record(precipitation_mm_day=3.1, precipitation_mm_day_normals=(0.0, 3.1, 7.3) * 4)
    after = apply_changes(before, {P: Change("absolute", wanted)}).precipitation_mm_day_normals
    normals = np.array(before.precipitation_mm_day_normals)
    assert at_level(P, normals, 3.1, wanted).tolist() == list(after)


def test_precipitation_stops_at_zero():
    before = record(precipitation_mm_day=1.0, precipitation_mm_day_normals=(3.0,) * 12)
    after = apply_changes(before, {P: Change("offset", -2.0)})
    assert after.precipitation_mm_day == 0.0
    assert after.precipitation_mm_day_normals == (1.0,) * 12


def test_a_change_out_of_range_names_variable_and_range():
    with pytest.raises(SchemaError, match=r"temperature_c is 92 °C, outside -75 to 55"):
        apply_changes(record(temperature_c=2.0), {T: Change("offset", 90)})


def test_what_is_not_known_can_be_set_but_not_shifted():
    with pytest.raises(RequestError, match="Solar radiation is not known"):
        apply_changes(record(), {R: Change("offset", 1)})
    assert apply_changes(record(), {R: Change("absolute", 15)}).solar_radiation_mj_m2_day == 15


def test_known_variables_are_those_of_some_record():
    assert known_variables([record(), record(precipitation_mm_day=1.0)]) == (P,)


@pytest.mark.parametrize("text", ["+2", "-10", "x0.5", "=21.5"])
def test_a_changed_climate_says_so_in_its_source(text):
    variable = CLIMATE["precipitation_mm_day"]
    change = parse_change(text, variable)
    assert change.text == text
    record = make_tile(precipitation_mm_day=20.0, climate_source="stations")
    changed = apply_changes(record, {variable.name: change})
    assert changed.climate_source == f"stations; changed: precipitation {text}"
    for nothing in ({}, {variable.name: parse_change("x1", variable)}):
        assert apply_changes(record, nothing) == record
