"""Rows on disk: found by key, in any order, by several processes, after any interruption."""

import os
import subprocess
import sys
from multiprocessing import get_context

import numpy as np
import pytest
from rich.progress import Progress

from ecomap import kept_rows
from ecomap.errors import DataError
from ecomap.kept_rows import KeptRows, fill

SHAPE = (2, 3)


def row_of(key: str) -> np.ndarray:
    """The one right row of a key: a number that no other key has, and its place in the row."""
    return int(key, 36) + np.arange(6).reshape(SHAPE) / 8


def keys_of(count: int) -> list[str]:
    return [np.base_repr(number + 36, 36) for number in range(count)]


def rows_of(keys) -> np.ndarray:
    return np.stack([row_of(key) for key in keys])


def maker(keys, made: list[str]):
    def make(positions: list[int]) -> np.ndarray:
        made.extend(keys[i] for i in positions)
        return rows_of([keys[i] for i in positions])

    return make


def test_each_key_gets_its_own_row_whatever_the_order(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(kept_rows, "SEGMENT_ROWS", 8)
    keys = keys_of(50)
    fill(KeptRows(tmp_path, SHAPE), keys, maker(keys, []), batch_size=3, label="rows")
    assert len(list(tmp_path.glob("*.npy"))) == 9
    rows = KeptRows(tmp_path, SHAPE)
    for seed in range(3):
        chosen = np.random.default_rng(seed).choice(keys, 80).tolist()
        np.testing.assert_array_equal(rows.read(chosen), rows_of(chosen))
    places = rows.locate(keys)[np.array([[3, 40], [11, 3]])]
    np.testing.assert_array_equal(rows.take(places)[1, 0], row_of(keys[11]))
    assert rows.take(places).shape == (2, 2, *SHAPE)
    assert rows.read(keys[:1]).flags.writeable


def test_rows_are_made_once(tmp_path) -> None:
    keys, made = keys_of(5), []
    doubled = [*keys, *keys[::-1]]
    fill(KeptRows(tmp_path, SHAPE), doubled, maker(doubled, made), label="rows")
    assert made == keys
    fill(KeptRows(tmp_path, SHAPE), keys, maker(keys, made), label="rows")
    assert made == keys
    more = [*keys_of(8), keys[0]]
    fill(KeptRows(tmp_path, SHAPE), more, maker(more, made), label="rows")
    assert made == keys_of(8)
    rows = KeptRows(tmp_path, SHAPE)
    np.testing.assert_array_equal(rows.read(more), rows_of(more))
    assert len(rows) == 8
    assert keys[0] in rows
    assert "ZZ" not in rows
    assert rows.missing(["ZZ", keys[1], "YY", "ZZ"]) == ["ZZ", "YY"]


def test_interrupted_work_goes_on_where_its_last_segment_ended(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(kept_rows, "SEGMENT_ROWS", 4)
    keys, made = keys_of(11), []

    def stopped(positions: list[int]) -> np.ndarray:
        if 9 in positions:
            raise KeyboardInterrupt
        return maker(keys, made)(positions)

    with pytest.raises(KeyboardInterrupt):
        fill(KeptRows(tmp_path, SHAPE), keys, stopped, batch_size=1, label="rows")
    assert made == keys[:9]
    made.clear()
    with Progress(disable=True) as progress:
        fill(KeptRows(tmp_path, SHAPE), keys, maker(keys, made), progress=progress, label="rows")
        assert [(t.total, t.completed) for t in progress.tasks] == [(11, 11)]
    assert made == keys[8:]
    np.testing.assert_array_equal(KeptRows(tmp_path, SHAPE).read(keys), rows_of(keys))


def test_slow_work_is_kept_before_a_segment_is_full(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(kept_rows, "SEGMENT_SECONDS", 0.0)
    keys = keys_of(5)

    def stopped(positions: list[int]) -> np.ndarray:
        if 4 in positions:
            raise KeyboardInterrupt
        return maker(keys, [])(positions)

    with pytest.raises(KeyboardInterrupt):
        fill(KeptRows(tmp_path, SHAPE), keys, stopped, batch_size=2, label="rows")
    assert KeptRows(tmp_path, SHAPE).missing(keys) == keys[4:]


def test_the_first_row_of_a_key_stays(tmp_path) -> None:
    first, second = KeptRows(tmp_path, ()), KeptRows(tmp_path, ())
    first.append(["a", "b"], np.array([1, 2]))
    second.append(["b", "c", "c"], np.array([20, 3, 30]))
    assert second.read(["a", "b", "c"]).tolist() == [1, 2, 3]
    assert "c" not in first
    first.refresh()
    assert first.read(["c", "a"]).tolist() == [3, 1]
    second.append(["a"], np.array([5]))
    assert len(list(tmp_path.glob("*.npy"))) == 2


def fill_here(folder, count: int, start: int) -> None:
    keys = keys_of(count)[start:]
    kept_rows.SEGMENT_ROWS = 3
    fill(KeptRows(folder, SHAPE), keys, maker(keys, []), batch_size=2, label="rows")


def test_processes_that_fill_at_once_keep_every_row_once(tmp_path) -> None:
    context = get_context("spawn")
    processes = [
        context.Process(target=fill_here, args=(tmp_path, 60, start)) for start in (0, 10, 20)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    rows, keys = KeptRows(tmp_path, SHAPE), keys_of(60)
    np.testing.assert_array_equal(rows.read(keys), rows_of(keys))
    assert len(rows) == 60
    assert list(tmp_path.glob("*.tmp")) == []


KILLED = """
import os, sys
from pathlib import Path
from ecomap import kept_rows
from tests.test_kept_rows import SHAPE, KeptRows, fill, keys_of, rows_of
kept_rows.SEGMENT_ROWS = 4
keys = keys_of(12)
def make(positions):
    if 8 in positions:
        (Path(sys.argv[1]) / "half.npy").write_bytes(b"half")
        os.kill(os.getpid(), 9)
    return rows_of([keys[i] for i in positions])
fill(KeptRows(Path(sys.argv[1]), SHAPE), keys, make, batch_size=2, label="rows")
"""


def test_a_killed_process_leaves_whole_segments_and_no_lock(tmp_path) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED, tmp_path], cwd=os.getcwd(), check=False)
    assert killed.returncode == -9
    keys, made = keys_of(12), []
    fill(KeptRows(tmp_path, SHAPE), keys, maker(keys, made), label="rows")
    assert made == keys[8:]
    assert not (tmp_path / "half.npy").exists()


def test_what_a_row_takes_in_memory_is_bounded(tmp_path, monkeypatch) -> None:
    """Not more than a segment is held, and a segment is small however large its rows are."""
    monkeypatch.setattr(kept_rows, "SEGMENT_BYTES", 4 * 12)
    keys, sizes = keys_of(9), []
    rows = KeptRows(tmp_path, SHAPE)
    append = rows.append
    monkeypatch.setattr(rows, "append", lambda k, r: (sizes.append(r.nbytes), append(k, r)))
    fill(rows, keys, maker(keys, []), label="rows")
    assert sizes == [48, 48, 12]


def test_wrong_rows_are_refused(tmp_path) -> None:
    rows = KeptRows(tmp_path, SHAPE)
    with pytest.raises(DataError, match=r"have the shape \(1, 2\). Expected \(1, 2, 3\)"):
        rows.append(["a"], np.zeros((1, 2)))
    with pytest.raises(DataError, match=r"2 rows .* have the shape \(1, 2, 3\)"):
        fill(rows, ["a", "b"], lambda _: np.zeros((1, *SHAPE)), label="rows")
    for bad in (np.nan, np.inf, 7e4):
        with pytest.raises(
            DataError, match=r"1 rows .* such as that of 'b', .* too large for float16"
        ):
            rows.append(["a", "b"], np.stack([np.zeros(SHAPE), np.full(SHAPE, bad)]))
    assert len(rows) == 0
    with pytest.raises(
        DataError, match=r"has no row for 1 of 1 keys, such as 'a'. Make them first"
    ):
        rows.read(["a"])


def test_rows_of_another_kind_are_refused(tmp_path) -> None:
    KeptRows(tmp_path, SHAPE).append(["a"], np.zeros((1, *SHAPE)))
    with pytest.raises(
        DataError, match=r"shape \(2, 3\) and type float16. Expected \(2, 3\) and f"
    ):
        KeptRows(tmp_path, SHAPE, "float32")
    with pytest.raises(DataError, match=r"Expected \(3,\)"):
        KeptRows(tmp_path, (3,))


def test_a_folder_that_takes_nothing_is_named(tmp_path, monkeypatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot be kept in .*file/rows: .* free some, or name"):
        KeptRows(tmp_path / "file" / "rows", ()).append(["a"], np.zeros(1))

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    rows = KeptRows(tmp_path / "rows", ())
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(DataError, match="No space left on device"):
        rows.append(["a"], np.zeros(1))
    monkeypatch.undo()
    rows.append(["a"], np.zeros(1))
    assert len(KeptRows(tmp_path / "rows", ())) == 1


def test_an_error_of_the_maker_is_its_own(tmp_path) -> None:
    def make(_: list[int]) -> np.ndarray:
        raise FileNotFoundError("frame")

    with pytest.raises(FileNotFoundError, match="frame"):
        fill(KeptRows(tmp_path, ()), ["a"], make, label="rows")
