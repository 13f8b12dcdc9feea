"""Cells of tables that people made: text or typed, each read as the quantity that it stands for."""

import json
import math
import re
from collections.abc import Callable, Sequence
from datetime import date
from typing import Any, get_args

from ecomap.errors import SchemaError
from ecomap.schema import (
    CLIMATE,
    HISTORY_MONTHS,
    MONTH_PATTERN,
    ClimateKind,
    LandCover,
    Split,
    check_climate,
    parse_land_cover,
)

MISSING = frozenset({"", "nan", "na", "n/a", "none", "null"})
"""Texts that stand for a number, month or class that is not known."""


def parser_of(field: str) -> Callable[[Any], Any]:
    """Choose what reads the cells of a field.

    Args:
        field: Field of `ecomap.tiles.ScoredTile` or `ecomap.schema.TileRecord`; climate series are
            ``{name}_history`` and ``{name}_normals``. Other names are texts.

    Returns:
        A function from a cell (text of a CSV, any value of a Parquet file) to its value, ``None``
        where that is not known; it raises `SchemaError` where it is impossible.
    """
    for name in CLIMATE:
        if field == name:
            return lambda value: _climate(name, _number(value))
        if field == f"{name}_history":
            return lambda value: _series(name, value, HISTORY_MONTHS)
        if field == f"{name}_normals":
            return lambda value: _series(name, value, 12)
    return {
        "month": _month,
        "lat": lambda value: _between(_number(value), -90, 90),
        "lon": lambda value: _between(_number(value), -180, 180),
        "land_cover": _land_cover,
        "land_frac": lambda value: _between(_number(value), 0, 1),
        "cloud_frac": lambda value: _between(_number(value), 0, 1),
        "climate_kind": lambda value: _choice(value, get_args(ClimateKind)),
        "split": lambda value: _choice(value, get_args(Split)),
        "reflectance_range": _range,
        "window_px": _window,
    }.get(field, _text)


def _is_missing(value: Any) -> bool:
    """Whether a value stands for one that is not known."""
    if isinstance(value, float):
        return math.isnan(value)
    return value is None or (isinstance(value, str) and value.strip().lower() in MISSING)


def _text(value: Any) -> str | None:
    """A text; only an empty one is missing, for a place may be called "NA"."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # numbers of places beside empty cells
    return str(value).strip() or None


def _number(value: Any) -> float | None:
    """A finite number."""
    if _is_missing(value):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise SchemaError(f"{value!r} is not a number; leave the cell empty if unknown.") from None
    if not math.isfinite(number):
        raise SchemaError(f"{value!r} is not finite; leave the cell empty if unknown.")
    return number


def _between(value: float | None, low: float, high: float) -> float | None:
    """A number of a range."""
    if value is not None and not low <= value <= high:
        raise SchemaError(f"{value:g} is outside {low:g} to {high:g}; correct it.")
    return value


def _climate(name: str, value: float | None) -> float | None:
    """A monthly mean in its unit."""
    check_climate(name, value)
    return value


def _month(value: Any) -> str | None:
    """Calendar month of a month, day or time."""
    if _is_missing(value):
        return None
    text = value.isoformat() if isinstance(value, date) else str(value).strip()
    month = re.match(r"(\d{4}-\d\d)(?:-\d\d(?:[T ].*)?)?$", text)
    if month is None or not re.match(MONTH_PATTERN, month[1]):
        raise SchemaError(f"{text!r} is no month; expected YYYY-MM or YYYY-MM-DD.")
    return month[1]


def _land_cover(value: Any) -> LandCover | None:
    """IGBP class of a code or a name."""
    if _is_missing(value):
        return None
    if isinstance(value, int | float) or re.fullmatch(r"\s*\d+(\.0*)?\s*", value):
        number = float(value)
        return parse_land_cover(int(number) if number.is_integer() else str(value))
    return parse_land_cover(str(value))


def _choice(value: Any, choices: Sequence[str]) -> str | None:
    """One of a few words."""
    text = _text(value)
    if text is not None and text not in choices:
        raise SchemaError(f"{text!r} is unknown; choose one of {', '.join(choices)}.")
    return text


def _list(value: Any, length: int) -> list[float | None] | None:
    """Numbers of a list, or of a JSON list in a text."""
    if _is_missing(value):
        return None
    try:
        items = json.loads(value) if isinstance(value, str) else value
    except ValueError:
        items = None
    if not isinstance(items, list) or len(items) != length:
        raise SchemaError(f"{value!r:.80} is not a list of {length} numbers, such as [0, 1].")
    return [_number(item) for item in items]


def _series(name: str, value: Any, length: int) -> tuple[float | None, ...] | None:
    """Monthly means, some of which may be missing; ``None`` where all are."""
    items = _list(value, length)
    for item in items or ():
        check_climate(name, item)
    return tuple(items) if items and any(item is not None for item in items) else None


def _range(value: Any) -> tuple[float, float] | None:
    """Darker, then brighter reflectance."""
    items = _list(value, 2)
    if items is None:
        return None
    low, high = items
    if low is None or high is None or not low < high:
        raise SchemaError(f"{items} must hold the darker reflectance, then the brighter.")
    return low, high


def _window(value: Any) -> tuple[int, int, int, int] | None:
    """Column, row, width and height."""
    items = _list(value, 4)
    if items is None:
        return None
    whole = [int(item) for item in items if item is not None and item.is_integer()]
    if len(whole) != 4 or min(whole[:2]) < 0 or min(whole[2:]) <= 0:
        raise SchemaError(f"{items} must hold column, row >= 0 and width, height > 0, whole.")
    return whole[0], whole[1], whole[2], whole[3]
