"""Scenarios: the climate of each month by hand, what is told, and one message for every slip."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import yaml
from hypothesis import given
from hypothesis import strategies as st

from data_prep.climate_series import ClimateSeries
from data_prep.prep_config import month_range
from data_prep.scenarios import (
    MAX_MONTHS,
    Scenario,
    build_timelines,
    default_scenario,
    parse_months,
    read_scenario,
    start_under,
)
from data_prep.series_files import read_climate_file
from ecomap.climate import apply_changes, climate_features, parse_change
from ecomap.errors import ConfigError, DataError, RequestError
from ecomap.evolution import change_share
from ecomap.normals import SOURCE, footprint_of, open_normals
from ecomap.schema import CLIMATE, TileRecord
from ecomap.sequence import Timeline
from tests.fakes import make_tile

T, P, S = CLIMATE
CONFIGS = Path(__file__).parents[1] / "configs" / "scenarios"
WARM = tuple(float(month) for month in range(12))
RAIN = tuple(1.0 + month for month in range(12))
ANY = ["2030-01", "2030-02", "2030-03"]


def start(**changes: Any) -> TileRecord:
    """A tile of June 2004 whose climate is its normals: m - 1 °C and m mm/day in month m."""
    fields = {
        "month": "2004-06", "lat": 50.0, "lon": 10.0, "climate_kind": "normal",
        "climate_source": SOURCE, "temperature_c": 5.0, "precipitation_mm_day": 6.0,
        "temperature_c_normals": WARM, "precipitation_mm_day_normals": RAIN, "cloud_frac": 0.2,
        "snow_frac": 0.1, "image_path": "a.png", "flags": ("hazy",), "spi": 1.0,
        "acquired": "2004-06-03T10:00:00Z", "split": "test", "crs": "EPSG:32632",
        "transform": (10.0, 0.0, 5e5, 0.0, -10.0, 5.5e6),
    }  # fmt: skip
    return make_tile(**(fields | changes))


def series(first: str = "2001-01", last: str = "2003-12", **changes: Any) -> ClimateSeries:
    """Temperature counts months from the first; rain is the calendar month."""
    months = month_range(first, last)
    fields: dict[str, Any] = {
        "lat": 50.0, "lon": 10.0, "cell_id": "c", "months": months, "source": "Station",
        "values": {
            T: tuple(float(n % 48) for n in range(len(months))),
            P: tuple(float(month[5:]) for month in months),
        },
    }  # fmt: skip
    return ClimateSeries(**(fields | changes))


def one(scenario: dict[str, Any], months: list[str], **more: Any) -> Timeline:
    """Timeline of one scenario."""
    fields = {"name": "it"} | scenario
    at = more.pop("start", None) or start()
    return build_timelines(at, [Scenario.model_validate(fields)], months, **more)[0]


# ---- months


def test_months_are_thinned_from_the_first():
    assert parse_months("2030-11..2031-05", every=3) == ["2030-11", "2031-02", "2031-05"]
    assert parse_months("2030") == list(month_range("2030-01", "2030-12"))
    assert parse_months("2030..2031", every=12) == ["2030-01", "2031-01"]
    assert parse_months("2030-07") == ["2030-07"]
    assert parse_months("2030-07, 2031-07..2031-08") == ["2030-07", "2031-07", "2031-08"]
    assert len(parse_months("2001-01..2100-12")) == MAX_MONTHS


@pytest.mark.parametrize(
    ("text", "every", "message"),
    [
        ("2030-01..2129-12", 1, None),
        ("2030-01..2130-01", 1, "1,201 months are asked for; a sequence has 1,200 at most"),
        ("1000-01..9999-12", 1, "108,000 months"),
        ("2031-01..2030-12", 1, "2031-01..2030-12 is empty"),
        ("2030-01-2060-12", 1, "'2030-01-2060-12' are not understood. Expected 2030-01..2060-12"),
        ("2030-13", 1, "not understood"),
        ("2030-1", 1, "not understood"),
        ("", 1, "not understood"),
        ("2030-02,2030-01", 1, "2030-01 is asked for after 2030-02"),
        ("2030-02,2030-02", 1, "2030-02 is asked for after 2030-02"),
        ("2030-01..2030-12", 0, "every is 0"),
        ("0030-01", 1, "'0030-01' lies before"),
    ],
)
def test_months_that_are_impossible_are_refused(text, every, message):
    if message is None:
        assert parse_months(text, every=every)
        return
    with pytest.raises(RequestError, match=message):
        parse_months(text, every=every)


def test_months_are_checked_whoever_made_them():
    too_many = list(month_range("2030-01", "2130-01"))
    for months, message in (
        (too_many, "1,201 months"),
        ([], "No months"),
        (["2030-1"], "'2030-1' is no month"),
        (["2030-02", "2030-01"], "in order"),
    ):
        with pytest.raises(RequestError, match=message):
            build_timelines(start(), [], months)


# ---- normals and changes


def test_normals_repeat_every_year_and_only_the_place_stays_of_the_start():
    timeline = one({"kind": "normal"}, ["2030-12", "2031-01"])
    december, january = timeline.records
    assert (december.temperature_c, december.precipitation_mm_day) == (11.0, 12.0)
    assert january.temperature_c_history == WARM
    assert december.temperature_c_history == (11.0, *WARM[:11])
    assert january.temperature_c_normals == WARM
    assert (january.climate_kind, january.climate_source) == ("normal", SOURCE)
    assert january.solar_radiation_mj_m2_day is january.solar_radiation_mj_m2_day_normals is None
    assert "Solar radiation has no normals here and is not known." in timeline.notes
    kept = ("place_id", "lat", "lon", "crs", "transform", "land_cover", "split", "license")
    for name in kept:
        assert getattr(january, name) == getattr(start(), name)
    gone = ("image_path", "cloud_frac", "snow_frac", "spi", "acquired")
    assert [getattr(january, name) for name in gone] == [None] * 5
    assert january.flags == ()


def test_a_place_without_normals_of_its_own_gets_those_that_ship():
    bare = start(temperature_c_normals=None, precipitation_mm_day_normals=None)
    record = one({"kind": "normal"}, ["2030-07"], start=bare).records[0]
    table = open_normals().climate(50.0, 10.0, footprint_of(bare))
    assert record.temperature_c == table[T][6]
    assert record.precipitation_mm_day_normals == tuple(table[P].tolist())


def test_a_lasting_change_is_another_climate_and_no_anomaly():
    changes = {"temperature": "+2", "precipitation": "x0.5"}
    plain = one({"kind": "normal"}, ANY).records
    for before, after in zip(plain, one({"kind": "delta"} | changes, ANY).records, strict=True):
        parsed = {
            name: parse_change(changes[CLIMATE[name].short], CLIMATE[name]) for name in (T, P)
        }
        assert after == apply_changes(before, parsed)  # what `ecomap generate` does with a change
    march = one({"kind": "delta"} | changes, ANY).records[2]
    assert (march.temperature_c, march.precipitation_mm_day) == (4.0, 1.5)
    assert march.temperature_c_normals[2] == 4.0
    assert march.climate_source == f"{SOURCE}; changed: temperature +2, precipitation x0.5"


def test_a_drought_is_an_anomaly_that_adds_up_and_ends():
    months = list(month_range("2031-01", "2032-12"))
    timeline = one({"kind": "delta", "precipitation": "x0.3", "months": "2031-06..2031-08"}, months)
    rain = {record.month: record.precipitation_mm_day for record in timeline.records}
    assert (rain["2031-05"], rain["2031-09"], rain["2032-07"]) == (5.0, 9.0, 7.0)
    assert [rain[f"2031-0{m}"] for m in (6, 7, 8)] == pytest.approx([1.8, 2.1, 2.4])
    record = {record.month: record for record in timeline.records}["2031-09"]
    assert record.climate_kind == "observed"
    assert record.precipitation_mm_day_normals == RAIN
    assert record.precipitation_mm_day_history[-3:] == pytest.approx((1.8, 2.1, 2.4))
    features = climate_features(record)
    anomaly, total = features.values[:, 1, 1], features.values[:, 1, 2]
    assert anomaly[-1] == 0
    assert (anomaly[-4:-1] < -1).all()
    assert total[-1] == pytest.approx(anomaly.sum() / 4, rel=1e-5)
    assert climate_features(timeline.records[-1]).values[:, 1, 1].any() == 0  # all over


def test_changes_of_calendar_months_hold_every_year_and_across_new_year():
    months = list(month_range("2031-01", "2032-12"))
    warm = one({"kind": "delta", "temperature": 3, "months": "11..02"}, months)
    changed = [r.month for r in warm.records if r.temperature_c != WARM[r.month_index]]
    assert changed == ["2031-01", "2031-02", "2031-11", "2031-12",
                       "2032-01", "2032-02", "2032-11", "2032-12"]  # fmt: skip
    july = one({"kind": "delta", "temperature": 3, "months": 7}, months)
    assert [r.temperature_c for r in july.records if r.month_index == 6] == [9.0, 9.0]


def test_a_change_that_no_month_shows_is_told_or_refused():
    drought = {"kind": "delta", "precipitation": "x0.3", "months": "2031-06..2031-08"}
    after = one(drought, ["2032-01"])
    assert after.records[0].precipitation_mm_day_history[5:8] == pytest.approx((1.8, 2.1, 2.4))
    assert any("what is seen is what follows them" in note for note in after.notes)
    said = (
        r"neither the months shown \(2035-01 to 2035-01\) .* Edit months: in the scenario's file, "
        r"or ask for months that contain 2031-06\.\.2031-08\."
    )
    with pytest.raises(RequestError, match=said):
        one(drought, ["2035-01"])


@given(st.floats(-5, 5), st.floats(0, 3))
def test_changes_move_every_value_alike(offset, factor):
    scenario = {"kind": "delta", "temperature": f"{offset:+.3f}", "precipitation": f"x{factor:.3f}"}
    if abs(offset) < 5e-4 and abs(factor - 1) < 5e-4:
        return
    for record in one(scenario, ANY).records:
        assert record.temperature_c == pytest.approx(
            WARM[record.month_index] + round(offset, 3), abs=1e-6
        )
        assert record.precipitation_mm_day == pytest.approx(
            RAIN[record.month_index] * round(factor, 3), abs=1e-6
        )


def test_rain_stops_at_zero_and_what_earth_has_not_is_refused():
    dry = one({"kind": "delta", "precipitation": "-2.5"}, ANY).records
    assert [r.precipitation_mm_day for r in dry] == [0.0, 0.0, 0.5]
    with pytest.raises(RequestError, match=r"temperature \+60 makes 60 °C of 0 in month 2029-01"):
        one({"kind": "delta", "temperature": "+60"}, ["2030-01"])
    with pytest.raises(RequestError, match=r"changes solar radiation, which ERA5 .* does not have"):
        one({"kind": "delta", "solar": "x0.9"}, ANY)


# ---- series


def test_observed_months_are_those_of_the_series_with_the_year_before():
    made = series()
    timeline = one({"kind": "observed"}, ["2002-03", "2003-12"], series=made)
    first = timeline.records[0]
    assert (first.temperature_c, first.precipitation_mm_day) == (14.0, 3.0)
    assert first.temperature_c_history == tuple(float(n) for n in range(2, 14))
    assert first.climate_kind == "observed"
    assert first.climate_source == f"Station; normals: {SOURCE}"
    assert first.temperature_c_normals == WARM  # three years are no normals
    assert any("Station has 3 years of temperature and precipitation" in n for n in timeline.notes)
    assert any("The climate of the start is of ERA5" in note for note in timeline.notes)
    assert timeline.facts["climate_period"] == ["2001-01", "2003-12"]


def test_twenty_years_of_a_series_are_its_normals():
    long = series("1991-01", "2020-12")
    timeline = one({"kind": "observed"}, ["2020-12"], series=long)
    record = timeline.records[0]
    years = [float((12 * y + 11) % 48) for y in range(30)]
    assert record.temperature_c_normals[11] == pytest.approx(np.mean(years))
    assert record.climate_source == "Station"
    assert timeline.facts["normals"] == "Station, normals 1991-2020"
    assert timeline.facts["normals_years"] == [1991, 2020]
    assert not any("make normals" in note for note in timeline.notes)


def test_months_before_the_series_are_unknown_and_counted():
    values = {T: (*(1.0,) * 14, None, 1.0), P: (1.0,) * 16}
    made = series("2001-01", "2002-04", values=values)
    timeline = one({"kind": "observed"}, ["2001-03", "2002-03", "2002-04"], series=made)
    assert timeline.records[0].temperature_c_history == (*(None,) * 10, 1.0, 1.0)
    assert timeline.records[1].temperature_c is None
    assert "Temperature is unknown in 1 of 3 months shown, the first 2002-03." in timeline.notes
    assert (
        "Of the year before, not all is known for 2 of 3 months shown, the first 2001-03: the "
        "series begins 2001-01."
    ) in timeline.notes


def test_months_outside_the_series_are_refused_with_its_range():
    for month in ("2000-12", "2004-01"):
        with pytest.raises(RequestError, match=f"needs {month}, and Station has 2001-01 to 2003"):
            one({"kind": "observed"}, [month], series=series())
    with pytest.raises(RequestError, match=r"needs 2004-01 and 2 more months"):
        one({"kind": "observed"}, ["2003-12", "2004-01", "2004-02", "2004-03"], series=series())


def test_a_start_knows_its_own_months_where_no_series_is_given():
    with pytest.raises(RequestError, match=r"knows long-term means alone. Give one with --climate"):
        one({"kind": "observed"}, ["2004-06"])
    known = start(climate_kind="observed", temperature_c_history=WARM, climate_source="POWER")
    timeline = one({"kind": "observed"}, ["2004-05", "2004-06"], start=known)
    assert [r.temperature_c for r in timeline.records] == [11.0, 5.0]
    assert timeline.records[0].precipitation_mm_day is None  # its year before is not known
    with pytest.raises(RequestError, match="POWER has 2003-06 to 2004-06"):
        one({"kind": "observed"}, ["2004-07"], start=known)


def test_a_series_without_any_value_in_the_months_is_refused():
    made = series("2001-01", "2001-03", values={T: (1.0, None, None)})
    with pytest.raises(RequestError, match="knows no value in any month shown"):
        one({"kind": "observed"}, ["2001-02", "2001-03"], series=made)


def test_a_delta_changes_the_series_where_it_has_the_months():
    made, warm = series(), {"kind": "delta", "temperature": 2}
    on_series = one(warm, ["2002-03"], series=made).records[0]
    assert (on_series.temperature_c, on_series.climate_kind) == (16.0, "observed")
    assert on_series.temperature_c_history[0] == 4.0
    assert on_series.temperature_c_normals[0] == 2.0  # a lasting change is no anomaly
    beyond = one(warm, ["2030-03"], series=made)
    assert beyond.records[0].temperature_c == 4.0
    assert any("change is put on long-term means" in note for note in beyond.notes)
    on_means = one(warm | {"base": "normal"}, ["2002-03"], series=made)
    assert on_means.records[0].temperature_c == 4.0
    assert not any("put on" in note for note in on_means.notes)
    with pytest.raises(RequestError, match="needs 2030-03, and Station"):
        one(warm | {"base": "series"}, ["2030-03"], series=made)


def test_a_start_under_a_series_has_no_change_of_product():
    made = series("2003-01", "2005-12")
    placed = start_under(start(), made)
    assert (placed.temperature_c, placed.climate_kind) == (17.0, "observed")
    assert placed.temperature_c_history == tuple(float(n) for n in range(5, 17))
    assert placed.image_path == "a.png"
    timeline = one({"kind": "observed"}, ["2004-06"], series=made, start=placed)
    assert timeline.records[0].temperature_c == placed.temperature_c
    assert timeline.records[0].temperature_c_normals == placed.temperature_c_normals == WARM
    assert timeline.records[0].climate_source == placed.climate_source
    assert not any("products" in note for note in timeline.notes)
    assert start_under(start(), series()) == start()  # it ends before


@pytest.mark.parametrize("first", ["1991-01", "2003-01"])  # normals of the series, or of the start
@pytest.mark.parametrize("kind", ["normal", "observed"])
@pytest.mark.parametrize("known", [(T,), (P,), (T, P)])
def test_a_start_and_its_own_month_under_a_series_have_one_climate(known, kind, first):
    full = series(first, "2020-12")
    made = series(first, "2020-12", values={name: full.values[name] for name in known})
    history = dict.fromkeys((f"{T}_history", f"{P}_history"), WARM)
    placed = start_under(start(climate_kind=kind, **history), made)
    target = one({"kind": "observed"}, ["2004-06"], series=made, start=placed).records[0]
    fields = [f"{name}{suffix}" for name in CLIMATE for suffix in ("", "_history", "_normals")]
    for field in (*fields, "climate_kind"):
        assert getattr(placed, field) == getattr(target, field)
    assert change_share(placed, target) == 0
    # Of what the series does not have, the climate of the place is known, and no anomaly.
    features = climate_features(placed).known
    for index, name in enumerate(CLIMATE):
        assert features[:, index, 1].any() == (name in known)
        assert (getattr(placed, f"{name}_normals") is None) == (name == S)


def test_a_file_of_the_scenario_stands_for_that_of_the_sequence(tmp_path):
    path = tmp_path / "other.csv"
    path.write_text("month,temperature_c\n2002-01,1\n2002-02,2\n")
    own = {"kind": "observed", "climate": str(path)}
    timeline = one(own, ["2002-02"], series=series())
    assert timeline.records[0].temperature_c == 2.0
    assert timeline.records[0].precipitation_mm_day is None
    assert timeline.facts["climate"] == "other.csv"
    with pytest.raises(DataError, match="cannot be read"):
        one(own | {"climate": "nowhere.csv"}, ["2002-02"])


# ---- analogues


def test_every_year_is_like_the_analogue_and_the_first_follows_what_came_before():
    analogue = {"kind": "analogue", "year": 2003}
    timeline = one(analogue, ["2030-03", "2031-03"], series=series())
    first, second = timeline.records
    assert first.temperature_c == second.temperature_c == 26.0  # 2003-03
    # March 2002 to February 2003, as it was.
    assert first.temperature_c_history == tuple(float(n) for n in range(14, 26))
    # March to December 2003, then January and February of the same year again.
    assert second.temperature_c_history == (*(float(n) for n in range(26, 36)), 24.0, 25.0)
    assert timeline.facts["analogue_year"] == 2003
    unknown = one({"kind": "analogue", "year": 2001}, ["2030-03"], series=series())
    assert unknown.records[0].temperature_c_history == (*(None,) * 10, 0.0, 1.0)


def test_an_analogue_needs_its_year_in_full():
    with pytest.raises(RequestError, match=r"needs 2018-01 and 11 more .* Choose a year that it"):
        one({"kind": "analogue", "year": 2018}, ANY, series=series())
    with pytest.raises(RequestError, match="repeats 2018 of a series, and none is given"):
        one({"kind": "analogue", "year": 2018}, ANY)


def test_an_analogue_place_gives_its_normals():
    timeline = one({"kind": "analogue", "place": {"lat": 36.8, "lon": 10.2}}, ["2030-07"])
    record = timeline.records[0]
    assert record.temperature_c == record.temperature_c_normals[6]
    assert 24 < record.temperature_c < 31  # Tunis
    assert (record.lat, record.climate_kind) == (50.0, "normal")
    assert record.climate_source == f"{SOURCE} of (36.8, 10.2)"
    assert timeline.facts["place_shift_months"] == 0
    assert not any("hemisphere" in note for note in timeline.notes)


@pytest.mark.parametrize(("own", "lat", "lon"), [(46.5, -33.9, 18.4), (-33.9, 46.5, 9.5)])
def test_a_place_on_the_other_hemisphere_keeps_the_seasons_of_the_start(own, lat, lon):
    place = {"kind": "analogue", "place": {"lat": lat, "lon": lon}}
    timeline = one(place, ["2030-01", "2030-07"], start=start(lat=own))
    january, july = timeline.records
    table = open_normals().climate(lat, lon, footprint_of(start(lat=lat)))
    for name in (T, P):
        shifted = (*table[name][6:], *table[name][:6])
        assert getattr(january, f"{name}_normals") == shifted
        assert getattr(january, f"{name}_history") == shifted
        assert getattr(july, f"{name}_history") == tuple(table[name])
        assert getattr(january, name) == table[name][6]
        assert getattr(july, name) == table[name][0]
    assert (january.temperature_c < july.temperature_c) == (own > 0)
    assert january.climate_source == f"{SOURCE} of ({lat:g}, {lon:g}), shifted by six months"
    assert timeline.facts["place_shift_months"] == 6
    assert any("other hemisphere: its normals are shifted by six" in n for n in timeline.notes)


def test_a_place_on_the_equator_is_shifted_for_neither_hemisphere():
    for lat in (50.0, -33.9):
        place = {"kind": "analogue", "place": {"lat": 0, "lon": 10}}
        assert one(place, ANY, start=start(lat=lat)).facts["place_shift_months"] == 0


# ---- climate models


def write_model(
    folder: Path, first: int, last: int, experiment: str, *, wetness: float = 2.0
) -> None:
    """Monthly means of one cell, a file a variable: 3 °C warmer and `wetness` times as wet as the
    normals of `start` in 2000, 4 °C and a fifth more a century later; odd years are 2 °C warmer
    than even."""
    num = 12 * (last - first + 1)
    month, year = np.arange(num) % 12, first + np.arange(num) // 12
    tas = 273.15 + 3.0 + month + np.where(year % 2, 1.0, -1.0) + 4.0 * (year - 2000) / 100
    rain = wetness * (1.0 + month) * (1 + 0.002 * (year - 2000)) / 86400
    calendar = {"units": "days since 1850-01-01", "calendar": "360_day"}
    for name, values, units in (("tas", tas, "K"), ("pr", rain, "kg m-2 s-1")):
        data = xr.Dataset(
            {name: (("time", "lat", "lon"), values[:, None, None], {"units": units})},
            coords={
                "time": ("time", 360.0 * (year - 1850) + 30 * month + 15, calendar),
                "lat": ("lat", [50.0]),
                "lon": ("lon", [10.2]),
            },
            attrs={
                "source_id": "CanESM5",
                "experiment_id": experiment,
                "variant_label": "r1i1p1f1",
            },
        )
        path = folder / f"{name}_Amon_CanESM5_{experiment}_r1i1p1f1_gn_{first}01-{last}12.nc"
        data.to_netcdf(path, engine="h5netcdf")


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder in which the files of the shipped scenarios lie."""
    folder = tmp_path_factory.mktemp("models")
    (folder / "data/cmip6").mkdir(parents=True)
    write_model(folder / "data/cmip6", 1981, 2014, "historical")
    write_model(folder / "data/cmip6", 2015, 2100, "ssp585")
    return folder


