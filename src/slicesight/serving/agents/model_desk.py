"""How do many calls share one model? On one thread, loaded with the first question, each called off in time."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from slicesight.errors import InputError
from slicesight.inference.encoded_scan import EncodedScan, LeastRecentlyUsed
from slicesight.inference.predictor import Predictor
from slicesight.serving.agents.scans import ReadScan

Found = TypeVar("Found")
ENCODED_BYTES = 2**30


class CalledOff(Exception):  # noqa: N818  # nobody waits any more
    """Nobody waits for the outcome."""


class ModelDesk:
    """The model of one server and its thread.

    Args:
        load: makes the predictor; an InputError of it is told to every call until it succeeds.
    """

    def __init__(self, load: Callable[[], Predictor]) -> None:
        self._make = load
        self._predictor: Predictor | None = None
        self._thread = ThreadPoolExecutor(1, "model")
        self._stops: set[threading.Event] = set()
        self._encoded: LeastRecentlyUsed[EncodedScan] = LeastRecentlyUsed(
            max_bytes=ENCODED_BYTES, count=lambda scan: scan.num_bytes
        )

    async def run(self, work: Callable[[Predictor, Callable[[int, int], None]], Found]) -> Found:
        """What `work` returns for the predictor; its second argument is a `progress` that ends it once nobody waits.

        Raises:
            InputError: of the model or of the work.
        """
        stop = threading.Event()
        self._stops.add(stop)

        def check(done: int, total: int) -> None:
            if stop.is_set():
                raise CalledOff

        def call() -> Found:
            check(0, 0)
            if self._predictor is None:
                self._predictor = self._make()
            check(0, 0)
            return work(self._predictor, check)

        future = asyncio.get_running_loop().run_in_executor(self._thread, call)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            future.add_done_callback(_look_away)
            raise
        finally:
            stop.set()
            self._stops.discard(stop)

    def encoded(self, predictor: Predictor, scan: ReadScan, *, window: str | None, plane: str | None) -> EncodedScan:
        """The scan encoded, from memory where it was asked last; only in `run`'s work."""
        key = f"{scan.key} {window} {plane}"
        found = self._encoded.get(key)
        if found is None:
            found = predictor.encode(predictor.grid(scan.volume, window=window, plane=plane))
            self._encoded.put(key, found)
        return found

    def close(self) -> None:
        """Call off what is at work."""
        for stop in list(self._stops):
            stop.set()
        self._thread.shutdown(wait=False, cancel_futures=True)


def _look_away(future: asyncio.Future[Found]) -> None:
    """The outcome that nobody waits for, looked at so that nothing complains; an error of ours is raised still."""
    with contextlib.suppress(CalledOff, InputError, asyncio.CancelledError):
        future.result()
