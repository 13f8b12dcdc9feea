"""Files of rows with keys: ``NAME.npy`` and ``NAME.json``, there together or not at all.

The file of keys is written last and makes the segment count. What a killed process left is a file
without its partner, which nobody reads.
"""

import hashlib
import json
import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ecomap.errors import DataError


@dataclass(frozen=True)
class Segment:
    """Rows in a file, found whole."""

    path: Path
    """The file of rows; that of keys lies beside it."""
    keys: NDArray[np.bytes_]
    shape: tuple[int, ...]
    """Of one row."""
    dtype: np.dtype[np.generic]
    offset: int
    """Bytes before the first row."""

    def read(
        self, rows: NDArray[np.int64], out: NDArray[np.uint8], lines: NDArray[np.int64]
    ) -> None:
        """Read rows into some lines of ``out``, as bytes.

        The file is opened each time: open memory maps would hold a file descriptor each.

        Raises:
            DataError: If the file was removed or cut since it was found.
        """
        num_bytes = out.shape[1]
        try:
            with self.path.open("rb", buffering=0) as file:
                for row, line in zip(rows.tolist(), lines.tolist(), strict=True):
                    file.seek(self.offset + row * num_bytes)
                    if file.readinto(out[line]) != num_bytes:
                        raise _damaged(self.path, f"it ends before row {row}")
        except OSError as error:
            raise _damaged(self.path, str(error)) from None


def list_segments(folder: Path) -> list[Path]:
    """Files of keys of a folder's segments, sorted."""
    return sorted(folder.glob("*.json"))


def open_segment(path: Path) -> Segment:
    """Find a segment by its file of keys.

    Raises:
        DataError: If it is not whole.
    """
    data = path.with_suffix(".npy")
    try:
        keys = json.loads(path.read_text(encoding="ascii"))["keys"]
        rows = np.load(data, mmap_mode="r", allow_pickle=False)
        is_whole = data.stat().st_size == rows.offset + rows.nbytes
    except (OSError, EOFError, ValueError, LookupError, TypeError) as error:
        raise _damaged(data, str(error)) from None
    if len(rows) != len(keys) or not is_whole:
        raise _damaged(data, f"it has {len(rows)} rows and {len(keys)} keys")
    return Segment(data, np.array(keys, np.bytes_), rows.shape[1:], rows.dtype, rows.offset)


def write_segment(folder: Path, keys: Sequence[str], rows: np.ndarray) -> Path:
    """Write a segment so that it outlives a loss of power; the path of its keys.

    Args:
        folder: Which exists.
        keys: ASCII, one a row.
        rows: ``(len(keys), ...)``.

    Raises:
        OSError: If the disk takes no more; nothing is left then.
    """
    name = hashlib.sha256("\n".join(keys).encode("ascii")).hexdigest()[:24]
    data, path = folder / f"{name}.npy", folder / f"{name}.json"
    temporary = folder / f"{name}-{uuid.uuid4().hex}.tmp"
    try:
        for target in (data, path):
            with temporary.open("wb") as file:
                if target is data:
                    np.save(file, rows, allow_pickle=False)
                else:
                    file.write(json.dumps({"keys": list(keys)}).encode("ascii"))
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left half written; nobody may be writing."""
    for path in [*folder.glob("*.tmp"), *folder.glob("*.npy")]:
        if path.suffix == ".tmp" or not path.with_suffix(".json").exists():
            path.unlink(missing_ok=True)


def _damaged(path: Path, what: str) -> DataError:
    """The error of a segment that is not whole."""
    return DataError(
        f"{path} is not a whole segment of rows: {what}. Expected what was written; delete it and "
        f"{path.with_suffix('.json').name} beside it, and its rows will be made again."
    )
