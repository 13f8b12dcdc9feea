"""Climate files: made files with known values in each unit, calendar, step and grid; real ones."""

import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cftime
import h5netcdf
import numpy as np
import pytest
import xarray as xr

from data_prep.cf_grid import Grid, distance_deg
from data_prep.cf_series import open_cf
from data_prep.cf_units import measure_of
from ecomap.errors import DataError, RequestError

T, P, S = "temperature_c", "precipitation_mm_day", "solar_radiation_mj_m2_day"
LAT, LON = [40.0, 41.0, 42.0], [10.0, 12.0, 14.0, 16.0]


def dataset(
    values,
    *,
    name="tas",
    units="K",
    calendar="standard",
    start="2001-01-01",
    step_days=1.0,
    lat=LAT,
    lon=LON,
    attributes=None,
) -> xr.Dataset:
    """A file of one variable: the series at cell (41, 14), everywhere else something else."""
    series = np.asarray(values, np.float64)
    field = np.full((series.size, len(lat), len(lon)), np.nan)
    field[:] = series[:, None, None] * 0.5
    row = min(1, len(lat) - 1)
    field[:, row, min(2, len(lon) - 1)] = series
    data = xr.Dataset(
        {name: (("time", "lat", "lon"), field, {"units": units, **(attributes or {})})},
        coords={"lat": lat, "lon": lon},
    )
    data["lat"].attrs = {"standard_name": "latitude", "units": "degrees_north"}
    data["lon"].attrs = {"standard_name": "longitude", "units": "degrees_east"}
    times = {"units": f"days since {start}", "calendar": calendar}
    return data.assign_coords(time=("time", step_days * np.arange(series.size), times))


