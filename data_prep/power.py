"""Climate of a place from NASA POWER: temperature, precipitation and solar radiation since 1981.

The monthly service ends with the last complete year; the daily one is a few days behind today, and
its days are averaged here. Units are read from every answer, because they depend on the community
that is asked for and on the version of the service. Recorded units: radiation in ``MJ/m^2/day``,
``kW-hr/m^2/day`` and ``W m-2``.

Longer than the budget because what the service is asked and how its answer is read stand together.

References:
    https://power.larc.nasa.gov/docs/services/api/temporal/
"""

import calendar
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, Literal

from data_prep.climate_series import ClimateSeries, Values
from data_prep.prep_config import ClimateSettings, ClimateSource, month_range
from data_prep.services import get_json
from ecomap.errors import DataError, RequestError

SERVICE_URL = "https://power.larc.nasa.gov"
ATTRIBUTION = (
    "Climate data were obtained from the National Aeronautics and Space Administration (NASA) "
    "Langley Research Center (LaRC) Prediction of Worldwide Energy Resource (POWER) Project "
    "funded through the NASA Earth Science/Applied Science Program."
)
COMMUNITY = "AG"
"""Agroclimatology: the community whose radiation is in MJ/m2/day."""

PARAMETERS = {
    "T2M": "temperature_c",
    "PRECTOTCORR": "precipitation_mm_day",
    "ALLSKY_SFC_SW_DWN": "solar_radiation_mj_m2_day",
}
"""Parameter of the service -> climate variable. Precipitation is a mean daily rate, corrected with
rain gauges."""

UNITS: dict[str, dict[str, tuple[float, float]]] = {
    "T2M": {"C": (1.0, 0.0), "degC": (1.0, 0.0), "K": (1.0, -273.15)},
    "PRECTOTCORR": {
        "mm/day": (1.0, 0.0),
        "mm day-1": (1.0, 0.0),
        "mm/hour": (24.0, 0.0),
        "kg m-2 s-1": (86_400.0, 0.0),
    },
    "ALLSKY_SFC_SW_DWN": {
        "MJ/m^2/day": (1.0, 0.0),
        "MJ m-2 day-1": (1.0, 0.0),
        "kW-hr/m^2/day": (3.6, 0.0),
        "kWh/m^2/day": (3.6, 0.0),
        "W m-2": (0.0864, 0.0),
        "W/m^2": (0.0864, 0.0),
    },
}
"""Unit as the service writes it -> factor and term that make it the variable's unit."""

FILL_VALUES = frozenset({-999.0, -99.0})
"""No place has these values; older versions wrote -99. The answer's own fill value is added."""
FIRST_YEAR = 1981
"""Meteorology (MERRA-2) begins; radiation begins in 1984 and is a fill value before."""
MIN_DAYS_FRAC = 0.9
"""Share of the days of a month that must be known for its mean."""
DAILY_LATENCY_DAYS = 7
"""Days after which the daily service has a day: two or three for meteorology, up to a week for
radiation."""
CELL_LAT_DEG = 0.5
CELL_LON_DEG = 0.625
"""Grid of MERRA-2, whose cell centres lie on multiples from -90 and from -180 degrees. Radiation is
on a grid of 1 degree: of a cell that lies across its lines one side is taken."""

Step = Literal["monthly", "daily"]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """Cell of the service's grid; all places in it have the same climate."""

    cell_id: str
    """Such as ``N50.0_E008.750``."""
    lat: float
    """Centre, degrees north."""
    lon: float
    """Centre, degrees east, [-180, 180)."""


def cell_of(lat: float, lon: float) -> Cell:
    """Cell in which a place lies.

    Args:
        lat: Degrees north, [-90, 90].
        lon: Degrees east, [-180, 180].

    Raises:
        RequestError: If the place is not on Earth.

    Example:
        >>> cell_of(50.11, 8.68).cell_id
        'N50.0_E008.750'
    """
    if not (-90 <= lat <= 90 and -180 <= lon <= 180):
        raise RequestError(
            f"The place ({lat:g}, {lon:g}) is not on Earth; latitude runs from -90 to 90 and "
            "longitude from -180 to 180 degrees."
        )
    num_columns = round(360 / CELL_LON_DEG)
    row = math.floor((lat + 90) / CELL_LAT_DEG + 0.5)
    column = math.floor((lon + 180) / CELL_LON_DEG + 0.5) % num_columns
    lat, lon = row * CELL_LAT_DEG - 90, column * CELL_LON_DEG - 180
    name = f"{'S' if lat < 0 else 'N'}{abs(lat):04.1f}_{'W' if lon < 0 else 'E'}{abs(lon):07.3f}"
    return Cell(cell_id=name, lat=lat, lon=lon)


