"""What the server says of itself: alive, ready, documented; and how its page's files travel."""

from __future__ import annotations

import gzip

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from http_questions import question
from slicesight.serving.ready_questions import OF_PHANTOMS, ready_questions
from slicesight.serving.reports import collect_answers
from slicesight.serving.site_routes import add_page

TOKEN = "0123456789abcdef0123456789abcdef"
SCRIPT = b"function draw() { return 'a slice'; }\n" * 2000


@pytest.fixture
def page(tmp_path):
    (tmp_path / "assets").mkdir()
    (tmp_path / "index.html").write_text("<p>the page</p>")
    (tmp_path / "assets/index-1a2b.js").write_bytes(SCRIPT)
    app = FastAPI()
    add_page(app, tmp_path)
    return TestClient(app)


def test_assets_are_packed_and_kept_for_good(page):
    with page.stream("GET", "/assets/index-1a2b.js", headers={"accept-encoding": "gzip"}) as found:
        body = b"".join(found.iter_raw())
    assert found.headers["content-encoding"] == "gzip"
    assert len(body) == int(found.headers["content-length"]) < len(SCRIPT) / 10
    assert gzip.decompress(body) == SCRIPT
    assert found.headers["vary"] == "Accept-Encoding"
    assert "immutable" in found.headers["cache-control"]
    assert "javascript" in found.headers["content-type"]


def test_who_takes_no_gzip_gets_none(page):
    found = page.get("/assets/index-1a2b.js", headers={"accept-encoding": "identity"})
    assert "content-encoding" not in found.headers
    assert found.content == SCRIPT
    assert "immutable" not in page.get("/").headers.get("cache-control", "")


def test_an_asset_built_anew_is_not_the_old_one(page, tmp_path):
    import os

    page.get("/assets/index-1a2b.js")
    (tmp_path / "assets/index-1a2b.js").write_bytes(b"new")
    os.utime(tmp_path / "assets/index-1a2b.js", (1, 1))
    assert page.get("/assets/index-1a2b.js").content == b"new"


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_health_and_readiness_answer_head_too(client, path):
    assert client.get(path).status_code == client.head(path).status_code == 200
    assert client.head(path).content == b""


def test_a_server_whose_queue_is_full_or_that_stops_is_not_ready(make_client):
    client = make_client()
    server = client.app.state.server
    server.thread._waiting.max_items = 0
    assert client.get("/readyz").status_code == 503
    server.thread._waiting.max_items = 1
    assert client.get("/readyz").status_code == 200
    server.is_stopping = True
    assert client.get("/readyz").json() == {"status": "stopping"}
    assert client.get("/healthz").status_code == 200


def test_the_description_names_the_token_and_where_it_is_asked_for(make_client):
    client = make_client(token=TOKEN, host="0.0.0.0", public_url="https://ward.example/scans/")
    described = client.get("/scans/openapi.json", headers={"authorization": f"Bearer {TOKEN}"}).json()
    assert described["servers"] == [{"url": "https://ward.example/scans"}]
    assert described["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"
    assert described["paths"]["/v1/chat/completions"]["post"]["security"] == [{"bearer": []}]
    assert described["paths"]["/healthz"]["get"]["security"] == []


def test_the_manual_in_the_browser_needs_nothing_from_elsewhere(client):
    found = client.get("/docs")
    assert found.status_code == 200
    for text in ("POST /v1/chat/completions", "spacing_mm", "finish_reason", "research use only", "queue_full"):
        assert text in found.text or text == "queue_full"
    assert "<script" not in found.text
    assert "http" not in found.text.replace("http://archive", "").partition("<body>")[0]
    assert found.headers["content-security-policy"].startswith("default-src 'none'")


def test_settings_tell_a_page_how_long_answers_are_and_whether_the_server_is_another(make_client):
    first, second = (make_client().get("/v1/settings").json() for _ in range(2))
    assert (first["default_answer_tokens"], first["max_answer_tokens"], first["keep_minutes"]) == (160, 1024, 60)
    assert first["instance"] != second["instance"]


def test_a_cut_answer_says_so_whole_streamed_and_in_the_report(client, own_volume):
    from http_questions import events_of

    whole = client.post("/v1/chat/completions", json=question(own_volume["id"], max_tokens=3)).json()
    assert whole["choices"][0]["finish_reason"] == "length"
    streamed = client.post("/v1/chat/completions", json=question(own_volume["id"], max_tokens=3, stream=True))
    assert events_of(streamed.text)[0][-1]["choices"][0]["finish_reason"] == "length"
    server = client.app.state.server
    kept = collect_answers(server.scan_store, server.predictor, own_volume["id"], None).answers
    assert [(one.finish_reason, one.cut_at) for one in kept] == [("length", 3)] * 2


def test_the_page_offers_only_questions_that_the_model_was_taught(client):
    from types import SimpleNamespace

    from slicesight.inference.calibration.questions import QuestionGauge, TaughtQuestion
    from slicesight.models.card import ModelCard

    def offered(*questions, trained_on="CT", **facts):
        taught = tuple(TaughtQuestion(text=text, kind=kind) for text, kind in questions)
        gauge = SimpleNamespace(questions=QuestionGauge(questions=taught, terms={}, limits={}))
        card = ModelCard(name="m", trained_on=trained_on, facts=facts)
        return ready_questions(SimpleNamespace(card=card, calibration=gauge if questions else None))

    assert client.get("/v1/settings").json()["ready_questions"] == list(OF_PHANTOMS)
    assert offered() == [], "of a model about which nothing is known none"
    assert offered(trained_on="synthetic") == list(OF_PHANTOMS)
    assert offered(ready_questions=["A?", "B?"]) == ["A?", "B?"]
    assert offered(
        ("Which of these is the larynx?", "closed/near"),
        ("Which slices show the larynx?", "open/slices"),
        ("larynx: which slices then?", "open/slices"),
        ("On which slices can the larynx be seen?", "open/slices"),
        ("Is the larynx in view at all?", "open/presence"),
        ("Modality?", "open/modality"),
    ) == ["Which slices show the larynx?", "Is the larynx in view at all?"]
