"""NASA POWER: cells, units and dates of recorded answers, and whole series from a stand-in."""

import calendar
import json
import os
import subprocess
import sys
import threading
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from data_prep import services
from data_prep.power import Cell, cell_of, fetch_power, last_month_of, series_from_answer
from data_prep.prep_config import ClimateSettings, month_range
from data_prep.services import ServiceError
from ecomap.errors import DataError, RequestError
from tests.power_server import NAMES, Fault, PowerServer, Units, true_value

T, P, R = NAMES
TODAY = date(2024, 5, 12)
CELL = cell_of(50.11, 8.68)


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(services, "FIRST_WAIT_S", 0.01)


def fetch(
    server: PowerServer, first_year: int, last_year: int, *, cell: Cell = CELL, **settings: Any
):
    config = ClimateSettings(url=server.url, **({"num_retries": 0, "timeout_s": 5} | settings))
    return fetch_power(cell, first_year=first_year, last_year=last_year, config=config, today=TODAY)


# ---- cells


@pytest.mark.parametrize(
    ("lat", "lon", "cell_id", "centre"),
    [
        (50.11, 8.68, "N50.0_E008.750", (50.0, 8.75)),
        (50.249, 8.4376, "N50.0_E008.750", (50.0, 8.75)),
        (50.25, 8.4374, "N50.5_E008.125", (50.5, 8.125)),
        (-33.87, 151.21, "S34.0_E151.250", (-34.0, 151.25)),
        (-0.2, -0.3, "N00.0_E000.000", (0.0, 0.0)),
        (-0.3, -0.4, "S00.5_W000.625", (-0.5, -0.625)),
        (-90, -180, "S90.0_W180.000", (-90.0, -180.0)),
        (90, 180, "N90.0_W180.000", (90.0, -180.0)),
        (12, 179.7, "N12.0_W180.000", (12.0, -180.0)),
        (12, 179.6, "N12.0_E179.375", (12.0, 179.375)),
    ],
)
def test_a_place_lies_in_the_cell_with_the_nearest_centre(
    lat: float, lon: float, cell_id: str, centre: tuple[float, float]
):
    cell = cell_of(lat, lon)
    assert cell.cell_id == cell_id
    assert (cell.lat, cell.lon) == centre


@given(st.floats(min_value=-90, max_value=90), st.floats(min_value=-180, max_value=180))
def test_a_cell_holds_its_places_and_is_the_cell_of_its_centre(lat: float, lon: float):
    cell = cell_of(lat, lon)
    assert abs(cell.lat - lat) <= 0.25
    assert abs((cell.lon - lon + 180) % 360 - 180) <= 0.3125
    assert cell_of(cell.lat, cell.lon) == cell
    assert -180 <= cell.lon < 180


def test_a_place_beyond_the_earth_is_refused():
    with pytest.raises(RequestError, match=r"\(8, 190\) is not on Earth"):
        cell_of(8, 190)


# ---- recorded answers


def recorded(folder: Path, name: str) -> Any:
    return json.loads((folder / "nasa_power" / f"power_monthly_point_{name}.json").read_text())


@pytest.mark.shared
def test_a_recorded_temperature_is_read_without_its_yearly_means(shared_data: Path):
    answer = recorded(shared_data, "T2M_50.11N_8.68E_2001-2023")
    months = month_range("2001-01", "2023-12")
    made = series_from_answer(answer, CELL, step="monthly", months=months, parameters=["T2M"])
    assert made.value(T, "2001-01") == 0.09
    assert made.value(T, "2001-12") == -0.62
    assert made.value(T, "2023-12") == 3.84
    assert made.values.keys() == {T}
    assert made.values[T].count(None) == 0
    # January of 2001 to 2003: 0.09, -2.05 and -0.89 °C.
    assert made.normals(T, 2001, 2003)[0] == pytest.approx(-0.95)
    # The yearly means of the answer are those of our months, weighted with their days.
    keys = answer["properties"]["parameter"]["T2M"]
    for year in range(2001, 2024):
        days = [calendar.monthrange(year, number)[1] for number in range(1, 13)]
        values = [made.value(T, f"{year}-{number:02d}") for number in range(1, 13)]
        mean = sum(d * v for d, v in zip(days, values, strict=True)) / sum(days)
        assert mean == pytest.approx(keys[f"{year}13"], abs=0.02)
    assert made.attributes == {
        "api_version": "v2.10.0",
        "community": "AG",
        "data_sources": "MERRA2",
        "num_months_unknown.temperature_c": "0",
        "time_standard": "LST",
        "title": "NASA/POWER Source Native Resolution Monthly and Annual",
        "unit_received.temperature_c": "C",
    }


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "place", "years", "month", "expected"),
    [
        # 5.6 kWh x 3.6 MJ/kWh; 0.37 kWh x 3.6.
        ("ALLSKY_55N_3W_2015-2020", (55.0, -3.0), (2015, 2020), "2018-06", 20.16),
        ("ALLSKY_55N_3W_2015-2020", (55.0, -3.0), (2015, 2020), "2015-12", 1.332),
        # 166.76 W x 86,400 s = 14,408,064 J; 20.8 W likewise.
        (
            "ALLSKY_Wm2_51.4S_22.1W_2021-2022",
            (-51.389, -22.131),
            (2021, 2022),
            "2021-01",
            14.408064,
        ),
        ("ALLSKY_Wm2_51.4S_22.1W_2021-2022", (-51.389, -22.131), (2021, 2022), "2021-06", 1.79712),
    ],
)
def test_recorded_radiation_is_converted_from_its_unit(
    shared_data: Path,
    name: str,
    place: tuple[float, float],
    years: tuple[int, int],
    month: str,
    expected: float,
):
    made = series_from_answer(
        recorded(shared_data, name),
        cell_of(*place),
        step="monthly",
        months=month_range(f"{years[0]}-01", f"{years[1]}-12"),
        parameters=["ALLSKY_SFC_SW_DWN"],
    )
    assert made.value(R, month) == pytest.approx(expected, abs=1e-9)


