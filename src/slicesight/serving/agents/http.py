"""How do agents on HTTP reach the tools? Behind the guard of the page's server: host, origin, token, limits."""

from __future__ import annotations

import asyncio
import contextlib

import uvicorn
from mcp.server.mcpserver import MCPServer
from mcp.server.transport_security import TransportSecuritySettings
from rich.console import Console

from slicesight.models.card import RESEARCH_NOTICE
from slicesight.serving.agents.options import AgentOptions
from slicesight.serving.agents.server import agent_server
from slicesight.serving.guard import Guard
from slicesight.serving.options import ServeOptions
from slicesight.serving.running import listen, server_address, uvicorn_config
from slicesight.serving.telemetry import Metrics

PATH = "/mcp"


def http_app(server: MCPServer, options: ServeOptions) -> Guard:
    """The server's application at /mcp; the guard checks Host, Origin and token, so the library need not."""
    return Guard(
        server.streamable_http_app(
            streamable_http_path=PATH,
            host=options.host,
            transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False),
        ),
        options=options,
        metrics=Metrics(),
    )


def run_http(options: AgentOptions, serve_options: ServeOptions) -> None:
    """Listen and say where, until told to stop.

    Raises:
        InputError: nobody can listen at that address.
    """
    stderr = Console(stderr=True)
    with listen(serve_options) as listening, agent_server(options) as server:
        config = uvicorn_config(http_app(server, serve_options), serve_options)
        listening.listen(config.backlog)
        stderr.print(RESEARCH_NOTICE, style="yellow", soft_wrap=True)
        address = server_address(serve_options, listening).rstrip("/")
        stderr.print(f"agents: {address}{PATH}  (Ctrl+C stops)", highlight=False, soft_wrap=True)
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(uvicorn.Server(config).serve(sockets=[listening]))
