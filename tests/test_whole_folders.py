"""Folders: the former or the new one under a name, whatever fails, and whenever it is killed."""

import errno
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import SafetensorError

from ecomap.errors import DataError
from ecomap.whole_folders import written_whole
from tests.full_disk import contents, room_for

ROOT = Path(__file__).parents[1]
FORMER = {"a": b"former", "part/b": b"former", "part/old-2": b"former", "part/mine": b"notes"}
NEW = {"a": b"new", "part/b": b"new"}
REPLACES = ("part/old-*",)
AFTER = NEW | {"part/mine": b"notes"}


def fill(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def write(folder, files=None, **options):
    with written_whole(folder, **({"replaces": REPLACES} | options)) as new:
        fill(new, NEW if files is None else files)


def test_a_new_folder_is_not_seen_before_it_is_whole(tmp_path):
    folder = tmp_path / "runs" / "x"
    with written_whole(folder) as new:
        fill(new, NEW)
        assert not folder.exists()
    assert contents(folder) == NEW
    assert list(folder.parent.iterdir()) == [folder]


def test_what_others_put_into_a_folder_outlives_the_writing_and_what_it_replaces_does_not(tmp_path):
    folder = tmp_path / "x"
    fill(folder, FORMER | {"gone/whole": b"former", "gone.txt": b"notes", "own/deep/er": b"notes"})
    (folder / "empty").mkdir()
    (folder / "link").symlink_to("own/deep")
    (folder / "broken").symlink_to("nowhere")
    number = (folder / "own" / "deep" / "er").stat().st_ino
    with written_whole(folder, replaces=(*REPLACES, "gone")) as new:
        fill(new, NEW)
        assert contents(folder)["a"] == b"former", "the former is read until the new is whole"
    found = contents(folder)
    assert {n: c for n, c in found.items() if not n.startswith("link/")} == AFTER | {
        "gone.txt": b"notes", "own/deep/er": b"notes",
    }  # fmt: skip
    assert (folder / "empty").is_dir()
    assert os.readlink(folder / "link") == "own/deep"
    assert os.readlink(folder / "broken") == "nowhere"
    assert (folder / "own" / "deep" / "er").stat().st_ino == number, "it takes no second room"
    assert list(tmp_path.iterdir()) == [folder]


def test_where_files_cannot_have_two_names_they_are_copied(tmp_path, monkeypatch):
    def refused(*args, **kwargs):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    fill(tmp_path / "x", FORMER)
    monkeypatch.setattr(os, "link", refused)
    write(tmp_path / "x")
    assert contents(tmp_path / "x") == AFTER


@pytest.mark.parametrize("error", [ValueError("odd"), OSError("odd"), KeyboardInterrupt("odd")])
def test_an_error_leaves_the_former_folder_and_nothing_beside_it(tmp_path, error):
    def halting(folder):
        with written_whole(folder) as new:
            fill(new, NEW)
            raise error

    fill(tmp_path / "x", FORMER)
    for name in ("x", "y"):
        with pytest.raises(type(error), match="odd"):
            halting(tmp_path / name)
    assert contents(tmp_path) == {f"x/{name}": content for name, content in FORMER.items()}


def test_a_folder_that_cannot_take_its_place_leaves_the_former_there(tmp_path, monkeypatch):
    rename = Path.rename

    def refused(path, target):
        if path.name == ".tmp_x" and Path(target).name == "x":
            raise OSError(errno.EIO, "Input/output error", str(path))
        return rename(path, target)

    fill(tmp_path / "x", FORMER)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", refused)
        with pytest.raises(OSError, match="Input/output"):
            write(tmp_path / "x")
    assert contents(tmp_path) == {f"x/{name}": content for name, content in FORMER.items()}


def test_a_link_is_followed_and_a_file_is_refused(tmp_path):
    fill(tmp_path / "far" / "x", FORMER)
    (tmp_path / "x").symlink_to("far/x")
    write(tmp_path / "x")
    assert (tmp_path / "x").is_symlink()
    assert contents(tmp_path / "far" / "x") == AFTER
    (tmp_path / "file").write_text("years of work")
    with pytest.raises(DataError, match=r"file is a file\. Expected a folder"):
        write(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "years of work"


KILLED = """
import os, sys
from pathlib import Path
from ecomap.whole_folders import written_whole

STEPS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link"}
left = None

def kill(event, _):
    global left
    if left is not None and event in STEPS:
        left -= 1
        if left < 0:
            os._exit(9)

sys.addaudithook(kill)
for folder in sorted(Path(sys.argv[1]).iterdir()):
    child = os.fork()
    if child == 0:
        left = int(folder.name)
        with written_whole(folder / "x", replaces=["part/old-*"]) as new:
            (new / "part").mkdir()
            (new / "a").write_bytes(b"new")
            (new / "part" / "b").write_bytes(b"new")
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(code)
    if code == 0:
        break
"""


def test_a_kill_at_any_moment_leaves_a_whole_folder_and_the_next_writing_clears_up(tmp_path):
    folders = [tmp_path / f"{number:03d}" for number in range(60)]
    for folder in folders:
        fill(folder / "x", FORMER)
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)], capture_output=True, text=True, cwd=ROOT,
        check=True,
    )  # fmt: skip
    codes = [int(code) for code in done.stdout.split()]
    num_kills = codes.count(9)
    assert codes == [9] * num_kills + [0]
    assert num_kills > 20
    seen = []
    for folder in folders[: num_kills + 1]:
        if (folder / "x").exists():
            found = contents(folder / "x")
            assert found in (FORMER, AFTER)
            seen.append("new" if found == AFTER else "former")
        else:
            assert contents(folder / ".tmp_former_x") == FORMER
            assert contents(folder / ".tmp_x") == AFTER
            seen.append("none")
        with pytest.raises(ValueError, match="odd"), written_whole(folder / "x"):
            raise ValueError("odd")
        assert contents(folder / "x") == (AFTER if seen[-1] == "new" else FORMER)
        assert [path.name for path in folder.iterdir()] == ["x"]
        write(folder / "x", NEW | {"a": b"third"})
        assert contents(folder / "x") == AFTER | {"a": b"third"}
    assert seen.count("none") == 1, "for the moment between two renames"
    middle = seen.index("none")
    assert set(seen[:middle]) == {"former"}
    assert set(seen[middle + 1 :]) == {"new"}


