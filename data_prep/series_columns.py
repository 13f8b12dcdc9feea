"""What a column of a climate table holds: its variable and unit, from its name and a row of units.

A unit is stated by the end of the name (``temperature_k``), in brackets (``tas [K]``), or below
the header. A column without any is refused: which of two units a number has cannot be seen on it.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data_prep.cf_units import STANDARD_NAMES, USUAL_NAMES, Measure, measure_of
from ecomap.errors import DataError
from ecomap.schema import CLIMATE

STEMS = {
    "temperature_c": "temperature",
    "precipitation_mm_day": "precipitation",
    "solar_radiation_mj_m2_day": "solar_radiation",
}
"""Climate variable -> its name without the unit."""

NAMES: dict[str, str] = {
    spelling.lower(): name
    for name in CLIMATE
    for spelling in (STEMS[name], CLIMATE[name].short, *STANDARD_NAMES[name], *USUAL_NAMES[name])
}
"""Name of a column without its unit, in small letters -> climate variable."""

UNIT_SUFFIXES = {
    "c": "degC", "k": "K", "f": "degF", "mm_day": "mm/day", "mm_month": "mm/month",
    "kg_m2_s": "kg m-2 s-1", "mj_m2_day": "MJ m-2 day-1", "w_m2": "W m-2",
    "kwh_m2_day": "kWh m-2 day-1",
}  # fmt: skip
"""End of a column's name -> unit."""

UNIT_SPELLINGS = {
    "f": "degF",
    "k": "K",
    "deg c": "degC",
    "deg f": "degF",
    "℃": "degC",
    "ºc": "degC",
}
"""Units in small letters that people write and no library of units knows (or knows as another)."""

OTHER_UNIT = {
    "temperature_c": "temperature_k",
    "precipitation_mm_day": "precipitation_mm_month",
    "solar_radiation_mj_m2_day": "solar_radiation_w_m2",
}
"""Column that is meant where values are outside the range of the contract's unit."""

KNOWN = (
    f"{', '.join(CLIMATE)}, or a name with its unit such as 'tas [K]', 'pr [kg m-2 s-1]', "
    "'precipitation_mm_month' or 'rsds [W m-2]'"
)


@dataclass(frozen=True)
class Column:
    """A column of values."""

    header: str
    name: str
    """Climate variable."""
    measure: Measure


def plain_name(text: str) -> str:
    """A name without case, spaces and dashes."""
    return re.sub(r"[\s-]+", "_", text.strip().lower())


def column_of(path: Path, header: str, unit_below: str) -> Column:
    """What a column holds, from its name and unit.

    Args:
        path: File, for messages.
        header: Name of the column.
        unit_below: Its cell in a row of units; empty where there is none.

    Raises:
        DataError: If the variable is not known, or no unit, two, or a wrong one is stated.
    """
    match = re.fullmatch(r"(.*?)\s*[\[(](.*)[\])]", header)
    name, bracket = match.groups() if match else (header, "")
    plain = plain_name(name)
    endings = [
        (NAMES[plain[: -len(end) - 1]], unit)
        for end, unit in UNIT_SUFFIXES.items()
        if plain.endswith(f"_{end}") and plain[: -len(end) - 1] in NAMES
    ]
    variable = NAMES.get(plain) or (endings[0][0] if endings else None)
    where = f"{path} column {header!r}"
    if variable is None:
        raise DataError(f"{where} is not understood. Known are {KNOWN}; remove other columns.")
    stated = [text for text in (bracket, re.sub(r"[\[\]()]", "", unit_below)) if text.strip()]
    stated += [unit for _, unit in endings]
    if not stated:
        raise DataError(
            f"{where} states no unit. Write it as {STEMS[variable] + '_' + _ending(variable)!r} or "
            f"in brackets, such as {header + ' [' + _example(variable) + ']'!r}."
        )
    measures = [_measure(variable, text.strip(), where) for text in stated]
    if len(set(measures)) > 1:
        raise DataError(f"{where} states the units {' and '.join(stated)}. Leave the right one.")
    return Column(header, variable, measures[0])


def _ending(variable: str) -> str:
    return variable.removeprefix(f"{STEMS[variable]}_")


def _example(variable: str) -> str:
    """Unit in which climate models state a variable."""
    usual = {"temperature": "K", "precipitation": "kg m-2 s-1"}
    return usual.get(CLIMATE[variable].short, "W m-2")


def _measure(variable: str, unit: str, where: str) -> Measure:
    """How to read numbers of a unit; refuses amounts that do not name their period."""
    spelled = (
        UNIT_SPELLINGS.get(unit.lower(), unit) if CLIMATE[variable].short == "temperature" else unit
    )
    try:
        measure = measure_of(variable, spelled, where=where)
    except DataError:
        unit_of = CLIMATE[variable].unit
        raise DataError(
            f"{where} has the unit {unit!r}, which {CLIMATE[variable].label.lower()} cannot have. "
            f"Expected {unit_of}, {_example(variable)}, or another that can become {unit_of}."
        ) from None
    if measure.kind == "amount":
        raise DataError(
            f"{where} has the unit {unit!r}, and not over which period. Write {unit}/day for means "
            f"per day or {unit}/month for totals of months."
        )
    return measure


def check_columns(path: Path, columns: Sequence[Column]) -> None:
    """Refuse a table without values, and one that has a variable twice."""
    if not columns:
        raise DataError(f"{path} has no column of values. Known are {KNOWN}.")
    by_name: dict[str, Column] = {}
    for column in columns:
        other = by_name.setdefault(column.name, column)
        if other is not column:
            raise DataError(
                f"{path} has {column.name} twice, in {other.header!r} and {column.header!r}. "
                "Remove one."
            )
