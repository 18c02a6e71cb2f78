"""/v1/chat/completions: ask a volume, in OpenAI's shape."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from slicesight.errors import InputError
from slicesight.inference.answers import AnswerPiece
from slicesight.serving.completions import LAST_EVENT, Completion, error_event
from slicesight.serving.conversation import ChatRequest, ConversationTurn, read_conversation
from slicesight.serving.event_stream import EventStream, Waiter, unless_gone
from slicesight.serving.guard import ClientGone
from slicesight.serving.logs import log_failure
from slicesight.serving.refusals import Refusal, internal_error
from slicesight.serving.reports import answer_record
from slicesight.serving.response_models import REFUSALS, CompletionShape
from slicesight.serving.scan_store import new_id
from slicesight.serving.server import Server

DEFAULT_MAX_TOKENS = 160


def chat_routes(server: Server) -> APIRouter:
    """The route over one server's model."""
    router = APIRouter(tags=["chat"], responses=REFUSALS)

    @router.post(
        "/v1/chat/completions",
        response_model=CompletionShape,
        responses={200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}},
    )
    async def create_chat_completion(body: ChatRequest, request: Request) -> Response:
        """Ask a question about a volume; the latest one is answered, with the slices it rests on.

        Name the volume once in the conversation, as a content part `{"type": "file", "file": {"file_id": "vol_..."}}`
        of a user message. A user message with a volume and no words asks for the findings.
        """
        if body.model != server.name:
            raise Refusal(404, f"this server runs {server.name}; send that as model.", param="model", code="no_model")
        asked = read_conversation(body, caption_question=server.predictor.card.caption_question)
        server.thread.check_room()
        stored, _ = await asyncio.to_thread(server.scan_store.read, asked.volume_id)
        completion = Completion(
            id=new_id("chatcmpl-"), model=server.name, notices=server.notices(stored.volume), plane=stored.grid.plane
        )
        waiter = Waiter(
            server.thread,
            scan=functools.partial(server.thread.encoded.get, asked.volume_id),
            question=asked.question,
            history=asked.history,
            in_pieces=bool(body.stream),
            timeout_s=server.options.answer_timeout_s,
            max_new_tokens=min(
                body.max_completion_tokens or body.max_tokens or DEFAULT_MAX_TOKENS, server.options.max_answer_tokens
            ),
            options=_choosing(body),
        )
        answering = _Answering(server, asked, completion, waiter)
        if body.stream:
            usage = body.stream_options is not None and bool(body.stream_options.include_usage)
            waiter.submit()  # a full queue is an answer of its own, not a broken stream
            return EventStream(answering.events(with_usage=usage), on_end=waiter.cancel)
        return await answering.response(request)

    return router


class _Answering:
    """One question's way to its response."""

    def __init__(self, server: Server, asked: ConversationTurn, completion: Completion, waiter: Waiter) -> None:
        self.server, self.asked, self.completion, self.waiter = server, asked, completion, waiter

    async def response(self, request: Request) -> Response:
        """The whole answer in one body."""
        self.waiter.submit()
        try:
            piece = await unless_gone(self.waiter.whole(), request.receive)
        except ClientGone:
            self._count("called off")
            raise
        except Exception as error:
            raise self._refused(error) from None
        finally:
            self.waiter.cancel()
        await self._keep(piece)
        return JSONResponse(self.completion.whole(piece))

    async def events(self, *, with_usage: bool) -> AsyncIterator[str]:
        """The answer's pieces as server-sent events."""
        is_whole = False
        try:
            yield self.completion.first_chunk()
            async for piece in self.waiter.pieces():
                if piece.answer is not None:
                    is_whole = True
                    await self._keep(piece)
                yield self.completion.chunk(piece)
                if piece.answer is not None and with_usage:
                    yield self.completion.usage_chunk(piece)
            yield LAST_EVENT
        except Exception as error:  # the stream has begun: whatever it is, it can only be said in it
            is_whole = True
            yield error_event(self._refused(error).body())
            yield LAST_EVENT
        finally:
            if not is_whole:
                self._count("called off")

    async def _keep(self, piece: AnswerPiece) -> None:
        assert piece.answer is not None
        self._count("answered")
        await asyncio.to_thread(
            self.server.scan_store.add_answer, self.asked.volume_id, self.completion.id, answer_record(piece.answer)
        )

    def _refused(self, error: Exception) -> Refusal:
        """What the client is told; of our own mistakes only that there was one."""
        if isinstance(error, Refusal):
            self._count({504: "timed out", 500: "failed"}.get(error.status_code, "refused"))
            return error
        if isinstance(error, InputError):
            self._count("refused")
            return Refusal(400, str(error), param="messages")
        self._count("failed")
        log_failure("a question", error)
        return internal_error()

    def _count(self, end: str) -> None:
        self.server.metrics.questions.labels(end).inc()


def _choosing(body: ChatRequest) -> dict[str, Any]:
    """Greedy unless a temperature above 0 is asked for."""
    if not body.temperature:
        return {"do_sample": False}
    return {"do_sample": True, "temperature": body.temperature, "top_p": body.top_p, "top_k": 0, "seed": body.seed}
