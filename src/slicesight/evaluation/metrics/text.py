"""How alike are what was said and what is true? BLEU-1, ROUGE-1, METEOR and BERTScore as the papers' scorer has them.

Per pair, an empty output is 0, then the mean. BLEU-1 = min(1, e^(1 - r/p)) * (clipped common words) / p on mteval-13a
tokens; ROUGE-1 = 2PR / (P + R) on lower-case alphanumerics; p, r: number of tokens said and true.
The papers' loop spends its time around these formulas (a bootstrap per pair, a table on disk per pair), not in them.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slicesight.data.choices import same_text
from slicesight.evaluation.metrics.bertscore import BertScorer
from slicesight.evaluation.metrics.meteor import Meteor
from slicesight.evaluation.metrics.missing import MissingPartError

TEXT_METRICS = ("bleu1", "rouge1", "meteor", "bertscore_f1", "exact")
NO_MODEL = "no model named; --bertscore roberta-large (the papers' own) or a model folder"
DEFINITIONS = {
    "bleu1": "sentence BLEU of order 1 with brevity penalty, mteval-13a tokens, case kept (sacrebleu, evaluate bleu)",
    "rouge1": "ROUGE-1 F of lower-case alphanumeric tokens, no stemming (rouge-score)",
    "meteor": "METEOR, alpha 0.9, beta 3, gamma 0.5, exact, then stem, then WordNet synonyms (nltk)",
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

    values: dict[str, NDArray[np.float64]]
    missing: dict[str, str] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)


def score_texts(
    predictions: Sequence[str], references: Sequence[str], *, bertscore: str | None = None, layer: int | None = None
) -> TextScores:
    """Every metric of every pair.

    Args:
        bertscore: name or folder of BERTScore's model; None leaves it out. layer: of that model; None is its usual one.
    """
    pairs = list(zip((p.strip() for p in predictions), (r.strip() for r in references), strict=True))
    values = {
        "bleu1": _each(pairs, bleu1),
        "rouge1": _each(pairs, rouge1),
        "exact": _each(pairs, lambda said, true: float(same_text(said, true))),
    }
    about: dict[str, Any] = {name: {"definition": DEFINITIONS[name]} for name in values}
    missing = {}
    try:
        meteor = Meteor.load()
        values["meteor"] = _each(pairs, meteor.score)
        about["meteor"] = {"definition": DEFINITIONS["meteor"], **meteor.about}
    except MissingPartError as error:
        missing["meteor"] = str(error)
    try:
        if bertscore is None:
            raise MissingPartError(NO_MODEL)
        scorer = BertScorer.load(bertscore, layer=layer)
        values["bertscore_f1"] = scorer.score(pairs)
        about["bertscore_f1"] = scorer.about
    except MissingPartError as error:
        missing["bertscore_f1"] = str(error)
    return TextScores(values=values, missing=missing, about=about)


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


def _each(pairs: Sequence[tuple[str, str]], score: Callable[[str, str], float]) -> NDArray[np.float64]:
    """The score of every pair; equal pairs are scored once, an empty output is 0."""
    known = {pair: score(*pair) if pair[0] else 0.0 for pair in dict.fromkeys(pairs)}
    return np.array([known[pair] for pair in pairs], dtype=np.float64)
