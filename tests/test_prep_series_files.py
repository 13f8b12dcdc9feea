"""Climate series from users' files: units and months by hand, and one message for every slip."""

import json
from pathlib import Path

import numpy as np
import pytest

from data_prep.climate_series import ClimateSeries, write_series
from data_prep.series_files import read_climate_file, series_notes
from ecomap.errors import DataError, RequestError
from ecomap.schema import CLIMATE

T, P, S = CLIMATE
FRANKFURT = (50.11, 8.68)


def csv_of(folder: Path, text: str) -> Path:
    path = folder / "series.csv"
    path.write_text(text, encoding="utf-8")
    return path


def read(folder: Path, text: str) -> ClimateSeries:
    return read_climate_file(csv_of(folder, text), *FRANKFURT)


def test_the_contracts_names_are_read_as_they_are(tmp_path):
    series = read(
        tmp_path,
        "month,temperature_c,precipitation_mm_day,solar_radiation_mj_m2_day\n"
        "2019-12,1.5,2.25,3\n2020-01,-0.5,,2.5\n",
    )
    assert series.months == ("2019-12", "2020-01")
    assert series.values == {T: (1.5, -0.5), P: (2.25, None), S: (3.0, 2.5)}
    assert (series.lat, series.lon, series.source) == (*FRANKFURT, "series.csv")
    assert series.attributes[f"num_months_unknown.{P}"] == "1"
    assert len(series.attributes["sha256"]) == 64


@pytest.mark.parametrize(
    ("header", "cell", "name", "value"),
    [
        ("temperature_k", "288.15", T, 15.0),
        ("temperature_f", "50", T, 10.0),
        ("tas [K]", "273.15", T, 0.0),
        ("T2M (°C)", "-3", T, -3.0),
        ("Air Temperature [deg C]", "4", T, 4.0),
        ("pr [kg m-2 s-1]", "2e-5", P, 1.728),
        ("precipitation_mm_month", "58", P, 2.0),  # February of a leap year
        ("Precipitation (mm/month)", "29", P, 1.0),
        ("tp [m/day]", "0.003", P, 3.0),
        ("rsds [W m-2]", "200", S, 17.28),
        ("solar_radiation_kwh_m2_day", "5", S, 18.0),
        ("solar [MJ/m2/day]", "12", S, 12.0),
    ],
)
def test_units_in_the_name_of_a_column_are_converted(tmp_path, header, cell, name, value):
    series = read(tmp_path, f"date,{header}\n2020-02-15,{cell}\n")
    assert series.values == {name: (pytest.approx(value),)}


def test_units_may_stand_in_a_row_of_their_own(tmp_path):
    series = read(tmp_path, "time;tas;pr\n-;[K];mm/day\n2020-01-16 12:00:00;280.15;1.5\n")
    assert series.values == {T: (pytest.approx(7.0),), P: (1.5,)}


@pytest.mark.parametrize(
    "text",
    [
        "﻿month\ttemperature_c\n2020-01\t5\n2020-02\tNA\n",  # Excel's mark, tabs
        "# from a station\nmonth,temperature_c\n\n2020-01,5\n2020-02,nan\n,\n",
        "year,month,temperature_c\n2020,1,5\n2020,02,\n",
        "date,temperature_c\r\n2020-01-31T00:00:00,5\r\n2020-02-29T00:00:00,-\r\n",
        "month,temperature_c\n202001,5\n202002,\n",
    ],
)
def test_what_spreadsheets_and_archives_write_is_read(tmp_path, text):
    series = read(tmp_path, text)
    assert (series.months, series.values) == (("2020-01", "2020-02"), {T: (5.0, None)})


