"""What tests of the server say and read over HTTP."""

from __future__ import annotations

import json
import time


def question(volume_id, text="Which phase is this?", **settings):
    """A body that asks one question."""
    content = [{"type": "text", "text": text}, {"type": "file", "file": {"file_id": volume_id}}]
    return {
        "model": "tiny-random",
        "max_tokens": 24,
        "messages": [{"role": "user", "content": content}],
        **settings,
    }


def events_of(text):
    """The JSON of each server-sent event, and whether the end was said."""
    data = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    return [json.loads(one) for one in data if one != "[DONE]"], data[-1] == "[DONE]"


def metric(client, name, **labels):
    """A figure of /metrics."""
    wanted = "{" + ",".join(f'{key}="{value}"' for key, value in labels.items()) + "}" if labels else ""
    for line in client.get("/metrics").text.splitlines():
        if line.startswith(f"slicesight_{name}{wanted} "):
            return float(line.rpartition(" ")[2])
    return 0.0


def until(condition, seconds=60):
    """Wait for it -> what it said last."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()