@pytest.fixture
def model(model_folder: Path) -> dict[str, Any]:
    """What a scenario says of them."""
    return {
        "kind": "cmip6", "model": "CanESM5", "experiment": "ssp585",
        "historical_paths": [str(model_folder / "data/cmip6/*_historical_*.nc")],
        "future_paths": [str(model_folder / "data/cmip6/*_ssp585_*.nc")],
    }  # fmt: skip


def test_the_change_of_a_model_is_put_on_the_normals_in_their_own_period(model):
    timeline = one(model | {"horizon": 2050}, ["2050-01", "2050-07"])
    july = timeline.records[1]
    # 2000-2025 (those of the shipped normals) is 2012.5 on average, 2040-2060 is 2050; even years
    # are one more than odd ones in 2040-2060.
    warmer = 4.0 * (2050 - 2012.5) / 100 - 1 / 21
    assert july.temperature_c == pytest.approx(6.0 + warmer, abs=1e-4)
    assert july.temperature_c_normals == pytest.approx([t + warmer for t in WARM], abs=1e-4)
    wetter = (1 + 0.002 * 50) / (1 + 0.002 * 12.5)
    assert july.precipitation_mm_day == pytest.approx(7.0 * wetter, rel=1e-4)
    assert july.climate_kind == "normal"
    facts = timeline.facts
    assert (facts["model"], facts["experiment"], facts["member"]) == (
        "CanESM5", "ssp585", "r1i1p1f1",
    )  # fmt: skip
    assert (facts["baseline_years"], facts["horizon_years"]) == ([2000, 2025], [2040, 2060])
    assert facts["model_changes"]["temperature"]["values"] == pytest.approx([warmer] * 12, abs=1e-4)
    assert any("14 km from the place" in note for note in timeline.notes)
    assert not any("outside" in note or "baseline" in note for note in timeline.notes)


