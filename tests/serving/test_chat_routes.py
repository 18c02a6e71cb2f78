"""A conversation in OpenAI's shape is answered by the reader, with the slices beside the words."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from http_questions import events_of, question
from slicesight.inference.answers import printable
from slicesight.reports.evidence import doubts_about
from slicesight.serving.reports import collect_answers


@pytest.fixture
def say(client, volume):
    """Send messages; text alone is a user's message with the volume."""

    def post(messages, **settings):
        return client.post("/v1/chat/completions", json={**question(volume["id"]), "messages": messages, **settings})

    return post


def named(volume, *texts):
    file = {"type": "file", "file": {"file_id": volume["id"]}}
    return {"role": "user", "content": [*({"type": "text", "text": text} for text in texts), file]}


def test_an_answer_has_openais_shape_and_the_slices_it_rests_on(client, volume):
    found = client.post("/v1/chat/completions", json=question(volume["id"])).json()
    assert found["object"] == "chat.completion"
    assert found["id"].startswith("chatcmpl-")
    assert "research use only" in found["notices"][0]
    (choice,) = found["choices"]
    message = choice["message"]
    assert (message["role"], choice["finish_reason"]) == ("assistant", "length")
    assert sum(message["scores"]) == pytest.approx(1, abs=1e-5)
    assert message["even_share"] == pytest.approx(1 / 8)
    assert 1 <= message["effective_slices"] <= 8
    assert message["evidence_summary"]
    assert message["evidence_caveat"]
    assert [one["rank"] for one in message["slices"]] == list(range(1, 9))
    heaviest = message["slices"][0]
    assert heaviest["score"] == max(message["scores"])
    assert heaviest.items() >= volume["grid_slices"][heaviest["grid_slice"]].items()
    usage = found["usage"]
    assert usage["completion_tokens"] == 24
    assert usage["total_tokens"] == usage["prompt_tokens"] + 24


def test_streamed_pieces_join_to_the_whole_answer_and_the_last_one_carries_the_slices(client, volume):
    whole = client.post("/v1/chat/completions", json=question(volume["id"])).json()
    body = question(volume["id"], stream=True, stream_options={"include_usage": True})
    response = client.post("/v1/chat/completions", json=body)
    assert response.headers["content-type"].startswith("text/event-stream")
    events, is_ended = events_of(response.text)
    assert is_ended
    *chunks, usage = events
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    message = whole["choices"][0]["message"]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert "".join(delta["content"] for delta in deltas) == message["content"]
    assert len(deltas) > 3
    finished = [chunk for chunk in chunks if chunk["choices"][0]["finish_reason"]]
    assert finished == chunks[-1:]
    assert deltas[-1]["scores"] == pytest.approx(message["scores"], abs=1e-6)
    assert deltas[-1]["ranges"] == pytest.approx(message["ranges"]) if message["ranges"] == [] else deltas[-1]["ranges"]
    assert (usage["choices"], usage["usage"]) == ([], whole["usage"])
    assert len({event["id"] for event in events}) == 1


def test_the_latest_question_of_a_conversation_is_answered_with_what_came_before(say, volume, tiny_reader, client):
    stored, _ = client.app.state.server.scan_store.read(volume["id"])
    history = [("Which phase is this?", "arterial phase")]
    grid = replace(stored.grid, voxels=np.array(stored.grid.voxels))
    own = tiny_reader.ask(grid, "And the plane?", history=history, max_new_tokens=24)[0]
    turns = [named(volume, "Which phase is this?"), {"role": "assistant", "content": "arterial phase"}]
    found = say([*turns, {"role": "user", "content": "And the plane?"}]).json()
    assert found["choices"][0]["message"]["content"] == own.text
    assert found["choices"][0]["message"]["scores"] == pytest.approx(own.scores, abs=1e-6)
    repeated = say([*turns, named(volume, "And the plane?")]).json()
    assert repeated["choices"][0]["message"]["content"] == own.text


def test_a_volume_without_words_asks_for_the_findings(say, volume, client):
    asked = client.app.state.server.predictor.card.caption_question
    wordless = say([named(volume)]).json()["choices"][0]["message"]
    assert wordless == say([named(volume, asked)]).json()["choices"][0]["message"]


def test_answers_are_greedy_unless_a_temperature_is_asked_for(client, volume):
    def words(**settings):
        found = client.post("/v1/chat/completions", json=question(volume["id"], **settings)).json()
        return found["choices"][0]["message"]["content"]

    assert words() == words(temperature=0) == words(seed=3)
    drawn = words(temperature=2, seed=3)
    assert drawn == words(temperature=2, seed=3)
    assert drawn != words(temperature=2, seed=4)
    assert drawn != words()
    assert words(temperature=2, top_p=1e-9, seed=3) == words()


