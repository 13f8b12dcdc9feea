"""What a folder of images holds, and what its records, table or provenance say of each image."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ecomap.errors import DataError
from ecomap.generated_images import find_generated
from ecomap.image_decoding import IMAGE_SUFFIXES, Size
from ecomap.image_files import ImageFile, plain_stem
from ecomap.record_tables import TABLE_SUFFIXES, TableRow, read_table
from ecomap.schema import RECORDS_FILE, SUMMARY_FILE, TileRecord, read_dataset
from ecomap.tiles import ScoredTile, tile_of

OTHER_IMAGES = frozenset({".bmp", ".gif", ".jp2", ".npy", ".webp"})
"""Images that are not read, and are told in a note."""

NO_IMAGE = "row without image"
NO_ROW = "image without row"
NO_RECORD = "image without record"
AMBIGUOUS = "row whose image may be one of several"


@dataclass(frozen=True, kw_only=True)
class Entries:
    """Images of a folder and what is known of them, in the same order."""

    tiles: Sequence[ScoredTile]
    files: Sequence[ImageFile]
    names: Sequence[str]
    """Path of each file, relative to the folder."""
    description: str
    sizes: Sequence[Size] | None = None
    """Size of each image where records state it."""
    notes: tuple[str, ...] = ()
    dropped: dict[str, list[str]] = field(default_factory=dict)


def find_entries(path: Path, *, masks: Path | None = None) -> Entries:
    """Find the images of a folder in whichever of its forms it is; see `open_image_set`.

    Args:
        path: Folder, or a table in it.
        masks: Folder whose pictures are no images of the set, though it may lie inside.

    Raises:
        DataError: If there are no images, or the table cannot be used.
        SchemaError: If a record or row is impossible.
    """
    if path.is_file() and path.suffix.lower() not in TABLE_SUFFIXES:
        raise DataError(f"{path} is a single file. Expected a folder of images, or its table.")
    folder = path.parent if path.is_file() else path
    if _is_dataset(path if path.is_file() else folder / RECORDS_FILE):
        return _dataset_entries(folder, read_dataset(path))
    images, others = _list_files(folder, masks)
    table = path if path.is_file() else _find_table(folder)
    if not images:
        raise DataError(
            f"{folder} has no images. Expected {', '.join(sorted(IMAGE_SUFFIXES))} files in it or "
            "in its subfolders."
        )
    if table is not None:
        found = _table_entries(folder, images, table)
    else:
        found = _generated_entries(folder, images) or _plain_entries(folder, images)
    return replace(found, notes=(*found.notes, *_notes_of_others(folder, others, table)))


def _is_dataset(table: Path) -> bool:
    """Whether a file holds records that keep the contract, or stands beside their summary."""
    import pyarrow.parquet as pq
    from pyarrow import ArrowException

    if table.suffix.lower() != ".parquet" or not table.is_file():
        return False
    if table.name == RECORDS_FILE and (table.parent / SUMMARY_FILE).is_file():
        return True
    try:
        names = set(pq.read_schema(table).names)
    except (ArrowException, OSError):
        return False  # the table is named when it is read
    return {name for name, f in TileRecord.model_fields.items() if f.is_required()} <= names


def _dataset_entries(folder: Path, records: Sequence[TileRecord]) -> Entries:
    """Images of a dataset's records."""
    paths: dict[str, Path] = {}
    exists: dict[str, bool] = {}
    kept: list[TileRecord] = []
    dropped: dict[str, list[str]] = {}
    for record in records:
        name = record.image_path
        if name is not None and name not in paths:
            paths[name] = folder / name
            exists[name] = paths[name].is_file()
        if name is None or not exists[name]:
            dropped.setdefault(NO_IMAGE, []).append(record.tile_id)
        else:
            kept.append(record)
    if not kept:
        raise DataError(
            f"{folder} has {len(records)} records and no image of any. Restore the images that "
            "they name, or import the dataset again."
        )
    files = [
        ImageFile(
            path=paths[str(record.image_path)],
            bands=record.bands,
            reflectance_range=record.reflectance_range,
            window_px=record.window_px,
            black_is_nodata=bool(record.nodata_frac),
        )
        for record in kept
    ]
    return Entries(
        tiles=[tile_of(record) for record in kept],
        files=files,
        names=[str(record.image_path) for record in kept],
        description=f"dataset {folder}",
        sizes=[(record.height_px, record.width_px) for record in kept],
        dropped=dropped,
    )


def _list_files(folder: Path, masks: Path | None) -> tuple[list[str], list[str]]:
    """Images and all other files of a folder, relative to it, sorted; hidden ones left out."""
    images: list[str] = []
    others: list[str] = []
    for parent, subfolders, names in os.walk(folder):
        subfolders[:] = sorted(
            name for name in subfolders
            if not name.startswith(".") and not (masks and (Path(parent) / name).samefile(masks))
        )  # fmt: skip
        for name in sorted(name for name in names if not name.startswith(".")):
            file = (Path(parent) / name).relative_to(folder)
            is_image = file.suffix.lower() in IMAGE_SUFFIXES
            (images if is_image else others).append(file.as_posix())
    return sorted(images), sorted(others)


