"""Windows of frames, each with a key made of all that decides its pixels."""

import hashlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import Progress

from ecomap.errors import DataError
from ecomap.frame_variants import Place, Variants, cut, place_of, window_size
from ecomap.imagery import FrameReader
from ecomap.kept_rows import key_of
from ecomap.schema import TileRecord

SIZE_STEP_PX = 16
"""Sides of windows are multiples of it: a latent cell is 8 px, and the transformer's patch 2."""


@dataclass(frozen=True)
class Window:
    """One variant of one record."""

    record: TileRecord
    place: Place
    size: tuple[int, int]
    """Height and width, pixels."""
    key: str
    """Hash of sample, content of the file, part of it, how it is shown, and place."""

    def read(self, reader: FrameReader) -> np.ndarray:
        """Its pixels, uint8 ``(*size, 3)``.

        Raises:
            DataError: As `FrameReader.read`.
        """
        return cut(reader.read(self.record), self.place, self.size)


def list_windows(
    records: Sequence[TileRecord],
    folder: Path,
    variants: Variants,
    *,
    progress: Progress | None = None,
) -> list[Window]:
    """All variants of records, the variants of one side by side; every file is read for its hash.

    Args:
        records: Records whose windows have one size.
        folder: Dataset folder.
        variants: Windows and flips of each record.
        progress: Shows how far it is.

    Raises:
        DataError: If windows have several sizes, a size that has no latents, or leave their
            tiles; or a file is missing.
    """
    size = _one_size(records, folder, variants)
    for record in records:
        if record.image_path is None:
            raise DataError(f"{record.tile_id} has no image_path; there is no frame to read.")
    names = list(dict.fromkeys(str(record.image_path) for record in records))
    found = file_digests([folder / name for name in names], progress=progress)
    digests = dict(zip(names, found, strict=True))
    windows = []
    for record in records:
        content = digests[str(record.image_path)]
        known = [record.tile_id, content, record.window_px, record.reflectance_range]
        for variant in range(variants.count):
            place = place_of(record, variant, variants)
            windows.append(Window(record, place, size, key_of([*known, place])))
    return windows


def file_order(windows: Sequence[Window]) -> list[int]:
    """Numbers of windows in the order of their files, in which each file is decoded once."""
    return sorted(range(len(windows)), key=lambda i: (windows[i].record.image_path or "", i))


def file_digests(paths: Iterable[Path], *, progress: Progress | None = None) -> list[str]:
    """SHA-256 of the content of each file.

    Raises:
        DataError: If one cannot be read.
    """
    digests: list[str] = []
    try:
        states = [(path, path.stat()) for path in paths]
        with ThreadPoolExecutor() as pool:  # hashing lets other threads run
            found = pool.map(lambda s: _digest(s[0], s[1].st_size, s[1].st_mtime_ns), states)
            if progress is None:
                return list(found)
            for digest in progress.track(found, total=len(states), task_id=_task(progress)):
                digests.append(digest)
    except OSError as error:
        raise DataError(
            f"{error.filename} cannot be read: {error.strerror}. The dataset names it; restore it "
            "or import again."
        ) from None
    return digests


def _task(progress: Progress) -> Any:
    return progress.add_task("reading files", loss=float("nan"))


@lru_cache(maxsize=1 << 20)
def _digest(path: Path, size: int, mtime_ns: int) -> str:
    """Hash of a file, made once in a process as long as its size and time stay."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _one_size(records: Sequence[TileRecord], folder: Path, variants: Variants) -> tuple[int, int]:
    """The size that the windows of all records have."""
    sizes = {window_size(record, variants) for record in records}
    if len(sizes) != 1:
        raise DataError(
            f"The {len(records)} records of {folder} have sizes {sorted(sizes)}. Expected one "
            "size; set crop_px, or train on one dataset at a time."
        )
    size = sizes.pop()
    if size[0] % SIZE_STEP_PX or size[1] % SIZE_STEP_PX:
        raise DataError(
            f"The records of {folder} have {size[0]} x {size[1]} px. Expected multiples of "
            f"{SIZE_STEP_PX}; set crop_px."
        )
    return size
