"""Tables that say what images show: CSV or Parquet, one row an image, names as people spell them.

A value that is wrong is an error with its file, row and column; a column that is not known is told
in a note. Row 1 is the first below the header.
"""

import csv
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ecomap.errors import DataError, SchemaError
from ecomap.record_cells import parser_of
from ecomap.schema import CLIMATE, HISTORY_MONTHS, months_between
from ecomap.tiles import ScoredTile

TABLE_SUFFIXES = frozenset({".csv", ".parquet"})

ECOMAPPER_CLIMATE = dict(zip(CLIMATE, ("average_temp", "average_prep", "average_rad"), strict=True))
"""Columns of EcoMapper's tables, whose values are in the units of `ecomap.schema.CLIMATE`."""

SPELLINGS: dict[str, tuple[str, ...]] = {
    "image": (
        *("image_path", "img_path", "image_file", "file_path", "file_name", "filename"),
        *("image", "file", "path"),
    ),
    "key": ("key", "tile_id"),
    "source": ("source",),
    "batch": ("batch",),
    "place": ("place", "place_id", "location_id", "location"),
    "month": ("month", "date"),
    "lat": ("lat", "latitude"),
    "lon": ("lon", "longitude", "lng"),
    "land_cover": ("land_cover", "landcover", "land_cover_class", "type"),
    "land_frac": ("land_frac",),
    "cloud_frac": ("cloud_frac", "cloud_coverage"),
    "climate_kind": ("climate_kind",),
    "caption": ("caption", "prompt"),
    "split": ("split",),
    "reflectance_range": ("reflectance_range",),
    "window_px": ("window_px",),
    **{name: (name, old) for name, old in ECOMAPPER_CLIMATE.items()},
    **{f"{name}_{series}": (f"{name}_{series}",) for name in CLIMATE
       for series in ("history", "normals")},
}  # fmt: skip
"""Spellings of each field, the first found counts; case does not matter, nor spaces and dashes."""


@dataclass(frozen=True, kw_only=True)
class TableRow:
    """What one row says."""

    number: int
    """1 for the first row below the header."""
    image: str | None
    """Image file as the row names it."""
    key: str | None
    """Key as the row gives it."""
    tile: ScoredTile
    """What is known of the image; its ``key`` is empty until the image is found."""
    reflectance_range: tuple[float, float] | None = None
    window_px: tuple[int, int, int, int] | None = None


@dataclass(frozen=True, kw_only=True)
class RecordTable:
    """A table of images."""

    path: Path
    rows: tuple[TableRow, ...]
    notes: tuple[str, ...]
    """What the reader of a report must know of how the table was read."""


def read_table(path: Path) -> RecordTable:
    """Read a table of images.

    Columns are found by `SPELLINGS`. Climate of the months before is that of the columns
    ``{name}_history`` (lists, or JSON lists in a CSV); where there is no such column, it is taken
    from the rows of the same place with earlier months and the same kind of climate.

    Args:
        path: CSV with commas and a header (UTF-8), or Parquet.

    Raises:
        DataError: If the file cannot be read, has no rows, or no column that names images.
        SchemaError: If a value is impossible.
    """
    if not path.is_file():
        raise DataError(f"{path} does not exist. Expected a CSV or Parquet table of images.")
    names, raw = _read_csv(path) if path.suffix.lower() == ".csv" else _read_parquet(path)
    columns = _find_columns(names)
    if "image" not in columns and "key" not in columns:
        raise DataError(
            f"{path} has the columns {', '.join(names)}, none of which names images. Expected "
            "image_path (or file, filename, image), or key."
        )
    if not raw:
        raise DataError(f"{path} has no rows. Expected one for each image.")
    parsers = {field: parser_of(field) for field in columns}
    rows = [_read_row(path, n, columns, parsers, values) for n, values in enumerate(raw, 1)]
    filled = _fill_histories(rows)
    num_filled = sum(new is not old for new, old in zip(filled, rows, strict=True))
    return RecordTable(
        path=path, rows=tuple(filled), notes=_notes(path, names, columns, num_filled)
    )


def _notes(
    path: Path, names: Sequence[str], columns: Mapping[str, str], num_filled: int
) -> tuple[str, ...]:
    """How the columns were read."""
    notes = []
    if unused := [name for name in names if name not in columns.values()]:
        notes.append(f"{path.name}: these columns are not used: {', '.join(unused)}.")
    old = set(ECOMAPPER_CLIMATE.values())
    if read := [f"{columns[name]} as {CLIMATE[name].unit}" for name in CLIMATE
                if _plain(columns.get(name, "")) in old]:  # fmt: skip
        notes.append(f"{path.name}: read as EcoMapper's values are: {', '.join(read)}.")
    if num_filled:
        notes.append(
            f"{path.name}: the climate of months before was taken from other rows of the same "
            f"place for {num_filled} rows."
        )
    return tuple(notes)


