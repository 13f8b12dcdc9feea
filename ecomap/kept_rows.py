"""Arrays of one shape on disk, found by key: what is dear to make is made once, for all runs.

Rows are appended in whole segments (`ecomap.row_segments`) and never changed, so that a process may
read while another appends, and one that is killed leaves all that it had appended.
"""

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from rich.progress import Progress

from ecomap.errors import DataError
from ecomap.row_segments import (
    Segment,
    list_segments,
    open_segment,
    remove_leftovers,
    write_segment,
)

SEGMENT_ROWS = 512
"""Most rows that `fill` appends at once."""

SEGMENT_BYTES = 64_000_000
"""Likewise in bytes, however large a row is: what `fill` holds in memory."""

SEGMENT_SECONDS = 60.0
"""Longest that `fill` works before it appends; what is lost at most when it is interrupted."""

LOCK_FILE = ".lock"

Places = NDArray[np.int64]
"""Numbers of rows, as `KeptRows.locate` gives them."""

MakeRows = Callable[[list[int]], np.ndarray]
"""Positions in a list of keys -> their rows ``(len(positions), *shape)``."""


def key_of(content: Any) -> str:
    """Key for what plain values state: a hash of 24 characters."""
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:24]


class KeptRows:
    """Arrays of one shape and dtype on disk, found by key; appended in whole segments.

    Only keys are held in memory: about 60 bytes for one of 24 characters. Reading is safe for
    threads. A key has one row for ever: the first that was appended.
    """

    def __init__(self, folder: Path, shape: tuple[int, ...], dtype: str = "float16") -> None:
        """Find what the folder holds; it is made with the first row.

        Args:
            folder: Of these rows alone.
            shape: Of a row; ``()`` for single numbers.
            dtype: Of the rows on disk.

        Raises:
            DataError: If the folder holds other rows, or a segment is damaged.
        """
        self.folder, self.shape, self.dtype = folder, tuple(shape), np.dtype(dtype)
        self._lock = FileLock(folder / LOCK_FILE)
        self._segments: list[Segment] = []
        self._starts = np.zeros(1, np.int64)
        self._index: tuple[NDArray[np.bytes_], Places] | None = None
        self.refresh()

    @property
    def row_bytes(self) -> int:
        """Size of a row on disk."""
        return math.prod(self.shape) * self.dtype.itemsize

    def __len__(self) -> int:
        """Number of rows that are known here."""
        return int(self._starts[-1])

    def __contains__(self, key: str) -> bool:
        return bool(self._find([key])[0] >= 0)

    def missing(self, keys: Iterable[str]) -> list[str]:
        """Keys without a row, each once, in their order."""
        unique = list(dict.fromkeys(keys))
        return [key for key, place in zip(unique, self._find(unique), strict=True) if place < 0]

    def refresh(self) -> None:
        """Find what other processes have appended since.

        Raises:
            DataError: If a segment is damaged or of another shape or dtype.
        """
        known = {segment.path.stem for segment in self._segments}
        for path in list_segments(self.folder):
            if path.stem not in known:
                self._add(open_segment(path))

    def append(self, keys: Sequence[str], rows: np.ndarray) -> None:
        """Keep rows as one segment, there together or not at all.

        Args:
            keys: ASCII, one a row. Rows of keys that are there already are passed over.
            rows: ``(len(keys), *shape)``; cast to the dtype on disk.

        Raises:
            DataError: If shapes differ, a value is not finite or too large for the dtype, or the
                disk takes no more.
        """
        self.check(len(keys), rows)
        with np.errstate(over="ignore", invalid="ignore"):
            stored = np.ascontiguousarray(rows, self.dtype)
        self._check_finite(keys, stored)
        with self.writing():
            places = self._find(keys)
            new = {key: i for i, key in reversed(list(enumerate(keys))) if places[i] < 0}
            if index := sorted(new.values()):
                with self._explaining():
                    path = write_segment(self.folder, [keys[i] for i in index], stored[index])
                self._add(open_segment(path))

    def check(self, count: int, rows: np.ndarray) -> np.ndarray:
        """Give back ``rows`` if they are ``count`` of these.

        Raises:
            DataError: If their shape differs.
        """
        if rows.shape != (count, *self.shape):
            raise DataError(
                f"{count} rows for {self.folder} have the shape {rows.shape}. Expected "
                f"{(count, *self.shape)}; give one array of that shape a key."
            )
        return rows

    def locate(self, keys: Sequence[str]) -> Places:
        """Numbers of the rows of some keys, for `take`; they hold for this object alone.

        Raises:
            DataError: If a key has no row.
        """
        places = self._find(keys)
        if (places < 0).any():
            raise DataError(
                f"{self.folder} has no row for {int((places < 0).sum())} of {len(keys)} keys, such "
                f"as {keys[int(np.argmin(places))]!r}. Make them first."
            )
        return places

    def take(self, places: Places) -> np.ndarray:
        """Rows by their numbers.

        Returns:
            ``(*places.shape, *shape)``, a copy.

        Raises:
            DataError: If a segment was removed or cut since it was found.
        """
        flat = places.ravel()
        content = np.empty((len(flat), self.row_bytes), np.uint8)
        segments = np.searchsorted(self._starts, flat, side="right") - 1
        for number in np.unique(segments):
            lines = np.flatnonzero(segments == number)
            self._segments[number].read(flat[lines] - self._starts[number], content, lines)
        return content.view(self.dtype).reshape(*places.shape, *self.shape)

    def read(self, keys: Sequence[str]) -> np.ndarray:
        """Rows of some keys ``(len(keys), *shape)``, a copy.

        Raises:
            DataError: As `locate` and `take`.
        """
        return self.take(self.locate(keys))

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Be the only one who appends, with all rows known; others wait.

        Raises:
            DataError: If the folder cannot be written.
        """
        with self._explaining():
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
        try:
            with self._explaining():
                remove_leftovers(self.folder)
            self.refresh()
            yield
        finally:
            self._lock.release()

    def _find(self, keys: Sequence[str]) -> Places:
        """Row of each key, -1 where there is none."""
        if self._index is None:
            every = np.concatenate(
                [segment.keys for segment in self._segments] or [np.empty(0, "S")]
            )
            order = np.argsort(every, kind="stable")
            self._index = every[order], order.astype(np.int64)
        names, rows = self._index
        if not len(names) or not len(keys):
            return np.full(len(keys), -1, np.int64)
        wanted = np.array(keys, dtype=np.bytes_)
        at = np.minimum(np.searchsorted(names, wanted), len(names) - 1)
        return np.where(names[at] == wanted, rows[at], -1)

    def _add(self, segment: Segment) -> None:
        """Take up a segment."""
        if (segment.shape, segment.dtype) != (self.shape, self.dtype):
            raise DataError(
                f"{segment.path} has rows of shape {segment.shape} and type {segment.dtype}. "
                f"Expected {self.shape} and {self.dtype}; choose another folder."
            )
        self._segments.append(segment)
        self._starts = np.append(self._starts, self._starts[-1] + len(segment.keys))
        self._index = None

    def _check_finite(self, keys: Sequence[str], stored: np.ndarray) -> None:
        """Refuse NaN and infinity, also those that the dtype made."""
        if self.dtype.kind != "f":
            return
        is_good = np.isfinite(stored).reshape(len(stored), -1).all(1)
        if not is_good.all():
            raise DataError(
                f"{int((~is_good).sum())} rows for {self.folder}, such as that of "
                f"{keys[int(np.argmin(is_good))]!r}, hold values that are NaN, infinite or too "
                f"large for {self.dtype}. Expected finite values; look at what made them."
            )

    @contextmanager
    def _explaining(self) -> Iterator[None]:
        """Turn the system's errors of writing into ours."""
        try:
            yield
        except OSError as error:
            raise DataError(
                f"Rows cannot be kept in {self.folder}: {error}. Expected a folder that can be "
                "written, with room; free some, or name another."
            ) from None


