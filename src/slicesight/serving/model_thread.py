"""Who answers? One thread that owns the model; questions wait for it in a bounded queue.

The encoded scans used last stay in memory, so a scan is encoded once however many ask it.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import replace
from math import ceil

import numpy as np

from slicesight.inference.batching import AskRequest, ContinuousBatching
from slicesight.inference.encoded_scan import EncodedScan, LeastRecentlyUsed
from slicesight.inference.predictor import Predictor
from slicesight.serving.refusals import Refusal, internal_error
from slicesight.serving.scan_store import ScanStore
from slicesight.serving.telemetry import Metrics, log_failure


class ModelThread:
    """Answers requests until it is closed.

    Args:
        max_waiting: most questions that wait; batch_size: most answered together.
        encoded_bytes: most memory for encoded scans; the one at work is kept in any case.
    """

    def __init__(
        self,
        predictor: Predictor,
        *,
        scan_store: ScanStore,
        metrics: Metrics,
        max_waiting: int,
        batch_size: int,
        encoded_bytes: int,
    ) -> None:
        self.predictor, self.metrics, self.max_waiting = predictor, metrics, max_waiting
        self.encoded = EncodedScans(predictor, scan_store=scan_store, metrics=metrics, max_bytes=encoded_bytes)
        self._batching = ContinuousBatching(predictor, batch_size=batch_size)
        self._waiting: deque[tuple[AskRequest, float]] = deque()
        self._news = threading.Condition()
        self._is_closed = False
        self._seconds_each = 0.5  # from turn to turn while some wait, a running mean
        self._taken_at: float | None = None
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Leave once what is under way has been called off."""
        with self._news:
            self._is_closed = True
            for request, _ in self._waiting:
                request.is_cancelled = True
            self._batching.cancel_all()
            self._news.notify()
        self._thread.join(timeout=30)

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def check_room(self) -> None:
        """Refuse before any work is done for a question that could not wait.

        Raises:
            Refusal: as many wait as may; Retry-After says when one more may.
        """
        num_waiting = len(self._waiting)
        if num_waiting >= self.max_waiting:
            seconds = min(120, max(1, ceil(num_waiting * self._seconds_each)))
            raise Refusal(
                429,
                f"{num_waiting} questions wait already; ask again in {seconds} s.",
                code="queue_full",
                headers={"Retry-After": str(seconds)},
            )

    def submit(self, request: AskRequest) -> None:
        """Let a question wait for its turn.

        Raises:
            Refusal: as `check_room`.
        """
        with self._news:
            self.check_room()
            self._waiting.append((request, time.monotonic()))
            self._news.notify()

    def cancel(self, request: AskRequest) -> None:
        """Nobody waits for this answer any more; its place is free at once."""
        request.is_cancelled = True
        with self._news:
            for place, (waiting, _) in enumerate(self._waiting):
                if waiting is request:
                    del self._waiting[place]
                    break

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def num_rows(self) -> int:
        return self._batching.num_rows

    def _work(self) -> None:
        while True:
            with self._news:
                self._news.wait_for(lambda: self._waiting or self._is_closed)
                if self._is_closed:
                    return
            try:
                for _ in self._batching.answer(self._take):
                    pass
            except Exception as error:  # the thread must live on
                log_failure("answering", error)
                self._batching.fail_all(internal_error())

    def _take(self) -> AskRequest | None:
        with self._news:
            if self._is_closed or not self._waiting:
                return None
            request, since = self._waiting.popleft()
            now = time.monotonic()
            if self._taken_at is not None:
                self._seconds_each += 0.1 * (now - self._taken_at - self._seconds_each)
            self._taken_at = now if self._waiting else None
        self.metrics.wait_seconds.observe(now - since)
        return request


class EncodedScans:
    """The encoded scans used last; the one at work is kept whatever it takes."""

    def __init__(self, predictor: Predictor, *, scan_store: ScanStore, metrics: Metrics, max_bytes: int) -> None:
        self.predictor, self.scan_store, self.metrics = predictor, scan_store, metrics
        self.memory: LeastRecentlyUsed[EncodedScan] = LeastRecentlyUsed(
            max_bytes=max_bytes, count=lambda scan: scan.num_bytes, min_items=1
        )

    def get(self, volume_id: str) -> EncodedScan:
        """The scan as it was encoded, or newly encoded.

        Raises:
            Refusal: the volume is gone.
        """
        scan = self.memory.get(volume_id)
        if scan is not None:
            self.metrics.cache_hits.inc()
            return scan
        stored, _ = self.scan_store.read(volume_id)
        with self.metrics.encode_seconds.time():
            scan = self.predictor.encode(replace(stored.grid, voxels=np.array(stored.grid.voxels)))
        self.metrics.encodes.inc()
        self.memory.put(volume_id, scan)
        return scan