def test_months_beyond_a_horizon_and_other_baselines_are_told(model):
    timeline = one(
        model | {"horizon_years": [2071, 2100], "baseline_years": [1991, 2020]},
        ["2030-01", "2080-01"],
    )
    assert any("1 of 2 months shown, the first 2030-01" in note for note in timeline.notes)
    assert any(
        "baseline is 1991-2020 and the normals are of 2000-2025" in n for n in timeline.notes
    )


def test_the_models_own_months_run_on_without_its_bias(model):
    months = parse_months("2000-01..2025-12")
    timeline = one(model | {"direct": True}, months)
    warmth = np.array([r.temperature_c for r in timeline.records]).reshape(-1, 12)
    rain = np.array([r.precipitation_mm_day for r in timeline.records]).reshape(-1, 12)
    assert warmth.mean(0) == pytest.approx(WARM, abs=1e-4)  # the model is 3 °C too warm
    assert rain.mean(0) == pytest.approx(RAIN, rel=1e-3)  # and twice too wet
    assert warmth[1, 0] - warmth[0, 0] == pytest.approx(2.04, abs=1e-4)  # its weather stays
    late = one(model | {"direct": True}, ["2080-01", "2081-01"]).records
    assert late[1].temperature_c - late[0].temperature_c == pytest.approx(2.04, abs=1e-4)
    # Normals are those of the 30 years around: what is left is weather.
    assert late[0].temperature_c - late[0].temperature_c_normals[0] == pytest.approx(-1, abs=0.1)
    assert late[0].temperature_c_normals[0] == pytest.approx(4.0 * (2079.5 - 2012.5) / 100, abs=0.1)
    assert late[0].climate_kind == "observed"
    assert (
        "Months are the model's own, moved so that its means of 2000-2025 are the normals."
        in timeline.notes
    )
    assert not any("cut" in note for note in timeline.notes)


