"""Tasks and what became of them: one small JSON file each, so that any run can be gone on with.

A task is known by kind, id, and a hash of everything that decides its result. Its outcome is
written last, after the files that it speaks of, by an atomic rename: a task without an outcome was
not done, whatever else lies in the folder. Outcomes hold no times and no machine names: a run that
was interrupted leaves the same bytes as one that was not.
"""

import errno
import hashlib
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from ecomap.errors import DataError, EcomapError
from ecomap.schema import write_json

State = Literal["planned", "done", "empty", "failed"]
"""``empty`` is a result: there is no clear scene that month. ``failed`` is none."""

STATES: tuple[State, ...] = ("planned", "done", "empty", "failed")
TASKS_FOLDER = "tasks"
FATAL_ERRNO = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}
)
"""Errors of the output folder, which would meet every other task as well."""
ID_PATTERN = re.compile(r"^(?!\.)[\w.-]+(/(?!\.)[\w.-]+)?$")


@dataclass(frozen=True)
class Task:
    """One piece of work that is done or not done as a whole."""

    kind: str
    """Step it belongs to, such as ``imagery``."""
    task_id: str
    """Name, unique in its kind; at most one ``/``, as in ``PLACE/MONTH``."""
    inputs: dict[str, Any]
    """Keyword arguments of the function that does it; must travel to other processes."""
    decisive: Any = None
    """JSON values that decide the result besides the name: when they change, it is done again."""

    def __post_init__(self) -> None:
        """Refuse names that are no file names."""
        if not ID_PATTERN.match(self.task_id):
            raise DataError(
                f"{self.task_id!r} cannot name a task; letters, digits, '_', '-' and '.' can. "
                "Give the place another id."
            )

    @cached_property
    def digest(self) -> str:
        """Hash of what decides the result."""
        return digest_of([self.kind, self.task_id, self.decisive])

    def outcome_path(self, folder: Path) -> Path:
        """Where its outcome is kept."""
        return folder / TASKS_FOLDER / self.kind / f"{self.task_id}.json"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a task."""

    kind: str
    task_id: str
    digest: str
    state: State
    reason: str = ""
    """One word for counting: why it is empty or failed."""
    retryable: bool = False
    """Whether a failure may pass by itself; others wait to be mended."""
    detail: str = ""
    """Sentence for people."""
    result: dict[str, Any] = field(default_factory=dict)


TaskFunction = Callable[..., tuple[State, str, dict[str, Any]]]
"""Does a task: keyword arguments -> (state, reason, result as JSON values)."""


def digest_of(value: Any) -> str:
    """Hash of JSON values."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def do_task(task: Task, function: TaskFunction) -> Outcome:
    """Do a task and say what became of it; only what is wrong with the disk is raised.

    An error that nobody foresaw fails this one task (``internal``): a hundred thousand others
    should not wait for it.
    """
    base = {"kind": task.kind, "task_id": task.task_id, "digest": task.digest}
    try:
        state, reason, result = function(**task.inputs)
        return Outcome(**base, state=state, reason=reason, result=result)  # type: ignore[arg-type]
    except EcomapError as error:
        reason = type(error).__name__
        retryable = bool(getattr(error, "retryable", False))
        detail = str(error)
    except Exception as error:  # the boundary of a task
        if isinstance(error, OSError) and error.errno in FATAL_ERRNO:
            raise
        reason, retryable, detail = "internal", True, f"{type(error).__name__}: {error}"
    return Outcome(**base, state="failed", reason=reason, retryable=retryable, detail=detail)  # type: ignore[arg-type]


def write_outcome(folder: Path, task: Task, outcome: Outcome) -> None:
    """Write an outcome whole or not at all."""
    path = task.outcome_path(folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, asdict(outcome))


def read_outcome(folder: Path, task: Task) -> Outcome | None:
    """What became of a task; None if it was not done, or done from other inputs, or cut off."""
    try:
        content = json.loads(task.outcome_path(folder).read_bytes())
        outcome = Outcome(**content)
    except (FileNotFoundError, ValueError, TypeError):
        return None
    return outcome if outcome.digest == task.digest else None


def is_settled(outcome: Outcome | None, folder: Path) -> bool:
    """Whether a task need not be done again: it has a whole result, and its file is there.

    What failed is always tried again: the cause may have passed, or was mended.
    """
    if outcome is None or outcome.state == "failed" or not outcome.result.get("is_whole", True):
        return False
    path = outcome.result.get("path")
    if outcome.state != "done" or path is None:
        return True
    try:
        size = (folder / path).stat().st_size
    except OSError:
        return False
    return bool(size == outcome.result.get("num_bytes", size))


def file_mark(path: Path) -> list[Any]:
    """What tells a local file from its successor of the same name: size and time of change.

    Of a folder (a Zarr store, a folder of maps) its own time and those of its metadata count.
    """
    if not path.exists():
        return [str(path), None]
    names = ("", "zarr.json", ".zmetadata") if path.is_dir() else ("",)
    found = [(path / name).stat() for name in names if (path / name).exists()]
    return [str(path), *([status.st_size, status.st_mtime_ns] for status in found)]


def remove_leftovers(folder: Path, parts: Iterable[str]) -> int:
    """Delete temporary files of a run that was killed, in these parts of a folder.

    Returns:
        How many there were.
    """
    found = [path for part in parts for path in (folder / part).rglob("*.tmp") if path.is_file()]
    found += [path for path in folder.glob("*.tmp") if path.with_suffix("").exists()]
    for path in found:
        path.unlink(missing_ok=True)
    return len(found)
