"""What does the server count, time and log? Nothing a client wrote or a scan holds: no path, name or question.

An error's own words may hold all three, so of our own mistakes only the kind and the places in the code are written.
"""

from __future__ import annotations

import logging
import traceback
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

log = logging.getLogger("slicesight.serving")

LOGGING: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"plain": {"format": "%(asctime)s %(levelname)s %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "plain", "stream": "ext://sys.stderr"}},
    "loggers": {
        "slicesight.serving": {"handlers": ["stderr"], "level": "INFO", "propagate": False},
        "uvicorn": {"handlers": ["stderr"], "level": "WARNING", "propagate": False},
    },
}
"""For logging.config.dictConfig: everything on stderr."""
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


def log_failure(what: str, error: BaseException) -> None:
    """A mistake of our own: its kind and where in the code it happened."""
    places = (f"  {frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(error.__traceback__))
    log.error("%s failed with %s\n%s", what, type(error).__name__, "\n".join(places))


class Metrics:
    """The figures of one server, for Prometheus."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()

        def count(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"slicesight_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"slicesight_{name}", text, labels, registry=registry)

        def seconds(name: str, text: str) -> Histogram:
            return Histogram(f"slicesight_{name}_seconds", text, registry=registry, buckets=_SECONDS)

        self.requests = count("requests", "Requests by route and status.", "method", "route", "status")
        self.questions = count("questions", "Questions by how they ended.", "end")
        self.tokens = count("answer_tokens", "Tokens said in answers.")
        self.uploads = count("uploads", "Scans by how their upload ended.", "end")
        self.upload_bytes = count("upload_bytes", "Bytes of scans received.")
        self.encodes = count("encodes", "Scans that passed the encoders.")
        self.cache_hits = count("encode_cache_hits", "Questions about a scan that was encoded already.")
        self.restarts = count("model_restarts", "Failures of the model that were no single question's.")
        self.queue_length = gauge("queue_length", "Questions that wait.")
        self.rows = gauge("questions_at_work", "Questions answered together now.")
        self.volumes = gauge("volumes", "Volumes kept.")
        self.encoded_bytes = gauge("encoded_bytes", "Memory of encoded scans.")
        self.reading_shut = gauge("reading_shut", "1: what reads a scan is shut off from that part.", "part")
        self.encode_seconds = seconds("encode", "To encode one scan.")
        self.read_seconds = seconds("read", "To read one uploaded scan.")
        self.wait_seconds = seconds("wait", "From a question's arrival to its turn.")
        self.first_words_seconds = seconds("first_words", "From a question's arrival to its first words.")
        self.answer_seconds = seconds("answer", "From a question's arrival to its whole answer.")
