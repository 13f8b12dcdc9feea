"""Import trees of the EcoMapper dataset: ``<batch>/<id>/<id>_<YYYY-MM>.png`` with labels.

Labels stand in JSON beside the frame, in three generations with different keys, or in the rows of
a CSV file. Their texts call precipitation "mm" and radiation "kWh/m2" or "W/m2"; the values are
mm/day and MJ/m2/day (Sahara tiles reach 28, of which the sun gives no more than 12 in kWh). Units
are named rightly here, values are never touched.

Longer than the budget because all forms of a label, and all ways in which one can be wrong, are
handled in this one file.

Goktepe et al. (2025), EcoMapper: Generative Modeling for Climate-Aware Satellite Imagery, ICML
2025, PMLR 267; data: https://doi.org/10.14459/2025mp1767651.
"""

import csv
import json
import math
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from data_prep.quality import FLAGS, FrameReport, Inspector
from ecomap.errors import DataError, SchemaError
from ecomap.imagery import read_image
from ecomap.prompt import parse_climate_sentence
from ecomap.schema import (
    CLIMATE,
    HISTORY_MONTHS,
    MONTH_PATTERN,
    TileRecord,
    check_climate,
    make_record,
    months_between,
    parse_land_cover,
    write_dataset,
)

GROUND_SAMPLING_DISTANCE_M = 10.0
LICENSE = "CC-BY-4.0"
OWN = "ecomap"
"""Key of a label under which `data_prep.export_ecomapper` keeps what is not EcoMapper's."""
OWN_FIELDS = frozenset(
    {"ground_sampling_distance_m", "crs", "transform", "acquired", "scene_ids", "license"}
    | {"attribution", "climate_source", "climate_kind", "processing_baseline"}
)
"""Of it, what an import takes over."""
ATTRIBUTION = (
    "EcoMapper (Goktepe et al., 2025, https://doi.org/10.14459/2025mp1767651); contains modified "
    "Copernicus Sentinel data; climate: NASA POWER"
)
CALENDAR_MONTH = "NASA POWER by EcoMapper caption_3: mean of the calendar month"
TRAILING_MONTH = "NASA POWER by EcoMapper {key}: mean of about 30 days before an unstated day"
CSV_MONTH = "NASA POWER by EcoMapper CSV: mean of a window that is not stated"
CSV_CLIMATE = dict(zip(CLIMATE, ("average_temp", "average_prep", "average_rad"), strict=True))
CSV_COLUMNS = (
    *("location_id", "date", "latitude", "longitude", "type", "location_address"),
    *("cloud_coverage", *CSV_CLIMATE.values(), "img_path", "seed"),
)
CSV_BATCH = "proportional_sampled_points_seed_{seed}"
"""Folder of a CSV row's batch in EcoMapper's own layout."""
TWIN_SUFFIX = "-ms"
"""Ending of batches with other bands of the same frames (B6, B8, B11): they have no RGB."""
NAME = re.compile(r"(?P<id>[\w.-]+)_(?P<year>\d{4})[-_](?P<month>\d{2})(?:[-_]\d{2})?")
"""File name without its ending; with a day in the dataset card, without one in the dataset."""

DropReason = Literal[
    "missing_image",
    "missing_label",
    "corrupt_image",
    "corrupt_label",
    "bad_name",
    "bad_month",
    "contradicting_month",
    "bad_coordinates",
    "bad_cloud_coverage",
    "bad_climate",
    "unknown_land_cover",
    "repeated_key",
]
Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A file that could not be imported."""

    file: str
    """Relative to the tree."""
    reason: str
    detail: str


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where the frame and the label of one place and month stand, as far as they exist."""

    batch: str
    location_id: str
    month: str
    image: Path | None = None
    label: Path | None = None
    row: dict[str, str] | None = None
    """Row of a CSV file; used where there is no JSON, which knows the calendar month's climate."""

    @property
    def file(self) -> Path:
        """The file to name when something is wrong."""
        return self.image or self.label or Path(self.batch, self.location_id, self.month)


@dataclass(frozen=True, kw_only=True)
class Frame:
    """A frame that can be imported."""

    record: TileRecord
    image: Path
    report: FrameReport


@dataclass(frozen=True, kw_only=True)
class PlaceScan:
    """What one place of a tree holds."""

    frames: tuple[Frame, ...]
    failures: tuple[Failure, ...]


