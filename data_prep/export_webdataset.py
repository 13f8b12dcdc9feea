"""Export to WebDataset: tar shards that training reads from front to back.

A sample is three members of one key: the frame (``.tif`` as it is, or ``.png`` of 8-bit frames),
the record (``.json``) and a prompt (``.txt``). Samples are in the order of a hash of their keys, so
that classes and places mix, and the order of the others stays when a dataset grows. The index,
``shards.parquet``, tells where each member lies: samples can be chosen without unpacking shards.
"""

import hashlib
import tarfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.ecomapper import Failure
from data_prep.export_files import (
    ExportResult,
    Frames,
    Journal,
    Progress,
    caption_of,
    encode_png,
    exported,
    json_text,
    plain_name,
    replacing,
)
from ecomap.imagery import GEOTIFF_SUFFIXES
from ecomap.schema import TileRecord, unique

SHARDS_FILE = "shards.parquet"
DEFAULT_SHARD_SIZE_MB = 512.0
BYTES_PER_MB = 1_000_000
TAR_BLOCK = 512
"""Tar headers and contents are padded to multiples of it (POSIX ustar)."""
HASH_LETTERS = 8

COLUMNS = {
    "key": pa.string(),
    "tile_id": pa.string(),
    "location_id": pa.string(),
    "month": pa.string(),
    "land_cover": pa.int8(),
    "split": pa.string(),
    "shard": pa.string(),
    "shard_sha256": pa.string(),
    "image_suffix": pa.string(),
    **{
        f"{member}_{what}": pa.int64()
        for member in ("image", "json", "txt")
        for what in ("offset", "num_bytes")
    },
}
"""Columns of ``shards.parquet``; offsets are bytes from the start of the shard."""


def write_webdataset(
    frames: Frames,
    records: Sequence[TileRecord],
    *,
    journal: Journal,
    shard_size_mb: float = DEFAULT_SHARD_SIZE_MB,
    progress: Progress | None = None,
) -> ExportResult:
    """Write the shards of every split, and their index.

    Args:
        frames: Frames of the dataset.
        records: Tiles to export.
        journal: Finished files of the export's folder.
        shard_size_mb: A shard is closed when it has reached this size, millions of bytes.
        progress: Called with (done, total) tiles.
    """
    result = ExportResult()
    keys = sample_keys(records)
    order = sorted(
        records, key=lambda r: (r.split, hashlib.sha256(keys[r.tile_id].encode()).digest())
    )
    writer = _ShardWriter(frames, journal, keys, int(shard_size_mb * BYTES_PER_MB))
    rows: list[dict[str, Any]] = []
    done = 0
    for split in unique(record.split for record in order):
        rest = [record for record in order if record.split == split]
        for name in (f"{split}-{index:06d}.tar" for index in range(len(rest))):
            if not rest:
                break
            num_walked = writer.find_or_write(name, rest, result)
            rows += _index_rows(journal, name, rest[:num_walked], keys)
            rest = rest[num_walked:]
            done += num_walked
            if progress:
                progress(done, len(records))
    table = pa.Table.from_pylist(rows, schema=pa.schema(COLUMNS))
    with replacing(journal.output / SHARDS_FILE) as temporary:
        pq.write_table(table, temporary)
    result.files[".parquet"] += 1
    return result


def sample_keys(records: Sequence[TileRecord]) -> dict[str, str]:
    """Key of each record by its ``tile_id``: ``LOCATION_YYYYMM``, before it the batch if any.

    Keys hold no dot, at which WebDataset would cut them. Those that two records would share (places
    of two sources, or names that differ in odd letters only) end in letters of a hash.
    """
    keys = {
        record.tile_id: "_".join(
            plain_name(part)
            for part in (record.batch, record.location_id, record.month.replace("-", ""))
            if part
        )
        for record in records
    }
    uses = Counter(keys.values())
    return {
        tile_id: key
        if uses[key] == 1
        else f"{key}-{hashlib.sha256(tile_id.encode()).hexdigest()[:HASH_LETTERS]}"
        for tile_id, key in keys.items()
    }


