"""Many ask at once: one encode, a bounded queue, and nothing is done for those who have left."""

from __future__ import annotations

import asyncio
import json
import select
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from http_questions import events_of, metric, question, until
from slicesight.serving import chat_routes


def connect(address):
    return socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2])), timeout=10)


def test_however_many_ask_a_scan_is_encoded_once(make_client, lend):
    client = make_client()
    volume_id = lend(client.app.state.server)
    texts = [f"Question {number}?" for number in range(12)]
    with ThreadPoolExecutor(12) as pool:
        ask = lambda text: client.post("/v1/chat/completions", json=question(volume_id, text))  # noqa: E731
        answers = list(pool.map(ask, texts))
    assert {answer.status_code for answer in answers} == {200}
    assert metric(client, "encodes_total") == 1
    assert metric(client, "encode_cache_hits_total") == 11
    assert metric(client, "questions_total", end="answered") == 12
    assert metric(client, "answer_seconds_count") == 12
    alone = client.post("/v1/chat/completions", json=question(volume_id, texts[5])).json()
    assert answers[5].json()["choices"][0]["message"]["content"] == alone["choices"][0]["message"]["content"]


def test_a_question_beyond_the_queue_is_told_when_to_come_again(make_client, lend, held):
    client = make_client(max_waiting=2, batch_size=1)
    volume_id = lend(client.app.state.server)
    held.clear()
    with ThreadPoolExecutor(3) as pool:
        ask = lambda text: client.post("/v1/chat/completions", json=question(volume_id, text))  # noqa: E731
        first = pool.submit(ask, "a")
        assert until(lambda: client.app.state.server.thread.num_waiting == 0 and metric(client, "encodes_total") == 1)
        waiting = [pool.submit(ask, "b"), pool.submit(ask, "c")]
        assert until(lambda: client.app.state.server.thread.num_waiting == 2)
        for is_streamed in (False, True):
            refused = client.post("/v1/chat/completions", json=question(volume_id, "d", stream=is_streamed))
            assert refused.status_code == 429
            assert int(refused.headers["Retry-After"]) >= 1
            assert refused.json()["error"]["type"] == "rate_limit_error"
        held.set()
        assert {one.result().status_code for one in [first, *waiting]} == {200}


def test_an_answer_that_takes_too_long_is_given_up(make_client, lend, held):
    client = make_client(answer_timeout_s=0.3)
    volume_id = lend(client.app.state.server)
    held.clear()
    late = client.post("/v1/chat/completions", json=question(volume_id))
    assert late.status_code == 504
    events, is_ended = events_of(client.post("/v1/chat/completions", json=question(volume_id, stream=True)).text)
    assert is_ended
    assert events[-1]["error"]["code"] == "timeout"
    held.set()
    assert until(lambda: client.app.state.server.thread.num_rows == 0)


@pytest.mark.parametrize("is_streamed", [False, True])
def test_nothing_more_is_said_to_a_client_that_has_left(listen_with, lend, is_streamed):
    with listen_with(max_answer_tokens=10**6, encoded_bytes=2**30) as (address, server):
        volume_id = lend(server)
        body = question(volume_id, stream=is_streamed, max_tokens=1500)

        async def leave():
            async with httpx.AsyncClient(timeout=60) as client:
                asking = asyncio.create_task(client.post(f"{address}/v1/chat/completions", json=body))
                while server.thread.num_rows == 0:
                    await asyncio.sleep(0.005)
                asking.cancel()

        asyncio.run(leave())
        assert until(lambda: server.thread.num_rows == 0, seconds=60)
        text = httpx.get(f"{address}/metrics").text
        assert 'slicesight_questions_total{end="called off"} 1.0' in text
        assert "slicesight_answer_tokens_total 0.0" in text


def test_a_client_that_leaves_the_queue_frees_its_place(listen_with, lend, held):
    with listen_with(max_waiting=1, batch_size=1) as (address, server):
        volume_id = lend(server)
        held.clear()

        async def fill_and_leave():
            async with httpx.AsyncClient(timeout=60) as client:
                post = lambda text: client.post(f"{address}/v1/chat/completions", json=question(volume_id, text))  # noqa: E731
                first = asyncio.create_task(post("a"))
                while server.thread.num_rows == 0 and not server.thread.encoded.memory.num_bytes:
                    await asyncio.sleep(0.005)
                await asyncio.sleep(0.1)
                second = asyncio.create_task(post("b"))
                while server.thread.num_waiting == 0:
                    await asyncio.sleep(0.005)
                second.cancel()
                while server.thread.num_waiting:
                    await asyncio.sleep(0.005)
                held.set()
                return (await first).status_code

        assert asyncio.run(asyncio.wait_for(fill_and_leave(), 60)) == 200