@pytest.mark.shared
def test_an_answer_without_a_parameter_that_was_asked_for_is_refused(shared_data: Path):
    answer = recorded(shared_data, "T2M_50.11N_8.68E_2001-2023")
    months = month_range("2001-01", "2023-12")
    with pytest.raises(DataError, match=r"has no properties\.parameter\.PRECTOTCORR"):
        series_from_answer(answer, CELL, step="monthly", months=months)


# ---- made-up answers


def answer(values: dict[str, Any], *, unit: str = "C", parameter: str = "T2M", **header: Any):
    return {
        "geometry": {"coordinates": [8.75, 50.0, 100.0]},
        "properties": {"parameter": {parameter: values}},
        "header": {"fill_value": -999.0} | header,
        "parameters": {parameter: {"units": unit}},
    }


def read(content: Any, *, step: Any = "monthly", parameter: str = "T2M"):
    months = month_range("2020-01", "2020-03")
    return series_from_answer(content, CELL, step=step, months=months, parameters=[parameter])


def test_missing_values_are_none_and_counted():
    content = answer({"202001": -999.0, "202002": -99, "202003": 4.0, "202013": 4.0})
    made = read(content)
    assert made.values[T] == (None, None, 4.0)
    assert made.attributes["num_months_unknown.temperature_c"] == "2"


def test_the_fill_value_of_the_answer_counts_too():
    content = answer({"202001": -9.0, "202002": None}, fill_value=-9)
    assert read(content).values[T] == (None, None, None)


@pytest.mark.parametrize(
    ("parameter", "unit", "received", "expected"),
    [
        ("T2M", "K", 273.15, 0.0),
        ("T2M", " degC ", -3.5, -3.5),
        ("PRECTOTCORR", "mm/day", 2.5, 2.5),
        ("PRECTOTCORR", "mm/hour", 0.5, 12.0),
        ("PRECTOTCORR", "kg m-2 s-1", 0.0001, 8.64),
        ("ALLSKY_SFC_SW_DWN", "MJ/m^2/day", 7.5, 7.5),
        ("ALLSKY_SFC_SW_DWN", "kW-hr/m^2/day", 5.0, 18.0),
        ("ALLSKY_SFC_SW_DWN", "W  m-2", 100.0, 8.64),
    ],
)
def test_units_are_converted(parameter: str, unit: str, received: float, expected: float):
    made = read(answer({"202002": received}, unit=unit, parameter=parameter), parameter=parameter)
    name = {value: key for key, value in NAMES.items()}[parameter]
    assert made.values[name] == (None, pytest.approx(expected, abs=1e-12), None)
    assert made.attributes[f"unit_received.{name}"] == unit