@dataclass(frozen=True, kw_only=True)
class ImportSummary:
    """What an import kept and what it dropped, with reasons."""

    output: Path
    kept: int
    dropped: dict[str, int]
    flags: dict[str, int]
    """Number of kept frames with each flag."""
    failures: tuple[Failure, ...]
    """Files that could not be read or believed; frames dropped for a flag are not among them."""

    @property
    def sentence(self) -> str:
        """For example ``kept 178 of 180 frames: 1 corrupt_image, 1 bad_climate``."""
        reasons = ", ".join(f"{count} {reason}" for reason, count in self.dropped.items())
        total = self.kept + sum(self.dropped.values())
        return f"kept {self.kept} of {total} frames" + (f": {reasons}" if reasons else "")

    def render(self) -> str:
        """Lines to print: the sentence, the flags of what was kept, and each failure."""
        flags = [f"  {count} {flag}" for flag, count in self.flags.items() if count]
        failures = [f"  {f.file}: {f.reason}: {f.detail}" for f in self.failures]
        return "\n".join([f"{self.output}: {self.sentence}", *flags, *failures])

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self) | {"output": str(self.output)}


class DropError(Exception):
    """One frame cannot be imported; carries the reason. Never leaves this module."""

    def __init__(self, reason: DropReason, detail: str) -> None:
        """Keep the reason, by which frames are counted, and the detail."""
        super().__init__(detail)
        self.reason = reason


def import_ecomapper(
    root: Path,
    output: Path,
    *,
    drop_flags: Collection[str] = (),
    progress: Progress | None = None,
) -> ImportSummary:
    """Make a dataset of a tree of EcoMapper tiles.

    Frames are copied by an atomic rename, and the records written last: an interrupted import
    that is run again gives the same dataset, without copying twice.

    Args:
        root: Tree of one or several batches. Folders ending in ``-ms`` are passed over.
        output: Dataset folder, outside the tree.
        drop_flags: Flags of `data_prep.quality` with which a frame is not kept; by default frames
            are dropped only if they cannot be read.
        progress: Called with (done, total) frames.

    Raises:
        DataError: If the tree has no tiles, lacks a column of its CSV, or contains ``output``.
        SchemaError: If a flag to drop does not exist.
    """
    unknown = set(drop_flags) - set(FLAGS)
    if unknown:
        raise SchemaError(f"Flags {sorted(unknown)} do not exist. Choose among {', '.join(FLAGS)}.")
    if output.resolve().is_relative_to(root.resolve()):
        raise DataError(f"{output} lies inside the tree {root}. Choose an output outside of it.")
    kept: list[TileRecord] = []
    failures: list[Failure] = []
    dropped: Counter[str] = Counter()
    for place in scan_ecomapper(root, progress=progress):
        failures += place.failures
        for frame in place.frames:
            unwanted = [flag for flag in frame.report.flags if flag in drop_flags]
            if unwanted:
                dropped[unwanted[0]] += 1
                continue
            _copy(frame.image, output / str(frame.record.image_path))
            kept.append(frame.record)
    dropped.update(failure.reason for failure in failures)
    summary = ImportSummary(
        output=output,
        kept=len(kept),
        dropped=dict(sorted(dropped.items())),
        flags={flag: sum(flag in record.flags for record in kept) for flag in FLAGS},
        failures=tuple(failures),
    )
    content = summary.to_dict() | {"license": LICENSE, "attribution": [ATTRIBUTION]}
    del content["output"]
    write_dataset(output, kept, summary=content)
    return summary


def scan_ecomapper(root: Path, *, progress: Progress | None = None) -> Iterator[PlaceScan]:
    """Read a tree place by place, without writing anything.

    Args:
        root: Tree of one or several batches.
        progress: Called with (done, total) frames.

    Raises:
        DataError: If the tree has no tiles, or lacks a column of its CSV.
    """
    sources, failures = list_sources(root)
    if not sources and not failures:
        raise DataError(
            f"{root} has no tiles. Expected files like <batch>/<id>/<id>_2017-04.png with a label "
            "of the same name (.json) or a CSV file."
        )
    if failures:
        yield PlaceScan(frames=(), failures=tuple(failures))
    inspector = Inspector()
    done = 0
    for _, group in groupby(sources, key=lambda source: (source.batch, source.location_id)):
        place = list(group)
        yield _scan_place(place, root, inspector)
        done += len(place)
        if progress:
            progress(done, len(sources))


