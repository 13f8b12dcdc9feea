"""Disks without room, as a limit on the size of files makes them."""

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ecomap.errors import DataError


@contextmanager
def room_for(num_bytes: int) -> Iterator[None]:
    """No file may grow beyond so many bytes: writing more fails as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def contents(folder: Path) -> dict[str, bytes]:
    """Bytes of each file in a folder, by its path in it."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*") if path.is_file()
    }  # fmt: skip


def assert_saved_whole_or_not(
    save: Callable[[Path], object], again: Callable[[Path], object], folder: Path
) -> None:
    """Fail the second of two writings at each size of its files in turn, then let it succeed.

    What somebody put into the folder stays, and nothing stays beside it.
    """
    save(folder)
    (folder / "mine").mkdir()
    (folder / "mine" / "notes.txt").write_text("thesis")
    (folder / "mine.safetensors").write_bytes(b"of somebody else")
    before = contents(folder)
    beside = sorted(folder.parent.iterdir())
    expected = folder.with_name("expected")
    again(expected)
    wanted = contents(expected)
    assert wanted != {name: before[name] for name in wanted if name in before}
    for size in sorted({len(content) for content in wanted.values()}):
        with room_for(size - 1), pytest.raises(DataError, match=r"File too large.* Free space and"):
            again(folder)
        assert contents(folder) == before
        assert sorted(folder.parent.iterdir()) == sorted([*beside, expected])
    again(folder)
    assert contents(folder) == wanted | {n: before[n] for n in before if n.startswith("mine")}
    assert sorted(folder.parent.iterdir()) == sorted([*beside, expected])
