"""A second run that tries to get into the folder of a first."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import pytest

from ecomap.config import Config
from ecomap.errors import ConfigError
from ecomap.run_folder import open_run


def elsewhere(work: Callable[..., object], *given: object) -> object:
    """Work as another run does it: to a lock, another thread is what another process is."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work, *given).result()


def refused_during(
    monkeypatch: pytest.MonkeyPatch,
    module: ModuleType,
    names: Sequence[str],
    *,
    folder: Path,
    other: Config,
    dataset: Path,
) -> list[str]:
    """Make sure that no run of another config gets in where a module calls some of its functions.

    Returns:
        Names of what was called so far, in that order.
    """
    seen: list[str] = []

    def get_in() -> None:
        with open_run(folder, other, [dataset]):
            pass

    def guarded(name: str) -> Callable[..., object]:
        real = getattr(module, name)

        def work(*args: object, **options: object) -> object:
            with pytest.raises(ConfigError, match=f"Another run works in {folder}"):
                elsewhere(get_in)
            seen.append(name)
            return real(*args, **options)

        return work

    for name in names:
        monkeypatch.setattr(module, name, guarded(name))
    return seen
