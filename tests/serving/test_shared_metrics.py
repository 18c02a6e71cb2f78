"""Servers of one folder tell together what they count; one that is gone is still counted, but not what it held."""

from __future__ import annotations

import os
import re
import time

import pytest
from prometheus_client import generate_latest

from slicesight.serving.shared_metrics import ALIVE_S, SharedMetrics
from slicesight.serving.telemetry import Metrics


@pytest.fixture
def servers(tmp_path):
    """(figures, what it tells) of two servers."""
    made = []
    for name in ("a", "b"):
        metrics = Metrics()
        made.append((metrics, SharedMetrics(metrics.registry, tmp_path / "metrics", name)))
    return made


def told(shared: SharedMetrics, name: str) -> float | None:
    found = re.search(rf"^{re.escape(name)} (\S+)$", generate_latest(shared).decode(), flags=re.MULTILINE)
    return None if found is None else float(found[1])


def test_counts_of_all_servers_are_added_whichever_is_asked(servers):
    (one, first), (other, second) = servers
    one.questions.labels("answered").inc(3)
    other.questions.labels("answered").inc(4)
    other.encode_seconds.observe(0.2)
    second.write()
    assert told(first, 'slicesight_questions_total{end="answered"}') == 7
    assert told(second, 'slicesight_questions_total{end="answered"}') == 7
    assert told(first, 'slicesight_encode_seconds_bucket{le="0.25"}') == 1
    assert told(first, "slicesight_replicas") == 2


def test_one_server_alone_tells_what_its_own_registry_tells(servers):
    metrics, shared = servers[0]
    metrics.encodes.inc(2)
    metrics.volumes.set(5)
    own = generate_latest(metrics.registry).decode().splitlines()
    assert set(own) <= set(generate_latest(shared).decode().splitlines())


def test_volumes_that_all_see_are_not_counted_twice_and_what_is_open_anywhere_is_open(servers):
    (one, first), (other, second) = servers
    one.volumes.set(5)
    other.volumes.set(6)
    one.queue_length.set(2)
    other.queue_length.set(3)
    one.reading_shut.labels("network").set(1)
    other.reading_shut.labels("network").set(0)
    second.write()
    assert told(first, "slicesight_volumes") == 6
    assert told(first, "slicesight_queue_length") == 5
    assert told(first, 'slicesight_reading_shut{part="network"}') == 0


def test_a_killed_server_stays_counted_but_holds_nothing(servers):
    (_, first), (other, second) = servers
    other.encodes.inc(9)
    other.queue_length.set(3)
    second.write()
    past = time.time() - ALIVE_S - 1
    os.utime(second.file, (past, past))
    assert told(first, "slicesight_encodes_total") == 9
    assert told(first, "slicesight_queue_length") == 0
    assert told(first, "slicesight_replicas") == 1


def test_a_server_that_ends_says_so_at_once(servers):
    (_, first), (other, second) = servers
    other.encodes.inc()
    second.close()
    assert told(first, "slicesight_encodes_total") == 1
    assert told(first, "slicesight_replicas") == 1


def test_two_servers_of_one_folder_answer_metrics_together(make_client):
    clients = [make_client(is_shared=True) for _ in range(2)]
    for client in clients:
        client.get("/v1/models")
    texts = [client.get("/metrics").text for client in clients]
    counted = re.search(r'slicesight_requests_total\{[^}]*route="/v1/models"[^}]*\} (\S+)', texts[-1])
    assert float(counted[1]) == 2
    assert "slicesight_replicas 2.0" in texts[-1]