def monthly(values, *, stamp=1, **options) -> xr.Dataset:
    """As `dataset`, with one step a month of a year or more from January 2001."""
    data = dataset(values, **options)
    calendar = options.get("calendar", "standard")
    dates = [
        cftime.datetime(2001 + n // 12, n % 12 + 1, stamp, calendar=calendar)
        for n in range(len(values))
    ]
    units = "days since 2001-01-01"
    numbers = cftime.date2num(dates, units, calendar)
    return data.assign_coords(time=("time", numbers, {"units": units, "calendar": calendar}))


def write(path: Path, data: xr.Dataset, **options) -> Path:
    data.to_netcdf(path, engine=options.pop("engine", "h5netcdf"), **options)
    return path


def read(path, name=T, lat=41.2, lon=13.6):
    with open_cf(path) as climate:
        series = climate.series(lat, lon)
    return dict(zip(series.months, series.values[name], strict=True)), series.attributes


# Units


@pytest.mark.parametrize(
    ("name", "units", "stored", "expected"),
    [
        (T, "K", 283.15, 10.0),
        (T, "C", 12.5, 12.5),
        (T, "degF", 50.0, 10.0),
        (P, "kg m-2 s-1", 2 / 86400, 2.0),
        (P, "kg m**-2 s**-1", 2 / 86400, 2.0),
        (P, "mm/day", 3.0, 3.0),
        (P, "kg m-2 day-1", 3.0, 3.0),
        (P, "m day-1", 0.004, 4.0),
        (P, "mm h-1", 0.25, 6.0),
        (S, "W m-2", 200.0, 17.28),
        (S, "J m-2 day-1", 12e6, 12.0),
        (S, "MJ m-2 day-1", 13.5, 13.5),
        (S, "kW-hr/m^2/day", 5.0, 18.0),
        (S, "kWh m-2 day-1", 5.0, 18.0),
    ],
)
def test_rates_become_the_units_of_the_contract(tmp_path, name, units, stored, expected):
    variable = {T: "tas", P: "pr", S: "rsds"}[name]
    data = monthly([stored] * 12, name=variable, units=units)
    values, attributes = read(write(tmp_path / "a.nc", data), name)
    assert values["2001-07"] == pytest.approx(expected, rel=1e-6)
    assert attributes[f"{name}.units"] == units


def test_a_total_of_a_month_is_divided_by_the_days_of_the_native_month(tmp_path):
    for calendar, february in (("standard", 28), ("360_day", 30), ("noleap", 28)):
        data = monthly([84.0] * 24, name="pr", units="mm/month", calendar=calendar)
        values, _ = read(write(tmp_path / f"{calendar}.nc", data), P)
        assert values["2001-02"] == pytest.approx(84 / february)
    leap = monthly([87.0] * 48, name="pr", units="mm month-1")
    values, _ = read(write(tmp_path / "leap.nc", leap), P)
    assert values["2004-02"] == pytest.approx(3.0)  # 29 days


def test_monthly_era5_amounts_are_per_day_and_others_say_so_or_are_refused(tmp_path):
    era5 = monthly([0.002] * 12, name="tp", units="m", attributes={"GRIB_stepType": "avgad"})
    values, attributes = read(write(tmp_path / "era5.nc", era5), P)
    assert values["2001-02"] == pytest.approx(2.0)
    assert attributes[f"{P}.read_as"] == "means per day (ECMWF monthly means)"
    total = monthly([56.0] * 12, name="pr", units="mm", attributes={"cell_methods": "time: sum"})
    assert read(write(tmp_path / "t.nc", total), P)[0]["2001-02"] == pytest.approx(2.0)
    silent = write(tmp_path / "s.nc", monthly([56.0] * 12, name="pr", units="mm"))
    with pytest.raises(DataError, match=r"pr of .*s.nc has one amount a month"):
        read(silent, P)


@pytest.mark.parametrize("units", ["", None, "1", "unknown", "m3", "mm month-1 day-1", "(0 - 1)"])
def test_units_that_are_missing_or_strange_are_named(tmp_path, units):
    data = monthly([1.0] * 12, name="pr", units=units)
    if units is None:
        del data["pr"].attrs["units"]
    path = write(tmp_path / "u.nc", data)
    with pytest.raises(DataError, match=r"pr of .*u.nc has .*kg m-2 s-1, mm day-1, mm month-1"):
        open_cf(path)


def test_water_equivalent_in_words_is_a_depth():
    assert measure_of(P, "m of water equivalent", where="x").factor == pytest.approx(1000)
    assert measure_of(P, "m of water equivalent", where="x").kind == "amount"


def test_units_that_contradict_the_values_are_refused(tmp_path):
    path = write(tmp_path / "c.nc", monthly([15.0] * 12, units="K"))
    with pytest.raises(DataError, match=r"12 of 12 values .* units are not what they say"):
        read(path)


# Calendars and months


def test_a_model_year_of_360_days_keeps_its_thirtieth_of_february(tmp_path):
    days = np.arange(360)
    values = np.where(days // 30 == 1, 300.0, 280.0)  # February is the second thirty days
    data = dataset(values, calendar="360_day", start="2001-01-01 12:00:00")
    months, attributes = read(write(tmp_path / "d.nc", data))
    assert list(months) == [f"2001-{m:02d}" for m in range(1, 13)]
    assert months["2001-02"] == pytest.approx(26.85)
    assert months["2001-01"] == months["2001-03"] == pytest.approx(6.85)
    assert attributes[f"{T}.calendar"] == "360_day"


def test_a_calendar_without_leap_days_has_no_29_february(tmp_path):
    days = np.arange(365)
    values = 280.0 + (days >= 31 + 28)  # 1 March is day 59 in 2004 too
    data = dataset(values, calendar="noleap", start="2004-01-01")
    months, _ = read(write(tmp_path / "n.nc", data))
    assert months["2004-02"] == pytest.approx(6.85)
    assert months["2004-03"] == pytest.approx(7.85)
    leap = dataset(280.0 + (np.arange(366) >= 31 + 28), calendar="standard", start="2004-01-01")
    months, _ = read(write(tmp_path / "g.nc", leap))
    assert months["2004-02"] == pytest.approx(6.85 + 1 / 29)


def test_a_month_counts_from_nine_tenths_of_its_days_on(tmp_path):
    values = np.full(90, 280.0)
    values[:3] = np.nan  # January: 28 of 31
    values[31:34] = np.nan  # February: 25 of 28, below 25.2
    values[60] = 290.0  # March
    months, attributes = read(write(tmp_path / "m.nc", dataset(values)))
    assert months["2001-01"] == pytest.approx(6.85)
    assert months["2001-02"] is None
    assert months["2001-03"] == pytest.approx(6.85 + 10 / 31)
    assert attributes[f"{T}.num_incomplete_months"] == "1"


def test_days_that_are_not_in_the_file_count_as_missing(tmp_path):
    data = dataset(np.full(59, 280.0)).isel(time=[*range(20), *range(31, 59)])
    months, _ = read(write(tmp_path / "g.nc", data))
    assert months == {"2001-02": pytest.approx(6.85)}


@pytest.mark.parametrize("stamp", [1, 15, 28])
def test_monthly_stamps_may_lie_anywhere_in_the_month(tmp_path, stamp):
    data = monthly(270.0 + np.arange(14), stamp=stamp)
    months, _ = read(write(tmp_path / "s.nc", data))
    assert months["2002-02"] == pytest.approx(270 + 13 - 273.15)
    assert next(iter(months)) == "2001-01"


def test_bounds_decide_where_stamps_are_the_end_of_the_month(tmp_path):
    data = monthly(270.0 + np.arange(12))
    starts = data["time"].values
    ends = np.append(starts[1:], starts[-1] + 31)
    data = data.assign_coords(time=("time", ends, {**data["time"].attrs, "bounds": "time_bnds"}))
    data["time_bnds"] = (("time", "bnds"), np.stack([starts, ends], axis=1))
    months, _ = read(write(tmp_path / "b.nc", data))
    assert next(iter(months)) == "2001-01"
    assert months["2001-12"] == pytest.approx(270 + 11 - 273.15)


def test_stamps_that_leave_the_month_open_are_told(tmp_path):
    start = write(tmp_path / "s.nc", monthly(270.0 + np.arange(24)))  # as ERA5's, 00:00
    months, attributes = read(start)
    assert months["2001-02"] == pytest.approx(271 - 273.15)
    key, said = f"{T}.assumed_month_of_stamp", "the month that begins at the stamp"
    assert attributes[key].startswith(said)
    assert "February" not in attributes[key]
    ends = monthly(270.0 + np.arange(24)).isel(time=slice(1, 13))  # February to January
    months, attributes = read(write(tmp_path / "e.nc", ends))
    assert (min(months), max(months)) == ("2001-02", "2002-01")
    assert attributes[key].endswith(
        "from February to January, as stamps at the end of months would"
    )
    for stamp in (2, 16, 28):
        path = write(tmp_path / f"{stamp}.nc", monthly([280.0] * 12, stamp=stamp))
        assert key not in read(path)[1]
    late = monthly([280.0] * 12)
    late = late.assign_coords(time=("time", late["time"].values + 0.25, late["time"].attrs))
    assert key not in read(write(tmp_path / "l.nc", late))[1]  # 06:00 of the first
    assert key not in read(write(tmp_path / "d.nc", dataset([280.0] * 31)))[1]


def stamped_at_ends(data: xr.Dataset, *, with_bounds: bool) -> xr.Dataset:
    starts = data["time"].values
    ends = np.append(starts[1:], starts[-1] + 31)
    data = data.assign_coords(time=("time", ends, data["time"].attrs))
    if with_bounds:
        data["time"].attrs["bounds"] = "time_bnds"
        data["time_bnds"] = (("time", "bnds"), np.stack([starts, ends], axis=1))
    return data


def test_bounds_of_one_file_count_though_another_has_none(tmp_path):
    values = monthly(270.0 + np.arange(24))
    first = stamped_at_ends(values.isel(time=slice(0, 12)), with_bounds=True)
    paths = [
        write(tmp_path / "a.nc", first),
        write(tmp_path / "b.nc", values.isel(time=slice(12, 24))),
    ]
    for order in (paths, paths[::-1]):
        months, attributes = read(order)
        assert list(months.values()) == pytest.approx(list(270 - 273.15 + np.arange(24)))
        assert min(months) == "2001-01"
        assert f"{T}.assumed_month_of_stamp" in attributes
    assert f"{T}.assumed_month_of_stamp" not in read(paths[0])[1]


def test_a_single_month_is_known_by_its_bounds_or_frequency(tmp_path):
    alone = monthly([280.0])
    with pytest.raises(DataError, match="single time and no bounds"):
        read(write(tmp_path / "a.nc", alone))
    alone.attrs["frequency"] = "mon"
    assert read(write(tmp_path / "f.nc", alone))[0] == {"2001-01": pytest.approx(6.85)}


def test_calendars_that_are_missing_or_unknown_are_refused(tmp_path):
    data = monthly([280.0] * 12)
    del data["time"].attrs["calendar"]
    path = write(tmp_path / "n.nc", data)
    with h5netcdf.File(path, "a") as file:
        file.variables["time"].attrs.pop("calendar", None)
    with pytest.raises(DataError, match="does not say which calendar"):
        open_cf(path)
    with h5netcdf.File(path, "a") as file:
        file.variables["time"].attrs["calendar"] = "julien"
    with pytest.raises(DataError, match="calendar 'julien'"):
        open_cf(path)


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ([0, 8, 16, 24], "steps of 8 days"),
        ([0, 1, 1, 2], "do not ascend"),
        ([3, 2, 1, 0], "do not ascend"),
        ([0, 0.25, 0.5, 0.85], "irregular|expected regular steps"),
        ([0, np.nan, 2, 3], "missing"),
    ],
)
def test_odd_times_are_refused(tmp_path, times, message):
    data = dataset([280.0] * 4)
    data = data.assign_coords(time=("time", np.array(times, float), data["time"].attrs))
    path = write(tmp_path / "o.nc", data)
    with pytest.raises(DataError, match=message):
        read(path)