@pytest.mark.parametrize(
    ("january", "made", "but", "cut"),
    [
        (4.0, 0.1 * 1.025 * 5, "a factor was cut", True),  # 4 of 0.1 would be a factor of 39
        (0.05, 0.1, "a mean is below 0.1", False),
        (0.0, 0.1, "a mean is below 0.1", False),
    ],
)
def test_a_bias_that_is_not_all_removed_is_told(tmp_path, january, made, but, cut):
    for first, last, experiment in ((2000, 2014, "historical"), (2015, 2025, "ssp585")):
        write_model(tmp_path, first, last, experiment, wetness=0.1)
    at = start(precipitation_mm_day_normals=(january, *(0.1 * month for month in range(2, 13))))
    scenario = {
        "kind": "cmip6", "model": "CanESM5", "experiment": "ssp585", "direct": True,
        "historical_paths": [str(tmp_path / "*_historical_*.nc")],
        "future_paths": [str(tmp_path / "*_ssp585_*.nc")],
    }  # fmt: skip
    timeline = one(scenario, parse_months("2000..2025"), start=at)
    rain = np.array([r.precipitation_mm_day for r in timeline.records]).reshape(-1, 12).mean(0)
    assert rain == pytest.approx([made, *(0.1 * month for month in range(2, 13))], rel=1e-3)
    assert (
        "Months are the model's own, moved so that its means of 2000-2025 are the normals, except "
        f"where {but}."
    ) in timeline.notes
    said = "Precipitation: the factor was cut to (0.2, 5.0) in month 1."
    assert (said in timeline.notes) == cut


