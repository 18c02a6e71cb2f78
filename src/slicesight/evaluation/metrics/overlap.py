"""How do the report challenges print likeness? ROUGE-L, BLEU-4, chrF and CIDEr, each as its public scorer has it.

P pairs of (said, true), one true text each; an empty output is 0. c, r: number of tokens said and true; L: length of
their longest common subsequence. ROUGE-L = 2L / (c + r). BLEU-4 = min(1, e^(1 - r/c)) * (p1 p2 p3 p4)^(1/4), where an
order without a match counts half as much as the one before. chrF = 5PR / (4P + R), P and R the means over character
orders 1 to 6. CIDEr = 10 * mean over orders 1 to 4 of e^(-(d/6)^2 / 2) * cosine of clipped tf-idf vectors, d the
difference of lengths; a word is rare by how few of the true texts at hand hold it, so CIDErs of two sets of texts are
not comparable, and of one text it is 0.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from slicesight.evaluation.metrics import MetricOptions, Pair, TextMetric, per_pair
from slicesight.evaluation.metrics.text import split_13a, split_alphanumeric

Floats = NDArray[np.float64]
ORDERS = 4
CHARACTERS = 6
SIGMA = 6.0
DEFINITIONS = {
    "rougel": "ROUGE-L F of lower-case alphanumeric tokens, no stemming, the whole text as one sentence (rouge-score)",
    "bleu4": "sentence BLEU of order 4, mteval-13a tokens, exponential smoothing, effective order (sacrebleu)",
    "chrf": "chrF2, characters of order 1 to 6 without spaces, case kept (sacrebleu)",
    "cider": "CIDEr (0 to 10) of lower-case alphanumeric tokens, one reference, rarity counted in the true texts of "
    "this kind of question (pycocoevalcap)",
}


def load_rougel(options: MetricOptions) -> TextMetric:
    """ROUGE-L as rouge-score has it."""
    return per_pair(rougel, definition=DEFINITIONS["rougel"])


def load_bleu4(options: MetricOptions) -> TextMetric:
    """Sentence BLEU-4 as sacrebleu has it."""
    return per_pair(bleu4, definition=DEFINITIONS["bleu4"])


def load_chrf(options: MetricOptions) -> TextMetric:
    """chrF as sacrebleu has it."""
    return per_pair(chrf, definition=DEFINITIONS["chrf"])


def load_cider(options: MetricOptions) -> TextMetric:
    """CIDEr as pycocoevalcap has it."""
    return TextMetric(score=cider, about={"definition": DEFINITIONS["cider"]}, needs_all=True)


def rougel(said: str, true: str) -> float:
    """ROUGE-L F in [0, 1]; 0 where either is empty."""
    words, wanted = split_alphanumeric(said), split_alphanumeric(true)
    common = _common_subsequence(words, wanted)
    return 2 * common / (len(words) + len(wanted)) if common else 0.0


def bleu4(said: str, true: str) -> float:
    """Sentence BLEU-4 in [0, 1]; 0 where either is empty or no word is common."""
    counts = bleu_counts(said, true)
    return _bleu(counts) if counts[0] else 0.0


def bleu_counts(said: str, true: str) -> list[int]:
    """Matches of orders 1 to 4, n-grams said of orders 1 to 4, tokens said, tokens true: sums over texts add up."""
    words, wanted = split_13a(said), split_13a(true)
    matches, totals = [], []
    for order in range(1, ORDERS + 1):
        own, theirs = _ngrams(words, order), _ngrams(wanted, order)
        matches.append(sum((own & theirs).values()))
        totals.append(sum(own.values()))
    return [*matches, *totals, len(words), len(wanted)]


def corpus_bleu4(counts_10: Sequence[float]) -> float:
    """BLEU-4 of a set of texts from the sum of their `bleu_counts`, as sacrebleu's corpus score."""
    return _bleu(counts_10) if counts_10[0] else 0.0


