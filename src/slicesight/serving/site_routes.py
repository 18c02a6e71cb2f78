"""Models, settings, figures, and the page itself."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter, FastAPI, Response
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException
from starlette.types import Scope

from slicesight import __version__
from slicesight.models.card import RESEARCH_NOTICE
from slicesight.serving.refusals import Refusal
from slicesight.serving.response_models import REFUSALS, ModelShape, ModelsShape, SettingsShape
from slicesight.serving.server import Server
from slicesight.volumes.windows import CT_WINDOWS_HU, OTHER_WINDOWS

PAGE_FOLDER = Path(__file__).parent / "page"
_NO_PAGE = f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>slicesight</title>
<h1>slicesight</h1>
<p>{RESEARCH_NOTICE}</p>
<p>The server runs; its page has not been built. In the source tree, with Node.js: <code>make web</code>, then start
<code>slicesight serve</code> again. The API needs no page: <a href="openapi.json">openapi.json</a> describes it.</p>
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
                "max_upload_bytes": options.max_upload_bytes,
                "archives": list(options.archives),
                "windows": [*CT_WINDOWS_HU, *OTHER_WINDOWS],
                "needs_token": options.token is not None,
            }
        )

    @router.get("/healthz", responses={503: {"description": "The model's thread has died."}})
    async def get_health() -> JSONResponse:
        """Whether the model answers."""
        if not server.thread.is_alive:
            return JSONResponse({"status": "the model's thread has died; restart the server"}, status_code=503)
        return JSONResponse({"status": "ok", "version": __version__})

    @router.get("/metrics", response_class=Response, responses={401: REFUSALS[401]})
    async def get_metrics() -> Response:
        """Figures for Prometheus."""
        return Response(generate_latest(server.metrics.registry), media_type=CONTENT_TYPE_LATEST)

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
    """The page's files; an address of the API that nothing answers is not the page's."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        if scope["path"].startswith("/v1/"):
            raise HTTPException(404 if scope["method"] == "GET" else 405)
        return await super().get_response(path, scope)