def test_an_upload_that_stalls_is_cut(listen_with):
    with listen_with(stall_timeout_s=0.3) as (address, server):
        port = int(address.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            head = "POST /v1/volumes HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary=x\r\n"
            connection.sendall(f"{head}Content-Length: 100000\r\n\r\n--x\r\n".encode())
            answer = connection.recv(10_000)
            assert b" 408 " in answer.splitlines()[0]
        assert until(lambda: not list(server.scan_store.incoming.iterdir()))


@pytest.mark.parametrize(
    ("path", "kind"), [("/v1/volumes", "multipart/form-data; boundary=x"), ("/v1/chat/completions", "application/json")]
)
def test_a_body_that_trickles_is_cut(listen_with, monkeypatch, path, kind):
    from slicesight.serving import guard

    monkeypatch.setattr(guard, "GRACE_S", 0.1)
    with listen_with() as (address, server), connect(address) as connection:
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {kind}\r\nContent-Length: 100000\r\n\r\n"
        part = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' if "form" in kind else b"{"
        connection.sendall(head.encode() + part)
        for _ in range(100):
            connection.sendall(b"-")
            if select.select([connection], [], [], 0.05)[0]:
                break
        assert b" 408 " in connection.recv(10_000).splitlines()[0]
        assert until(lambda: not list(server.scan_store.incoming.iterdir()))


@pytest.mark.parametrize("first", [b"", b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"], ids=["first", "second"])
def test_a_request_whose_header_never_ends_is_closed(listen_with, monkeypatch, first):
    from slicesight.serving import running

    monkeypatch.setattr(running, "HEADER_S", 0.3)
    with listen_with() as (address, _), connect(address) as connection:
        connection.sendall(first)
        answer = b""
        while first and not answer.endswith(b"}"):
            answer += connection.recv(10_000)
        connection.sendall(b"GET / HT")
        assert connection.recv(100) == b""


def test_one_address_with_all_its_connections_locks_nobody_out(listen_with):
    with listen_with(max_client_connections=20) as (address, _):
        port = int(address.rpartition(":")[2])
        half = [connect(address) for _ in range(30)]
        for connection in half:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: 127")
        refused = httpx.get(f"{address}/healthz")
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "overloaded"
        assert refused.headers["Retry-After"] == "5"
        with socket.create_connection(("127.0.0.1", port), timeout=10, source_address=("127.0.0.2", 0)) as other:
            other.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            assert b" 200 " in other.recv(10_000).splitlines()[0]
        for connection in half:
            connection.close()
        assert until(lambda: httpx.get(f"{address}/healthz").status_code == 200)


def test_a_broken_model_is_started_again_and_the_next_question_is_answered(client, volume, monkeypatch, caplog):
    from slicesight.inference.scheduler import Scheduler

    with monkeypatch.context() as broken:
        broken.setattr(Scheduler, "_pass_token", lambda *_: (_ for _ in ()).throw(RuntimeError("about Mrs Miller")))
        failed = client.post("/v1/chat/completions", json=question(volume["id"]))
    assert (failed.status_code, failed.headers["Retry-After"]) == (503, "1")
    assert failed.json()["error"]["code"] == "restarting"
    assert metric(client, "model_restarts_total") == 1
    assert "Miller" not in failed.text
    assert "Miller" not in caplog.text
    encodes = metric(client, "encodes_total")
    assert client.post("/v1/chat/completions", json=question(volume["id"])).status_code == 200
    assert metric(client, "encodes_total") == encodes + 1, "nothing that was at work is used again"
    assert client.get("/healthz").json()["status"] == "ok"


def test_encoded_scans_beyond_the_memory_given_are_forgotten_and_encoded_again(make_client, lend):
    client = make_client(encoded_bytes=1)
    first, second = (lend(client.app.state.server) for _ in range(2))
    words = {}
    for volume_id in (first, second, first):
        answer = client.post("/v1/chat/completions", json=question(volume_id)).json()
        words.setdefault(volume_id, set()).add(answer["choices"][0]["message"]["content"])
    assert metric(client, "encodes_total") == 3
    assert len(words[first]) == 1


def test_a_model_that_fails_again_and_again_is_called_ill(make_client, lend, monkeypatch):
    from slicesight.inference.scheduler import Scheduler

    client = make_client()
    volume_id = lend(client.app.state.server)
    panic = type("PanicException", (BaseException,), {})
    with monkeypatch.context() as broken:
        broken.setattr(Scheduler, "_pass_token", lambda *_: (_ for _ in ()).throw(panic("native code")))
        for _ in range(3):
            assert client.post("/v1/chat/completions", json=question(volume_id)).status_code == 503
    assert client.get("/healthz").status_code == 503
    assert client.post("/v1/chat/completions", json=question(volume_id)).status_code == 200
    assert until(lambda: client.get("/healthz").status_code == 200)


@pytest.mark.parametrize("temperature", [1e-39, 1e-9, 0.01])
def test_nobodys_temperature_harms_another(make_client, lend, temperature):
    client = make_client()
    volume_id = lend(client.app.state.server)
    ask = lambda settings: client.post("/v1/chat/completions", json=question(volume_id, **settings))  # noqa: E731
    with ThreadPoolExecutor(9) as pool:
        found = list(pool.map(ask, [{"temperature": 1}, {"temperature": temperature}, *[{}] * 7]))
    assert {answer.status_code for answer in found} == {200}


def test_a_row_without_numbers_fails_alone(make_client, lend, monkeypatch):
    from slicesight.inference.sampling import Sampler

    choose = Sampler.choose

    def broken(self, logits_RW, generators):
        return choose(self, logits_RW * float("nan") if self.temperature == 0.5 else logits_RW, generators)

    monkeypatch.setattr(Sampler, "choose", broken)
    client = make_client()
    volume_id = lend(client.app.state.server)
    ask = lambda settings: client.post("/v1/chat/completions", json=question(volume_id, **settings)).status_code  # noqa: E731
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(ask, [{"temperature": 0.5}, *[{"temperature": 1}] * 2, *[{}] * 3])) == [500, *[200] * 5]
    assert metric(client, "model_restarts_total") == 0


def test_a_tokenizer_that_panics_is_that_questions_alone(make_client, lend, monkeypatch):
    client = make_client()
    server = client.app.state.server
    volume_id = lend(server)
    panic = type("PanicException", (BaseException,), {})

    def broken(*_, **__):
        raise panic("index out of bounds")

    with monkeypatch.context() as broken_tokenizer:
        broken_tokenizer.setattr(server.own_processor, "encode_prompt", broken)
        for is_streamed in (False, True):
            failed = client.post("/v1/chat/completions", json=question(volume_id, stream=is_streamed))
            assert failed.status_code == 500
    assert client.post("/v1/chat/completions", json=question(volume_id)).status_code == 200


def test_a_conversation_longer_than_any_the_model_reads_is_refused_without_being_tokenised(
    make_client, lend, monkeypatch
):
    client = make_client()
    server = client.app.state.server
    volume_id = lend(server)
    monkeypatch.setattr(server.own_processor, "encode_prompt", lambda *_, **__: pytest.fail("it was tokenised"))
    turns = [{"role": role, "content": "word " * 18_000} for _ in range(20) for role in ("user", "assistant")]
    body = question(volume_id)
    refused = client.post("/v1/chat/completions", json={**body, "messages": [*turns, *body["messages"]]})
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "too_long")


@pytest.mark.parametrize("is_announced", [True, False])
def test_a_conversation_too_large_for_the_model_is_not_even_parsed(make_client, lend, monkeypatch, is_announced):
    client = make_client()
    volume_id = lend(client.app.state.server)
    monkeypatch.setattr(chat_routes, "read_conversation", lambda *_, **__: pytest.fail("it was parsed"))
    content = json.dumps(question(volume_id, "word " * 80_000)).encode()
    headers = {"content-type": "application/json"}
    sent = content if is_announced else (content[start : start + 10_000] for start in range(0, len(content), 10_000))
    refused = client.post("/v1/chat/completions", content=sent, headers=headers)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "too_long")


def test_whoever_has_no_room_in_the_queue_is_told_before_a_word_is_parsed(make_client, lend, monkeypatch):
    client = make_client()
    volume_id = lend(client.app.state.server)
    monkeypatch.setattr(client.app.state.server.thread._waiting, "has_room", lambda client: False)
    refused = client.post("/v1/chat/completions", content=b"{ no JSON", headers={"content-type": "application/json"})
    assert refused.status_code == 429
    assert refused.headers["Retry-After"]
    assert client.get(f"/v1/volumes/{volume_id}").status_code == 200


def test_prompts_are_tokenised_beside_the_model(make_client, lend, monkeypatch):
    client = make_client()
    server = client.app.state.server
    volume_id = lend(server)
    threads = set()
    encode = server.own_processor.encode_prompt

    def watched(*arguments, **settings):
        threads.add(threading.current_thread().name)
        return encode(*arguments, **settings)

    monkeypatch.setattr(server.own_processor, "encode_prompt", watched)
    monkeypatch.setattr(server.predictor.processor, "encode_prompt", lambda *_, **__: pytest.fail("on its thread"))
    assert client.post("/v1/chat/completions", json=question(volume_id)).status_code == 200
    assert {name.partition("_")[0] for name in threads} == {"tokenizer"}