def test_a_change_goes_on_top_of_a_model(model):
    plain = one(model | {"horizon": 2075}, ["2075-06"]).records[0]
    dry = one(model | {"horizon": 2075, "precipitation": "-50%"}, ["2075-06"]).records[0]
    assert dry.precipitation_mm_day == pytest.approx(plain.precipitation_mm_day / 2)
    assert dry.temperature_c == plain.temperature_c


def test_wrong_files_and_years_of_a_model_are_refused(model):
    with pytest.raises(DataError, match="of model OTHER, but its files say CanESM5"):
        one(model | {"model": "OTHER", "horizon": 2050}, ANY)
    with pytest.raises(DataError, match="of model OTHER"):
        one(model | {"model": "OTHER", "direct": True}, ANY)
    with pytest.raises(RequestError, match=r"needs 2101-01, and CanESM5 .* has 1981-01 to 2100-12"):
        one(model | {"direct": True}, ["2101-01"])
    with pytest.raises(RequestError, match="15 years; a climate needs 20"):
        one(model | {"horizon_years": [2051, 2065]}, ANY)
    with pytest.raises(DataError, match="baseline years, or set baseline_years"):
        one(model | {"direct": True, "baseline_years": [1960, 1985]}, ANY)
    said = r"Scenario it: No file matches data/none_\*.nc. Check the path. Files .* yours to downl"
    for how in ({"horizon": 2050}, {"direct": True}):
        with pytest.raises(DataError, match=said):
            one(model | how | {"future_paths": ["data/none_*.nc"]}, ANY)


