"""Checkpoints of a training run: safetensors and JSON only, there as a whole or not at all.

A checkpoint is written under another name, brought to the disk, and renamed: a crash at any byte
leaves those before it as they were. What its tensors are is said in `ecomap.training_state`.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from ecomap.errors import DataError
from ecomap.schema import write_json
from ecomap.training_state import AVERAGES, WEIGHTS
from ecomap.whole_folders import TEMPORARY_PREFIX, written_whole

TENSORS_FILE = "state.safetensors"
STATE_FILE = "state.json"


def name_of(step: int) -> str:
    """Name of a checkpoint's folder."""
    return f"step_{step:08d}"


def save_checkpoint(
    folder: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any], *, keep: int = 2
) -> None:
    """Write a checkpoint beside the others and remove those that need not stay.

    Args:
        folder: Folder of the new checkpoint, named by `name_of`.
        tensors: Everything that training needs to go on, by name, on the CPU.
        state: What is not a tensor; ``best``, if given, names the ``step`` of a checkpoint that
            stays whatever its age.
        keep: Number of newest checkpoints that stay.

    Raises:
        DataError: If the disk is full; the other checkpoints are as they were.
        OSError: If the disk fails otherwise; likewise.
    """
    num_bytes = sum(tensor.nbytes for tensor in tensors.values())
    with written_whole(folder, num_bytes=num_bytes) as temporary:
        save_file(dict(tensors), temporary / TENSORS_FILE)
        write_json(temporary / STATE_FILE, state)
    best = name_of(state["best"]["step"]) if state.get("best") else None
    for old in _checkpoints(folder.parent)[:-keep]:
        if old.name != best:
            _remove(old)


def latest_checkpoint(folder: Path) -> Path | None:
    """Newest checkpoint; ``None`` if there is none. Unfinished ones are not looked at."""
    found = _checkpoints(folder)
    return found[-1] if found else None


def best_checkpoint(folder: Path) -> Path | None:
    """Checkpoint with the lowest ``val_loss``; ``None`` if no validation gave one."""
    newest = latest_checkpoint(folder)
    if newest is None:
        return None
    best = _read_state(newest).get("best")
    return None if best is None else folder / name_of(best["step"])


def load_checkpoint(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_checkpoint` wrote.

    Raises:
        DataError: If the files are missing or damaged.
    """
    state = _read_state(folder)
    try:
        return load_file(folder / TENSORS_FILE), state
    except (OSError, SafetensorError) as error:
        raise _unreadable(folder, error) from None


def load_averages(folder: Path) -> dict[str, Tensor]:
    """Averaged weights of a checkpoint by the names of the learner's parameters.

    Where a run keeps no averages, its weights.

    Raises:
        DataError: If the files are missing or damaged.
    """
    try:
        with safe_open(folder / TENSORS_FILE, "pt") as file:
            names = list(file.keys())
            prefix = AVERAGES if any(name.startswith(AVERAGES) for name in names) else WEIGHTS
            chosen = [name for name in names if name.startswith(prefix)]
            return {name.removeprefix(prefix): file.get_tensor(name) for name in chosen}
    except (OSError, SafetensorError) as error:
        raise _unreadable(folder, error) from None


def remove_leftovers(folder: Path) -> None:
    """Remove what a run that was killed had begun to write or to remove."""
    for path in folder.glob(f"{TEMPORARY_PREFIX}*"):
        shutil.rmtree(path)


def _checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints, the oldest first."""
    return sorted(folder.glob("step_*"))


def _remove(checkpoint: Path) -> None:
    """Remove a checkpoint so that it is never seen with a part of its files."""
    doomed = checkpoint.with_name(f"{TEMPORARY_PREFIX}old_{checkpoint.name}")
    checkpoint.rename(doomed)
    shutil.rmtree(doomed)


def _read_state(folder: Path) -> dict[str, Any]:
    """What is not a tensor."""
    try:
        content: dict[str, Any] = json.loads((folder / STATE_FILE).read_text())
    except (OSError, ValueError) as error:
        raise _unreadable(folder, error) from None
    return content


def _unreadable(folder: Path, error: Exception) -> DataError:
    """A checkpoint whose files were damaged after it was written."""
    return DataError(
        f"{folder} is not a readable checkpoint ({error}). Delete it to go on from the one before."
    )
