"""Models, settings, figures, and the page itself."""

from __future__ import annotations

import asyncio
import functools
import gzip
from pathlib import Path

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import Scope

from slicesight import __version__
from slicesight.models.card import RESEARCH_NOTICE
from slicesight.serving.chat_routes import DEFAULT_MAX_TOKENS
from slicesight.serving.docs_page import DOCS_POLICY, docs_page
from slicesight.serving.ready_questions import ready_questions
from slicesight.serving.refusals import Refusal
from slicesight.serving.response_models import REFUSALS, ModelShape, ModelsShape, SettingsShape
from slicesight.serving.server import Server
from slicesight.volumes.windows import CT_WINDOWS_HU, OTHER_WINDOWS

_PACKABLE = {".html", ".js", ".css", ".svg", ".json", ".txt", ".wasm", ".map"}
PAGE_FOLDER = Path(__file__).parent / "page"
_NO_PAGE = f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>slicesight</title>
<h1>slicesight</h1>
<p>{RESEARCH_NOTICE}</p>
<p>The server runs; its page has not been built. In the source tree, with Node.js: <code>make web</code>, then start
<code>slicesight serve</code> again. The API needs no page: <a href="docs">docs</a> describes it.</p>
</html>
"""


def site_routes(server: Server) -> APIRouter:
    """What says which model answers and how the server does."""
    router = APIRouter(tags=["server"])

    def model() -> dict[str, object]:
        return {
            "id": server.name,
            "object": "model",
            "created": 0,
            "owned_by": "slicesight",
            "card": server.predictor.card.to_dict(),
            "notices": server.notices(),
        }

    @router.get("/v1/models", response_model=ModelsShape, responses={401: REFUSALS[401]})
    async def list_models() -> JSONResponse:
        """The one model this server runs."""
        return JSONResponse({"object": "list", "data": [model()]})

    @router.get("/v1/models/{model_id:path}", response_model=ModelShape, responses={n: REFUSALS[n] for n in (401, 404)})
    async def get_model(model_id: str) -> JSONResponse:
        """A model, with what it was trained on."""
        if model_id != server.name:
            raise Refusal(404, f"this server runs {server.name}; ask for that.", param="model", code="no_model")
        return JSONResponse(model())

    @router.get("/v1/settings", response_model=SettingsShape, responses={401: REFUSALS[401]})
    async def get_settings() -> JSONResponse:
        """What a page has to know before anybody uploads."""
        options = server.options
        return JSONResponse(
            {
                "model": server.name,
                "notices": server.notices(),
                "ready_questions": ready_questions(server.predictor),
                "max_upload_bytes": options.max_upload_bytes,
                "archives": list(options.archives),
                "default_answer_tokens": DEFAULT_MAX_TOKENS,
                "max_answer_tokens": options.max_answer_tokens,
                "max_client_volumes": options.max_client_volumes,
                "keep_minutes": options.keep_minutes,
                "instance": server.instance,
                "windows": [*CT_WINDOWS_HU, *OTHER_WINDOWS],
                "needs_token": options.token is not None,
            }
        )

    @router.head("/healthz", include_in_schema=False)
    @router.get("/healthz", responses={503: {"description": "The model's thread has died."}})
    async def get_health() -> JSONResponse:
        """Whether the server lives; where not, it has to be started again."""
        if not server.thread.is_alive:
            return JSONResponse({"status": "the model fails again and again; restart the server"}, status_code=503)
        return JSONResponse({"status": "ok", "version": __version__})

    @router.head("/readyz", include_in_schema=False)
    @router.get("/readyz", responses={503: {"description": "No more questions for now."}})
    async def get_ready() -> JSONResponse:
        """Whether a question sent now would be taken; where not, send it to another server or later."""
        if server.is_stopping or not server.thread.is_alive:
            return JSONResponse({"status": "stopping" if server.is_stopping else "failing"}, status_code=503)
        if server.thread.is_full:
            return JSONResponse({"status": "the queue is full"}, status_code=503, headers={"Retry-After": "1"})
        return JSONResponse({"status": "ready"})

    @router.get("/docs", include_in_schema=False)
    async def get_docs(request: Request) -> HTMLResponse:
        return HTMLResponse(docs_page(request.app.openapi()), headers={"Content-Security-Policy": DOCS_POLICY})

    @router.get("/metrics", response_class=Response, responses={401: REFUSALS[401]})
    async def get_metrics() -> Response:
        """Figures for Prometheus; of servers that share their volumes, those of all together."""
        figures = server.shared_metrics or server.metrics.registry
        return Response(await asyncio.to_thread(generate_latest, figures), media_type=CONTENT_TYPE_LATEST)

    return router


def add_page(app: FastAPI, folder: Path = PAGE_FOLDER) -> None:
    """The built page at `/`, or how to build it; comes last, since it takes every address that is left."""
    if (folder / "index.html").is_file():
        app.mount("/", _PageFiles(directory=folder, html=True), name="page")
        return

    @app.get("/", include_in_schema=False)
    async def no_page() -> HTMLResponse:
        return HTMLResponse(_NO_PAGE)


class _PageFiles(StaticFiles):
    """The page's files, packed for who takes gzip; an address of the API that nothing answers is not the page's."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        if path.split("/")[0] == "v1":
            raise HTTPException(404 if scope["method"] == "GET" else 405)
        response = await super().get_response(path, scope)
        if path.startswith("assets/"):  # their names change with what is in them
            response.headers["cache-control"] = "public, max-age=31536000, immutable"
        takes_gzip = "gzip" in Headers(scope=scope).get("accept-encoding", "")
        if not isinstance(response, FileResponse) or response.status_code != 200 or "range" in Headers(scope=scope):
            return response
        response.headers["vary"] = "Accept-Encoding"
        if not takes_gzip or Path(path).suffix not in _PACKABLE:
            return response
        packed = await asyncio.to_thread(_packed, str(response.path), response.headers["last-modified"])
        headers = {name: response.headers[name] for name in ("cache-control", "vary") if name in response.headers}
        headers |= {"content-encoding": "gzip", "content-length": str(len(packed))}
        body = b"" if scope["method"] == "HEAD" else packed
        return Response(body, media_type=response.media_type, headers=headers)


@functools.lru_cache(maxsize=64)
def _packed(file: str, changed: str) -> bytes:
    """changed: when, so that a file built anew is packed anew."""
    return gzip.compress(Path(file).read_bytes(), 9, mtime=0)
