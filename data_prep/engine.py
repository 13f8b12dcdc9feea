"""One function over many tasks: in this process, in others, or on a Dask cluster.

Tasks are independent, wait for the network, and write their own files, so that nothing but short
states travels back. They go out in batches of neighbours through a sliding window: a million tasks
are never in memory, nor in a scheduler, at once. Any batch may run twice (a worker was lost): tasks
are idempotent and files are renamed into place.
"""

import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from functools import partial
from itertools import chain, islice
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from data_prep import executors
from data_prep.prep_config import EngineConfig
from data_prep.tasks import (
    State,
    Task,
    TaskFunction,
    do_task,
    is_settled,
    read_outcome,
    write_outcome,
)
from ecomap.errors import DataError

Progress = Callable[[int, int], None]
States = Counter[State]
_T = TypeVar("_T")
_R = TypeVar("_R")

WINDOW_PER_WORKER = 2
"""Batches that are under way or wait, per worker: none is idle while the next one is made."""
BATCHES_PER_WORKER = 4
"""Small runs are cut into at least so many batches a worker, so that all end at about one time."""
REPORT_EVERY = 1000
"""Settled tasks between two reports of progress: they pass quickly."""


class Engine:
    """Does the tasks of one step after the other with the same workers.

    Use it as a context manager. Workers start when the first task needs them.
    """

    def __init__(self, config: EngineConfig) -> None:
        """Remember where tasks run."""
        self._config = config
        self._stack = ExitStack()
        self._executor: Executor | None = None
        self._is_open = False

    def __enter__(self) -> Self:
        """Begin; nothing is started yet."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Let the workers finish what is under way, and stop them."""
        self._stack.close()

    def run(
        self,
        tasks: Iterable[Task],
        function: TaskFunction,
        folder: Path,
        *,
        num_tasks: int,
        progress: Progress | None = None,
    ) -> States:
        """Do the tasks that are still to be done, and write what became of each.

        Args:
            tasks: All tasks of a step, neighbours beside each other; read as they are needed.
            function: Importable by name in other processes.
            folder: Dataset folder, the same path on every worker.
            num_tasks: How many tasks there are.
            progress: Called with (done, total) tasks, those of earlier runs included.

        Returns:
            States of the tasks that were done now.

        Raises:
            DataError: If a worker process dies.
            RequestError: If a cluster does not answer.
            OSError: If the folder cannot be written to.
        """
        states, num_settled = States(), 0

        def pending() -> Iterator[Task]:
            nonlocal num_settled
            for task in tasks:
                if not is_settled(read_outcome(folder, task), folder):
                    yield task
                    continue
                num_settled += 1
                if progress and num_settled % REPORT_EVERY == 0:
                    progress(num_settled + states.total(), num_tasks)

        config = self._config
        share = -(-num_tasks // (config.num_workers * BATCHES_PER_WORKER))
        batches = batched(pending(), min(config.batch_size, max(share, config.num_threads)))
        first = next(batches, None)  # nothing is started where nothing is to be done
        if first is not None:
            work = partial(
                run_batch, function=function, folder=folder, num_threads=config.num_threads
            )
            items = chain([first], batches)
            for done in map_unordered(work, items, self._open(), window=_window(config)):
                states.update(done)
                if progress:
                    progress(num_settled + states.total(), num_tasks)
        if progress:
            progress(num_settled + states.total(), num_tasks)
        return states

    def _open(self) -> Executor | None:
        """The workers, started at the first call."""
        if not self._is_open:
            config = self._config
            self._executor = self._stack.enter_context(
                executors.open_executor(config.scheduler, num_workers=config.num_workers)
            )
            self._is_open = True
        return self._executor


def run_batch(
    batch: Sequence[Task], *, function: TaskFunction, folder: Path, num_threads: int
) -> States:
    """Do some tasks in threads and write what became of each."""
    if not folder.is_dir():
        raise DataError(
            f"A worker does not see {folder}. All workers need the same folder under the same path."
        )
    # rasterio silences this warning of its own scratch rasters in a way that threads undo.
    warnings.filterwarnings("ignore", message="Dataset has no geotransform")

    def run(task: Task) -> State:
        if executors.stop_event is not None and executors.stop_event.is_set():
            return "planned"
        outcome = do_task(task, function)
        write_outcome(folder, task, outcome)
        return outcome.state

    if num_threads == 1:
        return Counter(map(run, batch))
    with ThreadPoolExecutor(min(num_threads, len(batch))) as threads:
        try:
            return Counter(threads.map(run, batch))
        finally:
            threads.shutdown(cancel_futures=True)


def map_unordered(
    function: Callable[[_T], _R], items: Iterable[_T], executor: Executor | None, *, window: int
) -> Iterator[_R]:
    """Results of a function over items in any order, with ``window`` items under way at most.

    Args:
        function: Importable by name where the executor is another process.
        items: Read no faster than they are worked on.
        executor: None works here, one item after the other.
        window: Items handed out and not yet finished; 1 or more.

    Raises:
        DataError: If a worker process dies.
    """
    if executor is None:
        yield from map(function, items)
        return
    source = iter(items)
    running: set[Future[_R]] = {executor.submit(function, item) for item in islice(source, window)}
    while running:
        finished, running = wait(running, return_when=FIRST_COMPLETED)
        for future in finished:
            try:
                yield future.result()
            except BrokenProcessPool:
                raise DataError(
                    "A worker process died, probably for want of memory. What was finished is "
                    "kept: lower engine.num_workers or engine.num_threads and run it again."
                ) from None
        running |= {executor.submit(function, item) for item in islice(source, len(finished))}
        del finished  # a scheduler forgets a result when nobody holds it


def _window(config: EngineConfig) -> int:
    """Batches under way; a cluster given by its address may have more workers than we know of."""
    own = config.num_workers if "://" not in config.scheduler else max(config.num_workers, 64)
    return WINDOW_PER_WORKER * own


def batched(items: Iterable[_T], size: int) -> Iterator[list[_T]]:
    """Lists of ``size`` items; the last may be shorter.

    >>> list(batched("abcde", 2))
    [['a', 'b'], ['c', 'd'], ['e']]
    """
    source = iter(items)
    while batch := list(islice(source, size)):
        yield batch
