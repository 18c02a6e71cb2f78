"""A scripted agent answers a question that only the evidence can answer; and the tools are reached over stdio and HTTP.

The agent is asked on which slice a finding lies and what it measures there. No tool says that: it has to ask the model,
look at the slice the answer rests on, see which outline is in the picture, and measure that structure.
"""

from __future__ import annotations

import asyncio
import base64
import io
import os
import sys
import threading
import time
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("mcp", reason="the SDK is not installed: pip install 'slicesight[mcp]'")

from mcp import Client
from mcp.client.stdio import StdioServerParameters

from slicesight.io.writers import write_nifti
from slicesight.serving.agents.options import AgentOptions
from slicesight.serving.agents.pictures import OUTLINES
from slicesight.serving.agents.server import agent_server
from slicesight.serving.options import ServeOptions

CASES = {3: "Where is the lipoma?", 5: "Where is the cyst located?", 6: "Where is the abscess located?"}
"""Phantoms of seed 20000, and a question about one of the findings of each."""


class ScriptedAgent:
    """What a language model with tools would do, without one.

    looks_at: "evidence" for the slice the answer rests on; "middle" for the scan's middle, whatever the answer says.
    """

    def __init__(self, client, *, looks_at="evidence"):
        self.client, self.looks_at, self.used = client, looks_at, []

    async def call(self, tool, **arguments):
        self.used.append(tool)
        found = await self.client.call_tool(tool, arguments)
        assert not found.is_error, found.content[0].text
        return found.structured_content, [one.data for one in found.content if one.type == "image"]

    async def answer(self, scan, mask, question):
        """(slice, HU) of what is asked about; None where nothing is outlined on the slice looked at."""
        facts, _ = await self.call("inspect_scan", scan=scan, contact_sheet=False)
        asked, _ = await self.call("ask_scan", scan=scan, questions=[question], pictures=False)
        heaviest = asked["answers"][0]["evidence"]["heaviest"][0]["slices"]
        number = heaviest[len(heaviest) // 2] if self.looks_at == "evidence" else facts["num_slices"] // 2
        shown, (picture,) = await self.call("show_slices", scan=scan, slices=[number], mask=mask)
        pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(picture))))
        counts = [(pixels == colour).all(axis=2).sum() for colour in OUTLINES]
        if max(counts) < 8:
            return None
        label = int(np.argmax(counts)) + 1
        measured, _ = await self.call("measure_structure", scan=scan, mask=mask, labels=[label], picture=False)
        return shown["pictures"][0]["slice"], measured["structures"][0]["mean"]


@pytest.fixture(scope="module")
def findings(tmp_path_factory):
    """Phantoms with the outlines of their findings -> (folder, {index: (first slice, last, HU)})."""
    from slicesight.phantoms.rendering import make_phantom

    folder, truth = tmp_path_factory.mktemp("loop"), {}
    for index, question in CASES.items():
        phantom = make_phantom(20_000, index, pixel_mm=(3.0, 3.5))
        volume, labels = phantom.volume, phantom.lesion_labels
        write_nifti(volume, folder / f"{index}.nii.gz")
        write_nifti(volume, folder / f"{index}-findings.nii.gz", labels=labels.astype(np.uint8))
        (label,) = (n for n, one in enumerate(phantom.truth.findings, start=1) if one.abnormality in question)
        across = tuple(axis for axis in range(3) if axis != volume.acquisition_axis)
        slices = volume.geometry.source_slices(np.flatnonzero((labels == label).any(axis=across)).tolist())
        truth[index] = (slices[0], slices[-1], float(volume.voxels[labels == label].mean()))
    return folder, truth


def test_an_agent_finds_slice_and_hu_of_a_finding_by_the_evidence_and_not_without_it(findings):
    folder, truth = findings

    async def run(looks_at):
        right, used = [], []
        async with Client(server) as client:
            for index, question in CASES.items():
                agent = ScriptedAgent(client, looks_at=looks_at)
                found = await agent.answer(f"{index}.nii.gz", f"{index}-findings.nii.gz", question)
                first, last, hu = truth[index]
                right.append(found is not None and first <= found[0] <= last and abs(found[1] - hu) < 0.5)
                used.append(agent.used)
        return right, used

    async def both():
        return await run("evidence"), await run("middle")

    with agent_server(AgentOptions(roots=(folder,), model="phantom-tiny")) as server:
        (with_evidence, used), (without, _) = asyncio.run(both())
    assert with_evidence == [True] * len(CASES)
    assert without == [False] * len(CASES)
    assert used == [["inspect_scan", "ask_scan", "show_slices", "measure_structure"]] * len(CASES)


def test_stdio_carries_the_protocol_and_nothing_else(findings):
    """As a client's configuration starts it; the whole conversation would break at the first stray line."""
    arguments = ["-m", "slicesight", "mcp", "--root", str(findings[0])]
    command = StdioServerParameters(command=sys.executable, args=arguments, env=dict(os.environ))

    async def run():
        async with Client(command) as client:
            return await client.call_tool("list_scans", {})

    names = [one["name"] for one in asyncio.run(run()).structured_content["found"]]
    assert names == sorted(f"{index}{end}.nii.gz" for index in CASES for end in ("", "-findings"))


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
        assert len(asyncio.run(run(url)).structured_content["found"]) == 2 * len(CASES)

        def status(**headers):
            return httpx.post(url, json=body, headers={**asked, **headers}, timeout=60).status_code

        assert status() == 401
        assert status(Authorization=f"Bearer {token[:-1]}x") == 401
        assert status(**right, Host="evil.example") == 421
        assert status(**right, Origin="http://evil.example") == 403
        large = httpx.post(url, content=b" " * (5 * 2**20), headers={**asked, **right}, timeout=60)
        assert large.status_code == 413
