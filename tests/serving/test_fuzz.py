"""Rows of every kind at work together: each is answered as if it were alone, and none of them is a server error."""

from __future__ import annotations

import json
import os
import random
import time
from concurrent.futures import ThreadPoolExecutor

from http_questions import question

SECONDS = float(os.environ.get("SLICESIGHT_FUZZ_SECONDS", "6"))
TEMPERATURES = (0, 1e-300, 1e-39, 1e-9, 9.9e-5, 1e-4, 0.7, 1.0, 2.0)
TEXTS = (
    "Which phase is this?",
    "Is there a lesion? (A) yes (B) no",
    "\0",
    "<image3d>",
    "</s><eos>",
    "á" * 300,
    "\u202e\U0001f9e0",
    "word " * 200,
    " \n\t x",
)
WRONG = (
    {"temperature": float("inf")},
    {"temperature": -1},
    {"top_p": 0},
    {"seed": 2**70},
    {"max_tokens": 0},
    {"messages": [{"role": "user", "content": "half \ud83d"}]},
    {"messages": [[]]},
    {"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "vol_../.."}}]}]},
    {"n": [[1]]},
    {"response_format": {"type": {"type": {}}}},
    {"stream_options": {"include_usage": "maybe"}},
)


def some_body(dice, volume_id):
    body = question(volume_id, dice.choice(TEXTS), max_tokens=dice.choice((1, 3, 30)))
    body |= {
        "temperature": dice.choice(TEMPERATURES),
        "top_p": dice.choice((1e-9, 0.5, 1)),
        "seed": dice.choice((0, 7)),
    }
    body |= {"stream": dice.random() < 0.3}
    return body | (dice.choice(WRONG) if dice.random() < 0.25 else {})


def test_no_mixture_of_rows_makes_a_server_error_or_changes_an_answer(make_client, lend):
    client = make_client(batch_size=6, max_waiting=64)
    volume_id = lend(client.app.state.server)
    dice = random.Random(int(SECONDS))
    plain = question(volume_id)
    alone = client.post("/v1/chat/completions", json=plain).json()["choices"]
    statuses, end = set(), time.monotonic() + SECONDS

    def send(body):
        content = json.dumps(body).encode()
        return client.post("/v1/chat/completions", content=content, headers={"content-type": "application/json"})

    with ThreadPoolExecutor(12) as pool:
        while time.monotonic() < end:
            bodies = [plain, *(some_body(dice, volume_id) for _ in range(11))]
            same, *found = pool.map(send, bodies)
            assert same.json()["choices"][0]["message"]["content"] == alone[0]["message"]["content"]
            for body, answer in zip(bodies[1:], found, strict=True):
                statuses.add(answer.status_code)
                assert answer.status_code < 500, (body, answer.text)
                assert answer.status_code != 200 or '"server_error"' not in answer.text, (body, answer.text)
    assert statuses >= {200, 400}
    assert client.app.state.server.metrics.restarts._value.get() == 0