def test_what_a_killed_writing_left_goes_with_the_next(tmp_path):
    fill(tmp_path / "x", FORMER)
    fill(tmp_path / ".tmp_x", {"a": b"ha", "stray": b"half"})
    fill(tmp_path / ".tmp_former_x", {"a": b"older"})
    write(tmp_path / "x")
    assert contents(tmp_path) == {f"x/{name}": content for name, content in AFTER.items()}


def test_a_file_that_outgrows_its_limit_is_told_with_what_to_do(tmp_path):
    fill(tmp_path / "x", FORMER)
    with (
        room_for(1_000_000),
        pytest.raises(DataError, match=r"x cannot be written: File too large, after 1\.0 MB of 3"),
    ):
        write(tmp_path / "x", {"a": bytes(3_000_000)}, num_bytes=3_000_000)
    assert contents(tmp_path) == {f"x/{name}": content for name, content in FORMER.items()}
    write(tmp_path / "x")
    assert contents(tmp_path / "x") == AFTER


FILLED = """
import sys
from pathlib import Path
from ecomap.whole_folders import written_whole

folder = Path(sys.argv[1])
(folder / "x").mkdir()
(folder / "x" / "a").write_bytes(b"former")
for name in ("plain", "safetensors", "tokenizers"):
    try:
        with written_whole(folder / "x") as new:
            if name == "plain":
                (new / "a").write_bytes(bytes(3_000_000))
            elif name == "safetensors":
                from safetensors.numpy import save_file
                import numpy
                save_file({"a": numpy.zeros(3_000_000, numpy.uint8)}, new / "a")
            else:
                from tokenizers import Tokenizer, models
                words = {f"word-{number}": number for number in range(150_000)}
                Tokenizer(models.WordLevel(words, unk_token="word-0")).save(str(new / "a"))
    except Exception as error:
        print(type(error).__name__, error)
    assert [path.name for path in folder.iterdir()] == ["x"]
    assert (folder / "x" / "a").read_bytes() == b"former"
"""


def test_a_full_disk_is_told_whichever_library_meets_it(tmp_path):
    """A disk of 2 MB, as a user without rights can mount one on Linux."""
    mounted = ["unshare", "-rm", "sh", "-c", 'mount -t tmpfs -o size=2m none "$1" && shift && "$@"']
    disk = [*mounted, "sh", str(tmp_path)]
    if shutil.which("unshare") is None or subprocess.run([*disk, "true"], check=False).returncode:
        pytest.skip("no disk can be mounted here")
    done = subprocess.run(
        [*disk, sys.executable, "-c", FILLED, str(tmp_path)], capture_output=True, text=True,
        cwd=ROOT, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    for line in lines:
        assert line.startswith(f"DataError {tmp_path / 'x'} cannot be written: No space left on ")
        assert "; 2.1 MB are free without them. Expected" in line
        assert "Free space and start the same command again: checkpoints, and" in line


def test_other_errors_of_the_disk_stay_what_they_are(tmp_path):
    words = "Error while serializing: I/O error: Read-only file system (os error 30)"
    with pytest.raises(OSError, match="Read-only") as caught, written_whole(tmp_path / "x"):
        raise SafetensorError(words)
    assert (caught.value.errno, caught.value.filename) == (errno.EROFS, str(tmp_path / "x"))
    with pytest.raises(SafetensorError, match="odd"), written_whole(tmp_path / "x"):
        raise SafetensorError("odd")
    assert not list(tmp_path.iterdir())


def test_the_limit_of_these_tests_is_undone():
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with pytest.raises(ValueError, match="odd"), room_for(10):
        raise ValueError("odd")
    assert resource.getrlimit(resource.RLIMIT_FSIZE) == before
