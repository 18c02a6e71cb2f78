"""Who answers? One thread that owns the model; questions wait for it in a bounded queue, clients taking turns.

The encoded scans used last stay in memory, so a scan is encoded once however many ask it.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import replace
from math import ceil

import numpy as np

from slicesight.inference.batching import AskRequest, ContinuousBatching
from slicesight.inference.encoded_scan import EncodedScan, LeastRecentlyUsed
from slicesight.inference.predictor import Predictor
from slicesight.serving.fairness import ClientUse, FairQueue
from slicesight.serving.refusals import Refusal
from slicesight.serving.scan_store import ScanStore
from slicesight.serving.telemetry import Metrics, log_failure

_FIRST_ROWS = 4
"""Of this many batches' rows all beyond one are for clients of whom nothing is at work yet."""
_ACTIVE_S = 30.0
"""So long after a question its client has a share of the batch, and what was done for it counts."""
_HEAVY, _SLACK, _PATIENCE_S = 4.0, 100.0, 1.0
"""While somebody's question is at work, none begins of who had so many times more tokens, and so many on top; but in a
second it does."""
_HOPELESS = 3
"""Failures with no answer between them after which the server calls itself ill."""


class ModelThread:
    """Answers requests until it is closed.

    Args:
        max_waiting: most questions that wait; batch_size: most answered together, a client's first beyond it excepted.
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
        self.predictor, self.metrics, self.batch_size = predictor, metrics, batch_size
        self.encoded = EncodedScans(predictor, scan_store=scan_store, metrics=metrics, max_bytes=encoded_bytes)
        self._batching = self._new_batching()
        self._waiting: FairQueue[AskRequest] = FairQueue(max_waiting)
        self._use = ClientUse(_ACTIVE_S)
        self._news = threading.Condition()
        self._is_closed = False
        self._failures_together = 0
        self._seconds_each = 0.5  # from turn to turn while some wait, a running mean
        self._taken_at: float | None = None
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Leave once what is under way has been called off."""
        with self._news:
            self._is_closed = True
            for request in self._waiting.all_items():
                request.is_cancelled = True
            self._batching.cancel_all()
            self._news.notify()
        self._thread.join(timeout=30)

    @property
    def is_alive(self) -> bool:
        """Whether it answers, and has not failed again and again."""
        return self._thread.is_alive() and self._failures_together < _HOPELESS

    def check_room(self, client: str) -> None:
        """Refuse before any work is done for a question that could not wait.

        Raises:
            Refusal: as many wait as may; Retry-After says when one more may.
        """
        if not self._waiting.has_room(client):
            raise self._too_many(self._waiting.count(client))

    def submit(self, request: AskRequest) -> None:
        """Let a question wait for its turn; where all places are taken, that of whoever has taken most of them.

        Raises:
            Refusal: as `check_room`.
        """
        with self._news:
            self.check_room(request.client)
            self._use.note(request.client)
            request.since = time.monotonic()
            dropped = self._waiting.put(request.client, request)
            self._news.notify()
        if dropped is not None:
            dropped.is_cancelled = True
            dropped.on_error(self._too_many(self._waiting.count(dropped.client) + 1))

    def cancel(self, request: AskRequest) -> None:
        """Nobody waits for this answer any more; its place is free at once."""
        request.is_cancelled = True
        with self._news:
            self._waiting.remove(request)

    @property
    def is_full(self) -> bool:
        """Whether a client that has nothing waiting could not ask."""
        return not self._waiting.has_room("")

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def num_rows(self) -> int:
        return self._batching.num_rows

    def _new_batching(self) -> ContinuousBatching:
        return self.predictor.batching(batch_size=_FIRST_ROWS * self.batch_size)

    def _too_many(self, num_own: int) -> Refusal:
        seconds = min(120, max(1, ceil(len(self._waiting) * self._seconds_each)))
        headers = {"Retry-After": str(seconds)}
        if 1 < num_own < len(self._waiting):
            message = f"{num_own} of your questions wait already, and others ask too; ask again in {seconds} s."
            return Refusal(429, message, code="client_questions", headers=headers)
        message = f"{len(self._waiting)} questions wait already; ask again in {seconds} s."
        return Refusal(429, message, code="queue_full", headers=headers)

    def _work(self) -> None:
        while True:
            with self._news:
                self._news.wait_for(lambda: len(self._waiting) or self._is_closed)
                if self._is_closed:
                    return
            try:
                for _ in self._batching.answer(self._take):
                    pass
                self._failures_together = 0
            except BaseException as error:  # native code may panic with what is no Exception; the thread must live on
                log_failure("answering", error)
                self._start_again()

    def _start_again(self) -> None:
        """After an error of no single question: those at work are told, nothing that was at work is used again."""
        failed, self._batching = self._batching, self._new_batching()
        self._failures_together += 1
        self.metrics.restarts.inc()
        self.encoded.memory.keep_only(set())
        message = "the model failed and was started again; ask again in 1 s."
        failed.fail_all(Refusal(503, message, code="restarting", headers={"Retry-After": "1"}))

    def _take(self) -> AskRequest | None:
        rows = Counter(question.request.client for question in self._batching.open.values())
        is_full = rows.total() >= self.batch_size
        with self._news:
            for client, count in rows.items():  # this is asked before every token
                self._use.note(client, count)
            share = 1 if is_full else max(1, self.batch_size // max(1, len(self._use)))
            least = min(map(self._use.of, rows), default=0.0)
            limit, now = _HEAVY * least + _SLACK, time.monotonic()

            def may(client: str) -> bool:
                if rows[client] >= share:
                    return False
                is_light = not rows or self._use.of(client) <= limit
                return is_light or now - self._waiting.first(client).since > _PATIENCE_S

            request = None if self._is_closed else self._waiting.take(may)
            if request is None:
                return None
            if self._taken_at is not None:
                self._seconds_each += 0.1 * (now - self._taken_at - self._seconds_each)
            self._taken_at = now if len(self._waiting) else None
        self.metrics.wait_seconds.observe(now - request.since)
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