# Amounts within a day


def hourly_rain() -> np.ndarray:
    """Rain of 30 days in each hour, mm: three wet hours at other times each day."""
    rain = np.zeros((30, 24))
    for day in range(30):
        rain[day, [(5 * day) % 22, (5 * day + 1) % 22, 12]] = [1.0, 2.5, 0.5 + day / 10]
    return rain


def test_hourly_amounts_of_each_hour_are_summed(tmp_path):
    rain = hourly_rain()
    data = dataset(
        rain.ravel() / 1000, name="tp", units="m", step_days=1 / 24, start="2001-04-01 01:00:00"
    )
    months, attributes = read(write(tmp_path / "h.nc", data), P)
    assert months == {"2001-04": pytest.approx(rain.sum() / 30)}
    assert attributes[f"{P}.read_as"] == "amounts of each step"


def test_amounts_since_midnight_are_not_added_up_over_the_day(tmp_path):
    rain = hourly_rain()
    data = dataset(
        rain.cumsum(axis=1).ravel() / 1000,
        name="tp",
        units="m",
        step_days=1 / 24,
        start="2001-04-01 01:00:00",
    )
    months, attributes = read(write(tmp_path / "l.nc", data), P)
    assert months == {"2001-04": pytest.approx(rain.sum() / 30)}
    assert attributes[f"{P}.read_as"] == "accumulated since 00 UTC"


def test_packing_noise_does_not_hide_that_amounts_accumulate(tmp_path):
    rain = hourly_rain()
    rain[::2] = 0  # every other day is dry but for noise, which falls
    noise = 0.004 * (np.arange(24) % 2)
    data = dataset(
        (rain.cumsum(axis=1) + noise).ravel() / 1000,
        name="tp",
        units="m",
        step_days=1 / 24,
        start="2001-04-01 01:00:00",
    )
    months, attributes = read(write(tmp_path / "n.nc", data), P)
    assert attributes[f"{P}.read_as"] == "accumulated since 00 UTC"
    assert months["2001-04"] == pytest.approx(rain.sum() / 30, rel=0.05)


def test_accumulation_goes_on_over_the_border_of_files_and_stops_at_gaps(tmp_path):
    sun = np.tile(np.maximum(0, np.sin(np.arange(1, 25) / 24 * np.pi)) * 2e6, (40, 1))
    data = dataset(
        sun.cumsum(axis=1).ravel(),
        name="ssrd",
        units="J m**-2",
        step_days=1 / 24,
        start="2001-01-01 01:00:00",
    )
    paths = [
        write(tmp_path / "a.nc", data.isel(time=slice(0, 400))),
        write(tmp_path / "b.nc", data.isel(time=slice(400, None))),
    ]
    months, _ = read(paths, S)
    assert months["2001-01"] == pytest.approx(sun[0].sum() / 1e6)
    assert list(months) == ["2001-01"]  # of February there are nine days
    gap = data.isel(time=[*range(100), *range(101, 960)])  # one hour lost: two increments
    months, _ = read(write(tmp_path / "g.nc", gap), S)
    known = [hour for hour in range(31 * 24) if hour not in (100, 101)]
    rates = np.tile(sun[0], 31)[known] * 24 / 1e6
    assert months["2001-01"] == pytest.approx(rates.mean())


