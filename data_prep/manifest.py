"""The manifest: every task of a dataset with what became of it, in one table."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import ArrowException

from data_prep.engine import batched
from data_prep.prep_config import HOW_TO_ASK, HOW_TO_SEARCH, PrepConfig
from data_prep.tasks import State, Task, read_outcome
from ecomap.errors import DataError

MANIFEST_FILE = "manifest.parquet"
NO_MANIFEST = "{path} does not exist. Make it with 'ecomap prep fetch CONFIG'."
SETTINGS_KEY = b"ecomap:settings"
NOT_FETCHED = {"output", "engine", "display", "place_names", "name"}
SCHEMA = pa.schema(
    [
        ("kind", pa.string()),
        ("task_id", pa.string()),
        ("state", pa.string()),
        ("reason", pa.string()),
        ("retryable", pa.bool_()),
        ("detail", pa.string()),
        ("location_id", pa.string()),  # of imagery, land cover and inspection
        ("month", pa.string()),  # of imagery
        ("result", pa.string()),  # JSON
    ]
)
ROWS_A_GROUP = 10_000
MAX_LISTED = 100
"""Failures that a summary spells out."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One task."""

    kind: str
    task_id: str
    state: State
    reason: str
    retryable: bool
    detail: str
    location_id: str
    month: str
    result: dict[str, Any]


def row_of(task: Task, folder: Path) -> Row:
    """A task with what became of it; ``planned`` where nothing did yet."""
    location_id, _, month = task.task_id.partition("/")
    has_place = task.kind in ("imagery", "land_cover", "inspection")
    outcome = read_outcome(folder, task)
    return Row(
        kind=task.kind,
        task_id=task.task_id,
        state=outcome.state if outcome else "planned",
        reason=outcome.reason if outcome else "",
        retryable=outcome.retryable if outcome else False,
        detail=outcome.detail if outcome else "",
        location_id=location_id if has_place else "",
        month=month if task.kind == "imagery" else "",
        result=outcome.result if outcome else {},
    )


def write_manifest(
    folder: Path, tasks: Iterable[Task], config: PrepConfig
) -> Counter[tuple[str, State]]:
    """Write the table by an atomic rename, a group of rows at a time.

    Args:
        folder: Dataset folder.
        tasks: All tasks of all steps.
        config: Whose tasks they are; its settings are kept in the table.

    Returns:
        Number of tasks by kind and state.
    """
    counts: Counter[tuple[str, State]] = Counter()
    path = folder / MANIFEST_FILE
    temporary = path.with_name(path.name + ".tmp")
    settings = json.dumps(fetched_settings(config), sort_keys=True)
    schema = SCHEMA.with_metadata({SETTINGS_KEY: settings})
    with pq.ParquetWriter(temporary, schema) as writer:
        for group in batched(tasks, ROWS_A_GROUP):
            rows = [row_of(task, folder) for task in group]
            counts.update((row.kind, row.state) for row in rows)
            plain = [vars(row) | {"result": _to_json(row.result)} for row in rows]
            writer.write_table(pa.Table.from_pylist(plain, schema=schema))
    temporary.replace(path)
    return counts


def fetched_settings(config: PrepConfig) -> dict[str, Any]:
    """Settings that decide what is fetched."""
    content = config.model_dump(mode="json", exclude=NOT_FETCHED)
    how = {"imagery": HOW_TO_SEARCH, "climate": HOW_TO_ASK, "land_cover": HOW_TO_ASK}
    for section, keys in how.items():
        for key in keys:
            del content[section][key]
    return content


def check_settings(folder: Path, config: PrepConfig) -> None:
    """Refuse to go on with what other settings fetched.

    Raises:
        DataError: If the manifest is of other settings; the message names them.
    """
    path = folder / MANIFEST_FILE
    if not path.is_file():
        raise DataError(NO_MANIFEST.format(path=path))
    old = json.loads((pq.read_schema(path).metadata or {}).get(SETTINGS_KEY, b"{}"))
    new = fetched_settings(config)
    changed = sorted(key for key in new if new[key] != old.get(key))
    if changed:
        raise DataError(
            f"{path} is of other settings ({', '.join(changed)} changed). Run 'ecomap prep fetch' "
            "with this config first."
        )


def read_manifest(folder: Path, *, kind: str | None = None) -> Iterator[Row]:
    """Rows of the table, in the order of the tasks.

    Args:
        folder: Dataset folder.
        kind: Only this step's.

    Raises:
        DataError: If the table is missing or damaged.
    """
    path = folder / MANIFEST_FILE
    if not path.is_file():
        raise DataError(NO_MANIFEST.format(path=path))
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(ROWS_A_GROUP):
                for row in batch.to_pylist():
                    if kind in (None, row["kind"]):
                        yield Row(**row | {"result": json.loads(row["result"])})
    except (ArrowException, OSError, ValueError, TypeError) as error:
        raise DataError(
            f"{path} is not a readable manifest: {error}. Make it again with 'ecomap prep fetch'."
        ) from None


def failures_of(rows: Iterable[Row]) -> list[str]:
    """Failed tasks in words; of very many the first, and how many more there are."""
    failed = [row for row in rows if row.state == "failed"]
    listed = [
        f"{row.kind} {row.task_id}: {row.detail}"
        f"{' It may pass.' if row.retryable else ''} The next run tries again."
        for row in failed[:MAX_LISTED]
    ]
    more = len(failed) - len(listed)
    return [*listed, *([f"and {more} more; {MANIFEST_FILE} lists all"] if more else [])]


def _to_json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False)
