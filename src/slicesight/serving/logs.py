"""What may a log line hold? Nothing a client wrote and nothing out of a scan: no path, no name, no question.

An error's own words may hold all three, so of our own mistakes only the kind and the places in the code are written.
"""

from __future__ import annotations

import logging
import traceback
from typing import Any

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


def log_failure(what: str, error: Exception) -> None:
    """A mistake of our own: its kind and where in the code it happened."""
    places = (f"  {frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(error.__traceback__))
    log.error("%s failed with %s\n%s", what, type(error).__name__, "\n".join(places))
