"""Who answers? One thread that owns the model; questions wait for it in a bounded queue.

The encoded scans used last stay in memory, so a scan is encoded once however many ask it.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from dataclasses import replace
from math import ceil

import numpy as np

from slicesight.inference.continuous import AskRequest, ContinuousBatching
from slicesight.inference.encoded_scan import EncodedScan
from slicesight.inference.predictor import Predictor
from slicesight.serving.logs import log_failure
from slicesight.serving.metrics import Metrics
from slicesight.serving.refusals import Refusal, internal_error
from slicesight.serving.scan_store import ScanStore


class ModelThread:
    """Answers inquiries until it is closed.

    Args:
        max_waiting: most questions that wait; at_once: most answered together.
        encoded_bytes: most memory for encoded scans; the one at work is kept in any case.
    """

    def __init__(
        self,
        reader: Predictor,
        *,
        shelf: ScanStore,
        metrics: Metrics,
        max_waiting: int,
        at_once: int,
        encoded_bytes: int,
    ) -> None:
        self.reader, self.metrics, self.max_waiting = reader, metrics, max_waiting
        self.encoded = EncodedScans(reader, shelf=shelf, metrics=metrics, max_bytes=encoded_bytes)
        self._asking = ContinuousBatching(reader, at_once=at_once)
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
            for inquiry, _ in self._waiting:
                inquiry.is_called_off = True
            self._asking.call_off_all()
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

    def submit(self, inquiry: AskRequest) -> None:
        """Let a question wait for its turn.

        Raises:
            Refusal: as `check_room`.
        """
        with self._news:
            self.check_room()
            self._waiting.append((inquiry, time.monotonic()))
            self._news.notify()

    def call_off(self, inquiry: AskRequest) -> None:
        """Nobody waits for this answer any more; its place is free at once."""
        inquiry.is_called_off = True
        with self._news:
            for place, (waiting, _) in enumerate(self._waiting):
                if waiting is inquiry:
                    del self._waiting[place]
                    break

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def num_rows(self) -> int:
        return self._asking.num_rows

    def _work(self) -> None:
        while True:
            with self._news:
                self._news.wait_for(lambda: self._waiting or self._is_closed)
                if self._is_closed:
                    return
            try:
                self._asking.answer(self._take)
            except Exception as error:  # the thread must live on
                log_failure("answering", error)
                self._asking.fail_all(internal_error())

    def _take(self) -> AskRequest | None:
        with self._news:
            if self._is_closed or not self._waiting:
                return None
            inquiry, since = self._waiting.popleft()
            now = time.monotonic()
            if self._taken_at is not None:
                self._seconds_each += 0.1 * (now - self._taken_at - self._seconds_each)
            self._taken_at = now if self._waiting else None
        self.metrics.wait_seconds.observe(now - since)
        return inquiry


class EncodedScans:
    """The encoded scans used last."""

    def __init__(self, reader: Predictor, *, shelf: ScanStore, metrics: Metrics, max_bytes: int) -> None:
        self.reader, self.shelf, self.metrics, self.max_bytes = reader, shelf, metrics, max_bytes
        self._held: OrderedDict[str, EncodedScan] = OrderedDict()
        self._turn = threading.Lock()

    def get(self, volume_id: str) -> EncodedScan:
        """The scan as it was encoded, or newly encoded.

        Raises:
            Refusal: the volume is gone.
        """
        with self._turn:
            if volume_id in self._held:
                self._held.move_to_end(volume_id)
                self.metrics.cache_hits.inc()
                return self._held[volume_id]
        kept, _ = self.shelf.read(volume_id)
        with self.metrics.encode_seconds.time():
            scan = self.reader.encode(replace(kept.grid, voxels=np.array(kept.grid.voxels)))
        self.metrics.encodes.inc()
        with self._turn:
            self._held[volume_id] = scan
            while self.num_bytes > self.max_bytes and len(self._held) > 1:
                self._held.popitem(last=False)
        return scan

    def keep_only(self, volume_ids: set[str]) -> None:
        """Forget the scans of volumes that are gone."""
        with self._turn:
            for volume_id in set(self._held) - volume_ids:
                del self._held[volume_id]

    def names(self) -> set[str]:
        """Volumes held in memory."""
        return set(self._held)

    @property
    def num_bytes(self) -> int:
        return sum(map(_count_bytes, list(self._held.values())))


def _count_bytes(scan: EncodedScan) -> int:
    """Grid, tokens, and the keys and values of what its prompts share."""
    from slicesight.inference.feature_cache import count_bytes

    prefix = scan.memo.prefix
    return scan.grid.voxels.nbytes + count_bytes(scan.features) + (0 if prefix is None else prefix.store.num_bytes)
