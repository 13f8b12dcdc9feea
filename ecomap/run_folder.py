"""The folder of a training run: what was asked for, on which data, with which versions."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from accelerate import Accelerator
from filelock import FileLock, Timeout

from ecomap.checkpoint import latest_checkpoint, remove_leftovers
from ecomap.config import Config, dump_config
from ecomap.errors import ConfigError
from ecomap.schema import RECORDS_FILE, write_json
from ecomap.versions import fingerprint, versions

DATA_FILE = "data.json"
"""Hash of the records of each dataset of a run."""

CHECKPOINT_FOLDER = "checkpoints"
LOCK_FILE = ".lock"


@contextmanager
def open_run(
    folder: Path,
    config: Config,
    datasets: Sequence[Path],
    *,
    accelerator: Accelerator | None = None,
    frozen: Mapping[str, str] | None = None,
) -> Iterator[None]:
    """Start or reopen a run's folder: complete config, data and versions before the first step.

    Until the end of the ``with`` block no other run gets in.

    Args:
        folder: Run folder.
        config: Complete settings.
        datasets: Dataset folders; a run goes on only while their records stay as they are, for
            another split would mix what was learnt with what is held out.
        accelerator: Of several processes the main one writes, and the others wait.
        frozen: Hashes of other things that the run depends on and its checkpoints do not hold,
            such as its base, by name.

    Raises:
        ConfigError: If the folder holds a run with another config or on other records, or another
            run works there.
    """
    is_main = accelerator is None or accelerator.is_main_process
    data = {str(path): fingerprint([path / RECORDS_FILE]) for path in datasets if is_main}
    with alone_in(folder, is_main=is_main):
        if is_main:
            _record(folder, config, data | dict(frozen or {}))
        if accelerator is not None:
            accelerator.wait_for_everyone()
        yield


@contextmanager
def alone_in(folder: Path, *, is_main: bool) -> Iterator[None]:
    """Keep a second run out of a folder, and remove what a killed one left half done.

    Within the block, the thread that works there may come in again.

    Args:
        folder: Run folder.
        is_main: Of several processes the main one does both.

    Raises:
        ConfigError: If another run works there.
    """
    if not is_main:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    # The system frees it when a process dies.
    lock = FileLock((folder / LOCK_FILE).resolve(), is_singleton=True)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ConfigError(
            f"Another run works in {folder}. Wait for its end, or choose another --output."
        ) from None
    try:
        remove_leftovers(folder / CHECKPOINT_FOLDER)
        yield
    finally:
        lock.release()


def _record(folder: Path, config: Config, data: Mapping[str, str]) -> None:
    """Write what a run is, or make sure that it is still the same."""
    path = folder / "config.yaml"
    if path.exists() and latest_checkpoint(folder / CHECKPOINT_FOLDER) is not None:
        _require_same(folder, config, data)
    else:
        dump_config(config, path)
        write_json(folder / DATA_FILE, data)
    path = folder / "versions.json"
    used = json.loads(path.read_text()) if path.exists() else []
    if versions() not in used:
        write_json(path, [*used, versions()])


def _require_same(folder: Path, config: Config, records: Mapping[str, str]) -> None:
    """Refuse to go on with a run that was started otherwise."""
    new = folder / "config.new.yaml"
    dump_config(config, new)
    is_same = (folder / "config.yaml").read_text() == new.read_text()
    new.unlink()
    if not is_same:
        raise ConfigError(
            f"{folder} holds a run with another config. Choose another --output, or delete it."
        )
    before = json.loads((folder / DATA_FILE).read_text())
    if changed := sorted(k for k in before | dict(records) if before.get(k) != records.get(k)):
        raise ConfigError(
            f"{folder} holds a run on other records or weights of {', '.join(changed)}: they were "
            "imported, split or trained again since. Choose another --output, or delete it."
        )