def fill(
    rows: KeptRows,
    keys: Sequence[str],
    make: MakeRows,
    *,
    batch_size: int = 32,
    progress: Progress | None = None,
    label: str,
) -> None:
    """Make the rows that are missing, and keep them segment by segment.

    Interrupted work goes on where its last segment ended. A second process that wants rows of the
    same folder waits, and finds those of the first.

    Args:
        rows: Where to keep them.
        keys: What must be there in the end; rows are made in this order, each once.
        make: Called with positions in ``keys``.
        batch_size: Positions at a time.
        progress: Shows how far it is.
        label: What is made, in a word or two.

    Raises:
        DataError: As `KeptRows.append`.
    """
    rows.refresh()
    if not rows.missing(keys):
        return
    with rows.writing():
        first = {key: i for i, key in reversed(list(enumerate(keys)))}
        todo = [first[key] for key in rows.missing(keys)]
        bar = progress or Progress(disable=True)
        total, done = len(first), len(first) - len(todo)
        task = bar.add_task(label, total=total, completed=done, loss=float("nan"))
        most = max(1, min(SEGMENT_ROWS, SEGMENT_BYTES // max(1, rows.row_bytes)))
        step = min(batch_size, most)
        names: list[str] = []
        held: list[np.ndarray] = []
        began = time.monotonic()
        for start in range(0, len(todo), step):
            batch = todo[start : start + step]
            made = rows.check(len(batch), make(batch))
            with np.errstate(over="ignore", invalid="ignore"):  # `append` refuses infinity
                held.append(made.astype(rows.dtype))
            names += [keys[i] for i in batch]
            is_late = time.monotonic() - began >= SEGMENT_SECONDS
            if is_late or len(names) + step > most or start + step >= len(todo):
                rows.append(names, np.concatenate(held))
                names, held, began = [], [], time.monotonic()
            bar.advance(task, len(batch))