# ---- files, and several scenarios


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_every_shipped_scenario_makes_a_timeline(path, model_folder, monkeypatch):
    monkeypatch.chdir(model_folder)
    scenario = read_scenario(path)
    assert scenario.name == path.stem
    assert scenario.title
    given = series("1991-01", "2020-12")
    shown = "2019-01..2020-12" if scenario.kind == "observed" else "2030-01..2032-12"
    timeline = build_timelines(start(), [scenario], parse_months(shown, every=3), series=given)[0]
    assert (timeline.title, timeline.kind) == (scenario.title, scenario.kind)
    assert all(record.temperature_c is not None for record in timeline.records)


def test_scenarios_stay_in_order_and_default_to_what_is_given():
    both = [Scenario(name="b", kind="normal"), Scenario(name="a", kind="delta", temperature="+1")]
    assert [t.name for t in build_timelines(start(), both, ANY)] == ["b", "a"]
    assert build_timelines(start(), [], ANY)[0].name == "normal"
    assert build_timelines(start(), [], ["2002-01"], series=series())[0].name == "observed"
    assert default_scenario(None).kind == "normal"
    with pytest.raises(RequestError, match="'b' is given twice"):
        build_timelines(start(), [both[0], both[0]], ANY)


def test_timelines_come_back_from_json_as_they_were(model):
    asked = [
        Scenario.model_validate({"name": "a"} | model | {"horizon": 2050}),
        Scenario.model_validate({"name": "b"} | model | {"direct": True}),
        Scenario(name="c", kind="delta", temperature="+2", months="05..09"),
    ]
    given = series("1991-01", "2031-12")
    timelines = build_timelines(start(), asked, ANY, series=given)
    assert timelines == build_timelines(start(), asked, ANY, series=given)
    for timeline in timelines:
        assert Timeline.model_validate_json(timeline.model_dump_json()) == timeline


