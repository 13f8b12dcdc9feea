"""Change of climate between two periods: by hand, as a property, from made and real model files."""

from pathlib import Path

import cftime
import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from data_prep.climate_delta import Change, Delta, DeltaModel, change_of, compute_delta
from data_prep.prep_config import ScenarioConfig
from ecomap.errors import DataError, RequestError
from ecomap.schema import CLIMATE

T, P, S = CLIMATE
SEASON = np.arange(12.0)


def model_file(path: Path, first: int, last: int, *, warming=0.0, experiment="ssp585", lon=10.0):
    """Monthly `tas` and `pr` of two cells in a calendar of 360 days.

    January is 0 °C and each month 1 °C warmer; odd years are 2 °C warmer than even ones. It rains
    ``1 + month`` mm/day. `warming` is added to temperature and times rain by ``1 + warming / 10``.
    """
    num = 12 * (last - first + 1)
    month, year = np.arange(num) % 12, first + np.arange(num) // 12
    units = "days since 1850-01-01"
    dates = [
        cftime.datetime(y, m + 1, 16, calendar="360_day") for y, m in zip(year, month, strict=True)
    ]
    times = cftime.date2num(dates, units, "360_day")
    tas = 273.15 + month + 2.0 * (year % 2) + warming
    rain = (1.0 + month) * (1 + warming / 10) / 86400
    both = [np.stack([values, 0.9 * values], axis=1)[:, None, :] for values in (tas, rain)]
    data = xr.Dataset(
        {
            "tas": (("time", "lat", "lon"), both[0], {"units": "K"}),
            "pr": (("time", "lat", "lon"), both[1], {"units": "kg m-2 s-1"}),
        },
        coords={
            "time": ("time", times, {"units": units, "calendar": "360_day"}),
            "lat": ("lat", [50.0]),
            "lon": ("lon", [lon, lon + 2]),
        },
        attrs={
            "source_id": "UKESM1-0-LL",
            "experiment_id": experiment,
            "variant_label": "r1i1p1f2",
        },
    )
    data.to_netcdf(path, engine="h5netcdf")
    return str(path)


@pytest.fixture
def scenario(tmp_path: Path) -> ScenarioConfig:
    past = model_file(tmp_path / "past.nc", 1985, 2014, experiment="historical")
    bridge = model_file(tmp_path / "bridge.nc", 2015, 2020)
    late = model_file(tmp_path / "late.nc", 2061, 2090, warming=4.0)
    return ScenarioConfig(
        name="ssp585-2075",
        model="UKESM1-0-LL",
        experiment="ssp585",
        member="r1i1p1f2",
        historical_paths=(past, bridge),
        future_paths=(late,),
        baseline_years=(1991, 2020),
        horizon_years=(2061, 2090),
    )


def test_temperature_is_shifted_and_precipitation_scaled(scenario):
    delta = compute_delta(scenario, 50.2, 9.7)
    assert (delta.cell_id, delta.lat, delta.lon) == ("n50.0000_e010.0000", 50.0, 10.0)
    warmth, rain = delta.changes[T], delta.changes[P]
    assert (warmth.kind, warmth.unit) == ("offset", "°C")
    assert warmth.values == pytest.approx([4.0] * 12)
    assert warmth.baseline == pytest.approx(SEASON + 1)  # half of the years are 2 °C warmer
    assert warmth.horizon == pytest.approx(SEASON + 5)
    assert (rain.kind, rain.unit) == ("factor", "1")
    assert rain.values == pytest.approx([1.4] * 12)
    assert rain.baseline == pytest.approx(SEASON + 1)
    assert (rain.capped_months, rain.floored_months) == ((), ())
    assert (delta.model, delta.member, delta.horizon_years) == (
        "UKESM1-0-LL",
        "r1i1p1f2",
        (2061, 2090),
    )


def test_a_variable_that_the_model_lacks_is_none_and_noted(scenario):
    delta = compute_delta(scenario, 50.0, 10.0)
    assert delta.changes[S] is None
    assert delta.notes == (
        "Solar radiation is not in the files of both periods; its change is not known.",
    )
    new = delta.apply({S: [10.0] * 12, T: [1.0] * 12})
    assert new[S] == (None,) * 12  # not "as before"
    assert new[T] == pytest.approx((5.0,) * 12)


def change(name: str, before: float, after: float) -> Change:
    """Change of a variable whose months are all alike but March."""
    baseline, horizon = [2.0] * 12, [2.0] * 12
    baseline[2], horizon[2] = before, after
    result = change_of(name, baseline, horizon)
    assert result.values[3] == (0.0 if name == T else 1.0)
    return result


@pytest.mark.parametrize("name", [P, S])
def test_factors_of_dry_and_dark_months_stay_small(name):
    assert change(name, 0.0, 0.0).values[2] == 1.0
    assert change(name, 0.02, 0.08).values[2] == 1.0  # both count as 0.1
    assert change(name, 0.05, 0.3).values[2] == pytest.approx(3.0)
    assert change(name, 0.05, 0.3).floored_months == (3,)
    assert change(name, 0.3, 0.01).values[2] == pytest.approx(1 / 3)
    assert change(name, 1.0, 4.0).values[2] == 4.0
    assert change(name, 1.0, 4.0).capped_months == ()


