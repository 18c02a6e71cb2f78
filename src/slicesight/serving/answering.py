"""How does a question get from its request to the model thread, and its answer back, whole or as a stream?"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse, Response

from slicesight.errors import InputError
from slicesight.inference.answers import AnswerPiece
from slicesight.inference.batching import AskRequest, as_exception
from slicesight.inference.prompts import TokenizedQuestion
from slicesight.serving.completions import LAST_EVENT, Completion, write_event
from slicesight.serving.event_stream import unless_gone
from slicesight.serving.fairness import client_of
from slicesight.serving.guard import MAX_JSON_BYTES, ClientGone
from slicesight.serving.refusals import Refusal, internal_error
from slicesight.serving.server import Server
from slicesight.serving.telemetry import log_failure

_CHARACTERS_PER_TOKEN = 16
"""No text has so many on the whole; a longer one is refused without counting its tokens."""


_BYTES_PER_CHARACTER = 6  # where JSON writes it as \uXXXX
_CHAT_BYTES = 128 * 2**10
"""For what stands around the words of a conversation."""


def longest_chat(longest_text: int | None) -> int:
    """Bytes of JSON that no conversation exceeds of which a model can read all.

    Args:
        longest_text: tokens that it reads, None where that is not known.
    """
    if longest_text is None:
        return MAX_JSON_BYTES
    return min(MAX_JSON_BYTES, _CHAT_BYTES + longest_text * _CHARACTERS_PER_TOKEN * _BYTES_PER_CHARACTER)


class Answering:
    """One question's way to its response.

    Args:
        settings: of the `AskRequest`.
    """

    def __init__(self, server: Server, volume_id: str, completion: Completion, **settings: Any) -> None:
        self.server, self.volume_id, self.completion = server, volume_id, completion
        self._loop = asyncio.get_running_loop()
        self._found: asyncio.Queue[AnswerPiece | Exception] = asyncio.Queue()
        self._began = time.monotonic()
        self._request = AskRequest(on_piece=self._pass_on, on_error=self._pass_on, **settings)

    async def submit(self, request: Request) -> None:
        """Get in line, tokenised.

        Raises:
            Refusal: 400 the conversation is too long, 429 the line is full.
        """
        server, asked = self.server, self._request
        asked.client = client_of(request.scope)
        longest = server.predictor.longest_text
        told = (asked.system or "", asked.prefix, *asked.questions)
        num_characters = sum(map(len, (*told, *(text for turn in asked.history for text in turn))))
        if longest is not None and num_characters > longest * _CHARACTERS_PER_TOKEN:
            message = f"messages have {num_characters} characters, and this model reads fewer than {longest} tokens; "
            raise Refusal(400, f"{message}shorten them, or begin anew.", param="messages", code="too_long")
        async with server.tokenizing.slot(asked.client):
            asked.tokenized = await self._loop.run_in_executor(server.tokenizer_thread, self._tokenize)
        server.thread.submit(asked)

    def _tokenize(self) -> list[TokenizedQuestion] | None:
        asked, server = self._request, self.server
        try:
            return server.predictor.tokenize(
                server.own_processor,
                asked.questions,
                history=asked.history,
                num_volumes=1,
                system=asked.system,
                prefix=asked.prefix,
            )
        except InputError as error:
            raise Refusal(400, str(error), param="messages", code="too_long") from None
        except BaseException as error:
            raise as_exception(error) from None

    def cancel(self) -> None:
        """Nobody waits any more; nothing happens where the answer is whole already."""
        self.server.thread.cancel(self._request)

    async def response(self, request: Request) -> Response:
        """The whole answer in one body."""
        try:
            await self.submit(request)
            return JSONResponse(self.completion.whole(await unless_gone(self._whole(), request.receive)))
        except ClientGone:
            self._count("called off")
            raise
        except Exception as error:
            raise self._refused(error) from None
        finally:
            self.cancel()

    async def events(self, *, with_usage: bool) -> AsyncGenerator[str]:
        """The answer's pieces as server-sent events."""
        is_ended = False
        try:
            yield self.completion.first_chunk()
            async for piece in self._pieces():
                is_ended = piece.answer is not None
                yield self.completion.chunk(piece)
                if is_ended and with_usage:
                    yield self.completion.usage_chunk(piece)
        except Exception as error:  # the stream has begun: whatever it is, it can only be said in it
            is_ended = True
            yield write_event(self._refused(error).body())
        finally:
            if not is_ended:
                self._count("called off")
        yield LAST_EVENT

    async def _whole(self) -> AnswerPiece:
        return [piece async for piece in self._pieces()][-1]

    async def _pieces(self) -> AsyncGenerator[AnswerPiece]:
        """Text as it is generated; with the last the whole answer, which is kept for reports."""
        metrics, timeout_s = self.server.metrics, self.server.options.answer_timeout_s
        is_first, is_whole = True, False
        while not is_whole:
            try:
                async with asyncio.timeout(max(0, self._began + timeout_s - time.monotonic())):
                    found = await self._found.get()
            except TimeoutError:
                message = f"no whole answer within {timeout_s:.0f} s; ask less at a time."
                raise Refusal(504, message, code="timeout") from None
            if isinstance(found, Exception):
                raise found
            if is_first:
                metrics.first_words_seconds.observe(time.monotonic() - self._began)
                is_first = False
            if found.answer is not None:
                is_whole = True
                metrics.answer_seconds.observe(time.monotonic() - self._began)
                metrics.tokens.inc(found.num_answer_tokens)
                self._count("answered")
                store = self.server.scan_store
                await asyncio.to_thread(store.add_answer, self.volume_id, self.completion.id, found.answer)
            yield found

    def _pass_on(self, found: AnswerPiece | Exception) -> None:
        with contextlib.suppress(RuntimeError):  # the server has stopped meanwhile
            self._loop.call_soon_threadsafe(self._found.put_nowait, found)

    def _refused(self, error: Exception) -> Refusal:
        """What the client is told; of our own mistakes only that there was one."""
        if isinstance(error, InputError):
            error = Refusal(400, str(error), param="messages")
        elif not isinstance(error, Refusal):
            log_failure("a question", error)
            error = internal_error()
        self._count({504: "timed out", 500: "failed", 503: "failed"}.get(error.status_code, "refused"))
        return error

    def _count(self, end: str) -> None:
        self.server.metrics.questions.labels(end).inc()
