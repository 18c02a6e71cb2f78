"""/v1/chat/completions: ask a volume, in OpenAI's shape."""

from __future__ import annotations

import asyncio
import functools
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from slicesight.errors import InputError
from slicesight.inference.calibration.calibration import AnswerRule
from slicesight.serving.answering import Answering
from slicesight.serving.completions import Completion
from slicesight.serving.conversation import ChatRequest, read_conversation
from slicesight.serving.event_stream import EventStream
from slicesight.serving.fairness import client_of
from slicesight.serving.refusals import Refusal
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
        """Ask a question about a volume; the latest one is answered, with the weight of every slice in it.

        Name the volume once in the conversation, as a content part `{"type": "file", "file": {"file_id": "vol_..."}}`
        of a user message. A user message with a volume and no words asks for the findings.
        A system or developer message comes first; it stands before the question, though none of the package's own
        models has learnt to follow one, as the notices say; a guest is sent it as such. A last message of the assistant
        begins the answer: its content is the whole.
        """
        if body.model != server.name:
            raise Refusal(404, f"this server runs {server.name}; send that as model.", param="model", code="no_model")
        asked = read_conversation(body, caption_question=server.predictor.card.caption_question)
        server.thread.check_room(client_of(request.scope))
        stored, _ = await asyncio.to_thread(server.scan_store.read, asked.volume_id)
        max_tokens = body.max_completion_tokens or body.max_tokens or DEFAULT_MAX_TOKENS
        answering = Answering(
            server,
            asked.volume_id,
            Completion(
                id=new_id("chatcmpl-"),
                model=server.name,
                notices=[
                    *server.notices(stored.volume),
                    *asked.notices(follows_system=server.predictor.follows_system),
                ],
                plane=stored.grid.plane,
            ),
            scan=functools.partial(server.thread.encoded.get, asked.volume_id),
            questions=[asked.question],
            history=asked.history,
            system=asked.system,
            prefix=asked.prefix,
            in_pieces=bool(body.stream),
            max_new_tokens=min(max_tokens, server.options.max_answer_tokens),
            options=_sampling(body),
            rule=_rule(server, body),
        )
        if body.stream:
            with_usage = body.stream_options is not None and bool(body.stream_options.include_usage)
            await answering.submit(request)  # a full queue is an answer of its own, not a broken stream
            return EventStream(answering.events(with_usage=with_usage), on_end=answering.cancel)
        return await answering.response(request)

    return router


def _rule(server: Server, body: ChatRequest) -> AnswerRule:
    """When the answer is held back: as the request says, else as the operator does."""
    options = server.options
    try:
        return server.predictor.answer_rule(
            options.min_confidence if body.min_confidence is None else body.min_confidence,
            options.answer_anyway if body.answer_anyway is None else body.answer_anyway,
        )
    except InputError as error:
        raise Refusal(400, str(error), param="min_confidence", code="no_calibration") from None


def _sampling(body: ChatRequest) -> dict[str, Any]:
    """Greedy unless a temperature above 0 is asked for."""
    if not body.temperature:
        return {"do_sample": False}
    return {"do_sample": True, "temperature": body.temperature, "top_p": body.top_p, "top_k": 0, "seed": body.seed}
