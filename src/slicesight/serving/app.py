"""How is the HTTP API put together?"""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse

from slicesight import __version__
from slicesight.errors import InputError
from slicesight.inference.predictor import Predictor
from slicesight.models.card import RESEARCH_NOTICE
from slicesight.serving.answering import longest_chat
from slicesight.serving.chat_routes import chat_routes
from slicesight.serving.guard import Guard, needs_token
from slicesight.serving.options import ServeOptions
from slicesight.serving.refusals import Refusal, add_handlers
from slicesight.serving.server import Server
from slicesight.serving.site_routes import add_page, site_routes
from slicesight.serving.volume_routes import volume_routes

_DESCRIPTION = f"""Ask questions of a 3D medical scan and see which slices weigh most in each answer.

{RESEARCH_NOTICE}

Bring a scan to `POST /v1/volumes`, then ask it with `POST /v1/chat/completions`, for which any client of OpenAI's API
will do."""


_NO_TELEMETRY: Any = dict.fromkeys(("tracing", "metrics", "logs", "operation_spans", "auto_configure"), False)
"""What newer versions of FastAPI tell OpenTelemetry: spans with addresses, logs with what the client wrote. Nothing."""


def create_app(predictor: Predictor, options: ServeOptions) -> FastAPI:
    """The application; it answers between its lifespan's beginning and end, and then leaves no scan behind.

    Raises:
        InputError: the folder for scans cannot be used, or a confidence is asked for that the model has not.
    """
    predictor.answer_rule(options.min_confidence, options.answer_anyway)
    server = Server(predictor, options)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with server.running():
            yield

    app = FastAPI(
        title="slicesight",
        version=__version__,
        description=_DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,  # its page would come from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        root_path_in_servers=False,
        separate_input_output_schemas=False,
        telemetry=_NO_TELEMETRY,
    )
    app.openapi = functools.partial(_describe, app, options)  # type: ignore[method-assign]  # FastAPI's own way
    app.state.server = server
    add_handlers(app)

    @app.exception_handler(InputError)
    async def mistaken(request: Request, error: InputError) -> JSONResponse:
        return Refusal(400, str(error)).response()

    app.include_router(volume_routes(server))
    app.include_router(chat_routes(server))
    app.include_router(site_routes(server))
    add_page(app)
    app.add_middleware(
        Guard,
        options=options,
        metrics=server.metrics,
        max_chat_bytes=longest_chat(predictor.longest_text),
        check_chat=server.thread.check_room,
    )
    return app


def _describe(app: FastAPI, options: ServeOptions) -> dict[str, Any]:
    """OpenAPI, with the address clients use and the token they send."""
    if app.openapi_schema is None:
        address = options.public_url or options.root_path or "/"
        schema = get_openapi(
            title=app.title,
            version=app.version,
            description=app.description,
            routes=app.routes,
            servers=[{"url": address.rstrip("/") or "/"}],
            separate_input_output_schemas=False,
        )
        if options.token is not None:
            bearer = {"type": "http", "scheme": "bearer", "description": "The token of the file at --token-file."}
            schema["components"]["securitySchemes"] = {"bearer": bearer}
            for path, methods in schema["paths"].items():
                for method in methods.values():
                    method["security"] = [{"bearer": []}] if needs_token(path) else []
        app.openapi_schema = schema
    return app.openapi_schema
