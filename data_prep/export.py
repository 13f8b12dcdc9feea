"""The door to exports: a finished dataset folder in the form that another program reads.

An export goes on where it was interrupted, and gives the same bytes whether or not it was.
``export.json`` is written last: a folder without it is not finished.
"""

from collections import Counter
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from data_prep.ecomapper import Failure
from data_prep.export_ecomapper import write_ecomapper
from data_prep.export_files import ExportResult, Frames, Journal, Progress, rights_of
from data_prep.export_png import write_png
from data_prep.export_webdataset import DEFAULT_SHARD_SIZE_MB, SHARDS_FILE, write_webdataset
from data_prep.quality import FLAGS
from ecomap.errors import RequestError
from ecomap.schema import (
    RECORDS_FILE,
    SUMMARY_FILE,
    Split,
    TileRecord,
    read_dataset,
    write_json,
)

ExportKind = Literal["webdataset", "ecomapper", "png"]
EXPORT_FILE = "export.json"
SPLITS: tuple[Split, ...] = get_args(Split)
DEFAULT_SPLITS: tuple[Split, ...] = tuple(split for split in SPLITS if split != "buffer")
"""Buffer tiles lie too near to held-out ones to be used on either side."""
MAX_LISTED = 20
"""Failures that are printed; the JSON file has all."""


@dataclass(frozen=True, kw_only=True)
class ExportSummary:
    """What an export holds and what was left out, with reasons."""

    output: Path
    kind: ExportKind
    kept: int
    """Tiles."""
    kept_by_split: dict[str, int]
    dropped: dict[str, int]
    """Tiles by reason: ``split_<name>``, ``flag_<name>``, ``missing_image`` and the like."""
    files: dict[str, int]
    """Number of files by their ending."""
    reused: int
    """Files that an earlier run had finished."""
    failures: tuple[Failure, ...]
    """Frames that could not be read."""

    @property
    def sentence(self) -> str:
        """For example ``exported 178 of 180 tiles as png: 2 split_buffer``."""
        reasons = ", ".join(f"{count} {reason}" for reason, count in self.dropped.items())
        total = self.kept + sum(self.dropped.values())
        text = f"exported {self.kept} of {total} tiles as {self.kind}"
        return text + (f": {reasons}" if reasons else "")

    def render(self) -> str:
        """Lines to print: the sentence, the files, and the first failures."""
        files = ", ".join(f"{count} {suffix}" for suffix, count in self.files.items())
        lines = [f"{self.output}: {self.sentence}", f"  files: {files}; {self.reused} were there"]
        lines += [f"  {f.file}: {f.reason}: {f.detail}" for f in self.failures[:MAX_LISTED]]
        if len(self.failures) > MAX_LISTED:
            more = len(self.failures) - MAX_LISTED
            lines.append(f"  and {more} more; {EXPORT_FILE} lists all")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self) | {"output": str(self.output)}


def export_dataset(
    folder: Path,
    output: Path,
    *,
    kind: ExportKind,
    splits: Collection[str] | None = None,
    drop_flags: Collection[str] = (),
    shard_size_mb: float = DEFAULT_SHARD_SIZE_MB,
    progress: Progress | None = None,
) -> ExportSummary:
    """Write a dataset in another form. Run again, it makes only what is not there.

    Args:
        folder: Dataset folder.
        output: New or empty folder, or one with an earlier export of the same kind, which is
            brought up to date: files that no longer belong to it are removed.
        kind: ``webdataset``: tar shards; ``ecomapper``: EcoMapper's tree; ``png``: 8-bit pictures.
        splits: Sides to export; by default all but ``buffer``.
        drop_flags: Tiles with one of these flags are left out, and counted.
        shard_size_mb: Size at which a shard is closed, millions of bytes; for ``webdataset``.
        progress: Called with (done, total) tiles.

    Raises:
        RequestError: If a kind, split or flag does not exist, or the output holds something else.
        DataError: If there is no dataset, or its table is damaged.
        SchemaError: If a record breaks the contract, or two tiles would be one file.
    """
    if kind not in get_args(ExportKind):
        raise RequestError(f"kind is {kind!r}; choose one of {', '.join(get_args(ExportKind))}.")
    if not shard_size_mb > 0:
        raise RequestError(f"shard_size_mb is {shard_size_mb:g}; it must be above 0.")
    records = read_dataset(folder)
    _check_output(folder, output)
    chosen, dropped = choose_tiles(records, splits=splits, drop_flags=drop_flags)
    journal = Journal(output, kind)
    for name in (EXPORT_FILE, SHARDS_FILE, RECORDS_FILE, SUMMARY_FILE):
        (output / name).unlink(missing_ok=True)
    frames = Frames(folder.parent if folder.is_file() else folder)
    if kind == "webdataset":
        result = write_webdataset(
            frames, chosen, journal=journal, shard_size_mb=shard_size_mb, progress=progress
        )
    else:
        write = write_ecomapper if kind == "ecomapper" else write_png
        result = write(frames, chosen, journal=journal, progress=progress)
    journal.finish()
    summary = _summary(output, kind, dropped, result)
    content = summary.to_dict() | rights_of(chosen)
    del content["output"], content["reused"]  # the same file wherever and however often it is made
    write_json(output / EXPORT_FILE, content)
    return summary


def choose_tiles(
    records: Collection[TileRecord],
    *,
    splits: Collection[str] | None = None,
    drop_flags: Collection[str] = (),
) -> tuple[list[TileRecord], Counter[str]]:
    """Choose tiles by split and flags.

    Returns:
        Records sorted by ``tile_id``, and how many were left out by reason.

    Raises:
        RequestError: If a split or flag does not exist.
    """
    wanted = set(DEFAULT_SPLITS if splits is None else splits)
    if wanted - set(SPLITS) or not wanted:
        raise RequestError(f"splits are {sorted(wanted)}. Choose among {', '.join(SPLITS)}.")
    known = {*FLAGS, *(flag for record in records for flag in record.flags)}
    unknown = set(drop_flags) - known
    if unknown:
        raise RequestError(
            f"Flags {sorted(unknown)} do not exist. Choose among {', '.join(sorted(known))}."
        )
    kept, dropped = [], Counter[str]()
    for record in sorted(records, key=lambda record: record.tile_id):
        unwanted = sorted(set(record.flags) & set(drop_flags))
        if record.split not in wanted:
            dropped[f"split_{record.split}"] += 1
        elif unwanted:
            dropped[f"flag_{unwanted[0]}"] += 1
        else:
            kept.append(record)
    return kept, dropped


def _check_output(folder: Path, output: Path) -> None:
    """Refuse to write where the dataset's own files are."""
    inside = output.resolve()
    dataset = (folder.parent if folder.is_file() else folder).resolve()
    if dataset.is_relative_to(inside) or inside.is_relative_to(dataset / "images"):
        raise RequestError(
            f"{output} holds the dataset's own files. Choose another folder, such as "
            f"{dataset / 'exports'}."
        )


def _summary(
    output: Path, kind: ExportKind, dropped: Counter[str], result: ExportResult
) -> ExportSummary:
    """Counts of the door and of the kind together, everything sorted."""
    return ExportSummary(
        output=output,
        kind=kind,
        kept=result.kept.total(),
        kept_by_split=dict(sorted((+result.kept).items())),
        dropped=dict(sorted((dropped + result.dropped).items())),
        files=dict(sorted(result.files.items())),
        reused=result.reused,
        failures=tuple(result.failures),
    )