def fetch_power(
    cell: Cell,
    *,
    first_year: int,
    last_year: int,
    config: ClimateSettings,
    today: date | None = None,
) -> ClimateSeries:
    """Fetch the climate of a cell.

    Args:
        cell: Where (`cell_of`).
        first_year: First year of the series.
        last_year: Last one, included. Months that the service does not have, whether too early,
            too late, or not known to it, are ``None`` and counted in the attributes.
        config: ``source`` (``power`` or ``power-daily``), ``url``, ``timeout_s``, ``num_retries``.
        today: Date that decides which years are complete; by default today's in UTC.

    Raises:
        ServiceError: If the service cannot be reached (``retryable``) or refuses the request.
        DataError: If the answer is not what was asked, has an unknown unit, or a value that no
            place on Earth has.
        RequestError: If the years are not in order or not in the service at all, or the source is
            not POWER.
    """
    if config.source not in ("power", "power-daily"):
        raise RequestError(f"Climate source {config.source!r} is not NASA POWER.")
    step: Step = "monthly" if config.source == "power" else "daily"
    first, last = _days_to_ask(step, first_year, last_year, today or datetime.now(UTC).date())
    text = "%Y" if step == "monthly" else "%Y%m%d"
    params = {
        "parameters": ",".join(PARAMETERS),
        "community": COMMUNITY,
        "longitude": f"{cell.lon:.3f}",
        "latitude": f"{cell.lat:.3f}",
        "start": first.strftime(text),
        "end": last.strftime(text),
        "format": "JSON",
    }
    answer = get_json(
        f"{(config.url or SERVICE_URL).rstrip('/')}/api/temporal/{step}/point",
        params,
        timeout_s=config.timeout_s,
        num_retries=config.num_retries,
    )
    months = month_range(f"{first_year:04d}-01", f"{last_year:04d}-12")
    asked = (f"{first:%Y-%m}", f"{last:%Y-%m}")
    return series_from_answer(answer, cell, step=step, months=months, asked=asked)


def last_month_of(source: ClimateSource, today: date | None = None) -> str | None:
    """Last month of which a service can be expected to know the mean.

    Args:
        source: Source of climate.
        today: Date that decides; by default today's in UTC.

    Returns:
        ``YYYY-MM``: for ``power`` December of the last year, which the service takes some weeks to
        complete; for ``power-daily`` the last month that ended `DAILY_LATENCY_DAYS` ago. None for
        sources that are no service.
    """
    today = today or datetime.now(UTC).date()
    if source == "power":
        return f"{today.year - 1:04d}-12"
    if source == "power-daily":
        open_day = today - timedelta(days=DAILY_LATENCY_DAYS - 1)
        return f"{open_day.replace(day=1) - timedelta(days=1):%Y-%m}"
    return None


def series_from_answer(
    answer: Any,
    cell: Cell,
    *,
    step: Step,
    months: Sequence[str],
    asked: tuple[str, str] | None = None,
    parameters: Sequence[str] = tuple(PARAMETERS),
) -> ClimateSeries:
    """Turn an answer of the point service into a series.

    Args:
        answer: Parsed JSON.
        cell: Cell that was asked for.
        step: Whether values are of months or of days.
        months: Months of the series, ``YYYY-MM``; those that the answer lacks are ``None``.
        asked: First and last month that the service was asked for; by default all of ``months``.
        parameters: Names that the answer must have.

    Raises:
        DataError: If the answer has another shape, is of another place or time, has an unknown
            unit, or a value that no place on Earth has.
    """
    where = f"The {step} answer of NASA POWER for cell {cell.cell_id}"
    _check_place(answer, cell, where=where)
    first, last = asked or (months[0], months[-1])
    values: dict[str, Values] = {}
    attributes = _facts(answer, where=where)
    for parameter in parameters:
        name = PARAMETERS[parameter]
        means, unit = _means_in_unit(answer, parameter, step, where=where)
        outside = [month for month in means if not first <= month <= last]
        if outside:
            raise DataError(
                f"{where} has {parameter} of {outside[0]}, which was not asked for; expected "
                f"{first} to {last}."
            )
        values[name] = tuple(means.get(month) for month in months)
        attributes[f"unit_received.{name}"] = unit
        attributes[f"num_months_unknown.{name}"] = str(values[name].count(None))
    return ClimateSeries(
        lat=cell.lat,
        lon=cell.lon,
        cell_id=cell.cell_id,
        months=tuple(months),
        values=values,
        source=f"NASA POWER {step}",
        attribution=ATTRIBUTION,
        attributes=attributes,
    )


def _days_to_ask(step: Step, first_year: int, last_year: int, today: date) -> tuple[date, date]:
    """First and last day for which the service can have data."""
    first = date(max(first_year, FIRST_YEAR), 1, 1)
    end = date(today.year - 1, 12, 31) if step == "monthly" else today - timedelta(days=1)
    last = min(date(last_year, 12, 31), end)
    if first_year > last_year or last < first:
        hint = " Source power-daily has the months of this year." if step == "monthly" else ""
        raise RequestError(
            f"NASA POWER's {step} service has {FIRST_YEAR} to {end:%Y-%m}, not {first_year} to "
            f"{last_year}.{hint}"
        )
    return first, last