MONTHS = "\n".join(f"2020-{month:02d},60" for month in range(1, 13))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("# nothing\n", "is empty"),
        ("month,temperature_c\n", "a header and no rows"),
        ("month,tas\n-,K\n", "no value in any cell"),
        ("month,temperature_c\n2020-01,\n", "no value in any cell"),
        ("month\n2020-01\n", "no column of values"),
        ("temperature_c\n5\n", "of months none"),
        ("month,date,temperature_c\n2020-01,2020-01-01,5\n", "of months month and date"),
        ("month,temp\n2020-01,5\n", "'temp' is not understood. Known are temperature_c, .*remove"),
        ("month,tas\n2020-01,5\n", r"'tas' states no unit. Write .*'temperature_c'.*'tas \[K\]'"),
        ("month,pr [mm]\n2020-01,5\n", "'mm', and not over which period. Write mm/day .*mm/month"),
        ("month,pr [K]\n2020-01,5\n", "unit 'K', which precipitation cannot have"),
        ("month,tas [banana]\n2020-01,5\n", "unit 'banana', which temperature cannot have"),
        ("month,temperature_c [K]\n2020-01,5\n", "states the units K and degC"),
        ("month,tas [K],temperature_c\n2020-01,280,5\n", "temperature_c twice"),
        ("month,temperature_c\n2020-01,1\n2020-01,2\n", "line 3 has 2020-01 again, .*line 2. Rem"),
        (
            "date,temperature_c\n2020-01-01,1\n2020-01-02,2\n",
            "2020-01 again, after line 2. Average days to months first",
        ),
        ("month,temperature_c\n2020-02,1\n2020-01,2\n", "line 3 has 2020-01 after 2020-02.*sorted"),
        ("month,temperature_c\n2020-01,1\n2020-03,2\n", "2020-03 follows 2020-01; a month lacks"),
        ("month,temperature_c\n2020-01,1\n2021-01,2\n", "11 months lack"),
        ("month,temperature_c\nJan 20,1\n", "line 2: 'Jan 20' in 'month' is no month"),
        ("month,temperature_c\n2020-13,1\n", "'2020-13' in 'month' is no month"),
        ("month,temperature_c\n2020-01,288.1\n", "288.1 °C.*kelvin must be .*'temperature_k'"),
        ("month,temperature_c\n2020-01,-999\n", "line 2.*-999, which stands for a missing value"),
        ("month,temperature_c\n2020-01,warm\n", "line 2.*'warm'. Expected a number"),
        ("month;temperature_c\n2020-01;1,5\n", "'1,5'.*Write decimals with a point"),
        ("month,temperature_c\n2020-01,inf\n", "'inf'. Expected a number"),
        ("month,precipitation_mm_day\n2020-01,140\n", "140 mm/day.*'precipitation_mm_month'"),
        (f"month,precipitation_mm_day\n{MONTHS}\n", "60.0 mm/day .*wettest.*totals of months"),
        ("month,temperature_c\n2020-01,1,5\n", "line 2 has 3 cells, the header 2"),
        ("-BEGIN HEADER-\nNASA/POWER\n-END HEADER-\n", "NASA POWER's own CSV.*JSON"),
    ],
)
def test_what_cannot_be_understood_is_refused_with_its_line(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        read(tmp_path, text)


def test_files_that_are_no_series_are_refused_by_what_they_are(tmp_path):
    with pytest.raises(DataError, match=r"nothing\.csv cannot be read"):
        read_climate_file(tmp_path / "nothing.csv", *FRANKFURT)
    (tmp_path / "latin.csv").write_bytes("month,température\n".encode("latin-1"))
    with pytest.raises(DataError, match="UTF-8"):
        read_climate_file(tmp_path / "latin.csv", *FRANKFURT)
    (tmp_path / "book.xlsx").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"not of a format.*spreadsheet as CSV"):
        read_climate_file(tmp_path / "book.xlsx", *FRANKFURT)
    (tmp_path / "list.json").write_text("[1]")
    with pytest.raises(DataError, match="no climate series"):
        read_climate_file(tmp_path / "list.json", *FRANKFURT)
    with pytest.raises(RequestError, match="one can be read"):
        read_climate_file(["a.csv", "b.nc"], *FRANKFURT)
    with pytest.raises(RequestError, match="not on Earth"):
        read_climate_file("a.csv", 91.0, 0.0)
    with pytest.raises(RequestError, match="No climate file"):
        read_climate_file([], *FRANKFURT)
    with pytest.raises(DataError, match=r"No file matches"):
        read_climate_file(str(tmp_path / "tas_*.nc"), *FRANKFURT)


