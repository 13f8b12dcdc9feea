import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from data_prep import engine, executors
from data_prep.engine import Engine, batched, map_unordered
from data_prep.prep_config import EngineConfig
from data_prep.tasks import Task, read_outcome
from ecomap.errors import DataError, RequestError

# distributed leaves sockets to the collector when a cluster closes.
pytestmark = pytest.mark.filterwarnings(
    "ignore:unclosed:ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)


def square(*, value, folder):
    """A task as a worker sees it: a file, then the outcome."""
    if value == 13:
        raise DataError("13 is unlucky.")
    if value % 5 == 0:
        return "empty", "multiple of five", {}
    Path(folder, f"{value}.txt").write_text(str(value * value))
    return "done", "", {"path": f"{value}.txt"}


def die_once(*, value, folder):
    """Kill the worker at one value, the first time."""
    mark = Path(folder, "died")
    if value == 7 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return square(value=value, folder=folder)


def wait_long(*, value, folder):
    Path(folder, f"{value}.started").touch()
    time.sleep(0.3)
    return square(value=value, folder=folder)


def run_tasks(tasks, *args, config, **options):
    with Engine(config) as engine:
        return engine.run(iter(tasks), *args, num_tasks=len(tasks), **options)


def tasks_in(folder, num=20):
    inputs = [{"value": value, "folder": str(folder)} for value in range(1, num + 1)]
    return [Task("square", f"{i['value']:04d}", i) for i in inputs]


@pytest.mark.parametrize("scheduler", ["serial", "processes", "dask"])
def test_every_scheduler_gives_the_same_files(tmp_path, scheduler):
    seen = []
    config = EngineConfig(scheduler=scheduler, num_workers=2, num_threads=2, batch_size=3)
    tasks = tasks_in(tmp_path)
    states = run_tasks(
        tasks, square, tmp_path, config=config, progress=lambda *counts: seen.append(counts)
    )
    assert states == Counter(done=15, empty=4, failed=1)
    assert seen[-1] == (20, 20)
    outcomes = [read_outcome(tmp_path, task) for task in tasks]
    assert [o.state for o in outcomes[:5]] == ["done", "done", "done", "done", "empty"]
    assert outcomes[12].detail == "13 is unlucky."
    assert (tmp_path / "4.txt").read_text() == "16"


def test_a_finished_run_does_nothing_again(tmp_path):
    config = EngineConfig(scheduler="serial", num_threads=1)
    run_tasks(tasks_in(tmp_path), square, tmp_path, config=config)
    before = (tmp_path / "4.txt").stat().st_mtime_ns
    seen = []
    states = run_tasks(
        tasks_in(tmp_path), square, tmp_path, config=config, progress=lambda *c: seen.append(c)
    )
    assert states == Counter(failed=1)  # what failed is tried again
    assert seen[-1] == (20, 20)
    assert (tmp_path / "4.txt").stat().st_mtime_ns == before
    (tmp_path / "4.txt").unlink()
    assert run_tasks(tasks_in(tmp_path), square, tmp_path, config=config) == Counter(
        done=1, failed=1
    )


def test_dask_goes_on_when_a_worker_is_killed(tmp_path):
    config = EngineConfig(scheduler="dask", num_workers=2, num_threads=1, batch_size=2)
    run_tasks(tasks_in(tmp_path), die_once, tmp_path, config=config)
    assert (tmp_path / "died").exists()
    outcomes = [read_outcome(tmp_path, task) for task in tasks_in(tmp_path)]
    assert Counter(o.state for o in outcomes) == Counter(done=15, empty=4, failed=1)


def test_a_dead_process_is_named_and_the_next_run_goes_on(tmp_path):
    config = EngineConfig(scheduler="processes", num_workers=1, num_threads=1, batch_size=2)
    with pytest.raises(DataError, match=r"worker process died.*run it again"):
        run_tasks(tasks_in(tmp_path), die_once, tmp_path, config=config)
    run_tasks(tasks_in(tmp_path), die_once, tmp_path, config=config)
    assert all(read_outcome(tmp_path, task) for task in tasks_in(tmp_path))


def test_an_address_without_a_scheduler_is_a_clear_error(tmp_path, monkeypatch):
    import distributed

    def refuse(*args, **kwargs):
        raise OSError("timed out")

    monkeypatch.setattr(distributed, "Client", refuse)
    config = EngineConfig(scheduler="tcp://127.0.0.1:1")
    with pytest.raises(RequestError, match=r"No Dask scheduler answers at tcp://127\.0\.0\.1:1"):
        run_tasks(tasks_in(tmp_path), square, tmp_path, config=config)


def test_a_cluster_given_by_address_does_the_work(tmp_path):
    from distributed import LocalCluster

    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster:
        config = EngineConfig(scheduler=cluster.scheduler_address, num_threads=1)
        states = run_tasks(tasks_in(tmp_path, 4), square, tmp_path, config=config)
    assert states == Counter(done=4)


def test_no_more_than_the_window_is_read_ahead():
    from concurrent.futures import ThreadPoolExecutor

    read = []
    gate = threading.Event()

    def items():
        for number in range(100):
            read.append(number)
            yield number

    def hold(number):
        gate.wait(5)
        return number

    with ThreadPoolExecutor(1) as executor:
        results = map_unordered(hold, items(), executor, window=4)
        threading.Timer(0.2, gate.set).start()
        first = next(results)
        assert len(read) == 4
        assert sorted([first, *results]) == list(range(100))


def test_threads_of_a_batch_work_side_by_side(tmp_path):
    config = EngineConfig(scheduler="serial", num_threads=8, batch_size=32)
    start = time.perf_counter()
    run_tasks(tasks_in(tmp_path, 8), wait_long, tmp_path, config=config)
    assert time.perf_counter() - start < 8 * 0.3


SCRIPT = """
import sys
from pathlib import Path
from data_prep.prep_config import EngineConfig
from tests.test_prep_engine import run_tasks, tasks_in, wait_long
if __name__ == "__main__":
    folder = Path(sys.argv[1])
    config = EngineConfig(scheduler="processes", num_workers=2, num_threads=2, batch_size=4)
    try:
        run_tasks(tasks_in(folder, 60), wait_long, folder, config=config)
    except KeyboardInterrupt:
        print("interrupted")
"""


def test_an_interrupt_finishes_tasks_under_way_and_begins_no_other(tmp_path):
    script = tmp_path / "run.py"
    script.write_text(SCRIPT)
    root = Path(__file__).parent.parent
    process = subprocess.Popen(
        [sys.executable, script, tmp_path],
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.time() + 60
    while not list(tmp_path.glob("*.started")) and time.time() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert out == "interrupted\n", err
    assert "Traceback" not in err
    started = {int(path.stem) for path in tmp_path.glob("*.started")}
    finished = {int(path.stem) for path in (tmp_path / "tasks/square").glob("*.json")}
    assert started == finished
    assert 0 < len(finished) < 60


def test_batches_keep_order_and_lose_nothing():
    assert list(batched(range(5), 2)) == [[0, 1], [2, 3], [4]]
    assert list(batched([], 2)) == []


def test_the_window_grows_with_the_workers_and_is_wide_for_clusters_elsewhere():
    assert engine._window(EngineConfig(num_workers=3)) == 6
    assert engine._window(EngineConfig(scheduler="tcp://host:1")) == 128


def note_process(*, value, folder):
    return "done", "", {"process": os.getpid()}


def test_one_set_of_workers_does_all_steps_and_starts_when_it_is_needed(tmp_path, monkeypatch):
    opened = []
    open_executor = executors.open_executor
    monkeypatch.setattr(
        executors,
        "open_executor",
        lambda *args, **options: opened.append(args) or open_executor(*args, **options),
    )
    with Engine(EngineConfig(num_workers=1)) as workers:
        workers.run([], note_process, tmp_path, num_tasks=0)
        assert not opened
        processes = set()
        for kind in ("first", "second"):
            task = Task(kind, "a", {"value": 1, "folder": str(tmp_path)})
            workers.run([task], note_process, tmp_path, num_tasks=1)
            processes.add(read_outcome(tmp_path, task).result["process"])
    assert len(opened) == len(processes) == 1
    assert os.getpid() not in processes


ORPHAN = """
import sys, time
from pathlib import Path
from data_prep.executors import open_executor
if __name__ == "__main__":
    with open_executor("processes", num_workers=1) as executor:
        print(executor.submit(__import__("os").getpid).result(), flush=True)
        time.sleep(60)
"""


def test_workers_end_when_their_parent_is_killed(tmp_path):
    script = tmp_path / "orphan.py"
    script.write_text(ORPHAN)
    root = Path(__file__).parent.parent
    process = subprocess.Popen(
        [sys.executable, script],
        cwd=root,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    worker = int(process.stdout.readline())
    process.kill()
    process.wait()
    process.stdout.close()
    deadline = time.time() + 20
    while Path(f"/proc/{worker}").exists() and time.time() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{worker}").exists()


def test_a_second_interrupt_does_not_wait(tmp_path):
    script = tmp_path / "run.py"
    script.write_text(SCRIPT.replace("wait_long", "wait_very_long"))
    root = Path(__file__).parent.parent
    process = subprocess.Popen(
        [sys.executable, script, tmp_path],
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    deadline = time.time() + 60
    while not list(tmp_path.glob("*.started")) and time.time() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)  # tasks take two minutes


def wait_very_long(*, value, folder):
    Path(folder, f"{value}.started").touch()
    time.sleep(120)
    return square(value=value, folder=folder)


def test_a_worker_that_does_not_see_the_folder_says_so(tmp_path):
    with pytest.raises(DataError, match="does not see"):
        run_tasks(tasks_in(tmp_path), square, tmp_path / "absent", config=EngineConfig())