def _section(content: Any, *keys: str, where: str) -> dict[str, Any]:
    """Object inside an answer."""
    for key in keys:
        content = content.get(key) if isinstance(content, dict) else None
    if not isinstance(content, dict):
        raise DataError(
            f"{where} has no {'.'.join(keys)}; expected the GeoJSON feature of its point service. "
            "Check climate.url in the config."
        )
    return content


def _check_place(answer: dict[str, Any], cell: Cell, *, where: str) -> None:
    """Refuse the answer to another request, as a confused cache may give it."""
    place = _section(answer, "geometry", where=where).get("coordinates")
    try:
        lon, lat = float(place[0]), float(place[1])  # type: ignore[index]
    except (TypeError, ValueError, IndexError):
        raise DataError(f"{where} is of {place!r}; expected longitude and latitude.") from None
    east_deg = abs((lon - cell.lon + 180) % 360 - 180)
    if abs(lat - cell.lat) > CELL_LAT_DEG / 2 or east_deg > CELL_LON_DEG / 2:
        raise DataError(f"{where} is of ({lat:g}, {lon:g}); expected ({cell.lat:g}, {cell.lon:g}).")


def _facts(answer: dict[str, Any], *, where: str) -> dict[str, str]:
    """What an answer says about itself; parts that it lacks are absent."""
    header = _section(answer, "header", where=where)
    api, sources = header.get("api"), header.get("sources")
    facts = {
        "title": header.get("title"),
        "api_version": api.get("version") if isinstance(api, dict) else None,
        "data_sources": ", ".join(map(str, sources)) if isinstance(sources, list) else None,
        "time_standard": header.get("time_standard"),
        "messages": " ".join(map(str, answer.get("messages") or [])),
        "community": COMMUNITY,
    }
    return {key: str(value) for key, value in facts.items() if value}


def _means_in_unit(
    answer: dict[str, Any], parameter: str, step: Step, *, where: str
) -> tuple[dict[str, float | None], str]:
    """Monthly means of a parameter in the unit of its climate variable, and the unit received."""
    spot = f"{where}: {parameter}"
    found = _section(answer, "properties", "parameter", parameter, where=where)
    fill = _section(answer, "header", where=where).get("fill_value")
    unit = _section(answer, "parameters", parameter, where=where).get("units")
    factor, term = _conversion(parameter, unit, where=spot)
    known = _known(found, step, fill=fill, where=spot)
    means = known if step == "monthly" else _monthly_means(known)
    converted = {
        month: None if value is None else value * factor + term for month, value in means.items()
    }
    return converted, str(unit)


def _known(values: dict[str, Any], step: Step, *, fill: Any, where: str) -> dict[str, float | None]:
    """Values by month (``YYYY-MM``) or day (``YYYY-MM-DD``); fill values become ``None``.

    The monthly service adds each year's mean as a thirteenth month, which is left out.
    """
    missing = FILL_VALUES | ({float(fill)} if isinstance(fill, int | float) else set())
    pattern = r"(\d{4})(0[1-9]|1[0-3])" if step == "monthly" else r"(\d{4})(\d\d)(\d\d)"
    known: dict[str, float | None] = {}
    for key, value in values.items():
        match = re.fullmatch(pattern, key)
        if match is None:
            raise DataError(f"{where} has the key {key!r}, which is no {step} date.")
        if step == "monthly" and match[2] == "13":
            continue
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise DataError(f"{where} of {key} is {value!r}; expected a number.")
        known["-".join(match.groups())] = None if value is None or value in missing else value
    return known


def _monthly_means(days: Mapping[str, float | None]) -> dict[str, float | None]:
    """Means over days; ``None`` for months with fewer than `MIN_DAYS_FRAC` of them known."""
    by_month: dict[str, list[float]] = {}
    for day, value in days.items():
        month = by_month.setdefault(day[:7], [])
        if value is not None:
            month.append(value)
    return {
        month: math.fsum(known) / len(known) if len(known) >= _days_needed(month) else None
        for month, known in by_month.items()
    }


def _days_needed(month: str) -> float:
    return MIN_DAYS_FRAC * calendar.monthrange(int(month[:4]), int(month[5:]))[1]


def _conversion(parameter: str, unit: Any, *, where: str) -> tuple[float, float]:
    """Factor and term from a unit of the service to the variable's."""
    units = UNITS[parameter]
    key = " ".join(unit.split()) if isinstance(unit, str) else unit
    if key not in units:
        raise DataError(
            f"{where} has the unit {unit!r}; known are {', '.join(map(repr, units))}. A newer "
            "version of the service may write it otherwise: report it."
        )
    return units[key]
