"""What all exports share: frames as files, and a journal of those that are finished.

The journal (``.export.jsonl`` in the folder of the export) names every finished file with its hash
and a digest of what it was made of. A line is written before its file gets its name, so that every
file of an export is known; what is finished is not made again, what no longer belongs is removed.
The journal is the only file of an export that depends on the machine (it holds times of sources).
"""

import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from data_prep.ecomapper import Failure
from ecomap.errors import DataError, RequestError, SchemaError
from ecomap.imagery import FrameReader
from ecomap.prompt import PromptChoice, write_prompt
from ecomap.schema import TileRecord, unique

JOURNAL_FILE = ".export.jsonl"
RECORD_KEYWORD = "ecomap_record"
"""PNG text chunk with the record of the frame as JSON."""
PNG_LEVEL = 4
"""Effort of compression: real tiles are as small as at the usual 6, in 40 % of its time."""
MOSAICS_IN_MEMORY = 12
"""Decoded mosaics kept while tiles are cut out of them in any order: one for each month."""

Progress = Callable[[int, int], None]


@dataclass(kw_only=True)
class ExportResult:
    """What one export did; grows while it works."""

    kept: Counter[str] = field(default_factory=Counter)
    """Tiles by split."""
    dropped: Counter[str] = field(default_factory=Counter)
    """Tiles by the reason for which they were left out."""
    failures: list[Failure] = field(default_factory=list)
    """Frames that could not be read; counted in ``dropped`` as well."""
    files: Counter[str] = field(default_factory=Counter)
    """Number of files by their ending."""
    reused: int = 0
    """Files that were there already."""

    def fail(self, failure: Failure) -> None:
        """Count a frame that cannot be read."""
        self.failures.append(failure)
        self.dropped[failure.reason] += 1

    def count(self, names: Sequence[str], *, is_reused: bool) -> None:
        """Count finished files."""
        self.files.update(Path(name).suffix for name in names)
        self.reused += len(names) if is_reused else 0


class Frames:
    """Reads the frames of a dataset folder for an export."""

    def __init__(self, folder: Path) -> None:
        """Remember the dataset's folder."""
        self.folder = folder
        self._reader = FrameReader(folder, num_cached=MOSAICS_IN_MEMORY)
        self._states: dict[str, list[int] | None] = {}

    def read(self, record: TileRecord) -> NDArray[np.uint8] | Failure:
        """Frame as uint8 RGB ``(height_px, width_px, 3)``, or why it cannot be read."""
        try:
            return self._reader.read(record)
        except DataError as error:
            path = self.folder / str(record.image_path)
            is_there = record.image_path is not None and path.is_file()
            reason = "corrupt_image" if is_there else "missing_image"
            detail = str(error).replace(f"{self.folder}/", "")  # the same wherever it lies
            return Failure(file=record.tile_id, reason=reason, detail=detail)

    def digest(self, record: TileRecord, *more: Any) -> str:
        """Hash of what decides an exported tile: its record, its file's size and time, and more."""
        content = [record.model_dump(mode="json"), self._state(record.image_path), *more]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def _state(self, image_path: str | None) -> list[int] | None:
        """Size and modification time of a frame's file; None if it is not there."""
        if image_path is None:
            return None
        if image_path not in self._states:
            path = self.folder / image_path
            state = path.stat() if path.is_file() else None
            self._states[image_path] = [state.st_size, state.st_mtime_ns] if state else None
        return self._states[image_path]


