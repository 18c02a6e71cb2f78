"""Who works on many scans: this process, several on this machine, or a Ray cluster?

Outcomes come in the order of the jobs, and no more than a few per process are under way or waiting, so that memory
does not grow with the number of scans. Where several processes work each uses one thread: scans are many, and threads
would compete. A scan that kills its process is found and costs no other scan anything. To a
cluster only jobs (a path and settings) and finished rows travel; its nodes must see the scans under the same paths, and
the shards are written here.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import signal
import socket
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict
from typing import Any, Generic, Self, TypeVar

from slicesight.data.rows import ScanJob, ScanOutcome, prepare_scan
from slicesight.errors import InputError
from slicesight.volumes.grid import GridSpec

UNDER_WAY_PER_PROCESS = 3
KILLED = "the process that read it was killed, by the scan's decoder or for want of memory"
Job = TypeVar("Job")
Outcome = TypeVar("Outcome")
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
_JOBS_PER_BLOCK = 8
_BLOCK_BYTES = 8 << 20
_STORE_BYTES_PER_CPU = 64 << 20


def outcomes_of(
    jobs: Sequence[ScanJob], *, workers: int, ray_address: str | None
) -> Generator[ScanOutcome, None, None]:
    """Prepare the scans; close the iterator to stop early."""
    if ray_address is not None and jobs:
        return _on_ray(jobs, address=ray_address, num_cpus=workers)
    if workers == 1 or not jobs:
        return (prepare_scan(job) for job in jobs)
    return _in_processes(jobs, workers)


class Processes(Generic[Job, Outcome]):
    """Spawned processes that do one kind of work and stay between calls, so that what they have loaded is kept.

    Args:
        work: a function of a module; its jobs and outcomes are pickled.
        killed: the outcome of a job that kills its process.
        workers: how many processes; with several, each uses one thread.
        ahead: jobs that are under way or wait, per process.
        leaves_signals: whether signals to this process's group, such as a terminal's or `timeout`'s, do not reach them.
    """

    def __init__(
        self,
        work: Callable[[Job], Outcome],
        *,
        killed: Callable[[Job], Outcome],
        workers: int,
        ahead: int = UNDER_WAY_PER_PROCESS,
        leaves_signals: bool = False,
        one_thread: bool = True,
    ) -> None:
        self._work, self._killed, self.workers, self.ahead = work, killed, workers, ahead
        self._leaves_signals, self._one_thread = leaves_signals, one_thread
        self._executor: ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def outcomes(self, jobs: Iterable[Job]) -> Generator[Outcome, None, None]:
        """The jobs' outcomes in their order; where a process dies, the jobs under way are tried one at a time."""
        remaining = iter(jobs)
        under_way: deque[tuple[Job, Future[Outcome]]] = deque()
        is_more = True
        try:
            while is_more or under_way:
                try:
                    while is_more and len(under_way) < self.ahead * self.workers:
                        try:
                            job = next(remaining)
                        except StopIteration:
                            is_more = False
                            break
                        lost: Future[Outcome] = Future()
                        under_way.append((job, lost))  # so that it is not lost where the pool is found broken
                        under_way[-1] = (job, self._submit(job))
                    if under_way:
                        outcome = under_way[0][1].result()
                        under_way.popleft()
                        yield outcome
                except BrokenProcessPool:
                    self.close()
                    waiting = [job for job, _ in under_way]
                    under_way.clear()
                    yield from self._one_at_a_time(waiting)
        finally:
            if under_way:
                self.close()

    def close(self) -> None:
        """End the processes when they are done with what they do."""
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)
            self._executor = None

    def _submit(self, job: Job) -> Future[Outcome]:
        with self._threads():
            if self._executor is None:
                self._executor = _pool(self.workers, leaves_signals=self._leaves_signals)
            return self._executor.submit(self._work, job)

    def _one_at_a_time(self, jobs: Sequence[Job]) -> Generator[Outcome, None, None]:
        """One process, one scan in it: whichever kills it has failed."""
        remaining = deque(jobs)
        while remaining:
            with self._threads(), _pool(1, leaves_signals=self._leaves_signals) as pool:
                try:
                    while remaining:
                        yield pool.submit(self._work, remaining[0]).result()
                        remaining.popleft()
                except BrokenProcessPool:
                    yield self._killed(remaining.popleft())

    def _threads(self) -> AbstractContextManager[None]:
        return one_thread_each() if self._one_thread else nullcontext()


