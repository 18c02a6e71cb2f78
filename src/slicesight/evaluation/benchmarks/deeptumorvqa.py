"""What does DeepTumorVQA's own scorer make of an answer? Its rules restated, with its roundings.

From https://github.com/Schuture/DeepTumorVQA, src/deeptumorvqa/eval/metrics.py at 1df7460: with choices, the letter is
the first character of the output if that is A to D (so "Benign" is B), else the first A to D that stands as a word;
without, by the subtype's kind: numbers by mean relative accuracy max(0, 1 - |said - true|/|true|), yes or no by the
word, everything else by the same normalised text. Reasoning in <think> is cut off, also where it never ends.
Every subtype's value is rounded to four decimals, and so is each average of them weighted by the number of questions.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from slicesight.data.sources.deeptumorvqa import SEPARATOR
from slicesight.evaluation.predictions import Prediction

NUMERIC = frozenset(
    (
        "organ volume measurement",
        "organ HU measurement",
        "lesion volume measurement",
        "organ HU ratio",
        "tumor burden percentage",
        "largest lesion diameter",
        "largest lesion slice",
        "lesion counting",
        "lesion count by location",
        "organ aggregation",
        "tumor organ HU difference",
    )
)
BINARY = frozenset(
    (
        "pancreatic lesion existence",
        "liver lesion existence",
        "kidney lesion existence",
        "kidney tumor existence",
        "kidney cyst existence",
        "colon lesion existence",
        "PDAC existence",
        "PNET existence",
        "lesion outlier",
        "organ enlargement",
        "pancreatic steatosis",
        "pancreatic cyst resectability",
        "pseudocyst determination",
        "splenomegaly detection",
        "portal hypertension assessment",
    )
)
_LETTERS = "ABCD"
_THINKING = re.compile(r"<think>.*?(?:</think>|$)", re.DOTALL)
_NUMBER = re.compile(r"-?\d+\.?\d*")


def letter_of_output(text: str) -> str:
    """The letter its scorer reads in an output, empty for none."""
    said = without_thinking(text).upper()
    if said[:1] in _LETTERS:
        return said[:1]
    standing = re.search(r"\b([A-D])\b", said)
    return standing.group(1) if standing else ""


def freeform_value(said: str, true: str, subtype: str) -> float | None:
    """0 to 1 for an answer without choices; None where a numeric truth has no number, which its scorer leaves out."""
    said = without_thinking(said)
    if subtype in NUMERIC:
        wanted, found = _number(true), _number(said)
        if wanted is None or found is None:
            return None if wanted is None else 0.0
        if wanted == 0:
            return float(found == 0)
        return max(0.0, 1 - abs(found - wanted) / abs(wanted))
    if subtype in BINARY:
        return float(_yes_or_no(said) == _yes_or_no(true) and bool(_yes_or_no(said)))
    return float(_normalised(said) == _normalised(true))


def without_thinking(text: str) -> str:
    """The output without <think>...</think>."""
    return _THINKING.sub("", text).strip()


def official_metrics(rows: Iterable[Prediction], *, task: str) -> dict[str, Any]:
    """{"overall", "by_super_type", "by_subtype"} with the accuracies that its scorer prints for these answers.

    Args:
        task: "closed" for its format mc, "open" for freeform.
    """
    by_subtype: dict[tuple[str, str], list[Prediction]] = defaultdict(list)
    for row in rows:
        if row.task == task:
            kind, _, subtype = row.topic.partition(SEPARATOR)
            by_subtype[kind, subtype].append(row)
    found = {key: (_accuracy(key[1], held, task), len(held)) for key, held in by_subtype.items()}
    kinds = list(dict.fromkeys(kind for kind, _ in found))
    return {
        "overall": _weighted(list(found.values())) | {"n_subtypes": len(found)},
        "by_super_type": {kind: _weighted([value for key, value in found.items() if key[0] == kind]) for kind in kinds},
        "by_subtype": {key[1]: {"accuracy": value, "n_total": total} for key, (value, total) in found.items()},
    }


def _accuracy(subtype: str, rows: Sequence[Prediction], task: str) -> float:
    if task == "closed":
        right = sum(letter_of_output(row.prediction) == row.answer_choice for row in rows)
        return round(right / len(rows), 4)
    values = [freeform_value(row.prediction, row.answer, subtype) for row in rows]
    scored = [value for value in values if value is not None]
    return round(sum(scored) / max(len(scored), 1), 4)


def _weighted(values: Sequence[tuple[float, int]]) -> dict[str, Any]:
    total = sum(number for _, number in values)
    return {"accuracy": round(sum(value * number for value, number in values) / max(total, 1), 4), "n_total": total}


def _number(text: str) -> float | None:
    found = _NUMBER.search(text)
    return float(found.group()) if found else None


def _yes_or_no(text: str) -> str:
    said = text.strip().lower()
    for word in ("yes", "no"):
        if said.startswith(word):
            return word
    standing = re.search(r"\byes\b", said) or re.search(r"\bno\b", said)
    return standing.group() if standing else ""


def _normalised(text: str) -> str:
    return " ".join(re.sub(r"[^\w\s-]", "", text.strip().lower()).split())