def scenario_file(folder: Path, text: str) -> Path:
    path = folder / "my scenario.yaml"
    path.write_text(text)
    return path


def test_a_scenario_file_is_read_as_people_write_it(tmp_path):
    text = "kind: delta\ntemperature: +2\nprecipitation: -20%\nsolar: '+0.5'\nmonths: 5..9\n"
    scenario = read_scenario(scenario_file(tmp_path, text))
    assert (scenario.name, scenario.label) == ("my-scenario", "my-scenario")
    changes = {name: change.text for name, change in scenario.changes.items()}
    assert changes == {T: "+2", P: "x0.8", S: "+0.5"}
    assert scenario.change_words == "temperature +2, precipitation x0.8, solar +0.5 in 5..9"
    assert "2031-05" in scenario.change_months
    assert "2031-10" not in scenario.change_months
    (tmp_path / "2050.yaml").write_text("kind: normal")
    assert read_scenario(tmp_path / "2050.yaml").name == "2050"


CMIP6 = (
    "kind: cmip6\nmodel: A\nexperiment: ssp585\nhistorical_paths: [a.nc]\nfuture_paths: [b.nc]\n"
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kind: warmer", "did you mean|it must be 'observed', 'delta'"),
        ("title: x", "kind is missing"),
        ("kind: delta", "kind delta changes nothing; add temperature"),
        ("kind: delta\ntemperature: 0", "changes nothing"),
        ("kind: delta\ntemperature: warm", r"temperature is 'warm'; .*offset such as \+2 or -1.5"),
        ("kind: delta\ntemperature: true", "temperature is True; it must be an offset"),
        ("kind: delta\ntemperature: x1.1", "offset such as"),
        ("kind: delta\ntemperature: =20", "leaves no seasons"),
        ("kind: delta\nprecipitation: 0.8", "a number alone may be an offset or a factor"),
        ("kind: delta\nprecipitation: x-1", "a factor such as x0.8"),
        ("kind: delta\nprecipitation: -120%", "a factor such as x0.8"),
        ("kind: delta\ntemprature: +2", "Did you mean 'temperature'"),
        ("kind: delta\ntemperature: +2\nmonths: summer", "such as 2031-04..2031-09, or months of"),
        ("kind: delta\ntemperature: +2\nmonths: 2031-09..2031-04", "must be a period"),
        ("kind: delta\ntemperature: +2\nyear: 2018", "kind delta does not read year"),
        ("kind: observed\nmonths: 05..09", "none is given"),
        ("kind: normal\ntemperature: +2", "kind normal does not read temperature"),
        ("kind: analogue", "nothing is given; kind analogue needs year"),
        ("kind: analogue\nyear: 2018\nplace: {lat: 1, lon: 2}", "year and place is given"),
        ("kind: analogue\nplace: {lat: 91, lon: 2}", "place.lat is 91"),
        ("kind: analogue\nplace: {lat: 1, lon: 2}\nclimate: a.csv", "leave climate out"),
        ("kind: cmip6\nhorizon: 2050", "needs model and experiment and historical_paths"),
        (CMIP6, "nothing is given; kind cmip6 needs horizon: 2050"),
        (CMIP6 + "horizon: 2050\nhorizon_years: [2036, 2065]", "horizon and horizon_years is"),
        (CMIP6 + "horizon: 2050\ndirect: true", "so horizon says nothing"),
        (CMIP6 + "horizon: 2150", "horizon is 2150"),
        ("name: a/b\nkind: normal", "name is 'a/b'"),
    ],
)
def test_a_scenario_that_says_nothing_or_too_much_is_refused(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        read_scenario(scenario_file(tmp_path, text))


def test_a_missing_scenario_file_and_one_that_is_no_yaml_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.yaml cannot be read"):
        read_scenario(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="not valid YAML"):
        read_scenario(scenario_file(tmp_path, "kind: [delta"))


def test_shipped_scenarios_say_no_more_than_a_reader_needs():
    for path in CONFIGS.glob("*.yaml"):
        content = yaml.safe_load(path.read_text())
        assert {"kind", "title"} <= set(content)


# ---- real files


@pytest.mark.shared
def test_a_real_series_of_power_drives_a_sequence_of_its_years(shared_data: Path):
    folder = shared_data / "nasa_power"
    path = folder / "power_monthly_point_T2M_50.11N_8.68E_2001-2023.json"
    given = read_climate_file(path, 50.11, 8.68)
    frankfurt = start(lat=50.11, lon=8.68, month="2018-06")
    placed = start_under(frankfurt, given)
    observed, hot = build_timelines(
        placed,
        [
            Scenario(name="observed", kind="observed"),
            Scenario(name="as-2018", kind="analogue", year=2018),
        ],
        parse_months("2022-01..2022-12"),
        series=given,
    )
    told = "NASA POWER monthly, normals 2001-2023; normals of the start"
    assert observed.facts["normals"].startswith(told)  # precipitation is not in that answer
    august = hot.records[7]
    assert august.temperature_c == given.value(T, "2018-08")
    assert august.temperature_c - august.temperature_c_normals[7] > 1  # a hot summer
    assert not any("products" in note for note in observed.notes)


@pytest.mark.shared
def test_canesm2_warms_vancouver_as_rcp85_does(shared_data: Path):
    path = str(shared_data / "climate_samples/xclim-testdata/sdba/CanESM2_1950-2100.nc")
    scenario = Scenario(
        name="rcp85-2100", kind="cmip6", model="CanESM2", experiment="rcp85", member="r1i1p1",
        historical_paths=(path,), future_paths=(path,), horizon=2100,
        variables={T: "tasmax"},
    )  # fmt: skip
    vancouver = start(
        lat=49.2, lon=-123.0, temperature_c_normals=None, precipitation_mm_day_normals=None
    )
    base, late = (
        build_timelines(vancouver, [one], parse_months("2090"))[0]
        for one in (Scenario(name="normal", kind="normal"), scenario)
    )
    warmer = [
        b.temperature_c - a.temperature_c for a, b in zip(base.records, late.records, strict=True)
    ]
    assert 1 < min(warmer) < max(warmer) < 11
    assert max(warmer) == warmer[6]
    wetter = [
        b.precipitation_mm_day / a.precipitation_mm_day
        for a, b in zip(base.records, late.records, strict=True)
    ]
    assert wetter[6] < 0.7 < 1 < wetter[0]
    assert late.facts["horizon_years"] == [2081, 2100]
