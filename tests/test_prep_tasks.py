import errno
import json
import os

import pytest

from data_prep import tasks
from data_prep.tasks import Outcome, Task, do_task, is_settled, read_outcome
from ecomap.errors import DataError


class PassingError(DataError):
    retryable = True


def task(task_id="a/2020-01", decisive=None):
    return Task("imagery", task_id, {"value": 3}, decisive)


def outcome_of(one, **changes):
    values = {"kind": one.kind, "task_id": one.task_id, "digest": one.digest, "state": "done"}
    return Outcome(**values | changes)


def test_a_task_is_known_by_what_decides_it_and_not_by_what_carries_it():
    assert task().digest == Task("imagery", "a/2020-01", {"value": 4}).digest
    others = {task("b").digest, task(decisive=[1]).digest, Task("climate", "a/2020-01", {}).digest}
    assert len(others | {task().digest}) == 4


@pytest.mark.parametrize("name", ["", "a b", "a/b/c", "a/", "é*", "..", "../a", "a/.."])
def test_a_name_that_is_no_file_name_is_refused(name):
    with pytest.raises(DataError, match="cannot name a task"):
        Task("imagery", name, {})


def test_what_a_function_returns_becomes_the_outcome():
    outcome = do_task(task(), lambda *, value: ("empty", "cloudy", {"value": value}))
    assert outcome == outcome_of(task(), state="empty", reason="cloudy", result={"value": 3})


def test_errors_fail_the_task_and_say_whether_to_try_again():
    def fail(error):
        def function(*, value):
            raise error

        return do_task(task(), function)

    known = fail(PassingError("no answer"))
    assert (known.state, known.reason, known.retryable) == ("failed", "PassingError", True)
    assert known.detail == "no answer"
    lasting = fail(DataError("broken"))
    assert (lasting.reason, lasting.retryable) == ("DataError", False)
    unforeseen = fail(KeyError("x"))
    assert (unforeseen.reason, unforeseen.retryable) == ("internal", True)
    assert unforeseen.detail == "KeyError: 'x'"


def test_a_full_disk_stops_everything():
    def function(*, value):
        raise OSError(errno.ENOSPC, "No space left on device", "x.tif")

    with pytest.raises(OSError, match="No space"):
        do_task(task(), function)


def test_an_outcome_comes_back_and_a_changed_or_damaged_one_does_not(tmp_path):
    one = task()
    assert read_outcome(tmp_path, one) is None
    outcome = outcome_of(one, result={"num_bytes": 3})
    tasks.write_outcome(tmp_path, one, outcome)
    assert read_outcome(tmp_path, one) == outcome
    assert read_outcome(tmp_path, task(decisive=[1])) is None
    path = one.outcome_path(tmp_path)
    assert path == tmp_path / "tasks/imagery/a/2020-01.json"
    path.write_text(path.read_text()[:20])
    assert read_outcome(tmp_path, one) is None


def test_outcomes_hold_no_times(tmp_path):
    one = task()
    for folder in ("x", "y"):
        tasks.write_outcome(tmp_path / folder, one, outcome_of(one))
    first, second = (one.outcome_path(tmp_path / f).read_bytes() for f in ("x", "y"))
    assert first == second
    assert set(json.loads(first)) == set(Outcome.__dataclass_fields__)


def test_a_task_is_settled_when_its_result_is_there(tmp_path):
    one = task()
    (tmp_path / "a.tif").write_bytes(b"123")
    done = {"path": "a.tif", "num_bytes": 3}
    assert not is_settled(None, tmp_path)
    assert is_settled(outcome_of(one, result=done), tmp_path)
    assert is_settled(outcome_of(one), tmp_path)
    assert is_settled(outcome_of(one, state="empty", result={"path": "gone.tif"}), tmp_path)
    assert not is_settled(outcome_of(one, result=done | {"num_bytes": 4}), tmp_path)
    assert not is_settled(outcome_of(one, result=done | {"path": "gone.tif"}), tmp_path)
    assert not is_settled(outcome_of(one, state="failed"), tmp_path)
    assert not is_settled(outcome_of(one, state="failed", retryable=True), tmp_path)
    assert not is_settled(outcome_of(one, result={"is_whole": False}), tmp_path)


def test_leftovers_of_a_killed_run_are_removed_and_nothing_else(tmp_path):
    for part in ("images", "exports"):
        (tmp_path / part).mkdir()
    gone = {"images/a.tif.1f.tmp", "manifest.parquet.tmp"}
    kept = {"images/a.tif", "exports/b.tar.tmp", "manifest.parquet", "notes.tmp", "x.tmp_old"}
    for name in gone | kept:
        (tmp_path / name).write_text("x")
    assert tasks.remove_leftovers(tmp_path, ["images", "absent"]) == 2
    left = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    assert left == kept


def test_a_changed_file_has_another_mark(tmp_path):
    path = tmp_path / "a.tif"
    absent = tasks.file_mark(path)
    path.write_text("x")
    first = tasks.file_mark(path)
    assert first == tasks.file_mark(path) != absent
    os.utime(path, ns=(1, 1))
    assert tasks.file_mark(path) != first
    store = tmp_path / "a.zarr"
    store.mkdir()
    empty = tasks.file_mark(store)
    (store / "zarr.json").write_text("{}")
    assert tasks.file_mark(store) != empty
