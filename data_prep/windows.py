"""Windows of a dataset's frames as a dataset of their own: small images at full resolution.

A window is a place of its own with the climate, the class and the split of its tile. Frames are
linked into the new folder where the file system can, else copied; no pixel is written again.
"""

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.check import CLOUD_FREE_SOURCES
from data_prep.ecomapper import Failure
from data_prep.export_files import Frames
from data_prep.quality import FLAGS, FrameReport, Inspector, nodata_flags
from data_prep.splits import leakage_report
from data_prep.window_records import WindowGrid, window_of
from ecomap.errors import DataError, RequestError
from ecomap.schema import TileRecord, read_dataset, read_summary, unique, write_dataset

LAND_COVER_NOTE = (
    "Land cover is the majority class of the tile that a window was cut from; its fraction is not "
    "known for windows."
)
CLOUD_NOTE = (
    "Windows of tiles with some cloud have no cloud fraction of their own; their flags go by the "
    "tile's."
)
REMAINDER_NOTE = "{frac:.1%} of the pixels lie beyond the last whole window and are left out."


@dataclass(frozen=True, kw_only=True)
class WindowsSummary:
    """What was cut, and what was left out with reasons."""

    output: Path
    tiles: int
    """Tiles that were cut."""
    kept: int
    """Windows, black ones too."""
    places: int
    dropped: dict[str, int]
    """Tiles without a window, by reason."""
    failures: tuple[Failure, ...]
    flags: dict[str, int]
    """Windows by flag (`data_prep.quality`)."""
    report: dict[str, Any]
    """`data_prep.splits.leakage_report`."""
    notes: list[str]
    """What the reader must know."""

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self) | {"output": str(self.output)}


