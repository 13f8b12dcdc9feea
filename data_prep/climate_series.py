"""A climate series: monthly means of one place or grid cell, in the units of `ecomap.schema`.

Every source of climate ends here, so that records, normals and drought indices do not depend on
which one was asked. ``None`` stands for a value that is not known; nothing else does.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from data_prep.prep_config import month_range
from ecomap.errors import DataError, RequestError, SchemaError
from ecomap.schema import CLIMATE, HISTORY_MONTHS, MONTH_PATTERN, check_climate, months_between

SERIES_VERSION = 1
"""Raised whenever a reader of an older file would misunderstand a newer one."""

NORMALS_MIN_FRAC = 0.8
"""Share of years that must be known for a normal: WMO Guidelines on the Calculation of Climate
Normals (WMO-No. 1203, 2017)."""

Values = tuple[float | None, ...]


@dataclass(frozen=True, kw_only=True)
class ClimateSeries:
    """Monthly means of one cell.

    Raises:
        DataError: If months have gaps, lengths differ, a name is no climate variable, or a value
            is one that no place on Earth has (NaN included; a missing value is ``None``). The
            message names source, cell, month and value.
    """

    lat: float
    """Centre of the cell (or the place itself), degrees north."""
    lon: float
    """Likewise, degrees east, [-180, 180]."""
    cell_id: str
    """Key of the cell; file names are made from it (letters, digits, ``_``, ``.``, ``-``)."""
    months: tuple[str, ...]
    """``YYYY-MM``, ascending, without gaps."""
    values: Mapping[str, Values]
    """`ecomap.schema.CLIMATE` name -> one value a month in its unit; a variable that the source
    does not have is absent."""
    source: str
    """What gave the values, such as ``NASA POWER monthly``."""
    attribution: str = ""
    """Text that must accompany the data."""
    attributes: Mapping[str, str] = field(default_factory=dict)
    """Facts worth keeping: versions, data sets, original units, counts of missing months."""

    def __post_init__(self) -> None:
        self._check_months()
        unknown = [name for name in self.values if name not in CLIMATE]
        if unknown:
            raise DataError(
                f"{self._where} has {unknown[0]!r}; climate variables are {', '.join(CLIMATE)}."
            )
        if not (-90 <= self.lat <= 90 and -180 <= self.lon <= 180):
            raise DataError(
                f"{self._where} lies at ({self.lat:g}, {self.lon:g}); latitude runs from -90 to "
                "90 and longitude from -180 to 180 degrees."
            )
        if not re.fullmatch(r"[\w.-]+", self.cell_id, re.ASCII):
            raise DataError(
                f"{self._where}: the key of a cell may have letters, digits, '_', '.' and '-'; "
                "a file is named after it."
            )
        plain = {name: self._checked(name) for name in CLIMATE if name in self.values}
        object.__setattr__(self, "values", plain)
        object.__setattr__(self, "attributes", dict(self.attributes))

    @property
    def _where(self) -> str:
        return f"{self.source}, cell {self.cell_id}"

    def _check_months(self) -> None:
        if not self.months:
            raise DataError(f"{self._where} has no months; a series needs one at least.")
        broken = [month for month in self.months if not re.fullmatch(MONTH_PATTERN, month)]
        if broken:
            raise DataError(f"{self._where} has the month {broken[0]!r}; expected YYYY-MM.")
        for before, month in zip(self.months, self.months[1:], strict=False):
            if months_between(before, month) != 1:
                raise DataError(
                    f"{self._where}: {month} follows {before}; months must ascend without gaps. "
                    "Put None where a month is not known."
                )

    def _checked(self, name: str) -> Values:
        values = tuple(None if value is None else float(value) for value in self.values[name])
        if len(values) != len(self.months):
            raise DataError(
                f"{self._where}: {name} has {len(values)} values for {len(self.months)} months; "
                "expected one a month."
            )
        for month, value in zip(self.months, values, strict=True):
            try:
                check_climate(name, value)
            except SchemaError as error:
                raise DataError(f"{self._where}, {month}: {error}") from None
        return values

    def value(self, name: str, month: str) -> float | None:
        """Mean of a month; ``None`` where it is not known or outside the series.

        Args:
            name: Climate variable.
            month: ``YYYY-MM``.

        Raises:
            RequestError: If there is no such climate variable.
        """
        values = self._values(name)
        index = months_between(self.months[0], month)
        return values[index] if 0 <= index < len(values) else None

    def unknown_months(self, first_month: str, last_month: str) -> dict[str, tuple[str, ...]]:
        """Months of a period that are not known, outside the series included.

        Args:
            first_month: First month of the period, ``YYYY-MM``.
            last_month: Its last month, included.

        Returns:
            Each variable that the source has -> its unknown months, ascending; empty if none is.

        Raises:
            RequestError: If the last month lies before the first.
        """
        if months_between(first_month, last_month) < 0:
            raise RequestError(
                f"The period {first_month} to {last_month} is empty; the last month must not lie "
                "before the first."
            )
        months = month_range(first_month, last_month)
        return {
            name: tuple(month for month in months if self.value(name, month) is None)
            for name in self.values
        }

    def history(self, name: str, month: str) -> Values:
        """Values of the `HISTORY_MONTHS` months before a month, oldest first.

        Raises:
            RequestError: If there is no such climate variable.
        """
        values = self._values(name)
        index = months_between(self.months[0], month)
        places = range(index - HISTORY_MONTHS, index)
        return tuple(values[i] if 0 <= i < len(values) else None for i in places)

    def normals(self, name: str, first_year: int, last_year: int) -> Values:
        """Long-term means of January to December.

        Args:
            name: Climate variable.
            first_year: First year of the reference period.
            last_year: Its last year, included.

        Returns:
            12 means in the unit of the variable; ``None`` for a calendar month of which fewer than
            `NORMALS_MIN_FRAC` of the years are known.

        Raises:
            RequestError: If there is no such climate variable, or the period is empty.
        """
        num_years = last_year - first_year + 1
        return tuple(
            math.fsum(known) / len(known) if len(known) / num_years >= NORMALS_MIN_FRAC else None
            for known in self._known(name, first_year, last_year)
        )

    def count_years(self, name: str, first_year: int, last_year: int) -> tuple[int, ...]:
        """Number of known years of January to December, arguments as for `normals`."""
        return tuple(len(known) for known in self._known(name, first_year, last_year))

    def _known(self, name: str, first_year: int, last_year: int) -> list[list[float]]:
        """Known values of each calendar month in a period."""
        if last_year < first_year:
            raise RequestError(
                f"The period {first_year} to {last_year} is empty; the last year must not lie "
                "before the first."
            )
        known: list[list[float]] = [[] for _ in range(12)]
        for month, value in zip(self.months, self._values(name), strict=False):
            if value is not None and first_year <= int(month[:4]) <= last_year:
                known[int(month[5:]) - 1].append(value)
        return known

    def _values(self, name: str) -> Values:
        """Values of a variable; empty where the source does not have it."""
        if name not in CLIMATE:
            raise RequestError(
                f"There is no climate variable {name!r}; choose one of {', '.join(CLIMATE)}."
            )
        return self.values.get(name, ())

    def to_json(self) -> str:
        """The series as one line of JSON: the same series gives the same text."""
        content = asdict(self) | {"version": SERIES_VERSION}
        del content["months"]
        content |= {"first_month": self.months[0], "last_month": self.months[-1]}
        return json.dumps(content, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str, *, where: str) -> Self:
        """Read what `to_json` wrote.

        Args:
            text: JSON.
            where: File that the text comes from, for the message.

        Raises:
            DataError: If the text is not a climate series or of another version.
        """
        try:
            content: Any = json.loads(text)
        except ValueError as error:
            raise DataError(
                f"{where} is not readable JSON: {error}. Delete it; the next run makes it again."
            ) from None
        version = content.get("version") if isinstance(content, dict) else None
        if version != SERIES_VERSION:
            raise DataError(
                f"{where} is not a climate series of version {SERIES_VERSION} (version "
                f"{version!r}). Delete it; the next run makes it again."
            )
        del content["version"]
        try:
            first, last = content.pop("first_month"), content.pop("last_month")
            return cls(months=month_range(first, last), **content)
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{where} is not a climate series: {error}.") from None


def write_series(path: Path, series: ClimateSeries) -> None:
    """Write a series by an atomic rename, so that a reader never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(series.to_json(), encoding="utf-8")
    temporary.replace(path)


def read_series(path: Path) -> ClimateSeries:
    """Read a series.

    Raises:
        DataError: If the file is missing or not a climate series.
    """
    if not path.is_file():
        raise DataError(f"{path} does not exist. Expected a climate series; run the preparation.")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not a climate series: {error}.") from None
    return ClimateSeries.from_json(text, where=str(path))