def list_sources(root: Path) -> tuple[list[Source], list[Failure]]:
    """List the frames and labels of a tree, sorted by place and month.

    Returns:
        Sources, and what is wrong already with names.

    Raises:
        DataError: If the tree is no folder, or a CSV file lacks a column.
    """
    if not root.is_dir():
        raise DataError(f"{root} is not a folder. Expected a tree of EcoMapper tiles.")
    sources: dict[tuple[str, str, str], Source] = {}
    failures: list[Failure] = []
    tables: list[Path] = []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = sorted(name for name in subfolders if not name.endswith(TWIN_SUFFIX))
        files = [Path(folder, name) for name in sorted(names)]
        tables += [file for file in files if file.suffix == ".csv"]
        tiles = [file for file in files if file.suffix in (".png", ".json")]
        if any(NAME.fullmatch(file.stem) for file in tiles):
            _add_files(tiles, root, sources, failures)
    for table in tables:
        _add_rows(table, root, sources, failures)
    return [sources[key] for key in sorted(sources)], failures


def _add_files(
    files: list[Path],
    root: Path,
    sources: dict[tuple[str, str, str], Source],
    failures: list[Failure],
) -> None:
    """Enter the frames and labels of one folder."""
    for file in files:
        match = NAME.fullmatch(file.stem)
        if match is None:
            failures.append(_failure(file, root, "bad_name", "expected <id>_<YYYY-MM>"))
            continue
        key = (_batch(file, root), match["id"], f"{match['year']}-{match['month']}")
        source = sources.setdefault(key, Source(batch=key[0], location_id=key[1], month=key[2]))
        is_image = file.suffix == ".png"
        if (source.image if is_image else source.label) is not None:
            failures.append(_failure(file, root, "repeated_key", f"same as {source.file.name}"))
            continue
        sources[key] = replace(source, image=file) if is_image else replace(source, label=file)


def _batch(file: Path, root: Path) -> str:
    """Batch of a file ``<batch>/<id>/<file>``; the same whether or not it was given as the root."""
    folder = file.parent.parent
    if folder.is_relative_to(root) and folder != root:
        return folder.relative_to(root).as_posix()
    return folder.resolve().name


def _add_rows(
    table: Path,
    root: Path,
    sources: dict[tuple[str, str, str], Source],
    failures: list[Failure],
) -> None:
    """Enter the rows of a CSV file for frames that have no JSON. Other tables are passed over."""
    # Strange bytes must not stop a scan: the table may be another program's and be passed over.
    with table.open(newline="", encoding="utf-8-sig", errors="replace") as file:
        reader = csv.DictReader(file, restval="")
        try:
            columns = set(reader.fieldnames or ())
        except csv.Error:  # a field of unreasonable length: no table of ours
            return
        missing = [name for name in CSV_COLUMNS if name not in columns]
        if missing and not {"location_id", "img_path"} & columns:
            return
        if missing:
            raise DataError(
                f"{table} lacks the columns {', '.join(missing)}. Expected "
                f"{', '.join(CSV_COLUMNS)}."
            )
        for row in reader:
            image = _find_image(row, table, root)
            named = NAME.fullmatch(image.stem) if image else None
            stated = (row["location_id"], row["date"])
            is_sound = NAME.fullmatch("_".join(stated)) and re.fullmatch(MONTH_PATTERN, stated[1])
            if is_sound and named and stated != (named["id"], f"{named['year']}-{named['month']}"):
                where = f"{table.name} line {reader.line_num}: {image} is not of {row['date']}"
                failures.append(_failure(table, root, "contradicting_month", where))
                continue
            batch = _batch(image, root) if image else CSV_BATCH.format(seed=row["seed"])
            key = (batch, row["location_id"], row["date"])
            source = sources.get(key)
            if source is None:
                source = Source(batch=batch, location_id=key[1], month=key[2], image=image)
            if source.row is not None:
                where = f"{table.name} line {reader.line_num}"
                failures.append(_failure(source.file, root, "repeated_key", where))
                continue
            sources[key] = replace(source, row=row)


