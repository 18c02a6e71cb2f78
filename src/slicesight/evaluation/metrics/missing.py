"""What happens when a metric's model or data is not on this machine? The metric is null and says how to get it."""

from __future__ import annotations


class MissingPartError(Exception):
    """A metric cannot be computed here; the message says what is missing and how to get it."""