def test_amounts_of_which_the_period_cannot_be_told_are_refused(tmp_path):
    rain = hourly_rain()
    mixed = np.where(np.arange(30)[:, None] % 4 > 0, rain.cumsum(axis=1), rain) / 1000
    data = dataset(
        mixed.ravel(), name="tp", units="m", step_days=1 / 24, start="2001-04-01 01:00:00"
    )
    with pytest.raises(DataError, match="cannot be told"):
        read(write(tmp_path / "m.nc", data), P)
    daily = dataset([0.001] * 60, name="tp", units="m")
    with pytest.raises(DataError, match="an hour \\(ERA5\\), or the day before"):
        read(write(tmp_path / "d.nc", daily), P)
    six = dataset(
        np.tile([1e-3, 0, 2e-3, 0], 31),
        name="tp",
        units="m",
        step_days=0.25,
        start="2001-01-01 06:00:00",
    )
    with pytest.raises(DataError, match="every 6 hours"):
        read(write(tmp_path / "s.nc", six), P)
    mean = dataset([1.0] * 31, name="pr", units="mm", attributes={"cell_methods": "time: mean"})
    with pytest.raises(DataError, match="means of amounts"):
        read(write(tmp_path / "x.nc", mean), P)


def test_a_daily_total_of_a_station_is_per_day(tmp_path):
    path = write(tmp_path / "d.nc", dataset([3.0] * 31, name="pr", units="mm"))
    assert read(path, P)[0] == {"2001-01": pytest.approx(3.0)}


def test_time_bounds_say_how_long_an_amount_took(tmp_path):
    data = dataset([0.001] * 124, name="tp", units="m", step_days=0.25, start="2001-01-01 06:00:00")
    ends = data["time"].values
    data["time"].attrs["bounds"] = "time_bnds"
    data["time_bnds"] = (("time", "bnds"), np.stack([ends - 0.25, ends], axis=1))
    assert read(write(tmp_path / "b.nc", data), P)[0] == {"2001-01": pytest.approx(4.0)}
    data["time_bnds"] = (("time", "bnds"), np.stack([ends - 1 / 24, ends], axis=1))  # one of six
    assert read(write(tmp_path / "h.nc", data), P)[0] == {"2001-01": pytest.approx(24.0)}
    data["time_bnds"] = (("time", "bnds"), np.stack([np.ceil(ends + 0.25) - 1.25, ends], axis=1))
    data["tp"] = data["tp"] * np.tile([1, 2, 3, 4], 31)[:, None, None]
    data["tp"].attrs = {"units": "m"}
    values, attributes = read(write(tmp_path / "a.nc", data), P)
    assert values == {"2001-01": pytest.approx(4.0)}
    assert attributes[f"{P}.read_as"] == "accumulated since 00 UTC"


def test_three_hourly_fluxes_are_averaged(tmp_path):
    flux = np.tile([0, 0, 100, 500, 800, 400, 50, 0], 31)
    data = dataset(flux, name="rsds", units="W m-2", step_days=0.125, start="2001-01-01 01:30:00")
    assert read(write(tmp_path / "f.nc", data), S)[0]["2001-01"] == pytest.approx(
        flux.mean() * 0.0864
    )


# Values that nature does not have


def test_noise_below_zero_is_clipped_and_worse_is_dropped_and_both_are_counted(tmp_path):
    rain = np.full(31, 2.0)
    rain[3], rain[4], rain[5], rain[6] = -0.01, -3.0, 1e20, np.nan
    values, attributes = read(write(tmp_path / "p.nc", dataset(rain, name="pr", units="mm/day")), P)
    assert values["2001-01"] == pytest.approx((27 * 2.0 + 0) / 28)
    assert attributes[f"{P}.num_clipped"] == "1"
    assert attributes[f"{P}.num_unphysical"] == "2"


def test_radiation_of_nex_gddp_below_zero_by_hundred_thousands_is_dropped(tmp_path):
    sun = np.full(31, 100.0)
    sun[10] = -702710.0
    values, attributes = read(write(tmp_path / "s.nc", dataset(sun, name="rsds", units="W m-2")), S)
    assert values["2001-01"] == pytest.approx(8.64)
    assert attributes[f"{S}.num_unphysical"] == "1"


def test_fill_values_are_none(tmp_path):
    data = monthly([280.0, -9999.0, 281.0, *[282.0] * 9])
    encoding = {"tas": {"_FillValue": -9999.0}}
    months, _ = read(write(tmp_path / "f.nc", data, encoding=encoding))
    assert months["2001-02"] is None
    assert months["2001-03"] == pytest.approx(7.85)


def test_a_cell_without_values_is_refused(tmp_path):
    path = write(tmp_path / "sea.nc", monthly([np.nan] * 12))
    with pytest.raises(DataError, match=r"no complete month .* beside it; land models"):
        read(path)


def coast(values, *, known) -> xr.Dataset:
    """A file whose cells have no values but for some, by (row, column)."""
    data = monthly(values)
    is_known = np.zeros((3, 4), bool)
    is_known[tuple(np.transpose(known))] = True
    data["tas"] = data["tas"].where(xr.DataArray(is_known, dims=("lat", "lon")))
    data["tas"].attrs = {"units": "K"}
    return data


def test_a_cell_in_the_sea_has_the_climate_of_the_nearest_beside_it(tmp_path):
    # Around (41, 14): (41, 12) is 168 km away, (42, 14) 111 km, (42, 16) more than either.
    data = coast(280.0 + np.arange(12), known=[(1, 1), (2, 2), (2, 3)])
    data["tas"].values[:, 1, 1], data["tas"].values[:, 2, 2] = 290.0, 285.0
    path = write(tmp_path / "c.nc", data)
    with open_cf(path) as climate:
        cell = climate.cell_of(41.2, 13.6)
        series = climate.series(41.2, 13.6)
        assert (series.cell_id, series.lat, series.lon) == cell == ("n41.0000_e014.0000", 41, 14)
        assert series.value(T, "2001-03") == pytest.approx(285 - 273.15)
        assert series.attributes["nearest_known_cell"] == "n42.0000_e014.0000, 111.2 km away"
        assert series.attributes[f"{T}.cell"] == "n42.0000_e014.0000"
        assert "nearest_known_cell" not in climate.series(42, 14).attributes
        assert climate.series(41, 10).value(T, "2001-01") == pytest.approx(290 - 273.15)
        assert climate.series(40, 10).value(T, "2001-01") == pytest.approx(290 - 273.15)