def test_factors_are_cut_and_it_is_recorded():
    wetter, drier = change(P, 0.05, 1660.0), change(P, 10.0, 1.0)
    assert (wetter.values[2], wetter.capped_months, wetter.floored_months) == (5.0, (3,), (3,))
    assert (drier.values[2], drier.capped_months, drier.floored_months) == (0.2, (3,), ())
    assert change(T, 0.05, 9.0).values[2] == pytest.approx(8.95)
    assert change(T, -20.0, -9.0).values[2] == 11.0


def test_a_cut_factor_is_noted(tmp_path, scenario):
    dry = model_file(tmp_path / "dry.nc", 2061, 2090, warming=-9.0)  # a tenth of the rain
    config = scenario.model_copy(update={"future_paths": (dry,)})
    notes = compute_delta(config, 50.0, 10.0).notes
    assert notes[0].startswith("Precipitation: the factor was cut to (0.2, 5.0) in month 1, 2, 3")


def delta_of(**changes: Change | None) -> Delta:
    return Delta(
        name="s",
        model="m",
        experiment="e",
        member="r",
        baseline_years=(1991, 2020),
        horizon_years=(2060, 2089),
        cell_id="c",
        lat=1.5,
        lon=-2.5,
        changes={name: changes.get(name) for name in CLIMATE},
        notes=("one",),
    )


def test_a_history_is_changed_month_by_month():
    shift = change_of(T, SEASON, SEASON + SEASON)  # January 0, February 1, ...
    delta = delta_of(**{T: shift})
    assert delta.apply({T: [10.0] * 12})[T] == tuple(10.0 + SEASON)
    assert delta.apply({T: [10.0, None, 10.0, 10.0]}, first_month=11)[T] == (20.0, None, 10.0, 11.0)
    with pytest.raises(RequestError, match="first_month is 0"):
        delta.apply({T: [1.0]}, first_month=0)
    with pytest.raises(RequestError, match="no climate variable 'rain'"):
        delta.apply({"rain": [1.0]})


@given(
    before=st.floats(0, 45),
    after=st.floats(0, 45),
    value=st.floats(0, 45),
    name=st.sampled_from(list(CLIMATE)),
)
def test_new_values_are_possible_on_earth(before, after, value, name):
    delta = delta_of(**{name: change_of(name, [before] * 12, [after] * 12)})
    (new,) = delta.apply({name: [value]})[name]
    assert CLIMATE[name].minimum <= new <= CLIMATE[name].maximum


def test_new_values_stop_at_the_ends_of_their_range():
    hot = delta_of(**{T: change_of(T, [0.0] * 12, [30.0] * 12)})
    assert hot.apply({T: [30.0]})[T] == (55.0,)
    cold = delta_of(**{T: change_of(T, [30.0] * 12, [0.0] * 12)})
    assert cold.apply({T: [-60.0]})[T] == (-75.0,)
    bright = delta_of(**{S: change_of(S, [10.0] * 12, [20.0] * 12)})
    assert bright.apply({S: [30.0]})[S] == (45.0,)


def test_a_change_survives_json_and_the_text_is_always_the_same(scenario):
    delta = compute_delta(scenario, 50.0, 10.0)
    assert Delta.from_json(delta.to_json(), where="x") == delta
    assert delta.to_json() == compute_delta(scenario, 50.0, 10.0).to_json()
    for text in ("{", "[]", "{}", '{"changes": {"temperature_c": {"kind": "offset"}}}'):
        with pytest.raises(DataError, match=r"d.json is not a change of climate"):
            Delta.from_json(text, where="d.json")


@pytest.mark.parametrize("key", ["baseline_years", "horizon_years"])
def test_periods_shorter_than_twenty_years_are_refused(scenario, key):
    config = scenario.model_copy(update={key: (2001, 2019)})
    with pytest.raises(RequestError, match=rf"{key} .* are 2001 to 2019, 19 years"):
        DeltaModel(config)


def test_years_that_lack_are_named(scenario):
    config = scenario.model_copy(update={"horizon_years": (2071, 2100)})
    with pytest.raises(DataError, match=r"has 20 of the years 2071 to 2100 .* 2061-01 to 2090-12"):
        compute_delta(config, 50.0, 10.0)
    config = scenario.model_copy(update={"horizon_years": (2072, 2091)})  # 95 %, but below 20
    with pytest.raises(DataError, match="has 19 of the years"):
        compute_delta(config, 50.0, 10.0)


@pytest.mark.parametrize(
    ("key", "value"), [("model", "CanESM5"), ("experiment", "ssp126"), ("member", "r9i1p1f2")]
)
def test_files_of_another_model_are_refused(scenario, key, value):
    config = scenario.model_copy(update={key: value})
    with pytest.raises(DataError, match=f"is of {key} {value}, but its files say"):
        DeltaModel(config)