def _find_image(row: dict[str, str], table: Path, root: Path) -> Path | None:
    """Frame of a CSV row, in EcoMapper's own layout or in the tree's."""
    place = Path(row["location_id"], row["img_path"])
    batch = CSV_BATCH.format(seed=row["seed"])
    for folder in (table.parent, root):
        for path in (Path(batch) / place, Path(table.stem) / place, place, Path(row["img_path"])):
            if row["img_path"] and (folder / path).is_file():
                return folder / path
    return None


def _scan_place(place: list[Source], root: Path, inspector: Inspector) -> PlaceScan:
    """Read all labels of a place, which are each other's history, then its frames."""
    failures: list[Failure] = []
    labels: dict[str, dict[str, Any]] = {}
    shapes: dict[str, tuple[int, int]] = {}
    for source in place:
        try:
            labels[source.month] = read_label(source)
        except DropError as error:
            failures.append(_failure(source.file, root, error.reason, str(error)))
    place_id = f"{place[0].batch}/{place[0].location_id}"
    readable = {source.month: source for source in place if source.month in labels}
    for month, source in readable.items():
        try:
            image = _read_frame(source)
        except DropError as error:
            failures.append(_failure(source.file, root, error.reason, str(error)))
            continue
        shapes[month] = (image.shape[0], image.shape[1])
        inspector.add(
            place_id,
            f"{place_id}/{month}",
            image,
            cloud_frac=labels[month]["cloud_frac"],
            temperature_c=labels[month].get("temperature_c"),
        )
    reports = inspector.close(place_id)
    frames = [
        _frame(readable[month], labels, shape, reports[f"{place_id}/{month}"])
        for month, shape in shapes.items()
    ]
    return PlaceScan(frames=tuple(frames), failures=tuple(failures))


def read_label(source: Source) -> dict[str, Any]:
    """Read and check the label of a frame.

    Returns:
        Record fields that the label gives; climate is absent where the label has none.

    Raises:
        DropError: If there is no label, or it is damaged or impossible.
    """
    if source.label is not None:
        raw = _read_json(source.label)
    elif source.row is not None:
        raw = _read_row(source.row)
    else:
        raise DropError("missing_label", "no .json beside it and no row in a CSV file")
    if not re.fullmatch(r"[\w.-]+", source.location_id):
        raise DropError("bad_name", f"location_id {source.location_id!r} is no plain name")
    for month in (source.month, raw["month"]):
        if not re.fullmatch(MONTH_PATTERN, str(month)):
            raise DropError("bad_month", f"{month!r} is not a month YYYY-MM")
    if raw["month"] != source.month:
        raise DropError("contradicting_month", f"the label says {raw['month']}")
    lat, lon = (_number(raw[name], "bad_coordinates", name) for name in ("lat", "lon"))
    if abs(lat) > 90 or abs(lon) > 180:
        raise DropError("bad_coordinates", f"latitude {lat:g}, longitude {lon:g}")
    cloud_frac = _number(raw["cloud_frac"], "bad_cloud_coverage", "cloud_coverage")
    if not 0 <= cloud_frac <= 1:
        raise DropError("bad_cloud_coverage", f"{cloud_frac:g} is outside 0 to 1")
    try:
        land_cover = parse_land_cover(str(raw["land_cover"]))
    except SchemaError as error:
        raise DropError("unknown_land_cover", str(error)) from None
    state, country = split_address(raw["address"])
    return {
        "lat": lat,
        "lon": lon,
        "cloud_frac": cloud_frac,
        "land_cover": land_cover,
        "state": state,
        "country": country,
        **_check_climate(raw["climate"]),
        "climate_source": raw["climate_source"] if raw["climate"] else None,
        OWN: {key: value for key, value in raw.get("own", {}).items() if key in OWN_FIELDS},
    }