def test_only_cells_that_touch_speak_for_one_without_values(tmp_path):
    data = coast([280.0] * 12, known=[(1, 0)])
    data["tas"].values[:, 1, 0] = 285.0
    with open_cf(write(tmp_path / "c.nc", data)) as climate:
        assert "nearest_known_cell" in climate.series(40, 12).attributes
        with pytest.raises(DataError, match="no complete month"):
            climate.series(41, 14)


def test_a_cell_with_some_values_speaks_for_itself(tmp_path):
    values = np.full(59, np.nan)
    values[:20] = 280.0  # no complete month
    data = dataset(values)
    beside = dataset([290.0] * 59)["tas"].values[:, 1, 2]
    data["tas"].values[:, [0, 2], :] = beside[:, None, None]
    path = write(tmp_path / "c.nc", data)
    with open_cf(path) as climate, pytest.raises(DataError, match="no complete month"):
        climate.series(41, 14)
    with open_cf(path) as climate:
        assert climate.series(42, 14).value(T, "2001-01") == pytest.approx(16.85)


def test_cells_beside_the_antimeridian_touch(tmp_path):
    lon = list(np.arange(0, 360, 90.0))
    grid = Grid(np.array([-1.0, 0, 1]), np.array(lon), ("lat",), ("lon",), "x")
    names = {cell.cell_id for cell in grid.around(grid.nearest(1, -90))}
    assert names == {
        "n00.0000_e000.0000", "n00.0000_w090.0000", "n00.0000_w180.0000",
        "n01.0000_e000.0000", "n01.0000_w180.0000",
    }  # fmt: skip


def test_stations_have_no_cells_beside_them(tmp_path):
    data = stations([np.nan] * 12)
    data["tas"].values[:, 0] = 280.0
    path = write(tmp_path / "s.nc", data)
    with open_cf(path) as climate, pytest.raises(DataError, match="no complete month"):
        climate.series(52.1, -106.7)


# Finding variables, files and formats


def test_a_daily_maximum_is_not_taken_for_the_mean_unless_it_is_chosen(tmp_path):
    standard = {"standard_name": "air_temperature"}
    highest = monthly([300.0] * 12, name="tasmax", attributes=standard)
    path = write(tmp_path / "x.nc", highest)
    with pytest.raises(DataError, match=r"no monthly mean .* variables are tasmax"):
        open_cf(path)
    with open_cf(path, variables={T: "tasmax"}) as climate:
        assert climate.series(41, 14).value(T, "2001-03") == pytest.approx(26.85)
    both = xr.merge([highest, monthly([290.0] * 12, name="tas", attributes=standard)])
    assert read(write(tmp_path / "y.nc", both))[0]["2001-03"] == pytest.approx(16.85)
    with pytest.raises(RequestError, match="no climate variable 'heat'"):
        open_cf(path, variables={"heat": "tasmax"})


def test_a_file_that_gives_nothing_is_named(tmp_path):
    paths = [
        write(tmp_path / "t.nc", monthly([280.0] * 12)),
        write(tmp_path / "rain.nc", monthly([3.0] * 12, name="rain", units="mm/day")),
    ]
    with pytest.raises(DataError, match=r"rain.nc has no .* variables are rain\. .*such as \{temp"):
        open_cf(paths)
    with open_cf(paths, variables={P: "rain"}) as climate:
        assert climate.names == (T, P)
        assert climate.series(41, 14).value(P, "2001-01") == 3.0
    with pytest.raises(DataError, match=r"variables are tas\. temperature_c is to be tg\."):
        open_cf(paths[0], variables={T: "tg"})


def test_a_choice_that_no_file_has_is_refused(tmp_path):
    path = write(tmp_path / "t.nc", monthly([280.0] * 12))
    with pytest.raises(DataError, match=r"No file has 'rain', .* precipitation_mm_day; .*t\.nc"):
        open_cf(path, variables={P: "rain"})


def eobs_rain(**attributes) -> xr.Dataset:
    standard = {"standard_name": "thickness_of_rainfall_amount"}
    return dataset([3.0] * 31, name="rr", units="mm", attributes=standard | attributes)


def test_eobs_is_found_by_its_names(tmp_path):
    paths = [
        write(tmp_path / "rr.nc", eobs_rain()),
        write(tmp_path / "tg.nc", dataset([10.0] * 31, name="tg", units="Celsius")),
        write(
            tmp_path / "qq.nc",
            dataset(
                [100.0] * 31, name="qq", units="W/m2",
                attributes={"standard_name": "surface_downwelling_shortwave_flux_in_air"},
            ),
        ),
    ]  # fmt: skip
    with open_cf(paths) as climate:
        series = climate.series(41, 14)
    assert {name: series.value(name, "2001-01") for name in (T, P, S)} == pytest.approx(
        {T: 10.0, P: 3.0, S: 8.64}
    )


def test_rain_of_other_data_sets_is_no_precipitation(tmp_path):
    other = eobs_rain().rename(rr="rainfall")
    with pytest.raises(DataError, match="variables are rainfall"):
        open_cf(write(tmp_path / "a.nc", other))
    unnamed = eobs_rain(standard_name="rainfall_flux")
    with pytest.raises(DataError, match="variables are rr"):
        open_cf(write(tmp_path / "b.nc", unnamed))
    total = dataset(
        [5.0] * 31, name="all", units="mm", attributes={"standard_name": "precipitation_amount"}
    )
    assert read(write(tmp_path / "c.nc", xr.merge([eobs_rain(), total])), P)[0]["2001-01"] == 5.0


def test_two_variables_of_one_standard_name_need_a_choice(tmp_path):
    standard = {"standard_name": "air_temperature"}
    data = [monthly([280.0] * 12, name=n, attributes=standard) for n in ("one", "two")]
    path = write(tmp_path / "z.nc", xr.merge(data))
    with pytest.raises(DataError, match="one and two"):
        open_cf(path)
    path = write(tmp_path / "o.nc", data[0])  # by its standard name alone
    assert read(path)[0]["2001-03"] == pytest.approx(6.85)