def _bleu(counts_10: Sequence[float]) -> float:
    matches, totals, (length, wanted) = counts_10[:ORDERS], counts_10[ORDERS : 2 * ORDERS], counts_10[2 * ORDERS :]
    logs, smooth = [], 1.0
    for match, total in zip(matches, totals, strict=True):
        if not total:
            break
        if not match:
            smooth *= 2
        logs.append(math.log(match / total if match else 1 / (smooth * total)))
    penalty = math.exp(1 - wanted / length) if length < wanted else 1.0
    return penalty * math.exp(sum(logs) / len(logs))


def chrf(said: str, true: str) -> float:
    """chrF2 in [0, 1]; 0 where either is empty."""
    letters, wanted = "".join(said.split()), "".join(true.split())
    precisions, recalls = [], []
    for order in range(1, CHARACTERS + 1):
        own = Counter(letters[place : place + order] for place in range(len(letters) - order + 1))
        theirs = Counter(wanted[place : place + order] for place in range(len(wanted) - order + 1))
        if own and theirs:
            match = sum((own & theirs).values())
            precisions.append(match / own.total())
            recalls.append(match / theirs.total())
    if not any(precisions):
        return 0.0
    precision, recall = sum(precisions) / len(precisions), sum(recalls) / len(recalls)
    return 5 * precision * recall / (4 * precision + recall)


def cider(pairs: Sequence[Pair]) -> Floats:
    """CIDEr of every pair -> (P,), each in [0, 10]; NaN of a single one, where every word is in every text."""
    if len(pairs) < 2:
        return np.full(len(pairs), np.nan)
    said = [_all_ngrams(split_alphanumeric(text)) for text, _ in pairs]
    true = [_all_ngrams(split_alphanumeric(text)) for _, text in pairs]
    frequency: Counter[tuple[str, ...]] = Counter(gram for grams in true for gram in grams)
    log_size = math.log(len(pairs))

    def weigh(grams: Mapping[tuple[str, ...], int]) -> list[dict[tuple[str, ...], float]]:
        vectors: list[dict[tuple[str, ...], float]] = [{} for _ in range(ORDERS)]
        for gram, count in grams.items():
            vectors[len(gram) - 1][gram] = count * (log_size - math.log(max(1, frequency[gram])))
        return vectors

    return np.array([_likeness(weigh(own), weigh(theirs), own, theirs) for own, theirs in zip(said, true, strict=True)])


def _likeness(
    own: list[dict[tuple[str, ...], float]],
    theirs: list[dict[tuple[str, ...], float]],
    own_counts: Mapping[tuple[str, ...], int],
    their_counts: Mapping[tuple[str, ...], int],
) -> float:
    """The public scorer takes a text's number of word pairs for its length."""
    lengths = [sum(n for gram, n in counts.items() if len(gram) == 2) for counts in (own_counts, their_counts)]
    penalty = math.exp(-((lengths[0] - lengths[1]) ** 2) / (2 * SIGMA**2))
    values = []
    for mine, yours in zip(own, theirs, strict=True):
        product = sum(min(weight, yours.get(gram, 0.0)) * yours.get(gram, 0.0) for gram, weight in mine.items())
        norms = math.sqrt(sum(w * w for w in mine.values())) * math.sqrt(sum(w * w for w in yours.values()))
        values.append(penalty * (product / norms if norms else product))
    return 10 * sum(values) / ORDERS


def _common_subsequence(words: Sequence[str], wanted: Sequence[str]) -> int:
    """Length of the longest common subsequence, with the bits of one integer as a row of the table (Hyyrö 2004)."""
    places: dict[str, int] = {}
    for place, word in enumerate(wanted):
        places[word] = places.get(word, 0) | 1 << place
    every = (1 << len(wanted)) - 1
    row = every
    for word in words:
        both = row & places.get(word, 0)
        row = ((row + both) | (row - both)) & every
    return len(wanted) - row.bit_count()


def _ngrams(words: Sequence[str], order: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[place : place + order]) for place in range(len(words) - order + 1))


def _all_ngrams(words: Sequence[str]) -> Counter[tuple[str, ...]]:
    return sum((_ngrams(words, order) for order in range(1, ORDERS + 1)), Counter())
