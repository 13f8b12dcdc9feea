"""A climate series from a CSV file: one row a month, one column a variable with its unit.

    month,temperature_c,precipitation_mm_day        date;tas [K];pr [kg m-2 s-1]
    2001-01,0.1,2.3                                 2001-01-15;273.2;2.7e-5
    2001-02,1.4,                                    2001-02-15;274.5;

An empty cell is a value that is not known. The unit stands in the name of the column, in brackets
behind it, or in a row of its own below the header. Lines that begin with ``#`` are left out.
"""

import calendar
import csv
import hashlib
import math
import re
from collections.abc import Sequence
from pathlib import Path

from data_prep.climate_series import ClimateSeries
from data_prep.series_columns import OTHER_UNIT, Column, check_columns, column_of, plain_name
from ecomap.errors import DataError, SchemaError
from ecomap.schema import CLIMATE, check_climate, months_between

TIME_NAMES = ("month", "date", "time")
MISSING = frozenset({"", "na", "nan", "n/a", "null", "none", "-"})
"""Cells that say that a value is not known."""
FILL_VALUES = frozenset({-99.0, -99.9, -999.0, -999.9, -9999.0, 9999.0, 99999.0, 1e20})
"""Numbers that stand for a missing value in many archives; no climate has them."""
WETTEST_MM_DAY = 33.0
"""Mean of the wettest place on Earth (Mawsynram, 11.9 m a year): above it are totals of months."""


Row = tuple[int, list[str]]
"""Line of the file, counted from 1, and its cells."""


def read_csv_series(path: Path, lat: float, lon: float) -> ClimateSeries:
    """Read a CSV file of the climate of a place.

    Args:
        path: Comma, semicolon or tab between cells, in UTF-8.
        lat: Degrees north; the file is taken to be of this place.
        lon: Degrees east.

    Raises:
        DataError: If the file cannot be read, a column is not understood, or a row has a broken
            month or value, comes twice, out of order, or after a gap; the message names the line.
    """
    header, rows, digest = _read_rows(path)
    has_units = not _is_month(rows[0][1], header) and not any(map(_is_number, rows[0][1]))
    units = rows.pop(0)[1] if has_units else []
    time_columns = _time_columns(path, header)
    columns = {
        place: column_of(path, text, units[place] if units else "")
        for place, text in enumerate(header)
        if place not in time_columns
    }
    check_columns(path, list(columns.values()))
    months = _months(path, rows, time_columns, header)
    values = {
        column.name: tuple(
            _value(path, line, cells[place], column, month)
            for (line, cells), month in zip(rows, months, strict=True)
        )
        for place, column in columns.items()
    }
    _check_values(path, values)
    facts = {"file": path.name, "sha256": digest}
    facts |= {f"column.{column.name}": column.header for column in columns.values()}
    facts |= {f"num_months_unknown.{name}": str(v.count(None)) for name, v in values.items()}
    return ClimateSeries(
        lat=lat,
        lon=lon,
        cell_id=re.sub(r"[^A-Za-z0-9_.-]+", "_", path.stem) or "file",
        months=tuple(months),
        values=values,
        source=path.name,
        attributes=facts,
    )


def _read_rows(path: Path) -> tuple[list[str], list[Row], str]:
    """Header, rows that have anything in them, and the SHA-256 of the file."""
    try:
        content = path.read_bytes()
        lines = content.decode("utf-8-sig").splitlines()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from None
    except UnicodeDecodeError:
        raise DataError(f"{path} is not a text file in UTF-8. Save it as 'CSV UTF-8'.") from None
    if any(line.startswith("-BEGIN HEADER-") for line in lines[:5]):
        raise DataError(
            f"{path} is NASA POWER's own CSV, whose months are columns. Download the same as JSON, "
            "which is read as it is."
        )
    kept = [(n, line) for n, line in enumerate(lines, 1) if line.strip() and line[0] != "#"]
    if not kept:
        raise DataError(f"{path} is empty. Expected a header such as 'month,{','.join(CLIMATE)}'.")
    delimiter = max(",;\t", key=kept[0][1].count)
    try:
        parsed = [
            (n, next(csv.reader([line], delimiter=delimiter, strict=True))) for n, line in kept
        ]
    except csv.Error as error:
        raise DataError(f"{path} is not a readable CSV file: {error}.") from None
    rows = [
        (n, [cell.strip() for cell in cells]) for n, cells in parsed if any(map(str.strip, cells))
    ]
    header = rows[0][1]
    for line, cells in rows[1:]:
        if len(cells) != len(header):
            raise DataError(
                f"{path} line {line} has {len(cells)} cells, the header {len(header)}. Expected as "
                "many, with a point in decimals."
            )
    if len(rows) == 1:
        raise DataError(f"{path} has a header and no rows. Expected one row a month below it.")
    return header, rows[1:], hashlib.sha256(content).hexdigest()


