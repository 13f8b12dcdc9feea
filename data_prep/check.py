"""Look at a dataset, or at a tree that may become one: what is there and what is wrong with it.

Longer than the budget because the counts and the three ways in which they are shown (terminal,
page, contact sheet) stand together.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from rich.console import Group
from rich.table import Table

from data_prep.ecomapper import Failure, Progress, scan_ecomapper
from data_prep.quality import FLAGS, Inspector
from ecomap import page
from ecomap.errors import DataError
from ecomap.imagery import FrameReader, read_image
from ecomap.schema import CLIMATE, RECORDS_FILE, TileRecord, read_dataset, write_json

SHEET_FILE, PAGE_FILE, JSON_FILE = "contact_sheet.png", "index.html", "check.json"

CLOUD_FREE_SOURCES = frozenset({"bluemarble"})
"""Composites without cloud: bright pixels of warm months are sand and salt, not missed cloud."""

MAX_THUMBNAILS = 192
"""Frames on the contact sheet; of larger datasets an even choice, flagged frames first."""
MAX_CLEAN_SHARE = 0.25
"""Part of a full contact sheet that is kept for frames without flags, to compare with."""
SHEET_COLUMNS = 12
THUMBNAIL_PX = 120
FRAME_PX = 4
CAPTION_PX = 28
CAPTION_LETTERS = 24
MAX_LISTED = 200
"""Failures listed on the page; the JSON file has all."""

COLOURS: dict[str, str] = {
    "black": "#7f3fbf",
    "blank": "#bf3fbf",
    "white": "#3fbfff",
    "partial": "#bf7fff",
    "seam": "#ff3030",
    "duplicate": "#ffdf20",
    "cloudy": "#30a0a0",
    "unlabelled_cloud": "#30d060",
    "saturated": "#ff9020",
    "offset_suspect": "#c00060",
    "scene_unreadable": "#806040",
    "mixed_offsets": "#80a040",
    "offset_uncertain": "#a0a0e0",
    "hazy": "#a0c0c0",
}
"""Frame of a thumbnail; of several flags the one that stands first here."""
CLEAN_COLOUR = "#303030"


@dataclass(frozen=True, kw_only=True)
class CheckReport:
    """What a dataset holds. Counts are of frames."""

    path: Path
    frames: int
    places: int
    months: int
    """Number of different months of different years."""
    clean: int
    """Frames without a flag."""
    flags: dict[str, int]
    failures_by_reason: dict[str, int]
    classes: dict[str, dict[str, int]]
    """Land-cover class -> ``frames``, ``clean`` and the number with each flag."""
    climate: dict[str, dict[str, Any]]
    """Climate variable -> ``unit``, ``known`` (frames), ``minimum``, ``maximum``."""
    failures: tuple[Failure, ...]
    output: Path | None = None
    """Folder with the contact sheet, the page and the JSON file; None if nothing was written."""

    @property
    def sentence(self) -> str:
        """For example ``180 frames of 7 places: 141 without a flag; 2 unreadable``."""
        text = f"{self.frames} frames of {self.places} places: {self.clean} without a flag"
        return text + (f"; {len(self.failures)} unreadable" if self.failures else "")

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        paths = {"path": str(self.path), "output": str(self.output) if self.output else None}
        return asdict(self) | paths

    def render(self) -> Group:
        """Tables for the terminal: flags by class, failures by reason, climate."""
        tables = [_rich_table(table) for table in self.tables()]
        return Group(f"{self.path}: {self.sentence}", *tables)

    def tables(self) -> list[page.Table]:
        """The counts as tables; those that would be empty are left out."""
        used = [flag for flag in FLAGS if self.flags[flag]]
        total = {"frames": self.frames, "clean": self.clean, **self.flags}
        rows: list[list[page.Cell]] = [
            [name, *(counts[column] for column in ("frames", "clean", *used))]
            for name, counts in [*self.classes.items(), ("all", total)]
        ]
        columns = ["land cover", "frames", "no flag", *(flag.replace("_", " ") for flag in used)]
        tables = [page.Table(columns=columns, rows=rows, caption="Flags by land-cover class")]
        if self.failures_by_reason:
            caption = "Files that cannot be used"
            reasons: list[list[page.Cell]] = [
                [reason, count] for reason, count in self.failures_by_reason.items()
            ]
            tables.append(page.Table(columns=["reason", "files"], rows=reasons, caption=caption))
        climate = [
            [CLIMATE[name].label, v["unit"], v["known"], v["minimum"], v["maximum"]]
            for name, v in self.climate.items()
        ]
        columns = ["climate of the month", "unit", "frames", "minimum", "maximum"]
        return [*tables, page.Table(columns=columns, rows=climate, caption="Climate values")]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One frame on its way into the counts."""

    record: TileRecord
    flags: tuple[str, ...]
    read: Callable[[], NDArray[np.uint8]]
    """Reads the pixels again; they are not kept."""