@pytest.mark.parametrize("unit", ["F", "mm/day", "", None, 3])
def test_a_unit_that_is_not_known_is_refused(unit: Any):
    with pytest.raises(DataError, match=rf"T2M has the unit {unit!r}; known are 'C', 'degC', 'K'"):
        read(answer({"202001": 1.0}, unit=unit))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"header": None}, "has no header"),
        ({"properties": {}}, r"has no properties\.parameter"),
        ({"parameters": {}}, r"has no parameters\.T2M"),
        ({"geometry": {}}, "is of None"),
        ({"geometry": {"coordinates": ["x", 1]}}, "expected longitude and latitude"),
        (
            {"geometry": {"coordinates": [8.75, 50.3]}},
            r"is of \(50.3, 8.75\); expected \(50, 8.75\)",
        ),
        ({"geometry": {"coordinates": [9.1, 50.0]}}, r"is of \(50, 9.1\)"),
    ],
)
def test_an_answer_of_another_shape_or_place_is_refused(change: dict[str, Any], message: str):
    with pytest.raises(DataError, match=f"cell N50.0_E008.750.*{message}"):
        read(answer({"202001": 1.0}) | change)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"202014": 1.0}, "key '202014', which is no monthly date"),
        ({"20200101": 1.0}, "key '20200101'"),
        ({"ANN": 1.0}, "key 'ANN'"),
        ({"202001": "1.0"}, "of 202001 is '1.0'; expected a number"),
        ({"202001": True}, "is True"),
        ({"202004": 1.0}, "of 2020-04, which was not asked for; expected 2020-01 to 2020-03"),
        ({"202002": 290.0}, "2020-02: temperature_c is 290 °C, outside"),
        ({"202002": float("nan")}, "2020-02: temperature_c is nan"),
    ],
)
def test_values_that_cannot_be_are_refused(values: dict[str, Any], message: str):
    with pytest.raises(DataError, match=message):
        read(answer(values))


def test_something_else_than_an_object_is_refused():
    with pytest.raises(DataError, match=r"has no geometry.*climate\.url"):
        read([1, 2, 3])


def test_days_are_averaged_where_nine_tenths_of_a_month_are_known():
    # January has 31 days: 28 are enough (27.9 needed), 27 are not. February 2020 has 29.
    january = {f"202001{day:02d}": float(day) for day in range(1, 29)}
    february = {f"202002{day:02d}": -999.0 if day <= 3 else 1.0 for day in range(1, 30)}
    made = read(answer(january | february), step="daily")
    assert made.values[T] == (14.5, None, None)  # 26 of 29 days are 0.897
    february["20200203"] = 28.0
    del january["20200128"]
    made = read(answer(january | february), step="daily")
    assert made.values[T] == (None, 2.0, None)
    assert made.source == "NASA POWER daily"


# ---- the service


@pytest.mark.parametrize("units", ["AG", "RE", "SI"])
@pytest.mark.parametrize("source", ["power", "power-daily"])
def test_every_unit_system_gives_the_same_climate(units: Units, source: str):
    with PowerServer(units=units, today=TODAY) as server:
        made = fetch(server, 2019, 2022, source=source)
    assert made.months == month_range("2019-01", "2022-12")
    for name in NAMES:
        for month in made.months:
            truth = true_value(name, 50.0, 8.75, month)
            assert made.value(name, month) == pytest.approx(truth, abs=0.02), (name, month)
    assert "NASA" in made.attribution
    assert made.attributes["api_version"] == "v2.10.0"


def test_the_request_is_what_the_service_documents():
    with PowerServer(today=TODAY) as server:
        fetch(server, 2019, 2020)
        fetch(server, 2019, 2020, source="power-daily")
    common = {
        "parameters": "T2M,PRECTOTCORR,ALLSKY_SFC_SW_DWN",
        "community": "AG",
        "longitude": "8.750",
        "latitude": "50.000",
        "format": "JSON",
    }
    assert server.requests == [
        ("/api/temporal/monthly/point", common | {"start": "2019", "end": "2020"}),
        ("/api/temporal/daily/point", common | {"start": "20190101", "end": "20201231"}),
    ]


def test_months_that_the_monthly_service_lacks_are_none_and_counted():
    with PowerServer(today=TODAY, gaps=["202206"]) as server:
        made = fetch(server, 1980, 2024)
        assert server.requests[0][1]["start"] == "1981"
        assert server.requests[0][1]["end"] == "2023"
    assert made.months[0] == "1980-01"
    assert made.months[-1] == "2024-12"
    unknown = {month for month in made.months if made.value(T, month) is None}
    assert unknown == {
        *month_range("1980-01", "1980-12"), "2022-06", *month_range("2024-01", "2024-12")
    }  # fmt: skip
    assert made.attributes["num_months_unknown.temperature_c"] == "25"
    assert made.value(R, "1983-12") is None
    assert made.value(R, "1984-01") is not None
    assert made.attributes["num_months_unknown.solar_radiation_mj_m2_day"] == "61"


