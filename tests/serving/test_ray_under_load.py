"""Replicas rise under load and fall after; one that is killed costs nobody an answer and no scan a second encoding."""

from __future__ import annotations

import os
import re
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from http_questions import question

pytest.importorskip("ray.serve")
pytestmark = pytest.mark.distributed
NUM_ASKERS, NUM_QUESTIONS = 50, 50
PATIENCE_S = 600


@pytest.fixture
def served(tiny_model_folder, tmp_path, monkeypatch):
    """The address of one or two replicas on this machine."""
    for name in ("PROXY_READY_CHECK_TIMEOUT_S", "PROXY_HEALTH_CHECK_TIMEOUT_S"):  # a busy machine is no dead one
        monkeypatch.setenv(f"RAY_SERVE_{name}", str(PATIENCE_S))
    import ray
    from ray import serve

    from slicesight.serving.ray_app import RayArguments, build

    for module in ("api", "client"):
        monkeypatch.setattr(f"ray.serve._private.{module}.HTTP_PROXY_TIMEOUT", PATIENCE_S)

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=80 << 20)
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        arguments = RayArguments(
            folder=tmp_path / "scans",
            model=str(tiny_model_folder),
            min_replicas=1,
            max_replicas=2,
            cpus=0.4,
            queue=NUM_ASKERS + 10,
            questions_per_replica=4,
            upscale_delay_s=1,
            downscale_delay_s=3,
        )
        serve.run(build(arguments))
        yield f"http://127.0.0.1:{port}"
    finally:
        serve.shutdown()
        ray.shutdown()


def replicas() -> list[str]:
    from ray import serve

    (app,) = serve.status().applications.values()
    return [state for state, count in app.deployments["slicesight"].replica_states.items() for _ in range(count)]


def wait_for(what, *, seconds: float = PATIENCE_S):
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, f"waited {seconds} s in vain"
        time.sleep(0.5)
    return found


def process_ids() -> list[int]:
    """Of the replicas' processes, by their titles."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/cmdline", "rb") as file:
                    title = file.read()
            except OSError:
                continue
            if title.startswith(b"ray::ServeReplica:default:slicesight"):
                found.append(int(entry))
    return found


def ask(client: httpx.Client, volume_id: str, text: str) -> tuple[int, str]:
    """(how often it was asked again, the answer): as OpenAI's own client does after 5xx, 429 or a broken connection."""
    for tries in range(20):
        try:
            found = client.post("/v1/chat/completions", json=question(volume_id, text))
        except httpx.TransportError:
            time.sleep(0.5)
            continue
        if found.status_code == 200:
            return tries, found.json()["choices"][0]["message"]["content"]
        assert found.status_code in (429, 500, 502, 503), f"{found.status_code}: {found.text[:200]}"
        time.sleep(0.5)
    raise AssertionError("asked twenty times in vain")


def test_replicas_come_with_load_survive_a_kill_and_go(served, phantom_file):
    with httpx.Client(base_url=served, timeout=PATIENCE_S, limits=httpx.Limits(max_connections=60)) as client:
        found = client.post("/v1/volumes", files={"file": ("s.nii.gz", phantom_file.read_bytes())})
        assert found.status_code == 201, found.text
        volume_id = found.json()["id"]
        _, right = ask(client, volume_id, "Which phase is this?")
        assert len(process_ids()) == 1
        with ThreadPoolExecutor(NUM_ASKERS) as pool:
            load = [pool.submit(ask, client, volume_id, "Which phase is this?") for _ in range(NUM_QUESTIONS)]
            more = []

            def is_up():
                more.extend(pool.submit(ask, client, volume_id, "Which phase is this?") for _ in range(4))
                return replicas().count("RUNNING") == 2

            wait_for(is_up)
            assert {future.result()[1] for future in (*load, *more)} == {right}
            before = process_ids()
            assert len(before) == 2
            load = [pool.submit(ask, client, volume_id, "Which phase is this?") for _ in range(NUM_QUESTIONS)]
            time.sleep(0.3)
            os.kill(before[0], signal.SIGKILL)
            answers = [future.result() for future in load]
        assert [text for _, text in answers] == [right] * NUM_QUESTIONS
        print(f"asked again: {sum(tries > 0 for tries, _ in answers)} of {NUM_QUESTIONS}")
        wait_for(lambda: set(process_ids()) - {before[0]})
        text = client.get("/metrics").text
        answered = float(re.search(r'slicesight_questions_total\{end="answered"\} (\S+)', text)[1])
        encodes = float(re.search(r"^slicesight_encodes_total (\S+)", text, flags=re.MULTILINE)[1])
        assert answered >= NUM_QUESTIONS, "the sum is of one replica alone"
        assert encodes <= len({*before, *process_ids()}), "one replica encoded the scan twice"
        wait_for(lambda: replicas() == ["RUNNING"] and len(process_ids()) == 1)
        assert ask(client, volume_id, "Which phase is this?")[1] == right
