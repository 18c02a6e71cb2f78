"""Which numbers say how alike a text and the true one are? One line each; another package adds one by an entry point.

A line names a loader, called as loader(MetricOptions) -> TextMetric. The new metric stands in every sheet and table
under its name. P pairs of (said, true).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slicesight.data.plugins import find_plugin, known_names

TEXT_METRICS = {
    "bleu1": "slicesight.evaluation.metrics.text:load_bleu1",
    "rouge1": "slicesight.evaluation.metrics.text:load_rouge1",
    "meteor": "slicesight.evaluation.metrics.meteor:load_meteor",
    "bertscore_f1": "slicesight.evaluation.metrics.bertscore:load_bertscore",
    "exact": "slicesight.evaluation.metrics.text:load_exact",
    "rougel": "slicesight.evaluation.metrics.overlap:load_rougel",
    "bleu4": "slicesight.evaluation.metrics.overlap:load_bleu4",
    "chrf": "slicesight.evaluation.metrics.overlap:load_chrf",
    "cider": "slicesight.evaluation.metrics.overlap:load_cider",
}
ENTRY_POINTS = "slicesight.metrics"
Pair = tuple[str, str]


class MissingPartError(Exception):
    """A metric's model or data is not on this machine: the metric is null, and the message says how to get it."""


@dataclass(frozen=True, kw_only=True)
class MetricOptions:
    """What a user chose. bertscore: name or folder of BERTScore's model, None leaves it out; layer: of that model."""

    bertscore: str | None = None
    layer: int | None = None


@dataclass(frozen=True, kw_only=True)
class TextMetric:
    """score: one value per (said, true) pair -> (P,). about: what must stand beside the number in a sheet.

    needs_all: a pair's value depends on the other pairs, so that each kind of question is scored by itself.
    """

    score: Callable[[Sequence[Pair]], NDArray[np.float64]]
    about: Mapping[str, Any]
    needs_all: bool = False


def per_pair(score: Callable[[str, str], float], **about: Any) -> TextMetric:
    """A metric that looks at one pair at a time; equal pairs are scored once, an empty output is 0."""

    def of_all(pairs: Sequence[Pair]) -> NDArray[np.float64]:
        known = {pair: score(*pair) if pair[0] else 0.0 for pair in dict.fromkeys(pairs)}
        return np.array([known[pair] for pair in pairs], dtype=np.float64)

    return TextMetric(score=of_all, about=about)


def text_metric_names() -> tuple[str, ...]:
    """Every metric of texts: this package's, then those of other packages."""
    return tuple(known_names(TEXT_METRICS, ENTRY_POINTS))


def load_text_metric(name: str, options: MetricOptions) -> TextMetric:
    """One metric.

    Raises:
        MissingPartError: its model or data is not on this machine.
    """
    metric: TextMetric = find_plugin(name, TEXT_METRICS, ENTRY_POINTS)(options)
    return metric