def _time_columns(path: Path, header: Sequence[str]) -> list[int]:
    """Place of the column of months, or of year and month."""
    plain = [plain_name(text) for text in header]
    if "year" in plain and "month" in plain:
        return [plain.index("year"), plain.index("month")]
    found = [place for place, name in enumerate(plain) if name in TIME_NAMES]
    if len(found) == 1:
        return found
    state = " and ".join(header[place] for place in found) or "none"
    raise DataError(
        f"{path} has the columns {', '.join(header)}; of months {state}. Expected one column "
        "'month' (YYYY-MM) or 'date' (YYYY-MM-DD), or 'year' and 'month'."
    )


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _is_month(cells: Sequence[str], header: Sequence[str]) -> bool:
    """Whether a row begins a month, as far as its columns of time tell."""
    names = (*TIME_NAMES, "year")
    times = [cell for cell, name in zip(cells, header, strict=True) if plain_name(name) in names]
    return any(re.search(r"\d", cell) for cell in times)


def _months(
    path: Path, rows: Sequence[Row], places: Sequence[int], header: Sequence[str]
) -> list[str]:
    """Month of each row; refuses repetitions, gaps and disorder."""
    months: list[str] = []
    texts: list[str] = []
    for line, cells in rows:
        text = "-".join(cells[place] for place in places)
        match = re.fullmatch(r"(\d{4})(?:-?(\d\d)|-(\d))(?:-\d\d?(?:[T ].*)?)?", text)
        month = int(match[2] or match[3]) if match else 0
        if match is None or not 1 <= month <= 12:
            raise DataError(
                f"{path} line {line}: {text!r} in {header[places[0]]!r} is no month. Expected "
                "YYYY-MM or YYYY-MM-DD; spreadsheets change dates unless the column is text."
            )
        months.append(f"{match[1]}-{month:02d}")
        texts.append(text)
        if len(months) > 1 and months_between(months[-2], months[-1]) != 1:
            raise DataError(_disorder(path, rows, months, texts))
    return months


def _disorder(path: Path, rows: Sequence[Row], months: list[str], texts: list[str]) -> str:
    """Message about the last of some months, which does not follow the one before."""
    line, last, before = rows[len(months) - 1][0], months[-1], months[-2]
    where = f"{path} line {line}"
    if last in months[:-1]:
        first = months.index(last)
        hint = "Average days to months first" if texts[first] != texts[-1] else "Remove one"
        return f"{where} has {last} again, after line {rows[first][0]}. {hint}: one row a month."
    if months_between(before, last) < 0:
        return f"{where} has {last} after {before}. Expected rows sorted by month, oldest first."
    num = months_between(before, last) - 1
    lacking = f"{num} months lack" if num > 1 else "a month lacks"
    return (
        f"{where}: {last} follows {before}; {lacking}. Expected a row for every month, with empty "
        "cells where values are not known."
    )


def _value(path: Path, line: int, text: str, column: Column, month: str) -> float | None:
    """A cell in the contract's unit; ``None`` where it is empty."""
    if text.lower() in MISSING:
        return None
    where = f"{path} line {line}, column {column.header!r}"
    if not _is_number(text):
        comma = " Write decimals with a point." if re.fullmatch(r"-?\d+,\d+", text) else ""
        raise DataError(f"{where} is {text!r}. Expected a number, or nothing.{comma}")
    number = float(text)
    if number in FILL_VALUES:
        raise DataError(
            f"{where} is {text}, which stands for a missing value in archives. Leave the cell "
            "empty where a value is not known."
        )
    value = number * column.measure.factor + column.measure.offset
    if column.measure.kind == "month_total":
        value /= calendar.monthrange(int(month[:4]), int(month[5:]))[1]
    try:
        check_climate(column.name, value)
    except SchemaError as error:
        raise DataError(
            f"{where}: {error} Or state the unit in the name of the column, such as "
            f"{OTHER_UNIT[column.name]!r}."
        ) from None
    return value


def _check_values(path: Path, values: dict[str, tuple[float | None, ...]]) -> None:
    """Refuse a file without values, and precipitation that no place has over a year."""
    known = {name: [v for v in series if v is not None] for name, series in values.items()}
    if not any(known.values()):
        raise DataError(f"{path} has no value in any cell. Expected some that are known.")
    rain = known.get("precipitation_mm_day", [])
    if len(rain) >= 12 and (mean := math.fsum(rain) / len(rain)) > WETTEST_MM_DAY:
        raise DataError(
            f"{path} has {mean:.1f} mm/day of precipitation on average, more than the wettest "
            f"place on Earth ({WETTEST_MM_DAY:g}). Name the column 'precipitation_mm_month' if its "
            "values are totals of months."
        )