@dataclass
class _Tally:
    """Counts that grow frame by frame."""

    frames: int = 0
    clean: int = 0
    flags: Counter[str] = field(default_factory=Counter)
    classes: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    places: set[str] = field(default_factory=set)
    months: set[str] = field(default_factory=set)
    values: dict[str, list[float]] = field(default_factory=dict)
    """Number of known values, smallest, largest."""

    def add(self, entry: Entry) -> None:
        """Count one frame."""
        record = entry.record
        marks = ["frames", *(entry.flags or ["clean"])]
        self.frames += 1
        self.clean += not entry.flags
        self.flags.update(entry.flags)
        self.classes[record.land_cover.label if record.land_cover else "unknown"].update(marks)
        self.places.add(record.place_id)
        self.months.add(record.month)
        for name in CLIMATE:
            value = getattr(record, name)
            if value is not None:
                known, low, high = self.values.get(name, [0, value, value])
                self.values[name] = [known + 1, min(low, value), max(high, value)]


class EvenSample:
    """An even choice from a stream of unknown length, in bounded memory."""

    def __init__(self, size: int) -> None:
        """Keep at least ``size`` entries, where there are as many, and less than twice as many."""
        self._size = size
        self._stride = 1
        self._seen = 0
        self._kept: list[Entry] = []

    def add(self, entry: Entry) -> None:
        """See one more."""
        if self._seen % self._stride == 0:
            self._kept.append(entry)
        self._seen += 1
        if len(self._kept) >= 2 * self._size:
            del self._kept[1::2]
            self._stride *= 2

    def __len__(self) -> int:
        """Number of entries kept."""
        return len(self._kept)

    def take(self, num: int) -> list[Entry]:
        """At most ``num`` entries, evenly spaced."""
        num = min(num, len(self._kept))
        return [self._kept[index * len(self._kept) // num] for index in range(num)]


def choose_entries(flagged: EvenSample, clean: EvenSample) -> list[Entry]:
    """Choose what the contact sheet shows: flagged frames first, clean ones to compare with."""
    num_clean = min(len(clean), int(MAX_THUMBNAILS * MAX_CLEAN_SHARE))
    chosen = flagged.take(MAX_THUMBNAILS - num_clean)
    chosen += clean.take(MAX_THUMBNAILS - len(chosen))
    return sorted(chosen, key=lambda entry: entry.record.tile_id)


def check_dataset(
    path: Path, output: Path | None = None, *, progress: Progress | None = None
) -> CheckReport:
    """Inspect every frame of a dataset and count what is there.

    Args:
        path: Dataset folder, or a raw EcoMapper tree, which is read without importing it.
        output: Folder for the contact sheet, the page and the JSON file; None writes nothing.
        progress: Called with (done, total) frames.

    Raises:
        DataError: If there is neither a dataset nor a tile at ``path``, or its table is damaged.
        SchemaError: If a record of the dataset breaks the contract.
    """
    if not path.exists():
        raise DataError(f"{path} does not exist. Expected a dataset folder or an EcoMapper tree.")
    is_dataset = path.is_file() or (path / RECORDS_FILE).is_file()
    tally, failures = _Tally(), list[Failure]()
    flagged, clean = EvenSample(MAX_THUMBNAILS), EvenSample(MAX_THUMBNAILS)
    for item in _check_records(path, progress) if is_dataset else _check_tree(path, progress):
        if isinstance(item, Failure):
            failures.append(item)
        else:
            tally.add(item)
            (flagged if item.flags else clean).add(item)
    report = _report(path, output, tally, failures)
    if output is not None:
        _write(report, output, choose_entries(flagged, clean))
    return report


def _check_tree(root: Path, progress: Progress | None) -> Iterator[Entry | Failure]:
    """Entries of a raw EcoMapper tree."""
    for place in scan_ecomapper(root, progress=progress):
        yield from place.failures
        for frame in place.frames:
            yield Entry(
                record=frame.record,
                flags=frame.record.flags,
                read=partial(read_image, frame.image),
            )


def _check_records(path: Path, progress: Progress | None) -> Iterator[Entry | Failure]:
    """Entries of a dataset, with the flags of its records and those found now."""
    records = read_dataset(path)
    folder = path.parent if path.is_file() else path
    reader = FrameReader(folder)
    inspector = Inspector()
    places: dict[str, list[TileRecord]] = defaultdict(list)
    # Windows of one mosaic follow each other, so that each mosaic is decoded once.
    order = sorted(records, key=lambda r: ((r.window_px and r.image_path) or "", r.tile_id))
    for index, record in enumerate(order):
        try:
            image = reader.read(record)
        except DataError as error:
            is_there = bool(record.image_path) and (folder / str(record.image_path)).is_file()
            reason = "corrupt_image" if is_there else "missing_image"
            yield Failure(file=record.tile_id, reason=reason, detail=str(error))
            continue
        finally:
            if progress:
                progress(index + 1, len(order))
        inspector.add(
            record.place_id,
            record.tile_id,
            image,
            cloud_frac=None if record.source in CLOUD_FREE_SOURCES else record.cloud_frac,
            temperature_c=record.temperature_c,
        )
        places[record.place_id].append(record)
    for place_id, members in places.items():
        reports = inspector.close(place_id)
        for record in members:
            flags = tuple(sorted({*record.flags, *reports[record.tile_id].flags}))
            yield Entry(record=record, flags=flags, read=partial(reader.read, record))


def _report(path: Path, output: Path | None, tally: _Tally, failures: list[Failure]) -> CheckReport:
    """The counts as they are shown: everything sorted, absent flags as 0."""
    columns = ("frames", "clean", *FLAGS)
    known = {name: tally.values.get(name, [0, None, None]) for name in CLIMATE}
    return CheckReport(
        path=path,
        frames=tally.frames,
        places=len(tally.places),
        months=len(tally.months),
        clean=tally.clean,
        flags={flag: tally.flags[flag] for flag in FLAGS},
        failures_by_reason=dict(sorted(Counter(f.reason for f in failures).items())),
        classes={
            name: {column: counts[column] for column in columns}
            for name, counts in sorted(tally.classes.items())
        },
        climate={
            name: {"unit": CLIMATE[name].unit, "known": count, "minimum": low, "maximum": high}
            for name, (count, low, high) in known.items()
        },
        failures=tuple(failures),
        output=output,
    )


def draw_sheet(entries: Sequence[Entry]) -> Image.Image:
    """Draw thumbnails with the month and the flags under each, framed in the colour of a flag.

    Args:
        entries: Frames to show, in this order; at least one.
    """
    width, height = THUMBNAIL_PX + 2 * FRAME_PX, THUMBNAIL_PX + 2 * FRAME_PX + CAPTION_PX
    columns = min(SHEET_COLUMNS, len(entries))
    sheet = Image.new("RGB", (columns * width, -(-len(entries) // columns) * height), "black")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(10)
    for index, entry in enumerate(entries):
        left, top = index % columns * width, index // columns * height
        image = Image.fromarray(entry.read())
        image.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.BOX)
        box = (left, top, left + width - 1, top + width - 1)
        draw.rectangle(box, fill=flag_colour(entry.flags))
        sheet.paste(image, (left + FRAME_PX, top + FRAME_PX))
        words = " ".join(flag.replace("_", " ") for flag in entry.flags)
        title = f"{entry.record.location_id}  {entry.record.month}"
        draw.text((left + FRAME_PX, top + width), title, fill="white", font=font)
        draw.text((left + FRAME_PX, top + width + 12), _cut(words), fill="#ffd080", font=font)
    return sheet


def flag_colour(flags: Collection[str]) -> str:
    """Colour of the most serious of some flags."""
    return next((colour for flag, colour in COLOURS.items() if flag in flags), CLEAN_COLOUR)


def _cut(text: str) -> str:
    """Text that fits under a thumbnail."""
    return text if len(text) <= CAPTION_LETTERS else text[: CAPTION_LETTERS - 1] + "…"


def _write(report: CheckReport, output: Path, entries: Sequence[Entry]) -> None:
    """Write the contact sheet, the page and the JSON file."""
    output.mkdir(parents=True, exist_ok=True)
    figures = []
    if entries:
        temporary = output / f".{SHEET_FILE}.tmp"
        draw_sheet(entries).save(temporary, "PNG")
        temporary.replace(output / SHEET_FILE)
        caption = f"{len(entries)} of {report.frames} frames. A coloured frame marks a flag."
        figure = page.Figure(caption=caption, png=output / SHEET_FILE, alt="Thumbnails of frames")
        figures.append(figure)
    sections = [page.Section(heading="Counts", text=report.sentence + ".", tables=report.tables())]
    if report.failures:
        rows = [[f.file, f.reason, f.detail] for f in report.failures[:MAX_LISTED]]
        table = page.Table(columns=["file", "reason", "detail"], rows=rows)
        text = f"The first {len(rows)} of {len(report.failures)}; {JSON_FILE} has all."
        sections.append(page.Section(heading="Unreadable files", text=text, tables=[table]))
    sections.append(page.Section(heading="Frames", figures=figures))
    page.write_page(output / PAGE_FILE, f"Data check: {report.path.name}", sections)
    write_json(output / JSON_FILE, report.to_dict())


def _rich_table(table: page.Table) -> Table:
    """A table for the terminal."""
    result = Table(title=table.caption, title_justify="left")
    for index, column in enumerate(table.columns):
        result.add_column(column, justify="right" if index else "left")
    for row in table.rows:
        result.add_row(*(_show(cell) for cell in row))
    return result


def _show(cell: page.Cell) -> str:
    """Text of a cell."""
    if cell is None:
        return page.UNKNOWN
    return f"{cell:.2f}" if isinstance(cell, float) else str(cell)