def test_variables_and_years_may_lie_in_several_files(tmp_path):
    warm = monthly(280.0 + np.arange(24))
    paths = [
        write(tmp_path / "t_b.nc", warm.isel(time=slice(12, 24))),
        write(tmp_path / "t_a.nc", warm.isel(time=slice(0, 13))),  # one month twice, the same
        write(tmp_path / "pr.nc", monthly([4.0] * 12, name="pr", units="mm/day")),
    ]
    with open_cf(paths) as climate:
        assert climate.names == (T, P)
        series = climate.series(41, 14)
    assert series.months[0] == "2001-01"
    assert series.value(T, "2002-12") == pytest.approx(280 + 23 - 273.15)
    assert series.value(P, "2001-12") == 4.0
    assert series.value(P, "2002-01") is None
    gap = warm.isel(time=slice(0, 13)).where(warm["time"] < 330)  # December and later not known
    gap["tas"].attrs = warm["tas"].attrs
    gapped = write(tmp_path / "gap.nc", gap)
    for order in ([gapped, paths[1]], [paths[1], gapped]):
        with open_cf(order) as climate:
            assert climate.series(41, 14).value(T, "2001-12") == pytest.approx(17.85)
    with open_cf(str(tmp_path / "t_*.nc")) as climate:
        assert climate.series(41, 14).value(T, "2001-01") == pytest.approx(6.85)


def test_files_may_stamp_days_at_other_hours_and_call_a_calendar_by_another_name(tmp_path):
    early = dataset([280.0] * 20 + [290.0], calendar="noleap", start="2001-01-01 12:00:00")
    late = dataset([290.0] * 11, calendar="365_day", start="2001-01-21")  # again
    paths = [write(tmp_path / "e.nc", early), write(tmp_path / "l.nc", late)]
    assert read(paths)[0] == {"2001-01": pytest.approx(6.85 + 110 / 31)}


def test_files_that_contradict_each_other_are_refused(tmp_path):
    a = write(tmp_path / "a.nc", monthly([280.0] * 12))
    b = write(tmp_path / "b.nc", monthly([281.0] * 12))
    with pytest.raises(DataError, match="of which another file has"):
        read([a, b])
    c = write(tmp_path / "c.nc", monthly([280.0] * 12, calendar="noleap"))
    with pytest.raises(DataError, match="calendars standard and noleap"):
        read([a, c])
    d = write(tmp_path / "d.nc", dataset([280.0] * 31))
    with pytest.raises(DataError, match="steps 30 days and 1 days"):
        read([a, d])
    e = write(tmp_path / "e.nc", monthly([280.0] * 12, lat=[40.3, 41.3, 42.3]))
    with pytest.raises(DataError, match="must have one grid"):
        read([a, e])
    f = write(tmp_path / "f.nc", monthly([4.0] * 12, name="pr", units="mm/day"))
    g = write(tmp_path / "g.nc", monthly([4.0] * 12, name="pr", units="mm month-1"))
    with pytest.raises(DataError, match="rates and amounts"):
        open_cf([f, g])


@pytest.mark.parametrize(
    ("engine", "file_format"),
    [("scipy", "NETCDF3_CLASSIC"), ("scipy", "NETCDF3_64BIT"), ("netcdf4", "NETCDF3_64BIT_DATA")],
)
def test_old_netcdf_is_read(tmp_path, engine, file_format):
    data = monthly([283.15] * 12)
    path = write(tmp_path / "old.nc", data, engine=engine, format=file_format)
    assert read(path)[0]["2001-12"] == pytest.approx(10.0)