@pytest.mark.parametrize("key", ["historical_paths", "future_paths"])
def test_files_of_either_period_are_checked(tmp_path, scenario, key):
    other = model_file(tmp_path / "other.nc", 2000, 2001, experiment="ssp126")
    config = scenario.model_copy(update={key: (other,)})
    with pytest.raises(DataError, match="of experiment ssp585, but its files say ssp126"):
        DeltaModel(config)


def test_the_horizon_must_lie_on_the_grid_of_the_baseline(tmp_path, scenario):
    other = model_file(tmp_path / "other.nc", 2061, 2090, lon=11.0)
    config = scenario.model_copy(update={"future_paths": (other,)})
    with pytest.raises(DataError, match=r"n50.0000_e010.0000 in the baseline and n50.0000_e011"):
        compute_delta(config, 50.0, 10.0)


def test_a_scenario_says_which_variables_to_take(tmp_path, scenario):
    renamed = []
    for path in (*scenario.historical_paths, *scenario.future_paths):
        renamed.append(str(Path(path).with_suffix(".x.nc")))
        with xr.open_dataset(path, decode_times=False, engine="h5netcdf") as data:
            data.rename(pr="rain").to_netcdf(renamed[-1], engine="h5netcdf")
    paths = {"historical_paths": tuple(renamed[:2]), "future_paths": tuple(renamed[2:])}
    plain = scenario.model_copy(update=paths)
    assert compute_delta(plain, 50, 10).changes[P] is None
    chosen = plain.model_copy(update={"variables": ((P, "rain"),)})
    assert compute_delta(chosen, 50, 10) == compute_delta(scenario, 50, 10)
    with DeltaModel(plain, variables={P: "rain"}) as model:
        assert model.delta_at(50, 10).changes[P] is not None


def test_a_change_that_a_neighbour_speaks_for_is_noted(tmp_path, scenario):
    for path in (*scenario.historical_paths, *scenario.future_paths):
        with xr.open_dataset(path, decode_times=False, engine="h5netcdf") as data:
            data = data.load()
        for name in ("tas", "pr"):
            both = data[name].values
            shape = (both.shape[0], 3, 2)
            full = np.full(shape, np.nan)
            full[:, 1] = both[:, 0]
            full[:, 1, 0] = np.nan
            attributes = {"units": data[name].attrs["units"]}
            data[f"{name}_"] = (("time", "row", "lon"), full, attributes)
        data = data.drop_vars(["tas", "pr", "lat"]).rename(row="lat", tas_="tas", pr_="pr")
        data = data.assign_coords(lat=("lat", [49.0, 50.0, 51.0]))
        data.to_netcdf(path + "x", engine="h5netcdf")
        Path(path + "x").replace(path)
    delta = compute_delta(scenario, 50, 10)
    assert delta.cell_id == "n50.0000_e010.0000"
    assert [n for n in delta.notes if "no values" in n] == [
        "The cell has no values; those of cell n50.0000_e012.0000, 142.9 km away, are taken."
    ]
    assert not any("no values" in note for note in compute_delta(scenario, 50, 12).notes)


def test_a_model_is_opened_once_and_each_cell_read_once(scenario, monkeypatch):
    with DeltaModel(scenario) as model:
        first = model.delta_at(50.0, 10.3)
        reads = []
        original = type(model._future).series
        monkeypatch.setattr(
            type(model._future), "series", lambda *a: reads.append(a[1:]) or original(*a)
        )
        assert model.delta_at(50.3, 9.8) is first
        assert reads == []
        east = model.delta_at(50.0, 11.8)
        assert reads == [(50.0, 12.0)] * 2  # at the centre of the cell
    assert east.changes[P].baseline[0] == pytest.approx(0.9)
    assert east.cell_id != first.cell_id


@pytest.mark.shared
def test_canesm2_warms_and_dries_the_summers_of_the_pacific_coast(shared_data):
    path = shared_data / "climate_samples/xclim-testdata/sdba/CanESM2_1950-2100.nc"
    config = ScenarioConfig(
        name="rcp85-2075",
        model="CanESM2",
        experiment="rcp85",
        member="r1i1p1",
        historical_paths=(str(path),),
        future_paths=(str(path),),
        baseline_years=(1991, 2020),
        horizon_years=(2061, 2090),
    )
    with DeltaModel(config, variables={T: "tasmax"}) as model:
        delta = model.delta_at(49.2, -123.0)
    warmth, rain = delta.changes[T].values, delta.changes[P].values
    assert 1.5 < min(warmth) < max(warmth) < 8  # RCP8.5
    assert max(warmth) == warmth[6]
    assert rain[0] == pytest.approx(1.32, abs=0.01)
    assert rain[6] == pytest.approx(0.47, abs=0.01)
    assert compute_delta(config, 49.2, -123.0).changes[T] is None  # the maximum is not the mean
