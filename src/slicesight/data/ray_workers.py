"""How does a Ray cluster prepare the scans? Ray Data maps them in order and streams the rows to this process.

Only jobs (a path and settings) and finished rows travel; what may wait in Ray's object store is bounded per CPU, so
that memory does not grow with the number of scans. The nodes must see the scans under the same paths; the shards are
written here.
"""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from slicesight.data.rows import ScanJob, ScanOutcome, prepare_scan
from slicesight.errors import InputError
from slicesight.volumes.grid import GridSpec

try:
    import ray
    import ray.data
    import ray.exceptions
except ImportError as error:
    raise InputError(f"--ray needs Ray ({error}); run: pip install 'slicesight[ray]'") from error

_JOBS_PER_BLOCK = 8
_BLOCK_BYTES = 8 << 20
_STORE_BYTES_PER_CPU = 64 << 20


def outcomes_on_ray(jobs: Sequence[ScanJob], *, address: str, num_cpus: int) -> Generator[ScanOutcome, None, None]:
    """Prepare the scans on the cluster at `address`; "local" starts one of `num_cpus` here and ends it afterwards."""
    with connected(address, num_cpus):
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
def connected(address: str, num_cpus: int) -> Iterator[None]:
    """A connection to the cluster at `address`; "local" starts one of `num_cpus` here and ends it afterwards.

    Raises:
        InputError: there is no cluster, or it does not start.
    """
    if ray.is_initialized():  # the caller's own connection stays the caller's
        yield
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
        yield
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Ray itself tries for minutes where nobody listens."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
