"""How does `slicesight serve` listen? One process, one model thread, until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Any

import uvicorn
from rich.console import Console
from uvicorn.protocols.http.h11_impl import H11Protocol

from slicesight.errors import InputError
from slicesight.models.card import RESEARCH_NOTICE
from slicesight.reports.ask import load_quietly
from slicesight.serving.app import create_app
from slicesight.serving.options import ServeOptions
from slicesight.serving.site_routes import PAGE_FOLDER
from slicesight.serving.telemetry import LOGGING

FIRST_REQUEST_S = 20.0
MAX_CONNECTIONS = 1000
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
            predictor = load_quietly(options.model, int8=options.int8)
        app = create_app(predictor, options)
        server = uvicorn.Server(uvicorn_config(app))
        stderr.print(RESEARCH_NOTICE, style="yellow", soft_wrap=True)
        for warning in predictor.card.warnings:
            stderr.print(warning, style="yellow", highlight=False, soft_wrap=True)
        if not (PAGE_FOLDER / "index.html").is_file():
            stderr.print("the page has not been built (make web); the API answers without it", soft_wrap=True)
        address = _address(options.host, listening.getsockname()[1])
        stderr.print(f"open {address}  (Ctrl+C stops, and removes every scan)", highlight=False, soft_wrap=True)
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(server.serve(sockets=[listening]))
    stderr.print("stopped; no scan is left", highlight=False)


def uvicorn_config(app: Any) -> uvicorn.Config:
    """Settings of the HTTP server: no log of addresses, bounded connections and headers."""
    return uvicorn.Config(
        app,
        http=DeadlineProtocol,
        ws="none",
        lifespan="on",
        log_config=LOGGING,
        access_log=False,  # it would hold query strings; guard.py writes a line without anything of the client's
        server_header=False,
        limit_concurrency=MAX_CONNECTIONS,
        h11_max_incomplete_event_size=MAX_HEADER_BYTES,
        timeout_keep_alive=20,
        timeout_graceful_shutdown=5,
    )


class DeadlineProtocol(H11Protocol):
    """Closes a connection on which no whole request header came in time."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._impatience = self.loop.call_later(FIRST_REQUEST_S, self._leave_if_silent)

    def connection_lost(self, exc: Exception | None) -> None:
        self._impatience.cancel()
        super().connection_lost(exc)

    def _leave_if_silent(self) -> None:
        if self.cycle is None and not self.transport.is_closing():
            self.transport.close()


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


def _address(host: str, port: int) -> str:
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"