def test_the_daily_service_has_the_months_of_this_year():
    with PowerServer(today=TODAY) as server:
        made = fetch(server, 2023, 2024, source="power-daily")
        assert server.requests[0][1]["end"] == "20240511"
    assert made.value(T, "2024-04") == pytest.approx(true_value(T, 50.0, 8.75, "2024-04"), abs=0.02)
    assert made.value(T, "2024-05") is None  # 11 days
    assert made.attributes["num_months_unknown.temperature_c"] == "8"


@pytest.mark.parametrize(
    ("source", "years", "message"),
    [
        ("power", (2024, 2024), "monthly service has 1981 to 2023-12, not 2024 to 2024. Source"),
        ("power-daily", (2025, 2026), r"daily service has 1981 to 2024-05, not 2025 to 2026\.$"),
        ("power", (1970, 1980), "has 1981"),
        ("power", (2010, 2009), "not 2010 to 2009"),
        ("none", (2010, 2011), "'none' is not NASA POWER"),
    ],
)
def test_years_that_the_service_cannot_have_are_refused_without_asking(
    source: str, years: tuple[int, int], message: str
):
    with PowerServer(today=TODAY) as server:
        with pytest.raises(RequestError, match=message):
            fetch(server, *years, source=source)
        assert server.num_requests == 0


@pytest.mark.parametrize(
    ("source", "today", "expected"),
    [
        ("power", date(2024, 6, 15), "2023-12"),
        ("power", date(2024, 1, 1), "2023-12"),
        ("power-daily", date(2024, 6, 15), "2024-05"),
        ("power-daily", date(2024, 6, 7), "2024-05"),  # 31 May was seven days ago
        ("power-daily", date(2024, 6, 6), "2024-04"),
        ("power-daily", date(2024, 1, 3), "2023-11"),
        ("cf", date(2024, 6, 15), None),
        ("none", date(2024, 6, 15), None),
    ],
)
def test_the_last_month_that_a_service_can_have_is_told(source, today, expected):
    assert last_month_of(source, today) == expected


def test_the_last_month_is_told_for_today():
    before = datetime.now(UTC).year
    month = last_month_of("power")
    assert month in {f"{before - 1}-12", f"{datetime.now(UTC).year - 1}-12"}


def test_the_same_answer_gives_the_same_bytes():
    with PowerServer(today=TODAY) as server:
        texts = {fetch(server, 2000, 2020).to_json() for _ in range(2)}
    assert len(texts) == 1


def test_faults_that_pass_leave_no_trace_in_the_series():
    with PowerServer(today=TODAY) as server:
        clean = fetch(server, 2019, 2020)
    faults: list[Fault] = ["429", "500", "cut", "html", "truncated", "drop"]
    with PowerServer(today=TODAY, faults=faults) as server:
        assert fetch(server, 2019, 2020, num_retries=6) == clean
        assert server.num_requests == 7


def test_a_service_that_stays_away_may_be_asked_later():
    with (
        PowerServer(today=TODAY, always="503") as server,
        pytest.raises(ServiceError, match="503") as caught,
    ):
        fetch(server, 2019, 2020, num_retries=1)
    assert caught.value.retryable


def test_a_refusal_says_what_the_service_says():
    with (
        PowerServer(today=date(2022, 3, 1)) as server,
        pytest.raises(ServiceError, match="422: The end must not lie after 2021") as caught,
    ):
        fetch(server, 2019, 2023, num_retries=5)
    assert not caught.value.retryable
    assert server.num_requests == 1


def test_json_of_another_service_is_refused():
    with PowerServer(today=TODAY, always="list") as server, pytest.raises(DataError, match="url"):
        fetch(server, 2019, 2020)


def test_the_stand_in_runs_as_a_process_and_answers_like_the_fixture():
    command = [
        sys.executable,
        "-m",
        "tests.power_server",
        "--fault",
        "500",
        "--today",
        "2024-05-12",
    ]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1], env=os.environ
    ) as process:
        assert process.stdout is not None
        killer = threading.Timer(20, process.kill)
        killer.start()
        try:
            url = process.stdout.readline().strip()
            path = "/api/temporal/monthly/point?parameters=T2M&start=2020&end=2020"
            place = "&latitude=50.0&longitude=8.75"
            assert requests.get(url + path + place, timeout=5).status_code == 500
            values = requests.get(url + path + place, timeout=5).json()["properties"]["parameter"]
        finally:
            killer.cancel()
            process.terminate()
    assert values["T2M"]["202007"] == round(true_value(T, 50.0, 8.75, "2020-07"), 2)
