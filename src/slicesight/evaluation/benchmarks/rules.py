"""How is each number of a benchmark's table computed from answers, and what cannot be?

A rule takes everything scored and the places of the questions a column is about; it gives a value per question (NaN
where it says nothing of one), or a whole `ColumnValue` where the number is of all of them together. What needs
something that is not here raises `MissingPartError` with how to get it.

Per-finding numbers (CRG, F1, AUROC) come through `finding_scores`, the one place that asks `metrics.clinical`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from slicesight.data.sources.deeptumorvqa import SEPARATOR
from slicesight.evaluation.benchmarks.deeptumorvqa import freeform_value, letter_of_output
from slicesight.evaluation.benchmarks.submissions import is_present
from slicesight.evaluation.metrics import MissingPartError
from slicesight.evaluation.metrics.clinical import clinical_part, missing_of
from slicesight.evaluation.metrics.findings import label_texts
from slicesight.evaluation.metrics.labels import Labels
from slicesight.evaluation.predictions import Prediction
from slicesight.evaluation.sheet import Scored, metrics_of
from slicesight.evaluation.statistics import Floats, mean_interval

NOT_A_MASK = "the scorer takes voxel masks; answers with slice scores are no masks"
NO_PROBABILITY = "a yes or no is no probability; give a system's probabilities as a csv to slicesight score"
NO_BLEU = "VLM3D prints the mean of pycocoevalcap's BLEU-1 to 4; score the result file there"
NO_GREEN = "needs the GREEN model (green-score, 7B, a GPU); score the result file there"


@dataclass(frozen=True, kw_only=True)
class ColumnValue:
    """A number from 0 to 1 with the ends of its interval by volume, and of how many questions."""

    value: float
    low: float | None
    high: float | None
    num_questions: int

    def to_dict(self) -> dict[str, Any]:
        """{"value", "ci95", "num_questions"}."""
        ends = None if self.low is None else [self.low, self.high]
        return {"value": self.value, "ci95": ends, "num_questions": self.num_questions}


Rule = Callable[[Scored, Sequence[int]], Floats | ColumnValue]


def column_value(scored: Scored, rule: str, *, task: str, topic: str = "") -> ColumnValue:
    """The value of a rule over the questions of a task whose topic begins so.

    Raises:
        MissingPartError: it cannot be had; says why.
    """
    places = [n for n, row in enumerate(scored.rows) if row.task == task and row.topic.startswith(topic)]
    if not places:
        raise MissingPartError(f"no {task} question" + (f" of {topic}" if topic else ""))
    found = RULES[rule](scored, places) if rule in RULES else _metric(scored, places, rule, task)
    if isinstance(found, ColumnValue):
        return found
    given = ~np.isnan(found)
    if not given.any():
        raise MissingPartError("no question could be scored so")
    if not scored.has_volumes:
        return ColumnValue(value=float(np.nanmean(found)), low=None, high=None, num_questions=int(given.sum()))
    interval = mean_interval(found, [scored.rows[place].volume or "" for place in places])
    low, high = interval.ends or (None, None)
    return ColumnValue(value=interval.value, low=low, high=high, num_questions=int(given.sum()))


def finding_scores(scored: Scored, places: Sequence[int], metric: str) -> ColumnValue:
    """A per-finding metric of closed yes-or-no questions (topic: the finding), or of what reports say.

    The hook for per-finding metrics: here, and nowhere else, `metrics.clinical` is asked.

    Args:
        metric: "crg", or a metric of which the mean over findings is taken.

    Raises:
        MissingPartError: these questions cannot say it.
    """
    rows = [scored.rows[place] for place in places]
    if any(row.volume is None for row in rows):
        raise MissingPartError("findings are counted by scan, and not every answer names its scan")
    if rows[0].task == "report":
        volumes = tuple(row.volume or "" for row in rows)
        said = label_texts(volumes, [row.prediction for row in rows])
        true = label_texts(volumes, [row.answer for row in rows])
    else:
        said, true = _finding_tables(rows)
    part = clinical_part(said, true, is_control=True)
    value, ends = (part["crg"], part["ci95"]["crg"]) if metric == "crg" else (
        part["macro"][metric], part["ci95"]["macro"][metric])  # fmt: skip
    if value is None:
        raise MissingPartError(missing_of({**part, "side": 0, "location": 0}).get(f"clinical.{metric}", "0/0"))
    low, high = ends or (None, None)
    return ColumnValue(value=float(value), low=low, high=high, num_questions=len(rows))


def _finding_tables(rows: Sequence[Prediction]) -> tuple[Labels, Labels]:
    """What is said and what is true of each scan's findings; NaN: not asked."""
    volumes = tuple(dict.fromkeys(row.volume or "" for row in rows))
    findings = tuple(dict.fromkeys(row.topic for row in rows))
    at, column = ({name: place for place, name in enumerate(names)} for names in (volumes, findings))
    said_VF, true_VF = np.full((2, len(volumes), len(findings)), np.nan)
    for row in rows:
        place = at[row.volume or ""], column[row.topic]
        said_VF[place] = float(is_present(row) is True)
        true_VF[place] = float(row.answer.strip().lower() == "yes")
    said = Labels(volumes=volumes, findings=findings, present=said_VF)
    return said, Labels(volumes=volumes, findings=findings, present=true_VF)


