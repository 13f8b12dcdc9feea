"""Climate of a record as numbers: features that models read, and changes that users ask for.

Features of a month and a quantity come in three channels: climatology (the long-term mean of that
calendar month), anomaly (value minus climatology) and cumulative anomaly (sum of the anomalies of
the series up to that month). What is not known is marked so and never filled with a number. Where a
dataset has long-term means only, its anomalies are unknown, not zero; where it has values only,
they stand in for the climatology.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ecomap.errors import RequestError
from ecomap.schema import CLIMATE, SERIES_MONTHS, ClimateVariable, TileRecord, check_climate

CHANNELS = ("climatology", "anomaly", "cumulative_anomaly")

_LOCATION_SCALE: dict[str, tuple[float, float]] = {
    "temperature_c": (10.0, 15.0),
    "precipitation_mm_day": (1.0, 0.7),
    "solar_radiation_mj_m2_day": (15.0, 7.0),
}
"""Offset and scale that bring values (precipitation: log(1 + value)) to about unit spread."""

_ANOMALY_SCALE: dict[str, float] = {
    "temperature_c": 3.0,
    "precipitation_mm_day": 0.5,
    "solar_radiation_mj_m2_day": 3.0,
}
"""Typical anomaly of a month, in the transformed unit."""

MAX_FACTOR = 5.0
"""Largest factor that an absolute value becomes. In a nearly rainless month any rain would be
a huge one and would drown the other months; beyond this the value becomes an offset."""

_CUMULATIVE_SCALE = 4.0
"""A year of anomalies is about this many times a month's."""


@dataclass(frozen=True)
class ClimateFeatures:
    """Model inputs of one record."""

    values: np.ndarray
    """float32 ``(SERIES_MONTHS, num_variables, num_channels)``; 0 where not known."""
    known: np.ndarray
    """bool, of the same shape."""


def transform(name: str, value: np.ndarray) -> np.ndarray:
    """Physical unit -> near unit variance; precipitation by its logarithm.

    Args:
        name: Climate variable.
        value: Values in its unit.
    """
    offset, scale = _LOCATION_SCALE[name]
    return (_stretch(name, value) - offset) / scale


def climate_features(record: TileRecord) -> ClimateFeatures:
    """Features of a record's month and of the months before it.

    Returns:
        Months oldest first, variables in the order of `CLIMATE`, channels in that of `CHANNELS`.
    """
    shape = (SERIES_MONTHS, len(CLIMATE), len(CHANNELS))
    values = np.full(shape, np.nan)
    calendar = (record.month_index + np.arange(-SERIES_MONTHS + 1, 1)) % 12
    for index, name in enumerate(CLIMATE):
        normals = getattr(record, f"{name}_normals")
        series = monthly_series(record, name)
        # Without normals the value itself is the best that is known of the place's climate.
        climatology = series if normals is None else _array(normals)[calendar]
        values[:, index, 0] = transform(name, climatology)
        if record.climate_kind == "observed" and normals is not None:
            anomaly = _stretch(name, series) - _stretch(name, climatology)
            values[:, index, 1] = anomaly / _ANOMALY_SCALE[name]
            total = np.cumsum(np.nan_to_num(anomaly)) / _ANOMALY_SCALE[name] / _CUMULATIVE_SCALE
            values[:, index, 2] = np.where(np.isnan(anomaly), np.nan, total)
    known = np.isfinite(values)
    return ClimateFeatures(np.where(known, values, 0.0).astype(np.float32), known)


def monthly_series(record: TileRecord, name: str) -> np.ndarray:
    """History and own month ``(SERIES_MONTHS,)``, oldest first, NaN where not known."""
    history = getattr(record, f"{name}_history") or (None,) * (SERIES_MONTHS - 1)
    return _array((*history, getattr(record, name)))


def known_variables(records: Sequence[TileRecord]) -> tuple[str, ...]:
    """Variables that at least one of the records knows in its own month."""
    return tuple(n for n in CLIMATE if any(getattr(r, n) is not None for r in records))


def knows_anomalies(records: Sequence[TileRecord]) -> bool:
    """Whether at least one of the records knows how its month differs from the normals."""
    return any(
        record.climate_kind == "observed"
        and any(getattr(record, f"{name}_normals") is not None for name in CLIMATE)
        for record in records
    )


def values_alone(record: TileRecord) -> TileRecord:
    """A record that does not tell how its month differs from the normals.

    Without normals the values stand in for the climate, as of a dataset that has none.
    """
    if record.climate_kind != "observed":
        return record
    return record.model_copy(update={f"{name}_normals": None for name in CLIMATE})


@dataclass(frozen=True)
class Change:
    """What a user asks of one climate variable."""

    kind: Literal["offset", "factor", "absolute"]
    value: float
    """In the variable's unit; a factor has none."""

    @property
    def is_none(self) -> bool:
        """Whether it leaves everything as it is."""
        return (self.kind, self.value) in {("offset", 0), ("factor", 1)}

    @property
    def text(self) -> str:
        """As a user types it."""
        if self.kind == "offset":
            return f"{self.value:+g}"
        return f"{'x' if self.kind == 'factor' else '='}{self.value:g}"


