"""What does the server count and time? (`/metrics`, Prometheus; never a name, a question or an id)"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """The figures of one server."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()

        def count(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"slicesight_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(f"slicesight_{name}", text, registry=registry)

        def seconds(name: str, text: str) -> Histogram:
            return Histogram(f"slicesight_{name}_seconds", text, registry=registry, buckets=_SECONDS)

        self.requests = count("requests", "Requests by route and status.", "method", "route", "status")
        self.questions = count("questions", "Questions by how they ended.", "end")
        self.tokens = count("answer_tokens", "Tokens said in answers.")
        self.uploads = count("uploads", "Scans by how their upload ended.", "end")
        self.upload_bytes = count("upload_bytes", "Bytes of scans received.")
        self.encodes = count("encodes", "Scans that passed the encoders.")
        self.cache_hits = count("encode_cache_hits", "Questions about a scan that was encoded already.")
        self.queue_length = gauge("queue_length", "Questions that wait.")
        self.rows = gauge("questions_at_work", "Questions answered together now.")
        self.volumes = gauge("volumes", "Volumes kept.")
        self.encoded_bytes = gauge("encoded_bytes", "Memory of encoded scans.")
        self.encode_seconds = seconds("encode", "To encode one scan.")
        self.read_seconds = seconds("read", "To read one uploaded scan.")
        self.wait_seconds = seconds("wait", "From a question's arrival to its turn.")
        self.first_words_seconds = seconds("first_words", "From a question's arrival to its first words.")
        self.answer_seconds = seconds("answer", "From a question's arrival to its whole answer.")
