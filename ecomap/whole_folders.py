"""Folders that are there as a whole or not at all, whatever happens while they are written.

A folder is written under another name beside its place, brought to the disk, and renamed. Where
one is replaced, the former goes aside by a rename just before, so that whoever opens the name finds
the former, the new, or for a moment between the two renames none. A process that is killed there
leaves both beside the name, each whole: ``.tmp_former_NAME`` is the former, ``.tmp_NAME`` the new.
The next writing puts the former back before it begins, and removes whatever else one left.

Folders have one writer at a time: who calls sees to that.
"""

import os
import re
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path

from safetensors import SafetensorError

from ecomap.errors import NO_ROOM, DataError

TEMPORARY_PREFIX = ".tmp_"
"""Of what is being written or removed."""
FORMER_PREFIX = f"{TEMPORARY_PREFIX}former_"


@contextmanager
def written_whole(
    folder: Path, *, replaces: Collection[str] = (), num_bytes: int | None = None
) -> Iterator[Path]:
    """Write a folder so that its name means the former content or all of the new one.

    What is in a folder of that name, is not written anew and is no match of ``replaces``, comes
    along: whoever put it there finds it again.

    Args:
        folder: Where to. Of a link, the folder that it points to is replaced.
        replaces: Patterns of paths in the folder that never outlive a writing, such as
            ``vae/*.safetensors``; a folder that matches goes with all that it holds.
        num_bytes: How much will be written, where that is known.

    Yields:
        An empty folder to write into. At an error it is removed, and ``folder`` is as it was.

    Raises:
        DataError: If the disk has no room, or ``folder`` is a file.
        OSError: If the disk fails otherwise.
    """
    place = folder.resolve()
    if place.exists() and not place.is_dir():
        raise DataError(f"{folder} is a file. Expected a folder, or nothing yet; give another.")
    new, former = (place.with_name(p + place.name) for p in (TEMPORARY_PREFIX, FORMER_PREFIX))
    _clear_up(place, new, former)
    try:
        new.mkdir(parents=True)
        yield new
        _keep_strangers(place, new, replaces)
        for path in (*new.rglob("*"), new):
            bring_to_disk(path)
        if place.exists():
            place.rename(former)
        new.rename(place)
        bring_to_disk(place.parent)
    except (Exception, KeyboardInterrupt) as error:
        written = sum(path.lstat().st_size for path in new.rglob("*"))
        _clear_up(place, new, former)
        if (told := _in_words(error, folder, num_bytes, written)) is not None:
            raise told from None
        raise
    _clear_up(place, new, former)


def bring_to_disk(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk; others are passed over."""
    if path.is_symlink() or not (path.is_file() or path.is_dir()):
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _clear_up(place: Path, new: Path, former: Path) -> None:
    """Put the former folder back where no other has come, and remove what is left beside it."""
    if former.exists() and not place.exists():
        former.rename(place)
    shutil.rmtree(new, ignore_errors=True)
    if former.exists():
        former.rename(new)  # under its own name it is found whole or not at all
        shutil.rmtree(new, ignore_errors=True)


def _keep_strangers(place: Path, new: Path, replaces: Collection[str]) -> None:
    """Give a new folder what others put into the former one, without taking it from there."""
    for path in sorted(place.rglob("*")):
        name = path.relative_to(place)
        target = new / name
        names = [part.as_posix() for part in (name, *name.parents)]
        if os.path.lexists(target) or any(fnmatchcase(n, p) for n in names for p in replaces):
            continue
        if path.is_dir() and not path.is_symlink():
            target.mkdir()
            continue
        try:
            os.link(path, target, follow_symlinks=False)
        except OSError:  # not every disk has second names, and not every file may get one
            shutil.copy2(path, target, follow_symlinks=False)


def _in_words(
    error: BaseException, folder: Path, num_bytes: int | None, written: int
) -> Exception | None:
    """What a disk's complaint means; ``None`` where the error says it itself."""
    code = error.errno if isinstance(error, OSError) else _code_in(str(error))
    if code in NO_ROOM:
        parents = folder.resolve().parents
        free = shutil.disk_usage(next(path for path in parents if path.exists())).free
        size = "" if num_bytes is None else f" of {num_bytes / 1e6:.1f} MB"
        return DataError(
            f"{folder} cannot be written: {os.strerror(code)}, after {written / 1e6:.1f} MB{size}; "
            f"{free / 1e6:.1f} MB are free without them. Expected room for the whole folder beside "
            "what is there. Free space and start the same command again: checkpoints, and what was "
            "there before, are intact."
        )
    if code is not None and isinstance(error, SafetensorError):
        return OSError(code, os.strerror(code), str(folder))
    return None


def _code_in(text: str) -> int | None:
    """Number of the system's error in an error's text: libraries in Rust tell of it in words."""
    said = re.search(r"\(os error (\d+)\)", text)
    return int(said[1]) if said else None
