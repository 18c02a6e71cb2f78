"""The API of a calibrated model: confidence and abstention as extra fields, whole, streamed and in reports."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from starlette.testclient import TestClient

from slicesight.inference.calibration.calibration import Calibration
from slicesight.inference.calibration.questions import TaughtQuestion, fit_questions
from slicesight.inference.predictor import Predictor
from slicesight.serving.options import ServeOptions

UNKNOWN = "Is there pneumonia?"


@pytest.fixture(scope="module")
def calibrated_client(tiny_reader, tmp_path_factory):
    from slicesight.serving.app import create_app

    questions = fit_questions([TaughtQuestion(text="Which phase is this?", kind="open/phase")], taught={})
    predictor = Predictor(
        model=tiny_reader.model,
        processor=tiny_reader.processor,
        card=tiny_reader.card,
        calibration=Calibration(curves={}, questions=questions),
    )
    options = ServeOptions(model="tiny-random", folder=tmp_path_factory.mktemp("serving") / "kept")
    with TestClient(create_app(predictor, options), base_url="http://127.0.0.1:8000") as client:
        yield client


@pytest.fixture
def volume_id(calibrated_client, upload):
    return upload(calibrated_client)["id"]


def body(volume_id, **more):
    content = [{"type": "text", "text": UNKNOWN}, {"type": "file", "file": {"file_id": volume_id}}]
    return {"model": "tiny-random", "max_tokens": 4, "messages": [{"role": "user", "content": content}], **more}


def test_a_whole_answer_and_its_report_say_that_it_is_held_back(calibrated_client, volume_id):
    said = calibrated_client.post("/v1/chat/completions", json=body(volume_id)).json()
    message = said["choices"][0]["message"]
    assert message["content"].startswith("I do not know: 'pneumonia'")
    assert message["abstained"] == "unknown_question"
    assert message["confidence"] is None
    assert message["would_say"]
    report = calibrated_client.get(f"/v1/volumes/{volume_id}/report", params={"format": "json"}).json()
    assert report["answers"][-1]["would_say"] == message["would_say"]


def test_a_stream_says_nothing_of_it_before_its_last_words(calibrated_client, volume_id):
    events = calibrated_client.post("/v1/chat/completions", json=body(volume_id, stream=True)).text.split("\n\n")
    deltas = [json.loads(event[6:])["choices"][0]["delta"] for event in events if event.startswith("data: {")]
    words = [delta["content"] for delta in deltas if delta.get("content")]
    assert len(words) == 1
    assert words[0].startswith("I do not know")
    assert deltas[-1]["abstained"] == "unknown_question"


def test_a_request_may_ask_for_an_answer_anyway(calibrated_client, volume_id):
    said = calibrated_client.post("/v1/chat/completions", json=body(volume_id, answer_anyway=True)).json()
    message = said["choices"][0]["message"]
    assert not message["content"].startswith("I do not know")
    assert (message["abstained"], message["would_say"]) == ("unknown_question", None)


@pytest.mark.parametrize("value", [-1, 2, "high"])
def test_a_min_confidence_that_is_no_share_is_refused(calibrated_client, volume_id, value):
    response = calibrated_client.post("/v1/chat/completions", json=body(volume_id, min_confidence=value))
    assert response.status_code == 400
    assert "min_confidence" in response.text


def test_a_confidence_asked_of_a_server_without_a_calibration_is_refused(client, upload):
    response = client.post("/v1/chat/completions", json=body(upload(client)["id"], min_confidence=0.5))
    assert response.status_code == 400
    assert "has no calibration" in response.json()["error"]["message"]


def test_the_operators_min_confidence_must_be_a_share():
    from slicesight.errors import InputError

    with pytest.raises(InputError, match="--min-confidence is 3"):
        replace(ServeOptions(), min_confidence=3.0)
