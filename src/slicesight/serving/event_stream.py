"""How does a request stop the work that is done for it when its client has gone?"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from slicesight.serving.guard import ClientGone

Result = TypeVar("Result")


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
        await asyncio.wait({task, leaving})


class EventStream(StreamingResponse):
    """Server-sent events that stop being made when the client has gone.

    on_end: called however it ends, even before the first event.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[str], *, on_end: Callable[[], None]) -> None:
        super().__init__(events, headers={"x-accel-buffering": "no"})
        self.events, self.on_end = events, on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            with suppress(ClientGone):
                await unless_gone(self.stream_response(send), receive)
        finally:
            await self.events.aclose()  # what it holds is given back now
            self.on_end()


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