def _metric(scored: Scored, places: Sequence[int], name: str, task: str) -> Floats:
    if name not in metrics_of(task):
        raise MissingPartError(f"{name} is no metric of {task} questions")
    if name in scored.missing:
        raise MissingPartError(scored.missing[name])
    return scored.values[name][list(places)]


def _of_each(value: Callable[[Prediction], float | None]) -> Rule:
    def rule(scored: Scored, places: Sequence[int]) -> Floats:
        found = [value(scored.rows[place]) for place in places]
        return np.array([np.nan if one is None else one for one in found], dtype=np.float64)

    return rule


def _letter_is_right(row: Prediction) -> float:
    return float(letter_of_output(row.prediction) == row.answer_choice)


def _freeform(row: Prediction) -> float | None:
    return freeform_value(row.prediction, row.answer, row.topic.partition(SEPARATOR)[2])


def _pointing(value: Callable[[Floats, list[int]], float]) -> Rule:
    """A value of slice scores and the true slices; questions that lack either, or are shown everywhere, say nothing."""

    def of_row(row: Prediction) -> float | None:
        if not row.scores or not row.true_slices or len(row.true_slices) >= len(row.scores):
            return None
        return value(np.asarray(row.scores, dtype=np.float64), list(row.true_slices))

    return _of_each(of_row)


def _share(scores: Floats, true: list[int]) -> float:
    return len(true) / len(scores)


def _mass(scores: Floats, true: list[int]) -> float:
    return float(scores[true].sum())


def _range_iou(scores: Floats, true: list[int]) -> float:
    """As many of the heaviest slices as truly show it: what both have over what either has."""
    said = set(np.argsort(-scores, kind="stable")[: len(true)].tolist())
    return len(said & set(true)) / len(said | set(true))


def _missing(why: str) -> Rule:
    def rule(scored: Scored, places: Sequence[int]) -> Floats:
        raise MissingPartError(why)

    return rule


def _finding(metric: str) -> Rule:
    return lambda scored, places: finding_scores(scored, places, metric)


RULES: Mapping[str, Rule] = {
    "deeptumorvqa_letter": _of_each(_letter_is_right),
    "deeptumorvqa_freeform": _of_each(_freeform),
    "slice_hit": _pointing(lambda scores, true: float(int(np.argmax(scores)) in true)),
    "slice_chance": _pointing(_share),
    "slice_mass": _pointing(_mass),
    "slice_excess": _pointing(lambda s, t: (_mass(s, t) - _share(s, t)) / (1 - _share(s, t))),
    "slice_range_iou": _pointing(_range_iou),
    "masks": _missing(NOT_A_MASK),
    "green": _missing(NO_GREEN),
    "finding_crg": _finding("crg"),
    "finding_f1": _finding("f1"),
    "finding_auroc": _missing(NO_PROBABILITY),
    "report_crg": _finding("crg"),
    "report_f1": _finding("f1"),
    "report_bleu_mean": _missing(NO_BLEU),
}
"""What the columns of facts/*.yaml name, beside the sheet's own metrics."""
