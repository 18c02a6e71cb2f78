"""Two replicas answer about a scan that one of them was given."""

from __future__ import annotations

import re
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from http_questions import question
from slicesight.errors import InputError
from slicesight.serving.shared_metrics import EVERY_S

pytest.importorskip("ray.serve")


def test_replicas_are_bounded_and_options_are_those_of_serve(tmp_path):
    from slicesight.serving.ray_app import RayArguments, build

    with pytest.raises(InputError, match="min_replicas is 3"):
        build(RayArguments(folder=tmp_path, min_replicas=3, max_replicas=2))
    with pytest.raises(InputError, match="token"):
        RayArguments(folder=tmp_path, host="0.0.0.0").options()
    assert RayArguments(folder=tmp_path).options().is_shared


@pytest.mark.distributed
def test_whichever_replica_gets_the_question_finds_the_volume(tiny_model_folder, phantom_file, tmp_path):
    import ray
    from ray import serve

    from slicesight.serving.ray_app import RayArguments, build

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        arguments = RayArguments(
            folder=tmp_path / "scans", model=str(tiny_model_folder), min_replicas=2, max_replicas=2, cpus=0.5
        )
        serve.run(build(arguments))
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            found = client.post("/v1/volumes", files={"file": ("s.nii.gz", phantom_file.read_bytes())})
            assert found.status_code == 201, found.text
            volume_id = found.json()["id"]
            with ThreadPoolExecutor(8) as pool:
                ask = lambda text: client.post("/v1/chat/completions", json=question(volume_id, text))  # noqa: E731
                answers = list(pool.map(ask, ["Which phase is this?"] * 24))
            assert {answer.status_code for answer in answers} == {200}
            assert len({answer.json()["choices"][0]["message"]["content"] for answer in answers}) == 1
            time.sleep(2 * EVERY_S)  # each has told the other what it did
            for _ in range(8):
                text = client.get("/metrics").text
                said = re.search(r'questions_total\{end="answered"\} (\d\S*)', text)
                assert float(said[1]) == 24, "the figures are one replica's"
                assert float(re.search(r"encodes_total (\d\S*)", text)[1]) == 2, "one replica did everything"
                assert "slicesight_replicas 2.0" in text
            report = client.get(f"/v1/volumes/{volume_id}/report", params={"format": "json"})
            assert len(report.json()["answers"]) == 24
            with client.stream("POST", "/v1/chat/completions", json=question(volume_id, stream=True)) as stream:
                assert stream.read().endswith(b"data: [DONE]\n\n")
            assert client.delete(f"/v1/volumes/{volume_id}").status_code == 204
            assert {client.get(f"/v1/volumes/{volume_id}").status_code for _ in range(8)} == {404}
    finally:
        serve.shutdown()
        ray.shutdown()