def _read_json(path: Path) -> dict[str, Any]:
    """Raw values of a label of any of the three generations."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        lat, lon = content["center_coordinates"]
        info = content.get("caption_info") or {}
        sentences = {"caption_3": content.get("caption_3")}
        sentences |= {key: info.get(key) for key in ("climate_str_1", "climate_str_2")}
        raw = {
            "month": content["date"],
            "lat": lat,
            "lon": lon,
            "cloud_frac": content["cloud_coverage"],
            "land_cover": content["type"],
            "address": info.get("location_address"),
        }
        raw["own"] = dict(content.get("ecomap") or {})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DropError("corrupt_label", f"{type(error).__name__}: {error}") from None
    key, sentence = next(((k, text) for k, text in sentences.items() if text), ("", ""))
    try:
        climate = parse_climate_sentence(str(sentence))
    except SchemaError as error:
        raise DropError("bad_climate", f"{key}: {error}") from None
    window = CALENDAR_MONTH if key == "caption_3" else TRAILING_MONTH.format(key=key)
    return raw | {"climate": climate, "climate_source": window}


def _read_row(row: dict[str, str]) -> dict[str, Any]:
    """Raw values of a CSV row; an empty climate value is not known."""
    return {
        "month": row["date"],
        "lat": row["latitude"],
        "lon": row["longitude"],
        "cloud_frac": row["cloud_coverage"],
        "land_cover": row["type"],
        "address": row["location_address"],
        "climate": {name: row[column] for name, column in CSV_CLIMATE.items() if row[column]},
        "climate_source": CSV_MONTH,
    }


def _number(value: Any, reason: DropReason, name: str) -> float:
    """A finite number, or the reason to drop the frame."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise DropError(reason, f"{name} is {value!r}, not a number")
    return number


def _check_climate(values: dict[str, Any]) -> dict[str, float]:
    """Climate values in the ranges found on Earth."""
    result = {name: _number(value, "bad_climate", name) for name, value in values.items()}
    for name, value in result.items():
        try:
            check_climate(name, value)
        except SchemaError as error:
            raise DropError("bad_climate", str(error)) from None
    return result


def split_address(address: str | None) -> tuple[str | None, str | None]:
    """State and country of ``State, Country``; the country follows the last comma."""
    if not address or address == "null":
        return None, None
    state, _, country = (part.strip() or None for part in address.rpartition(","))
    return state, country


def _read_frame(source: Source) -> NDArray[np.uint8]:
    """Pixels of a frame ``(H, W, 3)``."""
    if source.image is None:
        raise DropError("missing_image", "no .png beside the label")
    try:
        return read_image(source.image)
    except DataError as error:
        raise DropError("corrupt_image", str(error)) from None


def _frame(
    source: Source,
    labels: dict[str, dict[str, Any]],
    shape: tuple[int, int],
    report: FrameReport,
) -> Frame:
    """Record of a frame with the climate of its place."""
    label = labels[source.month]
    # No normals: those at hand are another product's, and a difference of products is no anomaly.
    series = {f"{name}_history": _history(name, source.month, labels) for name in CLIMATE}
    folder = Path("images", source.batch, source.location_id)
    assert source.image is not None  # labels without a frame were dropped before
    record = make_record(
        {key: value for key, value in label.items() if key != OWN}
        | series
        | {
            "source": "ecomapper",
            "batch": source.batch,
            "location_id": source.location_id,
            "month": source.month,
            "ground_sampling_distance_m": GROUND_SAMPLING_DISTANCE_M,
            "height_px": shape[0],
            "width_px": shape[1],
            "nodata_frac": report.nodata_frac,
            "snow_frac": report.snow_frac,
            "flags": report.flags,
            "image_path": (folder / f"{source.location_id}_{source.month}.png").as_posix(),
            "license": LICENSE,
            "attribution": ATTRIBUTION,
        }
        | label[OWN],
        where=str(source.file),
    )
    return Frame(record=record, image=source.image, report=report)


def _history(
    name: str, month: str, labels: dict[str, dict[str, Any]]
) -> tuple[float | None, ...] | None:
    """Values of the months before, oldest first; None if not one of them is known."""
    values: list[float | None] = [None] * HISTORY_MONTHS
    for other, label in labels.items():
        age = months_between(other, month)
        if 1 <= age <= HISTORY_MONTHS:
            values[HISTORY_MONTHS - age] = label.get(name)
    return tuple(values) if any(value is not None for value in values) else None


def _copy(source: Path, target: Path) -> None:
    """Copy a frame by an atomic rename, unless it is there already."""
    state = source.stat()
    if target.is_file():
        present = target.stat()
        if (present.st_size, present.st_mtime_ns) == (state.st_size, state.st_mtime_ns):
            return
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.tmp")
    shutil.copy2(source, temporary)
    temporary.replace(target)


def _failure(file: Path, root: Path, reason: DropReason, detail: str) -> Failure:
    """A failure whose file is named relative to the tree."""
    name = file.relative_to(root) if file.is_relative_to(root) else file
    return Failure(file=name.as_posix(), reason=reason, detail=detail)
