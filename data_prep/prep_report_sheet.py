"""The contact sheet of a dataset's report: a few frames of each class, however many there are."""

import io
from collections.abc import Sequence
from functools import partial
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from data_prep.check import FRAME_PX, THUMBNAIL_PX, Entry, EvenSample, draw_sheet
from data_prep.ecomapper import Failure, Progress
from data_prep.export_files import by_mosaic
from data_prep.prep_report_counts import class_of
from ecomap.errors import DataError
from ecomap.imagery import FrameReader
from ecomap.schema import TileRecord

SHEET_FRAMES, SHEET_COLUMNS = 48, 6
HEADING_PX = 13
LAST = 99
"""Sorts tiles of unknown class behind all codes."""


def read_entries(
    folder: Path, records: Sequence[TileRecord], progress: Progress | None
) -> tuple[list[Entry], list[Failure]]:
    """Read an even choice of the frames of each class, as thumbnails.

    Args:
        folder: Dataset folder.
        records: All of its records.
        progress: Called with (done, total) chosen frames.

    Returns:
        Frames by class and place, and those that cannot be read.
    """
    reader = FrameReader(folder)
    chosen = _choose(records)
    found: dict[str, NDArray[np.uint8]] = {}
    failures: list[Failure] = []
    for index, record in enumerate(by_mosaic(chosen)):
        try:
            found[record.tile_id] = _thumbnail(reader.read(record))
        except DataError as error:
            failures.append(Failure(file=record.tile_id, reason="unreadable", detail=str(error)))
        finally:
            if progress:
                progress(index + 1, len(chosen))
    entries = [
        Entry(record=record, flags=record.flags, read=partial(found.__getitem__, record.tile_id))
        for record in chosen
        if record.tile_id in found
    ]
    return entries, failures


def _choose(records: Sequence[TileRecord]) -> list[TileRecord]:
    """An even choice of each class, by class; rare classes are not lost among common ones."""
    groups: dict[str, EvenSample] = {}
    order = sorted(records, key=lambda record: (record.land_cover or LAST, record.tile_id))
    for record in order:
        sample = groups.setdefault(class_of(record), EvenSample(SHEET_FRAMES))
        sample.add(Entry(record=record, flags=record.flags, read=_not_read))
    left, chosen = SHEET_FRAMES, dict[str, int]()
    for done, (name, sample) in enumerate(sorted(groups.items(), key=lambda item: len(item[1]))):
        share = left // (len(groups) - done)  # small classes go first and leave theirs to others
        whole_rows = share - share % SHEET_COLUMNS
        chosen[name] = min(len(sample), whole_rows or max(share, 1))
        left -= chosen[name]
    return [entry.record for name, s in groups.items() for entry in s.take(chosen[name])]


def _not_read() -> NDArray[np.uint8]:
    raise AssertionError("frames are read after they have been chosen")


def draw_rows(entries: Sequence[Entry]) -> bytes:
    """Draw a contact sheet as PNG: rows under the name of their class.

    There are few frames a row, so that captions can be read on a page.

    Args:
        entries: Frames, those of one class together; at least one.
    """
    parts: list[Image.Image] = []
    for name, group in groupby(entries, key=lambda entry: class_of(entry.record)):
        frames = list(group)
        parts.append(_heading(name))
        parts += [
            draw_sheet(frames[start : start + SHEET_COLUMNS])
            for start in range(0, len(frames), SHEET_COLUMNS)
        ]
    width = max(part.width for part in parts)
    sheet = Image.new("RGB", (width, sum(part.height for part in parts)), "black")
    top = 0
    for part in parts:
        sheet.paste(part, (0, top))
        top += part.height
    return _png(sheet)


def _heading(text: str) -> Image.Image:
    """Name of a class over its rows."""
    font = ImageFont.load_default(HEADING_PX)
    size = (int(font.getlength(text)) + 2 * FRAME_PX, 2 * HEADING_PX)
    strip = Image.new("RGB", size, "black")
    ImageDraw.Draw(strip).text((FRAME_PX, HEADING_PX // 2), text, fill="white", font=font)
    return strip


def _thumbnail(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A frame of the size of the sheet; small ones are enlarged by repeating pixels."""
    factor = -(-THUMBNAIL_PX // max(image.shape[:2]))
    picture = Image.fromarray(image.repeat(factor, axis=0).repeat(factor, axis=1))
    picture.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.BOX)
    return np.asarray(picture)


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
