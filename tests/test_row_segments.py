"""Segments of rows: whole or not there."""

import numpy as np
import pytest

from ecomap.errors import DataError
from ecomap.row_segments import list_segments, open_segment, remove_leftovers, write_segment


def test_a_segment_comes_back(tmp_path) -> None:
    rows = np.arange(12, dtype=np.float16).reshape(3, 2, 2)
    segment = open_segment(write_segment(tmp_path, ["a", "b", "c"], rows))
    out = np.zeros((3, 8), np.uint8)
    segment.read(np.array([2, 0]), out, np.array([0, 2]))
    assert (segment.shape, segment.dtype) == ((2, 2), rows.dtype)
    assert segment.keys.tolist() == [b"a", b"b", b"c"]
    np.testing.assert_array_equal(out.view(np.float16)[[0, 2]].reshape(2, 2, 2), rows[[2, 0]])
    assert not out[1].any()


@pytest.mark.parametrize("stage", ["rows", "keys"])
def test_nothing_counts_before_the_keys_are_there(tmp_path, monkeypatch, stage: str) -> None:
    """Whatever moment a process is killed at, a segment is whole or not listed."""
    calls = []

    def killed(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == (1 if stage == "rows" else 2):
            raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        write_segment(tmp_path, ["a"], np.zeros((1, 2)))
    assert list_segments(tmp_path) == []
    assert [path.suffix for path in tmp_path.iterdir()] == ([] if stage == "rows" else [".npy"])
    remove_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_leftovers_go_and_segments_stay(tmp_path) -> None:
    path = write_segment(tmp_path, ["a"], np.ones((1, 2)))
    (tmp_path / "x.tmp").write_bytes(b"half")
    (tmp_path / "y.npy").write_bytes(b"half")
    remove_leftovers(tmp_path)
    assert sorted(tmp_path.iterdir()) == [path, path.with_suffix(".npy")]


@pytest.mark.parametrize("fault", ["cut", "empty", "gone", "longer", "no json", "other keys"])
def test_a_damaged_segment_is_named(tmp_path, fault: str) -> None:
    path = write_segment(tmp_path, ["a", "b"], np.ones((2, 3)))
    data = path.with_suffix(".npy")
    content = data.read_bytes()
    if fault == "gone":
        data.unlink()
    elif fault == "no json":
        path.write_text("{")
    elif fault == "other keys":
        path.write_text('{"keys": ["a"]}')
    else:
        data.write_bytes({"cut": content[:-1], "empty": b"", "longer": content + b"x"}[fault])
    with pytest.raises(DataError, match=f"{data.name} is not a whole segment .* delete it"):
        open_segment(path)


def test_a_segment_cut_while_it_is_read_is_named(tmp_path) -> None:
    segment = open_segment(write_segment(tmp_path, ["a", "b"], np.ones((2, 3))))
    segment.path.write_bytes(segment.path.read_bytes()[:-1])
    out = np.empty((1, 24), np.uint8)
    segment.read(np.array([0]), out, np.array([0]))
    with pytest.raises(DataError, match="ends before row 1"):
        segment.read(np.array([1]), out, np.array([0]))
    segment.path.unlink()
    with pytest.raises(DataError, match="No such file"):
        segment.read(np.array([0]), out, np.array([0]))
