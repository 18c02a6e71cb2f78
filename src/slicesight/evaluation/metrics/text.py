"""How alike are what was said and what is true? BLEU-1, ROUGE-1, METEOR and BERTScore as the papers' scorer has them.

Per pair, an empty output is 0, then the mean. BLEU-1 = min(1, e^(1 - r/p)) * (clipped common words) / p on mteval-13a
tokens; ROUGE-1 = 2PR / (P + R) on lower-case alphanumerics; p, r: number of tokens said and true.
The papers' loop spends its time around these formulas (a bootstrap per pair, a table on disk per pair), not in them.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slicesight.data.answer_text import final_text
from slicesight.data.choices import same_text
from slicesight.evaluation.metrics import (
    MetricOptions,
    MissingPartError,
    TextMetric,
    load_text_metric,
    per_pair,
    text_metric_names,
)

DEFINITIONS = {
    "bleu1": "sentence BLEU of order 1 with brevity penalty, mteval-13a tokens, case kept (sacrebleu, evaluate bleu)",
    "rouge1": "ROUGE-1 F of lower-case alphanumeric tokens, no stemming (rouge-score)",
    "exact": "the same words, whatever the case, the spaces and a full stop at the end; not one of the papers' metrics",
}

_MARKS = (
    (re.compile(r"([\{-\~\[-\` -\&\(-\+\:-\@\/])"), r" \1 "),
    (re.compile(r"([^0-9])([\.,])"), r"\1 \2 "),
    (re.compile(r"([\.,])([^0-9])"), r" \1 \2"),
    (re.compile(r"([0-9])(-)"), r"\1 \2 "),
)
_ENTITIES = (("&quot;", '"'), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">"))
_ALPHANUMERIC = re.compile(r"[a-z0-9]+")


@dataclass(frozen=True, kw_only=True)
class TextScores:
    """One value per pair and metric; what cannot be had is in `missing` with the reason."""

    values: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)


def score_texts(
    predictions: Sequence[str],
    references: Sequence[str],
    *,
    bertscore: str | None = None,
    layer: int | None = None,
    kinds: Sequence[str] | None = None,
) -> TextScores:
    """Every metric of every pair, the predictions without their reasoning; bertscore, layer: as `MetricOptions`.

    Args:
        kinds: the kind of question of each pair; a metric that needs all pairs of a kind scores each kind by itself.
    """
    options = MetricOptions(bertscore=bertscore, layer=layer)
    pairs = list(zip((final_text(p).text for p in predictions), (r.strip() for r in references), strict=True))
    scores = TextScores()
    for name in text_metric_names():
        try:
            metric = load_text_metric(name, options)
            values = _by_kind(metric, pairs, kinds) if metric.needs_all and kinds else metric.score(pairs)
            scores.values[name], scores.about[name] = values, dict(metric.about)
        except MissingPartError as error:
            scores.missing[name] = str(error)
    return scores


def _by_kind(metric: TextMetric, pairs: Sequence[tuple[str, str]], kinds: Sequence[str]) -> NDArray[np.float64]:
    values = np.full(len(pairs), np.nan)
    for kind in dict.fromkeys(kinds):
        chosen = [place for place, other in enumerate(kinds) if other == kind]
        values[chosen] = metric.score([pairs[place] for place in chosen])
    return values


def load_bleu1(options: MetricOptions) -> TextMetric:
    """BLEU-1 as the papers' scorer has it."""
    return per_pair(bleu1, definition=DEFINITIONS["bleu1"])


def load_rouge1(options: MetricOptions) -> TextMetric:
    """ROUGE-1 as the papers' scorer has it."""
    return per_pair(rouge1, definition=DEFINITIONS["rouge1"])


def load_exact(options: MetricOptions) -> TextMetric:
    """The share of answers that are right word for word."""
    return per_pair(lambda said, true: float(same_text(said, true)), definition=DEFINITIONS["exact"])


def bleu1(said: str, true: str) -> float:
    """Sentence BLEU of order 1 in [0, 1]; 0 where either is empty."""
    words, wanted = split_13a(said), split_13a(true)
    if not words or not wanted:
        return 0.0
    shorter = min(1.0, math.exp(1 - len(wanted) / len(words)))
    return shorter * _common(words, wanted) / len(words)


def rouge1(said: str, true: str) -> float:
    """ROUGE-1 F in [0, 1]; 0 where either is empty."""
    words, wanted = split_alphanumeric(said), split_alphanumeric(true)
    common = _common(words, wanted)
    return 2 * common / (len(words) + len(wanted)) if common else 0.0


@lru_cache(maxsize=2**14)
def split_13a(text: str) -> tuple[str, ...]:
    """The tokens of mteval-v13a: punctuation apart, stops and commas inside numbers kept."""
    text = text.replace("<skipped>", "").replace("-\n", "").replace("\n", " ")
    if "&" in text:
        for entity, letter in _ENTITIES:
            text = text.replace(entity, letter)
    return tuple(token for word in text.split() for token in _split_word(word))


@lru_cache(maxsize=2**16)
def _split_word(word: str) -> tuple[str, ...]:
    """The rules look at one letter to each side, so words between spaces can be split one by one."""
    word = f" {word} "
    for pattern, replacement in _MARKS:
        word = pattern.sub(replacement, word)
    return tuple(word.split())


@lru_cache(maxsize=2**14)
def split_alphanumeric(text: str) -> tuple[str, ...]:
    """Runs of a-z and 0-9 after lower-casing; whatever else separates."""
    return tuple(_ALPHANUMERIC.findall(text.lower()))


def _common(words: Sequence[str], wanted: Sequence[str]) -> int:
    """Size of the multiset intersection."""
    if len(words) == len(wanted) == 1:
        return int(words[0] == wanted[0])
    return sum((Counter(words) & Counter(wanted)).values())
