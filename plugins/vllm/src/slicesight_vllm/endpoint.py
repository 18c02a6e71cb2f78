"""How does a client of `vllm serve` see which slices an answer rests on? POST /v1/slice_scores, with the same messages.

vLLM's own answer has no room for scores. They are read from the worker that answered, or made again there; no token is
generated. vLLM adds the route where its name is in VLLM_PLUGINS: VLLM_PLUGINS=slicesight,slicesight_scores.
N slices.
"""

from __future__ import annotations

import asyncio
from argparse import Namespace
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from slicesight.errors import InputError
from slicesight.inference.answers import make_answer
from slicesight.models.card import RESEARCH_NOTICE
from slicesight.serving.completions import evidence_fields
from slicesight.volumes.grid import GridVolume
from slicesight_vllm.inputs import AskInput
from slicesight_vllm.worker import again_arguments

ROUTE = "/v1/slice_scores"
SHOWN = ("scores", "even_share", "other_share", "effective_slices", "evidence_summary", "evidence_caveat")


class SliceScoresEndpoint:
    """What vLLM's group of endpoint plug-ins takes."""

    name = "slicesight_scores"
    required_tasks = ("generate",)

    def attach_router(self, app: FastAPI) -> None:
        """Add the route."""

        @app.post(ROUTE)
        async def slice_scores(request: Request) -> JSONResponse:
            return await answer(request)

    async def init_state(self, engine_client: Any, state: Any, args: Namespace) -> None:
        """Keep what reaches the engine."""
        state.slicesight_engine = engine_client


async def answer(request: Request) -> JSONResponse:
    """Scores, slices in mm and ranges of every scan that the messages name; 400 for messages that cannot be read."""
    engine = request.app.state.slicesight_engine
    try:
        body = await request.json()
        messages = body.get("messages") if isinstance(body, dict) else None
        if not isinstance(messages, list):
            raise InputError('the body holds no messages; send {"messages": [...]} as for a chat completion.')
        asked, grids = await asyncio.to_thread(engine.renderer.ask_with_grids, messages)
        scores = await read_scores(engine, asked)
    except (InputError, ValueError) as error:
        refusal = {"message": str(error), "type": "BadRequestError", "param": "messages", "code": 400}
        return JSONResponse({"error": refusal}, status_code=400)
    scans = [describe(one, grid) for one, grid in zip(scores, grids, strict=True)]
    return JSONResponse({"object": "slice_scores", "scans": scans, "use": RESEARCH_NOTICE})


async def read_scores(engine: Any, asked: AskInput) -> list[list[float]]:
    """The slice scores (N,) of each scan for the question."""
    (found,) = (await engine.collective_rpc("slice_scores", args=([one.key for one in asked.slices],)))[:1]
    return [
        list(scores or (await engine.collective_rpc("score_again", args=again_arguments(one)))[0])
        for one, scores in zip(asked.slices, found, strict=True)
    ]


def describe(scores: list[float], grid: GridVolume) -> dict[str, Any]:
    """One scan's evidence, in the fields of the package's own server."""
    found = evidence_fields(make_answer("", "", scores, grid=grid), plane=grid.plane)
    return {name: found[name] for name in (*SHOWN, "slices", "ranges")}