def cut_windows(
    folder: Path,
    output: Path,
    *,
    size_px: int,
    stride_px: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> WindowsSummary:
    """Make a dataset of the windows of another.

    Args:
        folder: Dataset folder.
        output: Dataset folder to write; complete without the other one.
        size_px: Side of a window.
        stride_px: Distance between neighbouring windows; by default ``size_px``, so that they
            touch. What does not fill a window at the right and lower border is left out.
        progress: Called with (done, total) tiles.

    Raises:
        RequestError: If the sizes make no sense, or both folders are the same.
        DataError: If no tile gives a window, or a frame lies outside its folder.
        SchemaError: If a record of the dataset breaks the contract.
    """
    grid = WindowGrid(size_px, size_px if stride_px is None else stride_px)
    if folder.resolve() == output.resolve():
        raise RequestError(f"{output} is the dataset itself; choose another folder for windows.")
    records = read_dataset(folder)
    fitting = [r for r in records if min(r.width_px, r.height_px) >= size_px]
    windows, failures = list[TileRecord](), list[Failure]()
    for item in _windows(Frames(folder), fitting, grid, progress):
        if isinstance(item, Failure):
            failures.append(item)
        else:
            windows.append(item)
    if not windows:
        raise DataError(
            f"None of the {len(records)} tiles of {folder} gives a window of {size_px} px: "
            f"{len(records) - len(fitting)} are smaller, {len(failures)} cannot be read. Choose a "
            "smaller size_px, or restore the frames."
        )
    summary = _summarise(output, records, windows, failures, grid)
    for path in sorted({str(window.image_path) for window in windows}):
        _link(folder, output, path)
    content = summary.to_dict() | {"split": {"report": summary.report}, "windows": asdict(grid)}
    del content["output"], content["report"]
    terms = {k: v for k, v in read_summary(folder).items() if k in ("license", "attribution")}
    write_dataset(output, windows, summary=content | terms)
    return summary


def _windows(
    frames: Frames,
    records: Sequence[TileRecord],
    grid: WindowGrid,
    progress: Callable[[int, int], None] | None,
) -> Iterator[TileRecord | Failure]:
    """All windows with what their pixels show, and the tiles that cannot be read.

    Months of a place follow each other, since copies and seams are sought among them; tiles of
    mosaics are all taken together, mosaic by mosaic, so that each is decoded once.
    """
    inspector, done = Inspector(), 0

    def group_of(record: TileRecord) -> str:
        return "" if record.window_px else record.place_id

    order = sorted(records, key=lambda r: (group_of(r), r.image_path or "", r.tile_id))
    for _, members in groupby(order, key=group_of):
        windows = list[TileRecord]()
        for record in members:
            image = frames.read(record)
            if isinstance(image, Failure):
                yield image
            else:
                windows += _inspect(inspector, record, image, grid)
            done += 1
            if progress:
                progress(done, len(order))
        reports = dict[str, FrameReport]()
        for place_id in unique(window.place_id for window in windows):
            reports |= inspector.close(place_id)
        yield from (_with_report(window, reports[window.tile_id]) for window in windows)


def _inspect(
    inspector: Inspector, record: TileRecord, image: NDArray[np.uint8], grid: WindowGrid
) -> list[TileRecord]:
    """Windows of a tile; their pixels are handed to the inspector."""
    cloud_frac = None if record.source in CLOUD_FREE_SOURCES else record.cloud_frac
    windows = []
    for row, column in grid.cells(record):
        window = window_of(record, row, column, grid)
        top, left = row * grid.stride_px, column * grid.stride_px
        pixels = image[top : top + grid.size_px, left : left + grid.size_px]
        inspector.add(
            window.place_id,
            window.tile_id,
            pixels,
            cloud_frac=cloud_frac,
            temperature_c=record.temperature_c,
        )
        is_exact = record.reflectance_range is not None  # such frames are black where data misses
        missing = round(float((pixels.max(axis=-1) == 0).mean()), 4) if is_exact else None
        windows.append(window.model_copy(update={"nodata_frac": missing}))
    return windows


def _with_report(window: TileRecord, report: FrameReport) -> TileRecord:
    """A window with its fractions and flags. Missing data is guessed where it is not known."""
    flags = {*window.flags, *report.flags}
    missing = window.nodata_frac
    if missing is None:
        missing = round(report.nodata_frac, 4)
    else:
        flags = (flags - {"black", "partial"}) | {*nodata_flags(missing)}
    update = {
        "nodata_frac": missing,
        "snow_frac": round(report.snow_frac, 4),
        "flags": tuple(sorted(flags)),
    }
    return window.model_copy(update=update)


def _summarise(
    output: Path,
    records: Sequence[TileRecord],
    windows: Sequence[TileRecord],
    failures: Sequence[Failure],
    grid: WindowGrid,
) -> WindowsSummary:
    """Counts of what was cut."""
    flags = Counter(flag for window in windows for flag in window.flags)
    fitting = [r for r in records if min(r.width_px, r.height_px) >= grid.size_px]
    dropped = Counter(failure.reason for failure in failures)
    if len(fitting) < len(records):
        dropped["smaller_than_a_window"] = len(records) - len(fitting)
    covered = sum(grid.covered(r.height_px) * grid.covered(r.width_px) for r in fitting)
    left_out = 1 - covered / sum(r.height_px * r.width_px for r in fitting)
    notes = [LAND_COVER_NOTE] if any(w.land_cover is not None for w in windows) else []
    if any(r.cloud_frac not in (None, 0, 1) for r in fitting):
        notes.append(CLOUD_NOTE)
    if left_out:
        notes.append(REMAINDER_NOTE.format(frac=left_out))
    return WindowsSummary(
        output=output,
        tiles=len(fitting) - len(failures),
        kept=len(windows),
        places=len({window.place_id for window in windows}),
        dropped=dict(sorted(dropped.items())),
        failures=tuple(failures),
        flags={flag: flags[flag] for flag in FLAGS},
        report=leakage_report(windows),
        notes=notes,
    )


def _link(folder: Path, output: Path, path: str) -> None:
    """Put a frame into the new folder: as a link to the same file where that is possible."""
    parts = PurePosixPath(path)
    if parts.is_absolute() or ".." in parts.parts:
        raise DataError(
            f"The frame {path} lies outside {folder}. Expected a path inside the dataset; import "
            "it again."
        )
    source, target = (folder / path).resolve(), output / path
    if target.is_file() and target.samefile(source):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:  # another file system, or one without links
        shutil.copy2(source, temporary)
    temporary.replace(target)
