"""Where tasks are done: this process, a pool of processes, or a Dask cluster."""

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import Executor
from concurrent.futures.process import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing.synchronize import Event
from typing import Any

from ecomap.errors import RequestError

DASK_RETRIES = 2
WORKERS_TIMEOUT_S = 30

stop_event: Event | None = None
"""In a worker process: set when the run is interrupted."""


@contextmanager
def open_executor(scheduler: str, *, num_workers: int) -> Iterator[Executor | None]:
    """Somewhere to work: None for this process, a pool of processes, or a Dask cluster.

    When an error or an interrupt leaves the block, only tasks under way are finished.
    """
    if scheduler == "serial":
        yield None
    elif scheduler == "processes":
        with _open_processes(num_workers) as executor:
            yield executor
    else:
        with _open_dask(scheduler, num_workers) as executor:
            yield executor


@contextmanager
def _open_processes(num_workers: int) -> Iterator[Executor]:
    """A pool of fresh processes: forked ones inherit GDAL's threads and locks, and hang."""
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    executor = ProcessPoolExecutor(
        num_workers, mp_context=context, initializer=_begin_worker, initargs=(stop,)
    )
    with _interrupts_ignored():  # inherited: a process that is still starting does not see them
        for _ in range(num_workers):
            executor.submit(_do_nothing)
    try:
        yield executor
    finally:
        stop.set()
        try:
            executor.shutdown(cancel_futures=True)
        except KeyboardInterrupt:  # the second one: files are whole whenever a worker dies
            for process in multiprocessing.active_children():
                process.kill()
            raise


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Ctrl-C has no effect inside. Only a main thread can ask for that; others change nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _do_nothing() -> None:
    """Work that makes a pool start a process."""


def _begin_worker(stop: Event) -> None:
    """Leave Ctrl-C to the parent, which lets workers finish tasks under way; end when it dies."""
    global stop_event
    stop_event = stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    """End this process when its parent is gone: another run may hold the folder by then."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


@contextmanager
def _open_dask(scheduler: str, num_workers: int) -> Iterator[Executor]:
    """A cluster on this machine, or the one at an address."""
    from distributed import Client, LocalCluster

    options: dict[str, Any] = {"set_as_default": False}
    if scheduler == "dask":
        cluster = LocalCluster(n_workers=num_workers, threads_per_worker=1, dashboard_address=None)
        address: Any = cluster
    else:
        cluster, address = None, scheduler
    try:
        try:
            client = Client(address, timeout=30, **options)
        except OSError as error:
            raise RequestError(
                f"No Dask scheduler answers at {scheduler} ({error}). Start one with 'dask "
                "scheduler', or choose serial, processes or dask."
            ) from None
        with client:
            try:
                client.wait_for_workers(1, timeout=WORKERS_TIMEOUT_S)
            except TimeoutError:
                raise RequestError(
                    f"The Dask scheduler at {scheduler} has no worker. Start some with 'dask "
                    f"worker {scheduler}' and run it again."
                ) from None
            yield client.get_executor(pure=False, retries=DASK_RETRIES)
    finally:
        if cluster is not None:
            cluster.close()