def _in_processes(jobs: Sequence[ScanJob], workers: int) -> Generator[ScanOutcome, None, None]:
    with Processes(prepare_scan, killed=_killed_by, workers=min(workers, len(jobs))) as processes:
        yield from processes.outcomes(jobs)


def _killed_by(job: ScanJob) -> ScanOutcome:
    return ScanOutcome(case_id=job.case_id, failure=f"{os.path.basename(job.path)}: {KILLED}")


def _pool(workers: int, *, leaves_signals: bool = False) -> ProcessPoolExecutor:
    spawn = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, mp_context=spawn, initializer=_follow_the_parent, initargs=(leaves_signals,))


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


def _follow_the_parent(leaves_signals: bool = False) -> None:
    """End when the parent is killed instead of waiting for work for ever, and leave Ctrl-C to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if leaves_signals and hasattr(os, "setsid"):
        os.setsid()
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _on_ray(jobs: Sequence[ScanJob], *, address: str, num_cpus: int) -> Generator[ScanOutcome, None, None]:
    with connected(address, num_cpus) as ray:
        cpus = max(1, int(ray.cluster_resources().get("CPU", 1)))
        jobs_per_block = max(1, min(_JOBS_PER_BLOCK, len(jobs) // (4 * cpus)))
        items = [{"job": json.dumps(asdict(job))} for job in jobs]
        scans = ray.data.from_items(items, override_num_blocks=-(-len(items) // jobs_per_block))
        context = scans.context  # this data set's own copy
        context.execution_options.preserve_order = True
        limits = context.execution_options.resource_limits
        context.execution_options.resource_limits = limits.copy(object_store_memory=cpus * _STORE_BYTES_PER_CPU)
        context.target_max_block_size = _BLOCK_BYTES
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        rows = scans.map(_prepare_item, num_cpus=1).iter_rows()
        try:
            for row in rows:
                yield ScanOutcome(**json.loads(row["facts"]), voxels=row["voxels"])
        except ray.exceptions.RayTaskError as error:
            raise error.as_instanceof_cause() from None
        except ray.exceptions.RayError as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(
                f"Ray at {address!r} stopped ({reason}); what is done is kept, run the same again"
            ) from None


def _prepare_item(item: dict[str, Any]) -> dict[str, Any]:
    job = json.loads(item["job"])
    outcome = prepare_scan(ScanJob(**{**job, "spec": GridSpec.from_dict(job["spec"])}))
    facts = {name: value for name, value in vars(outcome).items() if name != "voxels"}
    return {"facts": json.dumps(facts), "voxels": outcome.voxels}


@contextmanager
def connected(address: str, num_cpus: int) -> Iterator[Any]:
    """Ray, connected to the cluster at `address`; "local" starts one of `num_cpus` here and ends it afterwards.

    Raises:
        InputError: there is no cluster, it does not start, or Ray is not installed.
    """
    try:
        import ray
        import ray.data
        import ray.exceptions
    except ImportError as error:
        raise InputError(f"--ray needs Ray ({error}); run: pip install 'slicesight[ray]'") from error
    if ray.is_initialized():  # the caller's own connection stays the caller's
        yield ray
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        if address == "local":
            ray.init(
                address="local",
                num_cpus=num_cpus,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                object_store_memory=2 * num_cpus * _STORE_BYTES_PER_CPU + (128 << 20),
            )
        else:
            _check_reachable(address)
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # a cluster that does not start in time raises nothing narrower
        ray.shutdown()
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"no Ray cluster at {address!r} ({reason}); start one, or use --ray local") from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Ray itself tries for minutes where nobody listens."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