def test_what_is_no_climate_file_is_named(tmp_path):
    page = tmp_path / "page.nc"
    page.write_text("<html>404</html>")
    with pytest.raises(DataError, match="neither NetCDF nor Zarr"):
        open_cf(page)
    broken = tmp_path / "broken.nc"
    broken.write_bytes(write(tmp_path / "a.nc", monthly([280.0] * 12)).read_bytes()[:3000])
    with pytest.raises(DataError, match="cannot be opened"):
        open_cf(broken)
    with pytest.raises(DataError, match="is a folder, and not a Zarr store"):
        open_cf(tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        open_cf(tmp_path / "none.nc")
    with pytest.raises(DataError, match="No file matches"):
        open_cf(tmp_path / "none*.nc")
    with pytest.raises(DataError, match="No climate file is given"):
        open_cf([])


def test_dimensions_beside_time_and_place_need_a_choice(tmp_path):
    data = monthly([280.0] * 12)
    level = data.expand_dims(level=[1000.0])
    assert read(write(tmp_path / "one.nc", level))[0]["2001-01"] == pytest.approx(6.85)
    runs = xr.concat([data, data], "run")
    runs["tas"].attrs = {"units": "K"}
    with pytest.raises(DataError, match=r"run \(2\)"):
        open_cf(write(tmp_path / "two.nc", runs))


# Grids


@pytest.mark.parametrize("lat", [LAT, LAT[::-1]])
@pytest.mark.parametrize("east", [0, 360])
def test_the_nearest_cell_is_found_on_any_regular_grid(tmp_path, lat, east):
    lon = [value - 13 + (east if value < 13 else 0) for value in LON]  # -3, -1, 1, 3
    data = monthly([280.0] * 12, lat=lat, lon=lon)
    with open_cf(write(tmp_path / "g.nc", data)) as climate:
        assert climate.cell_of(41.4, 0.2) == ("n41.0000_e001.0000", 41.0, 1.0)
        assert climate.cell_of(41.6, -0.2) == ("n42.0000_w001.0000", 42.0, -1.0)
        assert climate.series(41.4, 0.2).value(T, "2001-01") == pytest.approx(6.85)
        with pytest.raises(DataError, match=r"outside tas of .*latitude 40 to 42"):
            climate.cell_of(43.1, 0.2)
        with pytest.raises(DataError, match="outside"):
            climate.cell_of(41.4, 5.2)
        with pytest.raises(RequestError, match="not on Earth"):
            climate.cell_of(95, 0)


def test_the_antimeridian_is_no_border(tmp_path):
    data = monthly([280.0] * 12, lat=[-1.0, 0.0, 1.0], lon=list(np.arange(0, 360, 90.0)))
    with open_cf(write(tmp_path / "w.nc", data)) as climate:
        assert climate.cell_of(0.1, -170) == ("n00.0000_w180.0000", 0.0, -180.0)
        assert climate.cell_of(0.1, 170)[0] == "n00.0000_w180.0000"
        assert climate.cell_of(-0.7, -10) == ("s01.0000_e000.0000", -1.0, 0.0)


def test_near_the_pole_the_nearest_cell_is_nearest_on_the_sphere():
    lat, lon = np.array([80.0, 89.0]), np.array([0.0, 180.0])
    grid = Grid(lat, lon, ("lat",), ("lon",), "x")
    for place in ((84.4, 0.0), (84.6, 10.0), (84.4, 89.0)):
        cell = grid.nearest(*place)
        away = distance_deg(*place, *(a.ravel() for a in np.meshgrid(lat, lon)))
        assert distance_deg(*place, cell.lat, cell.lon) == pytest.approx(away.min())


def test_distances_are_great_circles():
    assert distance_deg(0, 0, np.array([0.0, 90.0]), np.array([90.0, 5.0])) == pytest.approx(90)
    assert float(distance_deg(60, 10, 60, 11)) == pytest.approx(0.49999, abs=1e-4)


def stations(values) -> xr.Dataset:
    """Two stations; the second has the values."""
    data = monthly(values)["tas"].values[:, 1, 1:3]
    times = monthly(values)["time"]
    return xr.Dataset(
        {"tas": (("time", "station"), data, {"units": "K"})},
        coords={"time": times, "lat": ("station", [50.0, 52.1]), "lon": ("station", [7.0, 253.3])},
    )


def test_stations_speak_for_their_surroundings(tmp_path):
    with open_cf(write(tmp_path / "s.nc", stations([280.0] * 12))) as climate:
        assert climate.cell_of(52.5, -106.5) == ("n52.1000_w106.7000", 52.1, pytest.approx(-106.7))
        assert climate.series(52.5, -106.5).value(T, "2001-05") == pytest.approx(6.85)
        with pytest.raises(DataError, match="outside"):
            climate.cell_of(53.1, -106.7)  # 111 km


def test_a_single_point_is_a_station(tmp_path):
    point = stations([280.0] * 12).isel(station=1)
    assert read(write(tmp_path / "p.nc", point), lat=52.1, lon=-106.7)[0]["2001-05"] == (
        pytest.approx(6.85)
    )


def test_a_rotated_grid_is_searched_on_the_sphere(tmp_path):
    data = monthly([280.0] * 12)
    y, x = np.mgrid[0:3, 0:4]
    data = xr.Dataset(
        {"tas": (("time", "y", "x"), data["tas"].values, {"units": "K", "coordinates": "a b"})},
        coords={"time": data["time"]},
    )
    data["a"] = (("y", "x"), 60 + y + 0.3 * x, {"standard_name": "latitude"})
    data["b"] = (("y", "x"), 20 + 2 * x - 0.5 * y, {"standard_name": "longitude"})
    path = write(tmp_path / "r.nc", data)
    with open_cf(path) as climate:
        assert climate.cell_of(61.7, 23.4) == ("n61.6000_e023.5000", 61.6, 23.5)
        assert climate.series(61.7, 23.4).value(T, "2001-01") == pytest.approx(6.85)
        assert climate.cell_of(63.61, 23)[0] == "n62.6000_e023.0000"  # 1.01°; the next is at 1.03°
        with pytest.raises(DataError, match="outside"):
            climate.cell_of(63.7, 23)


def test_a_file_without_places_or_times_is_refused(tmp_path):
    data = monthly([280.0] * 12)
    nowhere = data.rename(lat="u", lon="v").drop_vars(["u", "v"])
    with pytest.raises(DataError, match="none as latitude"):
        open_cf(write(tmp_path / "n.nc", nowhere))
    with pytest.raises(DataError, match="no times; its dimensions are time"):
        open_cf(write(tmp_path / "t.nc", data.drop_vars("time")))
    metres = data.assign_coords(lat=("lat", [4e6, 4.1e6, 4.2e6], data["lat"].attrs))
    with pytest.raises(DataError, match="not degrees"):
        open_cf(write(tmp_path / "m.nc", metres))


def test_a_coarser_variable_has_its_own_cell(tmp_path):
    fine = write(tmp_path / "t.nc", monthly([280.0] * 12))
    coarse = monthly([100.0] * 12, name="rsds", units="W m-2", lat=[40.6, 41.9], lon=[9.0, 13.0])
    with open_cf([fine, write(tmp_path / "s.nc", coarse)]) as climate:
        series = climate.series(41.2, 13.6)
        assert series.cell_id == "n41.0000_e014.0000"
        assert series.attributes[f"{S}.cell"] == "n40.6000_e013.0000"
        assert f"{T}.cell" not in series.attributes
        # The cell decides, and not where in it the place lies: 41.45 is nearer to 41.9.
        assert climate.series(41.45, 13.6) == series


# Zarr, and memory


@pytest.mark.filterwarnings("ignore:Consolidated metadata is currently not part")  # zarr 3 drafts
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_zarr_store_is_read_in_the_chunks_of_the_cell_alone(tmp_path, zarr_format):
    path = tmp_path / "s.zarr"
    data = monthly(280.0 + np.arange(24))
    data.to_zarr(path, zarr_format=zarr_format, encoding={"tas": {"chunks": (12, 1, 1)}})
    names = (".1.2", "/1/2")
    chunks = [p for p in (path / "tas").rglob("*") if p.is_file() and p.name[0] not in ".z"]
    assert len(chunks) == 2 * 3 * 4
    for chunk in chunks:
        if not str(chunk).endswith(names):
            chunk.write_bytes(b"garbage")
    months, attributes = read(path)
    assert months["2002-12"] == pytest.approx(280 + 23 - 273.15)
    assert f"{T}.num_missing_chunks" not in attributes
    needed = [chunk for chunk in chunks if str(chunk).endswith(names)]
    needed[0].unlink()
    with open_cf(path) as climate:  # the fill value is NaN: a lost chunk is not known
        first, again = climate.series(41, 14), climate.series(41, 14)
    assert sum(value is not None for value in first.values[T]) == 12
    assert first.attributes[f"{T}.num_missing_chunks"] == "1"
    assert again == first
    whole = write(tmp_path / "whole.nc", data)  # fills the hole, which is still counted
    months, attributes = read([path, whole])
    assert None not in months.values()
    assert attributes[f"{T}.num_missing_chunks"] == "1"
    needed[1].unlink()  # its neighbours have values, yet do not speak for what was lost
    for chunk in chunks:
        if str(chunk).endswith((".1.1", "/1/1")):
            chunk.write_bytes(b"")
    with pytest.raises(DataError, match="no complete month"):
        read(path)
    needed[1].write_bytes(b"garbage")
    with pytest.raises(DataError, match="cannot be read at"):
        read(path)


@pytest.mark.filterwarnings("ignore:Consolidated metadata is currently not part")
def test_a_lost_chunk_does_not_become_a_drought(tmp_path):
    import zarr

    path = tmp_path / "z.zarr"
    data = monthly([4.0] * 24, name="pr", units="mm/day")
    data.drop_vars("pr").to_zarr(path, zarr_format=3, consolidated=False)
    array = zarr.open_group(path).create_array(
        "pr", shape=(24, 3, 4), chunks=(12, 3, 4), dtype="f4", fill_value=0.0,
        dimension_names=("time", "lat", "lon"), attributes={"units": "mm/day"},
    )  # fmt: skip
    array[:12] = 4.0
    with pytest.raises(DataError, match=r"lacks 1 chunks, such as pr/c/1/0/0, .* read as 0"):
        read(path, P)
    with open_cf(path) as climate, ThreadPoolExecutor(8) as pool:
        tasks = [pool.submit(climate.series, 41, 10 + 2 * (n % 4)) for n in range(40)]
        assert all(isinstance(task.exception(), DataError) for task in tasks)
        array[12:] = 4.0
        assert climate.series(41, 10).value(P, "2002-12") == 4.0
    assert read(path, P)[0]["2002-12"] == 4.0


def test_a_file_larger_than_memory_is_not_loaded(tmp_path):
    path = tmp_path / "large.nc"
    with h5netcdf.File(path, "w") as file:  # 4.8 GB, of which nothing is written but one year
        file.dimensions = {"time": 1200, "lat": 1000, "lon": 1000}
        for name, values, units in (
            ("time", 15 + 365.25 / 12 * np.arange(1200), "days since 1901-01-01"),
            ("lat", np.linspace(30, 60, 1000), "degrees_north"),
            ("lon", np.linspace(0, 40, 1000), "degrees_east"),
        ):
            variable = file.create_variable(name, (name,), "f8", data=values)
            variable.attrs["units"] = units
        file.variables["time"].attrs["calendar"] = "standard"
        tas = file.create_variable(
            "tas", ("time", "lat", "lon"), "f4", chunks=(1, 250, 250), fillvalue=np.nan
        )
        tas.attrs["units"] = "K"
        tas[:12, 250:500, 500:750] = 283.15
    tracemalloc.start()
    with open_cf(path) as climate:
        series = climate.series(40.0, 25.0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert series.value(T, "1901-06") == pytest.approx(10.0)
    assert peak < 30e6


# Real files


@pytest.mark.shared
def test_era5_at_montreal_is_the_climate_of_montreal(shared_data):
    path = shared_data / "climate_samples/xclim-testdata/ERA5/daily_surface_cancities_1990-1993.nc"
    with open_cf(path) as climate:
        assert climate.names == (T, P, S)
        series = climate.series(45.5, -73.6)
    assert (series.months[0], series.months[-1]) == ("1990-01", "1993-12")
    assert series.value(T, "1990-07") == pytest.approx(21.25, abs=0.01)
    assert 2 < np.mean(series.values[P]) < 4  # about 1,000 mm a year
    assert 15 < series.value(S, "1991-06") < 26
    assert series.value(S, "1991-12") < 6


@pytest.mark.shared
def test_monthly_canesm2_is_aligned_by_its_times_and_not_by_its_name(shared_data):
    folder = shared_data / "climate_samples/xclim-testdata/cmip5"
    with open_cf(folder / "tas_Amon_CanESM2_rcp85_r1i1p1_200701-200712.nc") as climate:
        series = climate.series(45.5, -73.5)
        assert climate.facts["model"] == ("CanESM2",)
    assert series.cell_id == "n46.0447_w073.1250"
    assert (series.months[0], series.months[-1]) == ("2006-12", "2007-11")  # as its bounds say
    assert series.value(T, "2007-07") == pytest.approx(21.78, abs=0.01)


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("xarray-data/era5-2mt-2019-03-uk.grib", "is a GRIB file"),
        ("xclim-testdata/uncertainty_partitioning/cmip5_pr_global_mon.nc", "pr of .* no units"),
        ("xclim-testdata/SpatialAnalogs/NRCAN_SECan_1981-2010.nc", "steps of 365 days"),
        ("xclim-testdata/SpatialAnalogs/indicators.nc", "no monthly mean"),
        ("../climatology/era5_monthly_climatology_0p25.nc", "t2m of .* has no times"),
    ],
)
def test_real_files_that_are_no_series_are_refused(shared_data, name, message):
    with pytest.raises(DataError, match=message):
        open_cf(shared_data / "climate_samples" / name)