def test_a_series_that_was_written_comes_back(tmp_path):
    series = read(tmp_path, "month,temperature_c\n2020-01,5\n")
    write_series(tmp_path / "series.json", series)
    assert read_climate_file(tmp_path / "series.json", *FRANKFURT) == series


def test_an_answer_of_power_is_read_by_its_units_without_its_yearly_means(tmp_path):
    values = {"202011": 5.0, "202012": 2.0, "202013": 10.0, "202101": -999.0, "202113": 9.0}
    answer = {
        "geometry": {"coordinates": [8.68, 50.11, 100.0]},
        "properties": {"parameter": {"T2M": values, "RH2M": {"202011": 80.0}}},
        "header": {"fill_value": -999.0, "title": "made"},
        "parameters": {"T2M": {"units": "C"}},
    }
    path = tmp_path / "power.json"
    path.write_text(json.dumps(answer))
    series = read_climate_file(path, *FRANKFURT)
    assert series.months == ("2020-11", "2020-12", "2021-01")
    assert series.values == {T: (5.0, 2.0, None)}
    assert "NASA" in series.attribution
    with pytest.raises(DataError, match=r"expected \(40, 8.75\)"):
        read_climate_file(path, 40.0, 8.68)


def test_notes_count_what_is_unknown_and_how_far_the_cell_is(tmp_path):
    rows = "\n".join(f"2020-{m:02d},{'' if m in (3, 5) else 10 + m % 3}" for m in range(1, 13))
    series = read(tmp_path, f"month,temperature_c\n{rows}\n")
    assert series_notes(series, *FRANKFURT) == [
        "Temperature of series.csv is unknown in 2 of 12 months, the first 2020-03.",
        "Precipitation is not in series.csv.",
        "Solar radiation is not in series.csv.",
    ]
    notes = series_notes(series, 50.11, 9.68)
    assert any("at (50.11, 8.68), 71 km from the place" in note for note in notes)


def test_notes_tell_of_means_that_another_unit_would_explain(tmp_path):
    rows = "\n".join(f"2020-{month:02d},{20 + month},52" for month in range(1, 13))
    text = f"month,precipitation_mm_day,temperature_c\n{rows}\n"
    notes = series_notes(read(tmp_path, text), *FRANKFURT)  # totals of months, and °F
    far = [note for note in notes if "shipped normals" in note]
    assert len(far) == 2
    assert "Temperature of series.csv is 52.0 °C on average" in far[0]
    assert "totals must be divided" in far[1]


@pytest.mark.shared
def test_real_answers_of_power_are_read(shared_data: Path):
    folder = shared_data / "nasa_power"
    warm = read_climate_file(
        folder / "power_monthly_point_T2M_50.11N_8.68E_2001-2023.json", 50.11, 8.68
    )
    assert (warm.months[0], warm.months[-1], len(warm.months)) == ("2001-01", "2023-12", 276)
    assert warm.value(T, "2003-08") == 24.16
    assert not [note for note in series_notes(warm, 50.11, 8.68) if "shipped" in note]
    sun = read_climate_file(folder / "power_monthly_point_ALLSKY_55N_3W_2015-2020.json", 55.0, -3.0)
    assert sun.value(S, "2015-06") == pytest.approx(4.75 * 3.6)


@pytest.mark.shared
def test_daily_era5_becomes_months_of_the_nearest_city(shared_data: Path):
    path = shared_data / "climate_samples/xclim-testdata/ERA5/daily_surface_cancities_1990-1993.nc"
    series = read_climate_file(path, 45.5, -73.6)
    assert (series.months[0], series.months[-1]) == ("1990-01", "1993-12")
    assert series.value(T, "1990-07") == pytest.approx(21.25, abs=0.01)
    notes = series_notes(series, 45.5, -73.6)
    assert any("16 km from the place" in note for note in notes)
    assert not any("shipped normals" in note for note in notes)
    assert np.isfinite([v for v in series.values[S] if v is not None]).all()