class _ShardWriter:
    """Makes shards, or finds them made."""

    def __init__(
        self, frames: Frames, journal: Journal, keys: dict[str, str], shard_bytes: int
    ) -> None:
        self._frames = frames
        self._journal = journal
        self._keys = keys
        self._shard_bytes = shard_bytes

    def find_or_write(self, name: str, rest: Sequence[TileRecord], result: ExportResult) -> int:
        """Have one shard of the first of some records; returns how many it has dealt with."""
        entry = self._journal.entry(name)
        is_whole = entry and (entry["is_full"] or entry["num_walked"] == len(rest))
        if entry and is_whole and entry["num_walked"] <= len(rest):
            walked = rest[: entry["num_walked"]]
            names = self._journal.find(name, self._digest(walked))
            if names is not None:
                self._count(name, entry, result, is_reused=True)
                return len(walked)
        self._write(name, rest)
        entry = self._journal.entry(name)
        assert entry is not None
        self._count(name, entry, result, is_reused=False)
        return int(entry["num_walked"])

    def _count(
        self, name: str, entry: dict[str, Any], result: ExportResult, *, is_reused: bool
    ) -> None:
        for failure in entry["failures"]:
            result.fail(Failure(**failure))
        split = name.rpartition("-")[0]
        result.kept[split] += entry["num_walked"] - len(entry["failures"])
        result.count(list(entry["files"]), is_reused=is_reused)

    def _digest(self, walked: Sequence[TileRecord]) -> str:
        """Hash of everything that a shard is made of, and of where it had to end."""
        parts = [self._frames.digest(record, self._keys[record.tile_id]) for record in walked]
        return hashlib.sha256(" ".join([str(self._shard_bytes), *parts]).encode()).hexdigest()

    def _write(self, name: str, rest: Sequence[TileRecord]) -> None:
        """Write one shard of the first of some records, up to the size of a shard."""
        from webdataset.writer import TarWriter  # loads torch where that is installed

        failures: list[Failure] = []
        num_walked = num_bytes = 0
        path = self._journal.output / f".{name}.tmp"
        try:
            with path.open("wb") as file:
                sink = _HashingSink(file)
                # No owner and no time: the same samples are the same bytes.
                with TarWriter(sink, user="", group="", mtime=0, encoder=False) as writer:
                    while num_walked < len(rest) and num_bytes < self._shard_bytes:
                        sample = self._sample(rest[num_walked])
                        num_walked += 1
                        if isinstance(sample, Failure):
                            failures.append(sample)
                        else:
                            writer.write(sample)
                            num_bytes += _size_in_tar(sample)
            extra = {
                "num_walked": num_walked,
                "is_full": num_bytes >= self._shard_bytes,
                "failures": [asdict(failure) for failure in failures],
            }
            self._journal.adopt(
                name,
                self._digest(rest[:num_walked]),
                path if len(failures) < num_walked else None,
                sha256=sink.sha256,
                extra=extra,
            )
        finally:
            path.unlink(missing_ok=True)

    def _sample(self, record: TileRecord) -> dict[str, Any] | Failure:
        """Members of a sample; every frame is decoded once, so that no broken one is passed on."""
        pixels = self._frames.read(record)
        if isinstance(pixels, Failure):
            return pixels
        key = self._keys[record.tile_id]
        source = self._frames.folder / str(record.image_path)
        if is_kept_as_geotiff(record):
            inside = record.model_copy(update={"image_path": f"{key}.tif"})
            image: dict[str, bytes] = {"tif": source.read_bytes()}
        else:
            inside = exported(record, f"{key}.png")
            image = {"png": encode_png(pixels, inside)}
        json_bytes = json_text(inside.model_dump(mode="json")).encode()
        text = caption_of(record).encode()
        return {"__key__": key, **image, "json": json_bytes, "txt": text}


def is_kept_as_geotiff(record: TileRecord) -> bool:
    """Whether a frame is a GeoTIFF of its own, which shards hold as it is."""
    suffix = Path(str(record.image_path)).suffix.lower()
    return suffix in GEOTIFF_SUFFIXES and record.window_px is None


class _HashingSink:
    """Passes bytes on to a file and hashes them."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._hash = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self._hash.update(data)
        return self._file.write(data)

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()


def _size_in_tar(sample: dict[str, Any]) -> int:
    """Bytes that a sample takes in a shard, but for the rare headers of very long names."""
    sizes = [len(data) for name, data in sample.items() if name != "__key__"]
    return sum(TAR_BLOCK * (1 + -(-size // TAR_BLOCK)) for size in sizes)


def _index_rows(
    journal: Journal, name: str, walked: Sequence[TileRecord], keys: dict[str, str]
) -> list[dict[str, Any]]:
    """Rows of the index, from the shard's own headers."""
    entry = journal.entry(name)
    if not entry or not entry["files"]:
        return []
    by_key = {keys[record.tile_id]: record for record in walked}
    rows: dict[str, dict[str, Any]] = {}
    with tarfile.open(journal.output / name, "r:") as tar:
        for member in tar:
            key, _, suffix = member.name.partition(".")
            record = by_key[key]
            kind = suffix if suffix in ("json", "txt") else "image"
            row = rows.setdefault(key, {"key": key, "shard": name})
            row |= {f"{kind}_offset": member.offset_data, f"{kind}_num_bytes": member.size}
            if kind == "image":
                row["image_suffix"] = suffix
            row |= {
                "tile_id": record.tile_id,
                "location_id": record.location_id,
                "month": record.month,
                "land_cover": int(record.land_cover) if record.land_cover else None,
                "split": record.split,
                "shard_sha256": entry["files"][name],
            }
    return list(rows.values())
