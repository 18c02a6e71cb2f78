"""What belongs to one running server, and what happens to it at its beginning and end?"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import secrets
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

from slicesight.errors import InputError
from slicesight.inference.predictor import Predictor
from slicesight.models.card import RESEARCH_NOTICE
from slicesight.serving.fairness import FairSlots
from slicesight.serving.isolated_reading import IsolatedReader
from slicesight.serving.model_thread import ModelThread
from slicesight.serving.options import ServeOptions
from slicesight.serving.sandbox import PARTS, what_is_shut
from slicesight.serving.scan_store import ScanStore
from slicesight.serving.shared_metrics import EVERY_S, FOLDER, SharedMetrics
from slicesight.serving.telemetry import Metrics, log, log_failure
from slicesight.volumes.volume import Volume

_EXPIRE_EVERY_S = 15.0


class Server:
    """Reader, scan_store, model thread and figures of one server."""

    def __init__(self, predictor: Predictor, options: ServeOptions) -> None:
        self.predictor, self.options = predictor, options
        self.metrics = Metrics()
        self.instance = secrets.token_hex(8)
        self.scan_store = ScanStore(
            folder=options.folder,
            is_shared=options.is_shared,
            keep_minutes=options.keep_minutes,
            max_volumes=options.max_kept_volumes,
            max_client_volumes=options.max_client_volumes,
            max_bytes=options.max_kept_bytes,
            max_answers=options.max_answers,
        )
        self.shared_metrics = (
            SharedMetrics(self.metrics.registry, self.scan_store.run / FOLDER, self.instance)
            if options.is_shared
            else None
        )
        self.thread = ModelThread(
            predictor,
            scan_store=self.scan_store,
            metrics=self.metrics,
            max_waiting=options.max_waiting,
            batch_size=options.batch_size,
            encoded_bytes=options.encoded_bytes,
        )
        self.own_processor = copy.deepcopy(predictor.processor)  # a tokenizer is one thread's
        self.tokenizer_thread = ThreadPoolExecutor(1, "tokenizer")
        self.tokenizing = FairSlots(1)
        self.is_stopping = True
        self.archive_threads = ThreadPoolExecutor(2, "archive")  # a slow archive holds up nobody else
        self.scans = IsolatedReader(
            timeout_s=options.read_timeout_s,
            fetch_timeout_s=options.fetch_timeout_s,
            max_fetched_bytes=options.max_upload_bytes,
            memory_bytes=options.read_memory_bytes,
            slots=FairSlots(options.max_reading),
        )
        metrics, encoded = self.metrics, self.thread.encoded
        metrics.queue_length.set_function(lambda: self.thread.num_waiting)
        metrics.rows.set_function(lambda: self.thread.num_rows)
        metrics.volumes.set_function(lambda: len(self.scan_store.volume_ids()))
        metrics.encoded_bytes.set_function(lambda: encoded.memory.num_bytes)

    @property
    def name(self) -> str:
        """The model's."""
        return self.predictor.card.name

    def notices(self, volume: Volume | None = None) -> list[str]:
        """What must stand beside any answer: about this volume, or about a real scan."""
        card = self.predictor.card
        return [RESEARCH_NOTICE, *(card.warnings if volume is None else card.warnings_about(volume))]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Answer meanwhile; afterwards no scan is left."""
        await asyncio.to_thread(self._tell_what_is_open)
        self.thread.start()
        self.is_stopping = False
        tidying = [asyncio.create_task(self._tidy_forever()), asyncio.create_task(self._write_figures_forever())]
        try:
            yield
        finally:
            self.is_stopping = True
            for task in tidying:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
            await asyncio.to_thread(self.thread.close)
            for threads in (self.archive_threads, self.tokenizer_thread):
                threads.shutdown(wait=False, cancel_futures=True)
            if self.shared_metrics is not None:
                self.shared_metrics.close()
            self.scan_store.close()

    def tidy(self) -> None:
        """Remove what has expired, from disk and from memory."""
        self.scan_store.expire()
        self.tidy_memory()

    def tidy_memory(self) -> None:
        """Forget the encoded scans of volumes that are gone."""
        self.thread.encoded.memory.keep_only(self.scan_store.volume_ids())

    def _tell_what_is_open(self) -> None:
        """The process that reads a stranger's file is shut in as far as this machine allows; less is not kept quiet."""
        shut = what_is_shut()
        for part in PARTS:
            self.metrics.reading_shut.labels(part).set(part in shut)
        if not shut.issuperset(PARTS):
            still_open = " and ".join(part for part in PARTS if part not in shut)
            log.warning("this machine does not let the process that reads a scan be shut off from: %s", still_open)

    async def _tidy_forever(self) -> None:
        while True:
            await asyncio.sleep(_EXPIRE_EVERY_S)
            await asyncio.to_thread(self.tidy)

    async def _write_figures_forever(self) -> None:
        while self.shared_metrics is not None:
            try:
                await asyncio.to_thread(self.shared_metrics.write)
            except (OSError, InputError) as error:  # a full disk must not end the server
                log_failure("writing figures", error)
            await asyncio.sleep(EVERY_S)
