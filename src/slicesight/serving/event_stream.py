"""How does a request wait for words that another thread says, and how does that thread learn that nobody waits?"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from slicesight.inference.continuous import AskRequest, StreamedAnswer
from slicesight.inference.encoded_scan import EncodedScan
from slicesight.serving.guard import ClientGone
from slicesight.serving.model_thread import ModelThread
from slicesight.serving.refusals import Refusal

Result = TypeVar("Result")


class Waiter:
    """One question on its way through the model thread.

    Args:
        in_pieces: whether words are wanted as they are said.
    """

    def __init__(
        self,
        thread: ModelThread,
        *,
        scan: Callable[[], EncodedScan],
        question: str,
        in_pieces: bool,
        timeout_s: float,
        **settings: Any,
    ) -> None:
        self.thread, self.in_pieces = thread, in_pieces
        self._loop = asyncio.get_running_loop()
        self._said: asyncio.Queue[StreamedAnswer | Exception] = asyncio.Queue()
        self._began = time.monotonic()
        self._until = self._loop.time() + timeout_s
        self._timeout_s = timeout_s
        self._inquiry = AskRequest(scan=scan, question=question, tell=self._tell, fail=self._pass_on, **settings)

    def submit(self) -> None:
        """Get in line.

        Raises:
            Refusal: 429 the line is full.
        """
        self.thread.submit(self._inquiry)

    def call_off(self) -> None:
        """Nobody waits any more; nothing happens where the answer is whole already."""
        self.thread.call_off(self._inquiry)

    async def pieces(self) -> AsyncIterator[StreamedAnswer]:
        """Words as they are said, the whole answer with the last.

        Raises:
            Refusal: 504 after too long.
            Exception: whatever ended the answering.
        """
        is_first, metrics = True, self.thread.metrics
        while True:
            try:
                async with asyncio.timeout_at(self._until):
                    found = await self._said.get()
            except TimeoutError:
                raise Refusal(
                    504, f"no whole answer within {self._timeout_s:.0f} s; ask less at a time.", code="timeout"
                ) from None
            if isinstance(found, Exception):
                raise found
            if is_first:
                metrics.first_words_seconds.observe(time.monotonic() - self._began)
                is_first = False
            if found.answer is not None:
                metrics.answer_seconds.observe(time.monotonic() - self._began)
                metrics.tokens.inc(found.num_answer_tokens)
            yield found
            if found.answer is not None:
                return

    async def whole(self) -> StreamedAnswer:
        """The last words, with the whole answer."""
        async for told in self.pieces():
            if told.answer is not None:
                return told
        raise AssertionError

    def _tell(self, told: StreamedAnswer) -> None:
        if self.in_pieces or told.answer is not None:
            self._pass_on(told)

    def _pass_on(self, found: StreamedAnswer | Exception) -> None:
        with contextlib.suppress(RuntimeError):  # the server has stopped meanwhile
            self._loop.call_soon_threadsafe(self._said.put_nowait, found)


async def unless_gone(work: Awaitable[Result], receive: Receive) -> Result:
    """The work's result.

    Raises:
        ClientGone: the client has closed the connection; the work is cancelled.
    """
    task, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_until_gone(receive))
    try:
        await asyncio.wait({task, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientGone
    finally:
        task.cancel()
        leaving.cancel()


class EventStream(Response):
    """Server-sent events that stop being made when the client has gone.

    on_end: called however it ends, even before the first event.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[str], *, on_end: Callable[[], None]) -> None:
        super().__init__(headers={"x-accel-buffering": "no"})
        del self.headers["content-length"]
        self.events, self.on_end = events, on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        work = asyncio.ensure_future(self._send_all(send))
        leaving = asyncio.ensure_future(_until_gone(receive))
        try:
            await asyncio.wait({work, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
        finally:
            leaving.cancel()
            work.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await work
            self.on_end()

    async def _send_all(self, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            async for event in self.events:
                await send(_body(event, more=True))
            await send(_body("", more=False))
        finally:
            await self.events.aclose()  # type: ignore[attr-defined]  # a generator: what it holds is given back now


def _body(text: str, *, more: bool) -> Message:
    return {"type": "http.response.body", "body": text.encode(), "more_body": more}


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