def _read_csv(path: Path) -> tuple[list[str], list[dict[str, Any]]]:
    """Columns and rows of a CSV file, as text."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            names = [name.strip() for name in next(reader, [])]
            lines = [line for line in reader if line]
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{path} is not a readable CSV file: {error}. Expected UTF-8.") from None
    for number, line in enumerate(lines, 1):
        if len(line) != len(names):
            raise DataError(
                f"{path} row {number} has {len(line)} cells, the header {len(names)}. Expected as "
                "many; put texts with commas in double quotes."
            )
    _check_names(path, names)
    return names, [dict(zip(names, line, strict=True)) for line in lines]


def _read_parquet(path: Path) -> tuple[list[str], list[dict[str, Any]]]:
    """Columns and rows of a Parquet file."""
    import pyarrow.parquet as pq
    from pyarrow import ArrowException

    try:
        table = pq.read_table(path)
    except (ArrowException, OSError) as error:
        raise DataError(f"{path} is not a readable Parquet file: {error}.") from None
    _check_names(path, table.column_names)
    return list(table.column_names), list(table.to_pylist())


def _check_names(path: Path, names: Sequence[str]) -> None:
    """Refuse a table with two columns of one name: one would hide the other."""
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise DataError(f"{path} has the column {repeated[0]!r} twice. Rename or remove one.")


def _plain(name: str) -> str:
    """A column's name without case, spaces and dashes."""
    return re.sub(r"[\s-]+", "_", name.strip().lower())


def _find_columns(names: Sequence[str]) -> dict[str, str]:
    """Column of each field that the table has."""
    plain = {_plain(name): name for name in reversed(names)}
    found = {
        field: next((plain[spelling] for spelling in spellings if spelling in plain), None)
        for field, spellings in SPELLINGS.items()
    }
    return {field: name for field, name in found.items() if name is not None}


def _read_row(
    path: Path,
    number: int,
    columns: Mapping[str, str],
    parsers: Mapping[str, Callable[[Any], Any]],
    values: Mapping[str, Any],
) -> TableRow:
    """One row, each value checked."""
    known: dict[str, Any] = {}
    for field, column in columns.items():
        try:
            known[field] = parsers[field](values[column])
        except (SchemaError, ValueError, TypeError) as error:
            raise SchemaError(f"{path} row {number}, column {column!r}: {error}") from None
    parts = [known.get(name) for name in ("source", "batch", "place")]
    series = {
        kind: {name: known[f"{name}_{kind}"] for name in CLIMATE if known.get(f"{name}_{kind}")}
        for kind in ("history", "normals")
    }
    tile = ScoredTile(
        key="",
        place=None if parts[2] is None else "/".join(part for part in parts if part),
        month=known.get("month"),
        lat=known.get("lat"),
        lon=known.get("lon"),
        land_cover=known.get("land_cover"),
        land_frac=known.get("land_frac"),
        cloud_frac=known.get("cloud_frac"),
        climate={name: known[name] for name in CLIMATE if known.get(name) is not None},
        history=series["history"],
        normals=series["normals"],
        climate_kind=known.get("climate_kind") or "observed",
        caption=known.get("caption"),
        split=known.get("split") or "unassigned",
    )
    return TableRow(
        number=number,
        image=known.get("image"),
        key=known.get("key"),
        tile=tile,
        reflectance_range=known.get("reflectance_range"),
        window_px=known.get("window_px"),
    )


def _fill_histories(rows: Sequence[TableRow]) -> list[TableRow]:
    """Rows with the climate of months before from earlier rows of their place, where absent.

    Where rows of one place and month give different values, none of them is taken.
    """
    found: dict[tuple[str, str, str, str], float | None] = {}
    for row in rows:
        tile = row.tile
        if tile.place is None or tile.month is None:
            continue
        for name, value in tile.climate.items():
            where = (tile.place, tile.climate_kind, name, tile.month)
            found[where] = value if found.get(where, value) == value else None
    return [_fill_history(row, found) for row in rows]


def _fill_history(
    row: TableRow, found: Mapping[tuple[str, str, str, str], float | None]
) -> TableRow:
    """One of them; the same object where nothing is added."""
    tile = row.tile
    if tile.place is None or tile.month is None:
        return row
    months = [_months_before(tile.month, age) for age in range(HISTORY_MONTHS, 0, -1)]
    added = {}
    for name in CLIMATE:
        if name not in tile.history:
            past = tuple(found.get((tile.place, tile.climate_kind, name, m)) for m in months)
            if any(value is not None for value in past):
                added[name] = past
    return replace(row, tile=replace(tile, history={**tile.history, **added})) if added else row


def _months_before(month: str, age: int) -> str:
    """The month ``age`` months before."""
    number = months_between("0001-01", month) - age
    return f"{1 + number // 12:04d}-{1 + number % 12:02d}"
