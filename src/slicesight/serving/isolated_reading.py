"""How is an uploaded file read without trusting it? In a process of its own, with limits on time and memory."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

import slicesight
from slicesight.io.dicomweb.address import ArchiveAddress
from slicesight.serving.fairness import FairSlots
from slicesight.serving.refusals import Refusal
from slicesight.serving.stored_scan import REFUSAL_FILE, SCAN_FILE
from slicesight.volumes.grid import GridSpec

WORKER = ("-P", "-m", "slicesight.serving.reading_worker")
"""-P: nothing of the folder that the server was started in is loaded, or may be read."""
_VARIABLES = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "LANG")
_ARCHIVE_VARIABLES = (
    *("HOME", "NETRC", "SLICESIGHT_ARCHIVE_TOKEN", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"),
    *(name for proxy in ("http_proxy", "https_proxy", "all_proxy", "no_proxy") for name in (proxy, proxy.upper())),
)


@dataclass(frozen=True, kw_only=True)
class IsolatedReader:
    """Starts the process that reads a scan.

    slots: for scans read at the same time, of a client one; a further one waits its turn.
    """

    timeout_s: float
    fetch_timeout_s: float
    memory_bytes: int
    max_fetched_bytes: int
    slots: FairSlots

    async def read(
        self,
        folder: Path,
        *,
        options: dict[str, Any],
        grid: GridSpec,
        client: str = "",
        file: str | None = None,
        series: ArchiveAddress | None = None,
    ) -> None:
        """Read the folder's upload, or fetch a series, and leave grid, picture and facts in the folder.

        Args:
            options: what the client says about the file, by the names of `slicesight ask`.
            file: the upload's name in the folder; series: what to fetch instead.

        Raises:
            Refusal: the scan cannot be read, or not within the limits.
        """
        request = {
            "folder": str(folder),
            "file": file,
            "series": None if series is None else str(series),
            "options": options,
            "grid": grid.to_dict(),
            "memory_bytes": self.memory_bytes,
            "max_fetched_bytes": self.max_fetched_bytes,
            "cpu_seconds": ceil(self.timeout_s if series is None else self.fetch_timeout_s),
        }
        async with self.slots.slot(client):
            if series is None:
                code = await self._run(json.dumps(request), self.timeout_s, worker_environment())
            else:
                environment = worker_environment((*_VARIABLES, *_ARCHIVE_VARIABLES))
                code = await self._run(json.dumps(request), self.fetch_timeout_s, environment)
        refusal = folder / REFUSAL_FILE
        if refusal.exists():
            found = json.loads(refusal.read_text(encoding="utf-8"))
            if found["is_archives"]:
                raise Refusal(502, found["message"], param="source", code="archive_failed")
            raise Refusal(422, name_form_fields(found["message"]), param="file", code="unreadable_scan")
        if code != 0 or not (folder / SCAN_FILE).exists():
            raise Refusal(
                422,
                "the file stopped the program that reads it; it is damaged or larger than this server allows, "
                "check it with slicesight inspect.",
                param="file",
                code="unreadable_scan",
            )

    async def _run(self, request: str, timeout_s: float, environment: dict[str, str]) -> int:
        try:
            return await run_worker(WORKER, request, timeout_s=timeout_s, environment=environment)
        except TimeoutError:
            raise Refusal(
                422,
                f"reading the scan took more than {timeout_s:.0f} s; send a smaller part of it.",
                param="file",
                code="unreadable_scan",
            ) from None


async def run_worker(worker: Sequence[str], request: str, *, timeout_s: float, environment: dict[str, str]) -> int:
    """Run Python with these arguments on one line of input, and end it with the task that waits -> its exit status.

    Raises:
        TimeoutError: it took longer.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *worker,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,  # decoders may print what no log may hold
        stderr=asyncio.subprocess.DEVNULL,
        env=environment,
    )
    assert process.stdin is not None
    try:
        process.stdin.write(request.encode() + b"\n")
        return await asyncio.wait_for(process.wait(), timeout_s)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def worker_environment(names: tuple[str, ...] = _VARIABLES) -> dict[str, str]:
    """Of ours only these variables, with the package where we have it from."""
    kept = {name: os.environ[name] for name in names if name in os.environ}
    places = [str(Path(slicesight.__file__).resolve().parents[1]), *filter(None, [kept.get("PYTHONPATH")])]
    return {**kept, "PYTHONPATH": os.pathsep.join(places), "OMP_NUM_THREADS": "1"}


def name_form_fields(message: str) -> str:
    """Options of the command line by the names of the form's fields."""
    return re.sub(r"--([a-z]+(?:-[a-z]+)*)", lambda found: found[1].replace("-", "_"), message)
