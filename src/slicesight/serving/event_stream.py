"""How does a request wait for text that another thread generates, and how does that thread learn that nobody waits?"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from slicesight.inference.answers import AnswerPiece
from slicesight.inference.batching import AskRequest
from slicesight.inference.encoded_scan import EncodedScan
from slicesight.serving.guard import ClientGone
from slicesight.serving.model_thread import ModelThread
from slicesight.serving.refusals import Refusal

Result = TypeVar("Result")


class Waiter:
    """One question on its way through the model thread.

    Args:
        settings: of the `AskRequest`.
    """

    def __init__(
        self,
        thread: ModelThread,
        *,
        scan: Callable[[], EncodedScan],
        question: str,
        timeout_s: float,
        **settings: Any,
    ) -> None:
        self.thread = thread
        self._loop = asyncio.get_running_loop()
        self._found: asyncio.Queue[AnswerPiece | Exception] = asyncio.Queue()
        self._began = time.monotonic()
        self._until = self._loop.time() + timeout_s
        self._timeout_s = timeout_s
        self._request = AskRequest(
            scan=scan, questions=[question], on_piece=self._pass_on, on_error=self._pass_on, **settings
        )

    def submit(self) -> None:
        """Get in line.

        Raises:
            Refusal: 429 the line is full.
        """
        self.thread.submit(self._request)

    def cancel(self) -> None:
        """Nobody waits any more; nothing happens where the answer is whole already."""
        self.thread.cancel(self._request)

    async def pieces(self) -> AsyncIterator[AnswerPiece]:
        """Text as it is generated, the whole answer with the last.

        Raises:
            Refusal: 504 after too long.
            Exception: whatever ended the answering.
        """
        is_first, metrics = True, self.thread.metrics
        while True:
            try:
                async with asyncio.timeout_at(self._until):
                    found = await self._found.get()
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

    async def whole(self) -> AnswerPiece:
        """The last text, with the whole answer."""
        async for piece in self.pieces():
            if piece.answer is not None:
                return piece
        raise AssertionError

    def _pass_on(self, found: AnswerPiece | Exception) -> None:
        with contextlib.suppress(RuntimeError):  # the server has stopped meanwhile
            self._loop.call_soon_threadsafe(self._found.put_nowait, found)


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
