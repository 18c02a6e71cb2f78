"""May a system's answers be believed the more, the surer it says it is? From its predictions to a sheet's `selective`.

Whatever states a `confidence` is taken: our own model, a guest, anyone's predictions.jsonl. An answer that was held
back (`would_say`) counts with what is held back, as the confidence is about that. Intervals are drawn by patient where
the predictions name one, else by scan.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from slicesight.data.choices import is_right, same_text
from slicesight.evaluation.metrics.selective import measure_selective
from slicesight.evaluation.predictions import Prediction

NO_CONFIDENCE = "no prediction has a confidence"
JUDGED = {"closed": "the answer names the right choice and no other", "open": "the same words as the true answer"}
"""The kinds of questions whose answers are right or wrong, and when they are right; a report is neither."""


def score_selective(rows: Sequence[Prediction]) -> dict[str, Any] | None:
    """{kind of question: what `measure_selective` gives and who abstained}; None where no answer has a confidence."""
    found = {task: _of_task([row for row in rows if row.task == task]) for task in JUDGED}
    return found if any(part is not None for part in found.values()) else None


def is_meant_right(row: Prediction) -> bool:
    """Whether what the system takes for right is right."""
    return is_right(row.meant, row) if row.task == "closed" else same_text(row.meant.strip(), row.answer.strip())


def _drawn_by(rows: Sequence[Prediction]) -> str | None:
    """What the intervals draw; None where some answer names neither."""
    if any(row.drawn_with is None for row in rows):
        return None
    named = sum(row.patient is not None for row in rows)
    return "patient" if named == len(rows) else "patient where one is named, else scan" if named else "scan"


def _of_task(rows: Sequence[Prediction]) -> dict[str, Any] | None:
    sure = [row for row in rows if row.confidence is not None]
    if not sure:
        return None
    names = [row.drawn_with for row in sure]
    patients = [name for name in names if name is not None]
    right = np.array([is_meant_right(row) for row in sure], dtype=float)
    said = np.array([row.abstained is None for row in sure])
    return {
        "right": JUDGED[sure[0].task],
        "num_without_confidence": len(rows) - len(sure),
        "drawn_by": _drawn_by(sure),
        "abstained": dict(Counter(row.abstained for row in sure if row.abstained is not None)),
        "answered": {"coverage": float(said.mean()), "accuracy": float(right[said].mean()) if said.any() else None},
        **measure_selective(
            [row.confidence or 0.0 for row in sure], right, patients if len(patients) == len(names) else None
        ),
    }
