"""How does `slicesight serve` listen? One process, one model thread, until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
from math import ceil
from typing import Any

import uvicorn
from rich.console import Console
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from slicesight.errors import InputError
from slicesight.inference.engines import choose_engine, load_with
from slicesight.inference.predictor import Predictor
from slicesight.models.card import RESEARCH_NOTICE
from slicesight.reports.ask import load_quietly
from slicesight.serving.app import create_app
from slicesight.serving.options import ServeOptions
from slicesight.serving.refusals import Refusal
from slicesight.serving.site_routes import PAGE_FOLDER
from slicesight.serving.telemetry import LOGGING

HEADER_S = 20.0
"""For a request's header to arrive whole."""
MAX_HEADER_BYTES = 32 * 2**10


def run_server(options: ServeOptions) -> None:
    """Load the model, listen, and say where.

    Raises:
        InputError: there is no such model, or nobody can listen at that address.
    """
    stderr = Console(stderr=True)
    listening = listen(options)
    with listening:
        with stderr.status(f"loading {options.model}"):
            predictor = load_predictor(options)
        if engine := predictor.card.facts.get("engine"):
            stderr.print(f"computed by {engine}; --engine own takes the package's own engine", soft_wrap=True)
        app = create_app(predictor, options)
        config = uvicorn_config(app, options)
        stderr.print(RESEARCH_NOTICE, style="yellow", soft_wrap=True)
        for warning in predictor.card.warnings:
            stderr.print(warning, style="yellow", highlight=False, soft_wrap=True)
        if not (PAGE_FOLDER / "index.html").is_file():
            stderr.print("the page has not been built (make web); the API answers without it", soft_wrap=True)
        listening.listen(config.backlog)  # whoever reads the line below is not refused
        address = server_address(options, listening)
        stderr.print(f"open {address}  (Ctrl+C stops, and removes every scan)", highlight=False, soft_wrap=True)
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(uvicorn.Server(config).serve(sockets=[listening]))
    stderr.print("stopped; no scan is left", highlight=False)


def load_predictor(options: ServeOptions) -> Predictor:
    """The model in the engine that was asked for.

    Raises:
        InputError: there is no such model or engine.
    """
    if (engine := choose_engine(options.engine, options.model, is_plain=options.is_plain)) != "own":
        return load_with(engine, options.model)
    return load_quietly(
        options.model, int8=options.int8, preset=options.preset, evidence_passes=options.evidence_passes
    )


def uvicorn_config(app: Any, options: ServeOptions) -> uvicorn.Config:
    """Settings of the HTTP server: no log of addresses, bounded connections and headers."""
    return uvicorn.Config(
        app,
        http=functools.partial(BoundedProtocol, options),  # type: ignore[arg-type]  # it is called like a class
        ws="none",
        lifespan="on",
        log_config=LOGGING,
        access_log=False,  # it would hold query strings; guard.py writes a line without anything of the client's
        server_header=False,
        h11_max_incomplete_event_size=MAX_HEADER_BYTES,
        timeout_keep_alive=20,
        timeout_graceful_shutdown=ceil(options.grace_s),
        proxy_headers=options.public_url is not None,  # from FORWARDED_ALLOW_IPS, else this machine
    )


class BoundedProtocol(H11Protocol):
    """HTTP whose headers have to come in time, and of which no address opens too many connections."""

    def __init__(self, options: ServeOptions, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._options = options
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        hosts = [(getattr(one, "client", None) or ("",))[0] for one in self.connections]
        num_own = hosts.count((self.client or ("",))[0])
        own_limit = self._options.max_client_connections if self._options.public_url is None else len(self.connections)
        if len(self.connections) > 2 * self._options.max_connections or num_own > 2 * own_limit:
            transport.abort()
        elif len(self.connections) > self._options.max_connections or num_own > own_limit:
            self.app = _overloaded
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        super().connection_lost(exc)

    def _watch(self) -> None:
        """Hold the client to its time as long as a header is due; an idle connection is closed sooner."""
        is_due = self.cycle is None or self.cycle.response_complete
        if is_due and self._deadline is None:
            self._deadline = self.loop.call_later(HEADER_S, self.transport.close)
        elif not is_due and self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


async def _overloaded(scope: Scope, receive: Receive, send: Send) -> None:
    message = "the server has as many connections as it takes, of you or of all; come again in 5 s."
    refusal = Refusal(503, message, code="overloaded", headers={"Retry-After": "5", "Connection": "close"})
    await refusal.response()(scope, receive, send)


def listen(options: ServeOptions) -> socket.socket:
    """A socket at the address, taken before the model is loaded."""
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    listening = socket.socket(family)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((options.host, options.port))
    except OSError as error:
        listening.close()
        reason = str(error.strerror or error).lower()
        raise InputError(
            f"--host {options.host} --port {options.port}: nobody can listen there ({reason}); choose another port."
        ) from None
    return listening


def server_address(options: ServeOptions, listening: socket.socket) -> str:
    """What a client opens."""
    host, port = options.host, listening.getsockname()[1]
    return options.public_url or f"http://{f'[{host}]' if ':' in host else host}:{port}/"
