"""Replicas rise under load and fall after; one that is killed costs nobody an answer and no scan a second encoding."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import pytest

from http_questions import question

pytest.importorskip("ray.serve")
pytestmark = pytest.mark.distributed
NUM_QUESTIONS = 50
PATIENCE_S = 300
QUESTION = "Which phase is this?"


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
            folder=tmp_path,
            model=str(tiny_model_folder),
            min_replicas=1,
            max_replicas=2,
            cpus=0.4,
            queue=2 * NUM_QUESTIONS,
            questions_per_replica=2,
            upscale_delay_s=1,
            downscale_delay_s=15,
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
            if title.startswith(b"ray::") and b":ServeReplica:default:slicesight" in title:
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


@contextmanager
def steady_load(client: httpx.Client, volume_id: str, *, num_askers: int) -> Iterator[list[str]]:
    """So many who ask again as soon as they are answered, until the block ends; what they were answered."""
    has_ended, answers = threading.Event(), list[str]()

    def keep_asking() -> None:
        while not has_ended.is_set():
            answers.append(ask(client, volume_id, QUESTION)[1])

    with ThreadPoolExecutor(num_askers) as pool:
        askers = [pool.submit(keep_asking) for _ in range(num_askers)]
        try:
            yield answers
        finally:
            has_ended.set()
        for asker in askers:
            asker.result()


def encodes(folder) -> list[float]:
    """Of each replica that ever was, by what it last wrote."""
    files = [json.loads(file.read_text()) for file in folder.rglob("metrics/*.json")]
    samples = [sample for families in files for _, _, _, found in families for sample in found]
    return [value for name, _, value in samples if name == "slicesight_encodes_total"]


def counted(client: httpx.Client, name: str) -> float:
    return float(re.search(rf"^slicesight_{re.escape(name)} (\S+)", client.get("/metrics").text, flags=re.MULTILINE)[1])


def test_replicas_come_with_load_survive_a_kill_and_go(served, phantom_file, tmp_path):
    with httpx.Client(base_url=served, timeout=PATIENCE_S, limits=httpx.Limits(max_connections=60)) as client:
        found = client.post("/v1/volumes", files={"file": ("s.nii.gz", phantom_file.read_bytes())})
        assert found.status_code == 201, found.text
        volume_id = found.json()["id"]
        _, right = ask(client, volume_id, QUESTION)
        assert len(process_ids()) == 1
        with steady_load(client, volume_id, num_askers=16) as before_two:
            wait_for(lambda: replicas() == ["RUNNING", "RUNNING"])
            with ThreadPoolExecutor(NUM_QUESTIONS) as pool:
                load = [pool.submit(ask, client, volume_id, QUESTION) for _ in range(NUM_QUESTIONS)]
                wait_for(lambda: sum(future.done() for future in load) >= 5)
                killed = process_ids()[0]
                num_open = sum(not future.done() for future in load)
                os.kill(killed, signal.SIGKILL)
                answers = [future.result() for future in load]
            assert num_open, "nobody waited any more when the replica was killed"
            wait_for(lambda: len(process_ids()) == 2 and killed not in process_ids())
            wait_for(lambda: replicas() == ["RUNNING", "RUNNING"])
        assert {text for _, text in answers} == {right}
        assert set(before_two) == {right}
        print(f"{num_open} open when killed; asked again: {sum(tries > 0 for tries, _ in answers)}")
        wait_for(lambda: replicas() == ["RUNNING"] and len(process_ids()) == 1)
        assert ask(client, volume_id, QUESTION)[1] == right
        assert max(encodes(tmp_path)) == 1, "one replica encoded the scan twice"
        wait_for(lambda: counted(client, "encodes_total") == sum(encodes(tmp_path)) >= 2)
        least = 1 + len(before_two) + len(answers)
        assert counted(client, 'questions_total{end="answered"}') >= least - num_open - 16, "of one replica alone"
        assert counted(client, "replicas") == 1