def _notes_of_others(folder: Path, others: Sequence[str], table: Path | None) -> list[str]:
    """What lies beside the images and was not read."""
    notes = []
    suffixes = Counter(Path(name).suffix.lower() for name in others)
    if unread := {suffix: suffixes[suffix] for suffix in sorted(OTHER_IMAGES) if suffixes[suffix]}:
        texts = ", ".join(f"{number} {suffix}" for suffix, number in unread.items())
        notes.append(f"Images of other formats are not read: {texts}.")
    tables = [name for name in others if Path(name).suffix.lower() in TABLE_SUFFIXES]
    if unused := [name for name in tables if table is None or folder / name != table]:
        notes.append(f"Other tables are not read: {', '.join(unused[:5])}.")
    return notes


def _find_table(folder: Path) -> Path | None:
    """The table at the top of a folder: ``records``, or the only one."""
    tables = [
        file
        for file in sorted(folder.iterdir())
        if file.suffix.lower() in TABLE_SUFFIXES and not file.name.startswith(".")
    ]
    tables = [file for file in tables if file.stem == Path(RECORDS_FILE).stem] or tables
    if len(tables) > 1:
        raise DataError(
            f"{folder} has the tables {', '.join(file.name for file in tables)}. Expected one; "
            f"name the one that describes the images, such as {tables[0]}."
        )
    return tables[0] if tables else None


def _table_entries(folder: Path, images: Sequence[str], path: Path) -> Entries:
    """Images that the rows of a table name."""
    table = read_table(path)
    index = _ImageIndex(images)
    matched: dict[tuple[str, object], TableRow] = {}
    dropped: dict[str, list[str]] = {}
    for row in table.rows:
        found = index.find(row, folder)
        if len(found) != 1:
            reason = AMBIGUOUS if found else NO_IMAGE
            what = row.image or row.key or "no name"
            dropped.setdefault(reason, []).append(f"row {row.number}: {what}")
            continue
        other = matched.setdefault((found[0], row.window_px), row)
        if other is not row:
            raise DataError(
                f"{path} rows {other.number} and {row.number} name the same image {found[0]}. "
                "Expected one row for each image."
            )
    if not matched:
        raise DataError(
            f"{path} has {len(table.rows)} rows and names none of the {len(images)} images in "
            f"{folder}, such as {images[0]}. Expected paths relative to the folder."
        )
    names = [name for name, _ in matched]
    if left := sorted(set(images) - set(names)):
        dropped[NO_ROW] = left
    pairs = list(zip(names, matched.values(), strict=True))
    return Entries(
        tiles=[replace(row.tile, key=row.key or plain_stem(name)) for name, row in pairs],
        files=[
            ImageFile(
                path=folder / name, reflectance_range=row.reflectance_range, window_px=row.window_px
            )
            for name, row in pairs
        ],
        names=names,
        description=f"images of {folder} with {path.name}",
        notes=table.notes,
        dropped=dropped,
    )


class _ImageIndex:
    """Images of a folder by the names that a table may give them."""

    def __init__(self, images: Sequence[str]) -> None:
        self.images = frozenset(images)
        self.by_stem: dict[str, list[str]] = {}
        self.by_name: dict[str, list[str]] = {}
        for image in images:
            stem = plain_stem(image)
            self.by_stem.setdefault(stem, []).append(image)
            self.by_name.setdefault(Path(stem).name, []).append(image)

    def find(self, row: TableRow, folder: Path) -> list[str]:
        """Images that a row may mean, best first: by path, path without suffix, or file name."""
        name = row.image if row.image is not None else row.key
        if name is None:
            return []
        name = Path(name.replace("\\", "/")).as_posix()
        if Path(name).is_relative_to(folder):
            name = Path(name).relative_to(folder).as_posix()
        if name in self.images:
            return [name]
        stem = plain_stem(name)
        of_place = f"{row.tile.place}/{stem}"
        return (
            self.by_stem.get(stem)
            or self.by_stem.get(of_place)
            or self.by_name.get(Path(stem).name, [])
        )


def _generated_entries(folder: Path, images: Sequence[str]) -> Entries | None:
    """Images that `ecomap generate` wrote; ``None`` if there are none."""
    found = find_generated(folder, images)
    if found is None:
        return None
    return Entries(
        tiles=found.tiles,
        files=[ImageFile(path=folder / name) for name in found.names],
        names=found.names,
        description=f"images that ecomap generated in {folder}",
        notes=found.notes,
        dropped={NO_RECORD: list(found.left)} if found.left else {},
    )


def _plain_entries(folder: Path, images: Sequence[str]) -> Entries:
    """Images of which only names are known."""
    notes = []
    labelled = sum((folder / name).with_suffix(".json").is_file() for name in images)
    if labelled:
        notes.append(
            f"{labelled} of {len(images)} images have a JSON file beside them that 'ecomap "
            "generate' did not write; it is not read. Import EcoMapper's tree with 'ecomap data "
            "import ecomapper'."
        )
    return Entries(
        tiles=[ScoredTile(key=plain_stem(name)) for name in images],
        files=[ImageFile(path=folder / name) for name in images],
        names=images,
        description=f"images of {folder}, known by their names only",
        notes=tuple(notes),
    )