def test_harmless_fields_are_left_alone(client, volume):
    body = question(volume["id"], user="x", metadata={"a": 1}, store=False, service_tier="auto", n=1, stop=None)
    assert client.post("/v1/chat/completions", json=body).status_code == 200


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"n": 2}, "n"),
        ({"stop": ["."]}, "stop"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"logprobs": True}, "logprobs"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"temperature": 3}, "temperature"),
        ({"temperature": "warm"}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": [{"role": "system", "content": "be brief"}]}, "messages"),
        ({"messages": [{"role": "developer", "content": [{"type": "text", "text": "no"}]}]}, "messages"),
        ({"messages": [{"role": "tool", "content": "be brief"}]}, "messages.0.role"),
        ({"messages": [{"role": "assistant", "content": "yes"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": "no volume"}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages.0.content.0"),
        (
            {"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_data": "data:;base64,AA=="}}]}]},
            "messages.0.content.0.file.file_data",
        ),
        ({"model": "gpt-9"}, "model"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(client, volume, changes, param):
    response = client.post("/v1/chat/completions", json=question(volume["id"], **changes))
    error = response.json()["error"]
    assert response.status_code == (404 if param == "model" else 400)
    assert error["param"] == param
    assert error["type"] in ("invalid_request_error", "not_found_error")
    assert "\n" not in error["message"]


def test_a_picture_or_a_file_inside_a_message_is_told_where_scans_go(say):
    for part in (
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
        {"type": "file", "file": {"filename": "s.nii.gz", "file_data": "data:application/gzip;base64,AAAA"}},
    ):
        message = say([{"role": "user", "content": [part]}]).json()["error"]["message"]
        assert "POST /v1/volumes" in message
        assert "id" in message


@pytest.mark.parametrize("role", ["system", "developer"])
def test_an_instruction_stands_before_the_question_and_the_notices_say_what_it_is_worth(say, volume, role, client):
    predictor = client.app.state.server.predictor
    asked = named(volume, "Which phase is this?")
    plain = say([asked]).json()
    told = say([{"role": role, "content": "Answer in German."}, asked]).json()
    assert "no model here was trained to follow one" in told["notices"][-1]
    assert plain["notices"] == told["notices"][:-1]
    text = predictor.processor.render("Which phase is this?", system="Answer in German.")
    assert text.startswith("Answer in German.\n<image3d>")
    length = len(predictor.processor.encode_prompt("Which phase is this?", system="Answer in German.").input_ids)
    assert told["usage"]["prompt_tokens"] == length > plain["usage"]["prompt_tokens"]
    found, expected = (body["choices"][0]["message"]["scores"] for body in (told, plain))
    assert found == pytest.approx(expected, abs=1e-6)
    both = say([{"role": "system", "content": "Answer"}, {"role": role, "content": "in German."}, asked]).json()
    assert both["usage"]["prompt_tokens"] >= length
    empty = say([{"role": role, "content": " "}, asked]).json()
    assert (empty["choices"], empty["notices"]) == (plain["choices"], plain["notices"])
    predictor.follows_system = True  # as a guest may
    try:
        assert "as far as the guest does" in say([{"role": role, "content": "Briefly."}, asked]).json()["notices"][-1]
    finally:
        del predictor.follows_system
    behind = say([asked, {"role": role, "content": "Answer in German."}])
    assert behind.status_code == 400
    assert f"messages.1 is a {role} message behind a user's; put it first" in behind.json()["error"]["message"]


def test_an_answer_that_the_request_begins_is_gone_on_with_and_says_so(say, volume, client):
    server = client.app.state.server
    asked, begun = named(volume, "What is shown?"), {"role": "assistant", "content": "The liver"}
    found = say([asked, begun]).json()
    message = found["choices"][0]["message"]
    assert message["content"].startswith("The liver")
    assert "begins with words of the request" in found["notices"][-1]
    prompt = server.predictor.processor.encode_prompt("What is shown?", prefix="The liver")
    assert found["usage"]["prompt_tokens"] == len(prompt.input_ids)
    assert found["usage"]["completion_tokens"] == 24
    inputs = server.predictor.processor("What is shown?", prefix="The liver").to(server.predictor.model.device)
    stored, _ = server.scan_store.read(volume["id"])
    features = server.predictor.encode(replace(stored.grid, voxels=np.array(stored.grid.voxels))).features
    ids = server.predictor.model.generate(**inputs, volume_features=features, max_new_tokens=24, do_sample=False)
    said = server.predictor.decode(ids[0, len(prompt.input_ids) - prompt.num_prefix :].tolist())
    assert message["content"] == printable(said)
    streamed, _ = events_of(say([asked, begun], stream=True).text)
    pieces = [event["choices"][0]["delta"].get("content", "") for event in streamed if event["choices"]]
    assert "".join(pieces) == message["content"]
    report = collect_answers(server.scan_store, server.predictor, volume["id"], [found["id"]])
    assert doubts_about(report.answers[0])[0] == "begun by the question's author, who wrote: The liver"


def test_half_a_character_is_named(client, volume):
    import json

    body = json.dumps(question(volume["id"], "half \ud83d of it"))
    found = client.post("/v1/chat/completions", content=body, headers={"content-type": "application/json"})
    assert found.status_code == 400
    assert "\\ud83d" in found.json()["error"]["message"]
    assert found.json()["error"]["param"].startswith("messages.0.content")


def test_two_volumes_and_an_unanswered_end_are_refused(say, volume):
    other = {"role": "user", "content": [{"type": "file", "file": {"file_id": "vol_" + "1" * 32}}]}
    answer = {"role": "assistant", "content": "yes"}
    for messages in (
        [named(volume, "a"), answer, other],
        [named(volume, "a"), {"role": "user", "content": "b"}],
    ):
        assert say(messages).status_code == 400


def test_a_question_too_long_for_the_model_is_one_line(say, volume):
    found = say([named(volume, "long " * 9000)])
    assert found.status_code == 400
    assert "shorten" in found.json()["error"]["message"]


def test_a_body_that_is_no_json_is_refused(client):
    for content in (b"{", b"[]", b"\xff\xfe", b"null"):
        found = client.post("/v1/chat/completions", content=content, headers={"content-type": "application/json"})
        assert found.status_code == 400, content
        assert found.json()["error"]["type"] == "invalid_request_error"


def test_models_and_settings_say_what_answers_and_what_it_was_trained_on(client):
    (model,) = client.get("/v1/models").json()["data"]
    assert (model["id"], model["object"], model["card"]["trained_on"]) == ("tiny-random", "model", "synthetic")
    assert any("synthetic CT only" in notice for notice in model["notices"])
    assert client.get("/v1/models/tiny-random").json() == model
    assert client.get("/v1/models/other").status_code == 404
    settings = client.get("/v1/settings").json()
    assert settings["model"] == "tiny-random"
    assert settings["notices"] == model["notices"]
    assert "soft_tissue" in settings["windows"]
    assert settings["needs_token"] is False


def test_without_a_built_page_the_server_says_how_to_build_it(tmp_path):
    from fastapi import FastAPI
    from starlette.testclient import TestClient

    from slicesight.serving.site_routes import add_page

    app = FastAPI()
    add_page(app, tmp_path)
    assert "make web" in TestClient(app).get("/").text
    (tmp_path / "index.html").write_text("<p>the page</p>")
    built = FastAPI()
    add_page(built, tmp_path)
    assert "the page" in TestClient(built).get("/").text


def test_openais_own_client_asks_streams_and_lists(listen_with, phantom_file):
    import httpx
    import openai

    with listen_with(token="0123456789abcdef0123") as (address, _):
        client = openai.OpenAI(base_url=f"{address}/v1", api_key="0123456789abcdef0123", max_retries=0)
        with phantom_file.open("rb") as scan:
            response = httpx.post(
                f"{address}/v1/volumes",
                files={"file": ("scan.nii.gz", scan)},
                headers={"Authorization": "Bearer 0123456789abcdef0123"},
            )
        messages = question(response.json()["id"])["messages"]
        assert [model.id for model in client.models.list()] == ["tiny-random"]
        whole = client.chat.completions.create(model="tiny-random", messages=messages, max_tokens=12)
        assert whole.choices[0].message.content
        assert len(whole.choices[0].message.scores) == 8
        assert whole.usage.completion_tokens == 12
        stream = client.chat.completions.create(model="tiny-random", messages=messages, max_tokens=12, stream=True)
        deltas = [chunk.choices[0].delta for chunk in stream]
        assert "".join(delta.content for delta in deltas) == whole.choices[0].message.content
        assert deltas[-1].slices[0]["rank"] == 1
        with pytest.raises(openai.BadRequestError, match="not supported"):
            client.chat.completions.create(model="tiny-random", messages=messages, n=2)
        with pytest.raises(openai.AuthenticationError):
            openai.OpenAI(base_url=f"{address}/v1", api_key="wrong", max_retries=0).models.list()