def parse_change(text: str, variable: ClimateVariable) -> Change:
    """Read ``+2`` or ``-10`` (offset), ``x0.5`` (factor) or ``=21.5`` (absolute).

    Args:
        text: What the user typed.
        variable: Quantity to change.

    Raises:
        RequestError: If the text has none of these forms.
    """
    match = re.fullmatch(r"([+\-x×*=])\s*(-?\d+(?:\.\d+)?(?:[eE]-?\d+)?)", text.strip())
    if match is None:
        raise RequestError(
            f"--{variable.short} {text!r} is not a change. Write +2 or -2 for an offset in "
            f"{variable.unit}, x0.5 for a factor, or =21.5 for an absolute value in "
            f"{variable.unit}."
        )
    sign, number = match.group(1), float(match.group(2))
    if sign == "=":
        return Change("absolute", number)
    if sign in "+-":
        return Change("offset", -number if sign == "-" else number)
    if number < 0 or not variable.is_ratio:
        raise RequestError(
            f"--{variable.short} {text!r} scales {variable.label.lower()}, which "
            f"{'needs a factor of 0 or more' if variable.is_ratio else 'has no natural zero'}. "
            f"Write an offset such as +2 instead."
        )
    return Change("factor", number)


def apply_changes(record: TileRecord, changes: Mapping[str, Change]) -> TileRecord:
    """Put a record under a changed climate, sustained over all months that the model sees.

    The change is applied to the month, to the months before it and to the normals: it describes a
    place whose climate is this, not one strange month. An absolute value becomes the offset, or for
    precipitation and radiation the factor, that reaches it in the record's own month; where that is
    not known, it stands for that month alone.

    Args:
        record: Where and when.
        changes: Change by climate variable.

    Raises:
        RequestError: If a variable is not known at the place and the change is relative.
        SchemaError: If a changed value leaves the variable's range.
    """
    update: dict[str, object] = {}
    if told := [f"{CLIMATE[n].short} {c.text}" for n, c in changes.items() if not c.is_none]:
        words = ", ".join(told)
        update["climate_source"] = f"{record.climate_source or 'not stated'}; changed: {words}"
    for name, change in changes.items():
        variable, today = CLIMATE[name], getattr(record, name)
        if change.kind == "absolute":
            check_climate(name, change.value)
        if today is None and change.kind == "absolute":
            update[name] = change.value
            continue
        if today is None:
            raise RequestError(
                f"{variable.label} is not known at ({record.lat:g}, {record.lon:g}), so it cannot "
                f"be shifted or scaled. Give an absolute value, such as ={variable.minimum + 1:g}."
            )
        offset, factor = _relative(change, today, variable)
        for suffix in ("", "_history", "_normals"):
            field = f"{name}{suffix}"
            old = getattr(record, field)
            update[field] = _changed(old, offset, factor, variable, field)
    return record.model_copy(update=update)


def at_level(
    name: str, values: float | NDArray[np.float64], level: float, wanted: float
) -> NDArray[np.float64]:
    """Values brought from one level to another, such as those of a map to another mean.

    Precipitation and radiation are scaled, so that a level of 0 is 0 everywhere. Temperature is
    shifted, and so are they from 0 or by more than `MAX_FACTOR`; all stop at their minimum.

    Args:
        name: Climate variable.
        values: In its unit; of any shape, which is kept.
        level: Level of the values.
        wanted: Level of what is returned.
    """
    variable = CLIMATE[name]
    offset, factor = _relative(Change("absolute", wanted), level, variable)
    return np.asarray(np.maximum(values * factor + offset, variable.minimum))


def _relative(change: Change, today: float, variable: ClimateVariable) -> tuple[float, float]:
    """Offset and factor of a change; the offset is added after scaling."""
    if change.kind == "offset":
        return change.value, 1.0
    if change.kind == "factor":
        return 0.0, change.value
    if variable.is_ratio and change.value <= MAX_FACTOR * today and today > 0:
        return 0.0, change.value / today
    return change.value - today, 1.0


def _changed(
    old: float | tuple[float | None, ...] | None,
    offset: float,
    factor: float,
    variable: ClimateVariable,
    field: str,
) -> float | tuple[float | None, ...] | None:
    """A value or a series after a change; a ratio quantity stops at zero."""
    if old is None:
        return None
    if isinstance(old, tuple):
        return tuple(_one(value, offset, factor, variable, field) for value in old)
    return _one(old, offset, factor, variable, field)


def _one(
    old: float | None, offset: float, factor: float, variable: ClimateVariable, field: str
) -> float | None:
    """One changed value, checked against the variable's range."""
    if old is None:
        return None
    new = old * factor + offset
    if variable.is_ratio:
        new = max(new, variable.minimum)
    check_climate(field, new, variable=variable)
    return new


def _array(values: Sequence[float | None]) -> np.ndarray:
    """Floats with NaN for ``None``."""
    return np.array([np.nan if value is None else value for value in values], dtype=float)


def _stretch(name: str, value: np.ndarray) -> np.ndarray:
    """Logarithm of precipitation, where a millimetre means more in a desert than in a jungle."""
    return np.log1p(value) if name == "precipitation_mm_day" else np.asarray(value)