class Journal:
    """Finished files of an export folder, by unit: a tile with its sidecars, or a shard."""

    def __init__(self, output: Path, kind: str) -> None:
        """Open the journal of a folder, or start one.

        Args:
            output: Folder of the export; made if absent.
            kind: Kind of the export.

        Raises:
            RequestError: If the folder holds something else than an export of this kind.
        """
        self.output = output
        self._kind = kind
        self._path = output / JOURNAL_FILE
        self._entries = self._read()
        self._used: set[str] = set()
        for leftover in output.rglob(".*.tmp") if output.is_dir() else ():
            leftover.unlink()
        output.mkdir(parents=True, exist_ok=True)
        self._rewrite()

    def _read(self) -> dict[str, dict[str, Any]]:
        """Entries by unit; a line that was cut off when the machine stopped is passed over."""
        if not self._path.is_file():
            if self.output.exists() and (not self.output.is_dir() or any(self.output.iterdir())):
                raise RequestError(
                    f"{self.output} is not empty and holds no export. Choose a new or empty folder."
                )
            return {}
        entries: dict[str, dict[str, Any]] = {}
        kind = None
        for line in self._path.read_text(encoding="utf-8").splitlines():
            try:
                content = json.loads(line)
            except ValueError:
                continue
            kind = content.get("kind", kind)
            if "unit" in content:
                entries[content["unit"]] = content
        if kind != self._kind:
            raise RequestError(
                f"{self.output} holds an export of kind {kind!r}, not {self._kind!r}. Choose "
                "another folder for this one."
            )
        return entries

    def _rewrite(self) -> None:
        """Write all entries, sorted, one a line."""
        lines = [{"kind": self._kind}, *(self._entries[unit] for unit in sorted(self._entries))]
        text = "".join(json.dumps(line, sort_keys=True) + "\n" for line in lines)
        with replacing(self._path) as temporary:
            temporary.write_text(text, encoding="utf-8")

    def entry(self, unit: str) -> dict[str, Any] | None:
        """What an earlier run noted of a unit, whether or not it still holds."""
        return self._entries.get(unit)

    def find(self, unit: str, digest: str) -> list[str] | None:
        """Names of the files of a unit if they are as they were written, from the same sources."""
        entry = self._entries.get(unit)
        if entry is None or entry["digest"] != digest:
            return None
        for name, sha256 in entry["files"].items():
            path = self.output / name
            if not path.is_file() or hash_file(path) != sha256:
                return None
        self._used.add(unit)
        return list(entry["files"])

    def write(self, unit: str, digest: str, contents: Mapping[str, bytes]) -> list[str]:
        """Write the files of a unit by atomic renames; the last one stands for the whole unit."""
        hashes = {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()}
        self._note(unit, digest, hashes, {})
        for name, data in contents.items():
            with replacing(self.output / name) as temporary:
                temporary.write_bytes(data)
        return list(hashes)

    def adopt(
        self, unit: str, digest: str, temporary: Path | None, *, sha256: str, extra: dict[str, Any]
    ) -> None:
        """Give a finished temporary file its unit's name; None where the unit has no file."""
        self._note(unit, digest, {unit: sha256} if temporary else {}, extra)
        if temporary is not None:
            temporary.replace(self.output / unit)

    def _note(
        self, unit: str, digest: str, files: Mapping[str, str], extra: Mapping[str, Any]
    ) -> None:
        """Append a line, before the files have their names."""
        entry = {"unit": unit, "digest": digest, "files": dict(files), **extra}
        self._entries[unit] = entry
        self._used.add(unit)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry, sort_keys=True) + "\n")

    def finish(self) -> None:
        """Remove files of units that the export no longer has, and write the journal anew."""
        kept = {name for unit in self._used for name in self._entries[unit]["files"]}
        for unit in set(self._entries) - self._used:
            for name in set(self._entries.pop(unit)["files"]) - kept:
                (self.output / name).unlink(missing_ok=True)
                _remove_empty((self.output / name).parent, self.output)
        self._rewrite()


def _remove_empty(folder: Path, root: Path) -> None:
    """Remove a folder and those above it, below the root, as long as they are empty."""
    while folder != root and folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file that takes the path's place at the end, and goes if there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def hash_file(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def encode_png(pixels: NDArray[np.uint8], record: TileRecord) -> bytes:
    """PNG of uint8 RGB ``(H, W, 3)`` that says what it shows, whose it is, and its stretch."""
    info = PngInfo()
    info.add_text("Description", caption_of(record))
    info.add_text("Copyright", f"{record.license}. {record.attribution}".strip())
    info.add_text(RECORD_KEYWORD, json_text(record.model_dump(mode="json")))
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", pnginfo=info, compress_level=PNG_LEVEL)
    return buffer.getvalue()


def exported(record: TileRecord, image_path: str) -> TileRecord:
    """The record of a tile whose frame is an 8-bit picture of its own in an export.

    The recorded stretch stays: it says what reflectance the values 0 and 255 stand for.
    """
    return record.model_copy(update={"image_path": image_path, "window_px": None, "bands": ()})


def caption_of(record: TileRecord) -> str:
    """Everything that a prompt tells of a record, in whole sentences."""
    return write_prompt(record, PromptChoice()).long


def json_text(value: Any) -> str:
    """JSON on one line in plain ASCII; refuses numbers that are not finite."""
    return json.dumps(value, sort_keys=True, allow_nan=False)


def plain_name(text: str) -> str:
    """Text with ``-`` for all but ASCII letters, digits, ``_`` and ``-``.

    >>> plain_name("São 1.5/x")
    'S-o-1-5-x'
    """
    return re.sub(r"[^A-Za-z0-9_-]", "-", text)


def claim(seen: dict[str, str], path: str, record: TileRecord) -> None:
    """Note which record has a path.

    Raises:
        SchemaError: If another record has it.
    """
    other = seen.setdefault(path, record.tile_id)
    if other != record.tile_id:
        raise SchemaError(
            f"{other} and {record.tile_id} would both be {path}. Export one source at a time."
        )


def by_mosaic(records: Sequence[TileRecord]) -> list[TileRecord]:
    """Records in an order in which windows of one mosaic follow each other."""
    return sorted(records, key=lambda r: ((r.window_px and r.image_path) or "", r.tile_id))


def rights_of(records: Sequence[TileRecord]) -> dict[str, list[str]]:
    """Licences and attributions of some records, each once and sorted."""
    return {
        "licenses": sorted(unique(record.license for record in records)),
        "attributions": sorted(unique(record.attribution for record in records)),
    }
