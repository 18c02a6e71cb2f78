"""Who prepares the scans: this process, several on this machine, or a Ray cluster?

Outcomes come in the order of the jobs, and no more than a few per process are under way or waiting, so that memory
does not grow with the number of scans. Every process uses one thread: scans are many, and threads would compete.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

from slicesight.data.rows import ScanJob, ScanOutcome, prepare_scan

UNDER_WAY_PER_PROCESS = 3
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


def outcomes_of(
    jobs: Sequence[ScanJob], *, workers: int, ray_address: str | None
) -> Generator[ScanOutcome, None, None]:
    """Prepare the scans; close the iterator to stop early."""
    if ray_address is not None and jobs:
        from slicesight.data.ray_workers import outcomes_on_ray

        return outcomes_on_ray(jobs, address=ray_address, num_cpus=workers)
    if workers == 1 or not jobs:
        return (prepare_scan(job) for job in jobs)
    return _in_processes(jobs, workers)


def _in_processes(jobs: Sequence[ScanJob], workers: int) -> Generator[ScanOutcome, None, None]:
    """Spawned processes; where one dies, the scans under way are tried one at a time to find which one kills it."""
    remaining = deque(jobs)
    while remaining:
        under_way: deque[tuple[ScanJob, Future[ScanOutcome]]] = deque()
        with one_thread_each(), _pool(min(workers, len(remaining))) as pool:
            try:
                while remaining or under_way:
                    while remaining and len(under_way) < UNDER_WAY_PER_PROCESS * workers:
                        under_way.append((remaining[0], pool.submit(prepare_scan, remaining[0])))
                        remaining.popleft()
                    outcome = under_way[0][1].result()
                    under_way.popleft()
                    yield outcome
            except BrokenProcessPool:
                pass
            finally:
                pool.shutdown(wait=True, cancel_futures=True)
        yield from _one_at_a_time([job for job, _ in under_way])


def _one_at_a_time(jobs: Sequence[ScanJob]) -> Generator[ScanOutcome, None, None]:
    """One process, one scan in it: whichever kills it has failed."""
    remaining = deque(jobs)
    while remaining:
        with one_thread_each(), _pool(1) as pool:
            try:
                while remaining:
                    yield pool.submit(prepare_scan, remaining[0]).result()
                    remaining.popleft()
            except BrokenProcessPool:
                job = remaining.popleft()
                reason = "the process that read it was killed, by the scan's decoder or for want of memory"
                yield ScanOutcome(case_id=job.case_id, failure=f"{os.path.basename(job.path)}: {reason}")


def _pool(workers: int) -> ProcessPoolExecutor:
    spawn = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, mp_context=spawn, initializer=_follow_the_parent)


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Processes started meanwhile use one thread; the libraries read these variables when they are loaded."""
    before = {variable: os.environ.get(variable) for variable in _THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(_THREAD_VARIABLES, "1"))
    try:
        yield
    finally:
        for variable, value in before.items():
            if value is None:
                os.environ.pop(variable, None)
            else:
                os.environ[variable] = value


def _follow_the_parent() -> None:
    """End when the parent is killed instead of waiting for work for ever, and leave Ctrl-C to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
