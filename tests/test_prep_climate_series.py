"""Climate series: what is refused, what is looked up, and that files come back as they were."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.climate_series import ClimateSeries, read_series, write_series
from data_prep.prep_config import month_range
from ecomap.errors import DataError, RequestError
from ecomap.schema import CLIMATE

T, P = "temperature_c", "precipitation_mm_day"


def series(**changes: Any) -> ClimateSeries:
    """26 months from November 2018; temperature counts up, with a gap in May 2019."""
    months = month_range("2018-11", "2020-12")
    temperature = [float(number) for number in range(26)]
    fields: dict[str, Any] = {
        "lat": 50.0,
        "lon": 8.75,
        "cell_id": "N50.0_E008.750",
        "months": months,
        "values": {T: (*temperature[:6], None, *temperature[7:])},
        "source": "Made up",
    }
    return ClimateSeries(**(fields | changes))


def test_values_are_found_by_month_and_unknown_ones_are_none():
    made = series()
    assert made.value(T, "2018-11") == 0
    assert made.value(T, "2019-05") is None  # the gap
    assert made.value(T, "2020-12") == 25
    assert made.value(T, "2018-10") is None  # just before: index -1 must not mean the last
    assert made.value(T, "2021-01") is None
    assert made.value(P, "2019-01") is None  # the source does not have it


def test_months_that_are_not_known_are_named_for_each_variable_of_the_source():
    name, other, lacking = CLIMATE
    months = ("2020-11", "2020-12", "2021-01", "2021-02")
    values = {name: (1.0, None, 3.0, 4.0), other: (None, 2.0, 0.0, 4.0)}
    made = series(months=months, values=values)
    assert made.unknown_months("2020-12", "2021-01") == {name: ("2020-12",), other: ()}
    assert made.unknown_months("2020-10", "2020-11") == {
        name: ("2020-10",),
        other: ("2020-10", "2020-11"),
    }
    assert made.unknown_months("2021-02", "2021-04") == {
        name: ("2021-03", "2021-04"),
        other: ("2021-03", "2021-04"),
    }
    assert lacking not in made.unknown_months("2021-01", "2021-01")
    with pytest.raises(RequestError, match="2021-02 to 2021-01 is empty"):
        made.unknown_months("2021-02", "2021-01")


def test_history_is_the_twelve_months_before_oldest_first():
    made = series()
    assert made.history(T, "2020-05") == (None, *map(float, range(7, 18)))
    assert made.history(T, "2019-01") == (*[None] * 10, 0.0, 1.0)
    assert made.history(T, "2021-06") == (*map(float, range(19, 26)), *[None] * 5)
    assert made.history(T, "2018-11") == (None,) * 12
    assert made.history(P, "2020-06") == (None,) * 12


@pytest.mark.parametrize(
    "ask",
    [
        lambda made: made.value("temperature", "2019-01"),
        lambda made: made.history("temperature", "2019-01"),
        lambda made: made.normals("temperature", 1991, 2020),
    ],
)
def test_a_name_that_is_no_climate_variable_is_refused(ask: Any):
    with pytest.raises(RequestError, match=r"no climate variable 'temperature'.*temperature_c"):
        ask(series())


def ten_years(**gaps: int) -> ClimateSeries:
    """2001 to 2010; the temperature is the year's last two digits plus the month. Of the named
    calendar months (``m02=3``) the first so many years are missing."""
    months = month_range("2001-01", "2010-12")
    values = tuple(
        None
        if int(month[2:4]) <= gaps.get(f"m{month[5:]}", 0)
        else int(month[2:4]) + float(month[5:])
        for month in months
    )
    return series(months=months, values={T: values})


def test_normals_are_means_of_each_calendar_month_over_the_years():
    # Years 3 to 7 have the mean 5; years outside the period do not count.
    assert ten_years().normals(T, 2003, 2007) == tuple(5.0 + number for number in range(1, 13))


def test_a_normal_needs_four_fifths_of_its_years():
    made = ten_years(m02=2, m07=3)
    normals = made.normals(T, 2001, 2010)
    assert normals[1] == 6.5 + 2  # years 3 to 10
    assert normals[6] is None
    assert normals[0] == 5.5 + 1
    assert made.count_years(T, 2001, 2010) == (10, 8, 10, 10, 10, 10, 7, 10, 10, 10, 10, 10)


def test_years_beyond_the_series_count_as_unknown():
    made = ten_years()
    assert made.normals(T, 1999, 2010)[0] == 6.5  # 10 of 12
    assert made.normals(T, 1998, 2010)[0] is None  # 10 of 13
    assert made.normals(P, 2001, 2010) == (None,) * 12
    assert made.count_years(P, 2001, 2010) == (0,) * 12


def test_an_empty_period_is_refused():
    with pytest.raises(RequestError, match="2010 to 2001 is empty"):
        ten_years().normals(T, 2010, 2001)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"values": {T: (20.0, 281.4)}},
            r"Made up, cell a, 2020-02: .*281.4 °C.*subtracting 273.15",
        ),
        ({"values": {P: (math.nan, 1.0)}}, r"Made up, cell a, 2020-01: .*left empty"),
        ({"values": {P: (1.0, -0.1)}}, "2020-02: precipitation_mm_day is -0.1"),
        ({"values": {T: (20.0,)}}, "1 values for 2 months"),
        ({"values": {"rain": (1.0, 2.0)}}, "has 'rain'; climate variables are"),
        ({"months": ("2020-01", "2020-03")}, "2020-03 follows 2020-01"),
        ({"months": ("2020-02", "2020-01")}, "2020-01 follows 2020-02"),
        ({"months": ("2020-01", "2020-13")}, "month '2020-13'"),
        ({"months": (), "values": {}}, "has no months"),
        ({"lat": 91.0}, r"lies at \(91, 8.75\)"),
        ({"cell_id": "../a"}, "letters, digits"),
    ],
)
def test_what_cannot_be_is_refused_with_its_place(changes: dict[str, Any], message: str):
    fields = {"months": ("2020-01", "2020-02"), "values": {T: (1.0, 2.0)}, "cell_id": "a"}
    with pytest.raises(DataError, match=message):
        series(**(fields | changes))


VALUES = st.one_of(st.none(), st.floats(min_value=0, max_value=45))


@given(
    rows=st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=30),
    facts=st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3),
    lon=st.floats(min_value=-180, max_value=180),
)
def test_json_gives_back_the_very_series(rows: Any, facts: dict[str, str], lon: float):
    months = month_range("1999-11", "2015-12")[: len(rows)]
    columns = tuple(zip(*rows, strict=True))
    made = series(months=months, values={P: columns[1], T: columns[0]}, attributes=facts, lon=lon)
    text = made.to_json()
    again = ClimateSeries.from_json(text, where="here")
    assert again == made
    assert again.to_json() == text


def test_the_same_series_gives_the_same_bytes_in_whatever_order_it_was_made(tmp_path: Path):
    one = (1.0,) * 26
    first = series(values={T: one, P: one}, attributes={"a": "1", "b": "2"})
    second = series(values={P: one, T: one}, attributes={"b": "2", "a": "1"})
    for name, made in (("1", first), ("2", second)):
        write_series(tmp_path / "climate" / f"{name}.json", made)
    files = sorted((tmp_path / "climate").iterdir())
    assert [path.name for path in files] == ["1.json", "2.json"]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert read_series(files[0]) == first


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "a.json"
    write_series(path, series())
    old = path.read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        with pytest.raises(OSError, match="no space"):
            write_series(path, series(source="Other"))
    assert path.read_bytes() == old


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[:-20], "not readable JSON.*Delete it"),
        (lambda text: "[1]", "version None"),
        (lambda text: text.replace('"version": 1', '"version": 9'), "version 9"),
        (lambda text: text.replace('"first_month"', '"first"'), "'first_month'"),
        (lambda text: text.replace('"lat"', '"latitude"'), "latitude"),
        (lambda text: text.replace('"2018-11"', '"2018-12"'), "26 values for 25 months"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, change: Any, message: str):
    path = tmp_path / "a.json"
    path.write_text(change(series().to_json()))
    with pytest.raises(DataError, match=message) as caught:
        read_series(path)
    assert "a.json" in str(caught.value) or "cell N50.0" in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(DataError, match=r"none\.json does not exist"):
        read_series(tmp_path / "none.json")
    (tmp_path / "a.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"a\.json is not a climate series"):
        read_series(tmp_path / "a.json")


def test_the_file_is_plain_json():
    content = json.loads(series().to_json())
    assert content["first_month"] == "2018-11"
    assert content["last_month"] == "2020-12"
    assert content["values"][T][5:8] == [5.0, None, 7.0]
