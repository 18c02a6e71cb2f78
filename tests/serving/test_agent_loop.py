"""A scripted agent answers a question that only the evidence can answer; and the tools are reached over stdio and HTTP.

The agent is asked on which slice a finding lies and what it measures there. No tool says that: it has to ask the model,
look at the slice the answer rests on, see which outline is in the picture, and measure that structure.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from contextlib import contextmanager

import pytest

pytest.importorskip("mcp", reason="the SDK is not installed: pip install 'slicesight[mcp]'")

from agent_loop import ScriptedAgent, ask_agents, make_findings
from mcp import Client
from mcp.client.stdio import StdioServerParameters

from slicesight.serving.agents.options import AgentOptions
from slicesight.serving.agents.server import agent_server
from slicesight.serving.options import ServeOptions

PHANTOMS = (3, 5, 6)


@pytest.fixture(scope="module")
def findings(tmp_path_factory):
    """Phantoms with the outlines of their findings -> (folder, what is asked about them)."""
    folder = tmp_path_factory.mktemp("loop")
    return folder, [one for index in PHANTOMS for one in make_findings(folder, index)]


def test_an_agent_finds_slice_and_hu_of_findings_by_the_evidence_and_not_without_it(findings):
    folder, asked = findings
    with agent_server(AgentOptions(roots=(folder,), model="phantom-tiny")) as server:
        rows = asyncio.run(ask_agents(server, asked, ("evidence", "middle")))
    assert len(rows) == len(asked) >= 6
    num_right = {look: sum(row[look] for row in rows) for look in ("evidence", "middle")}
    assert num_right["evidence"] >= 0.7 * len(rows)
    assert num_right["middle"] <= 0.4 * len(rows)


def test_the_agent_uses_every_tool_in_turn_and_is_right_only_about_the_finding_itself(findings):
    folder, (finding, *_) = findings

    async def one():
        async with Client(server) as client:
            agent = ScriptedAgent(client, looks_at="truth")
            return await agent.answer(finding), agent.used

    with agent_server(AgentOptions(roots=(folder,), model="phantom-tiny")) as server:
        answer, used = asyncio.run(one())
    assert used == ["inspect_scan", "ask_scan", "show_slices", "measure_structure"]
    assert finding.is_right(answer)
    assert not finding.is_right((answer[0], answer[1] + 1))
    assert not finding.is_right((finding.slices[-1] + 1, answer[1]))
    assert not finding.is_right(None)


def test_stdio_carries_the_protocol_and_nothing_else(findings):
    """As a client's configuration starts it; the whole conversation would break at the first stray line."""
    arguments = ["-m", "slicesight", "mcp", "--root", str(findings[0])]
    command = StdioServerParameters(command=sys.executable, args=arguments, env=dict(os.environ))

    async def run():
        async with Client(command) as client:
            return await client.call_tool("list_scans", {})

    names = [one["name"] for one in asyncio.run(run()).structured_content["found"]]
    assert names == sorted(f"{index}{end}.nii.gz" for index in PHANTOMS for end in ("", "-findings"))


@contextmanager
def listening(options, serve_options):
    """A real HTTP server in a thread -> its address."""
    import uvicorn

    from slicesight.serving.agents.http import http_app
    from slicesight.serving.running import listen, uvicorn_config

    with listen(serve_options) as socket, agent_server(options) as server:
        web = uvicorn.Server(uvicorn_config(http_app(server, serve_options), serve_options))
        web.install_signal_handlers = lambda: None
        thread = threading.Thread(target=lambda: asyncio.run(web.serve(sockets=[socket])))
        thread.start()
        until = time.monotonic() + 60
        while not web.started and time.monotonic() < until:
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{socket.getsockname()[1]}/mcp"
        finally:
            web.should_exit = True
            thread.join(60)


def test_http_takes_the_token_the_host_and_the_origin_as_serve_does(findings):
    import httpx
    import httpx2
    from mcp.client.streamable_http import streamable_http_client

    token = "t" * 32
    right = {"Authorization": f"Bearer {token}"}
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    asked = {"Accept": "application/json, text/event-stream"}

    async def run(url):
        async with (
            httpx2.AsyncClient(headers=right, timeout=60) as http,
            Client(streamable_http_client(url, http_client=http)) as client,
        ):
            return await client.call_tool("list_scans", {})

    with listening(AgentOptions(roots=(findings[0],)), ServeOptions(port=0, token=token)) as url:
        assert len(asyncio.run(run(url)).structured_content["found"]) == 2 * len(PHANTOMS)

        def status(**headers):
            return httpx.post(url, json=body, headers={**asked, **headers}, timeout=60).status_code

        assert status() == 401
        assert status(Authorization=f"Bearer {token[:-1]}x") == 401
        assert status(**right, Host="evil.example") == 421
        assert status(**right, Origin="http://evil.example") == 403
        large = httpx.post(url, content=b" " * (5 * 2**20), headers={**asked, **right}, timeout=60)
        assert large.status_code == 413
