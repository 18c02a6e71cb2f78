"""What does a system score? One sheet per system: every metric by topic, macro and micro, with intervals by volume.

micro = mean over questions, macro = mean over topics of their means (the papers' "VQA macro"). The keys are documented
in docs/scoring.md. What a file cannot give is null, and `missing` says why.
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from slicesight import __version__
from slicesight.data.answer_text import final_text
from slicesight.data.choices import OUTCOMES, WAYS, has_truth, is_right, legacy_right, read_choice
from slicesight.evaluation.metrics import text_metric_names
from slicesight.evaluation.metrics.evidence import Pointed, score_evidence
from slicesight.evaluation.metrics.overlap import bleu_counts, corpus_bleu4
from slicesight.evaluation.metrics.text import score_texts
from slicesight.evaluation.predictions import TASKS, Prediction, PredictionFile
from slicesight.evaluation.report_labels import LabelOptions, clinical_of, radeval_of
from slicesight.evaluation.score_sheet import FORMAT, ScoreSheet
from slicesight.evaluation.selective_answers import NO_CONFIDENCE, score_selective
from slicesight.evaluation.statistics import (
    FEWEST,
    ONE_SCAN,
    Floats,
    bounds,
    compare,
    draw_means,
    draw_sums,
    holm,
    volume_sums,
)

CLOSED_METRICS = ("accuracy", "accuracy_legacy", "accuracy_constrained")
ALONE = "one text alone: CIDEr weighs words by how rare they are among the texts, and gives 0 whatever is said"
NOT_COMPARED = ("accuracy_constrained", "rougel", "bleu4", "chrf", "cider")
"""Stands beside the tests and in none of them, so that their correction is of the same family with and without it."""
NO_CHOICE = (
    "not every closed question has a choice, what a system says when held to the choices; slicesight evaluate asks"
)
CLOSED_DEFINITIONS = {
    "accuracy": "share of answers that name the right choice and no other: letter, (letter) or its words",
    "accuracy_legacy": 'share of outputs that contain the right letter with a full stop, "B." (the papers\' rule)',
    "accuracy_constrained": "share of right answers where nothing but the choices may be said (choice)",
}
NO_VOLUME = "the predictions name no volumes, so nothing can be drawn by volume"


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A file's predictions with the value of every metric.

    values: metric -> one value per row, NaN where the metric is not of that row's task.
    """

    file: PredictionFile
    values: Mapping[str, Floats]
    missing: Mapping[str, str]
    about: Mapping[str, Any]

    @property
    def rows(self) -> tuple[Prediction, ...]:
        return self.file.rows

    @property
    def has_volumes(self) -> bool:
        """Whether every row names its volume."""
        return all(row.volume is not None for row in self.rows)

    def means_by_volume(self, task: str, metric: str) -> dict[str, float]:
        """{volume: mean of the metric over its questions of the task}."""
        chosen = [place for place, row in enumerate(self.rows) if row.task == task]
        names = [self.rows[place].volume or "" for place in chosen]
        sums_V, counts_V = volume_sums(names, self.values[metric][chosen])
        pairs = zip(dict.fromkeys(names), sums_V, counts_V, strict=True)
        return {name: float(total / count) for name, total, count in pairs if count}


def metrics_of(task: str) -> tuple[str, ...]:
    """The names of a task's metrics."""
    return CLOSED_METRICS if task == "closed" else text_metric_names()


def score_file(file: PredictionFile, *, bertscore: str | None = None, layer: int | None = None) -> Scored:
    """Score every row of a file; bertscore, layer: as `metrics.MetricOptions` has them."""
    rows = file.rows
    values = {name: np.full(len(rows), np.nan) for name in (*text_metric_names(), *CLOSED_METRICS)}
    texts = [place for place, row in enumerate(rows) if row.task != "closed" and has_truth(row)]
    said, true = ([getattr(rows[place], name) for place in texts] for name in ("prediction", "answer"))
    kinds = [rows[place].task for place in texts]
    found = score_texts(said, true, bertscore=bertscore, layer=layer, kinds=kinds)
    for name, scores in found.values.items():
        values[name][texts] = scores
    for place, row in enumerate(rows):
        if row.task == "closed":
            assert row.answer_choice is not None
            values["accuracy"][place] = is_right(row.prediction, row)
            values["accuracy_legacy"][place] = legacy_right(row.prediction, row.answer_choice)
            values["accuracy_constrained"][place] = is_right(row.choice or "", row)
    alone = [kind for kind, number in Counter(kinds).items() if number == 1]
    missing = {**file.missing, **found.missing, **_without_answer(rows), **{f"{kind}.cider": ALONE for kind in alone}}
    if any(row.task == "closed" and row.choice is None for row in rows):
        missing["accuracy_constrained"] = NO_CHOICE
    about = {**found.about, **{name: {"definition": text} for name, text in CLOSED_DEFINITIONS.items()}}
    return Scored(file=file, values=values, missing=missing, about=about)


def make_sheet(scored: Scored, *, system: str, labels: LabelOptions | None = None) -> ScoreSheet:
    """The sheet of one system from one file; numbers unrounded. labels: how findings are read from its reports."""
    rows = scored.rows
    volumes = {row.volume for row in rows if row.volume is not None}
    missing = dict(scored.missing)
    if not scored.has_volumes:
        missing["ci95"] = missing.get("volume", NO_VOLUME)
    elif len(volumes) < FEWEST:
        missing["ci95"] = ONE_SCAN
    for task in TASKS:
        if task not in scored.file.tasks:
            missing[task] = f"the file holds no {task} questions"
    evidence = score_evidence(map(_pointed, rows))
    selective = score_selective(rows)
    if selective is None:
        missing["selective"] = NO_CONFIDENCE
    if evidence is None:
        missing["evidence"] = "no prediction has both scores and true_slices"
    clinical, radeval = clinical_of(rows, labels or LabelOptions()), radeval_of(rows, labels or LabelOptions())
    missing |= {**clinical.missing, **radeval[1]}
    missing.setdefault("controls", "predictions alone cannot give controls; slicesight evaluate adds them")
    missing.setdefault("leaks", "no training data named")
    sheet: dict[str, Any] = {
        "sheet": FORMAT,
        "slicesight": __version__,
        "system": system,
        "format": scored.file.format,
        "num_pairs": len(rows),
        "num_volumes": len(volumes) if scored.has_volumes else None,
        **{task: _task_part(scored, task) for task in TASKS},
        "evidence": evidence,
        "clinical": clinical.part,
        **({} if radeval[0] is None else {"radeval": radeval[0]}),
        "selective": selective,
        "controls": None,
        "leaks": None,
        "metrics": dict(scored.about),
        "missing": missing,
    }
    return ScoreSheet(sheet)


def to_json(document: Any) -> str:
    """Unrounded JSON; what is not a number is null."""
    return json.dumps(_finite(document), indent=2, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def average_sheets(sheets: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The sheet of a system run with several seeds: means of every number, intervals left to the paired comparison."""
    if len(sheets) == 1:
        return sheets[0]
    averaged: dict[str, Any] = {**_mean_of(list(sheets)), "num_seeds": len(sheets)}
    for name in ("evidence", "selective"):
        averaged[name] = _without_intervals(averaged[name])
    for task in TASKS:
        if averaged[task] is not None:
            averaged[task]["ci95"] = None
    averaged["clinical"] = _without_intervals(averaged["clinical"])
    why = "the mean of several seeds; the sheet of each has its interval"
    return ScoreSheet({**averaged, "missing": {**sheets[0]["missing"], "ci95": why}})


def compare_systems(
    systems: Mapping[str, Sequence[Scored]],
    *,
    against: str | None = None,
    metrics: Collection[tuple[str, str]] | None = None,
) -> list[dict[str, Any]]:
    """Every pair of systems (only those with `against`, where it is named) on every (task, metric).

    Paired by volume, averaged over seeds, Holm's correction over all of them.
    """
    found: list[dict[str, Any]] = []
    for (first, ours), (second, theirs) in combinations(systems.items(), 2):
        if against not in (None, first, second):
            continue
        runs = [*ours, *theirs]
        for task, metric in [(each, metric) for each in TASKS for metric in metrics_of(each)]:
            if metric in NOT_COMPARED or (metrics is not None and (task, metric) not in metrics):
                continue
            if not all(task in run.file.tasks and metric not in run.missing for run in runs):
                continue
            entry: dict[str, Any] = {"first": first, "second": second, "task": task, "metric": metric}
            if not all(run.has_volumes for run in runs):
                found.append({**entry, "p": None, "missing": NO_VOLUME})
                continue
            means = [[run.means_by_volume(task, metric) for run in side] for side in (ours, theirs)]
            if (paired := compare(*means)) is None:
                found.append({**entry, "p": None, "missing": "the two systems share no volume"})
            else:
                found.append({**entry, **paired.to_dict(), "seeds": [len(ours), len(theirs)]})
    tested = [entry for entry in found if entry["p"] is not None]
    for one, corrected in zip(tested, holm([one["p"] for one in tested]), strict=True):
        one["p_holm"] = corrected
    return found


def count_outcomes(rows: Iterable[Prediction]) -> dict[str, int]:
    """How many closed answers were read in which way, every outcome named."""
    counted = Counter(read_choice(row.prediction, row.choices).outcome for row in rows)
    return {outcome: counted[outcome] for outcome in OUTCOMES}


def count_ways(rows: Iterable[Prediction]) -> dict[str, dict[str, int]]:
    """How many closed answers were found in which way, and how many of those are right by our rule and the papers'."""
    found = {way: {"num": 0, "num_right": 0, "num_right_legacy": 0} for way in WAYS}
    for row in rows:
        counts = found[read_choice(row.prediction, row.choices).way]
        counts["num"] += 1
        counts["num_right"] += is_right(row.prediction, row)
        counts["num_right_legacy"] += legacy_right(row.prediction, row.answer_choice or "")
    return found


def count_reasoning(rows: Iterable[Prediction]) -> dict[str, float]:
    """How many outputs hold reasoning, how many end within it, and its mean number of words where there is any."""
    said = [final for row in rows if (final := final_text(row.prediction)).reasoning or final.is_unfinished]
    return {
        "num": len(said),
        "num_unfinished": sum(final.is_unfinished for final in said),
        "mean_words": float(np.mean([final.num_reasoning_words for final in said])) if said else 0.0,
    }


def _pointed(row: Prediction) -> Pointed:
    """A question's slices as the evidence metrics take them."""
    return Pointed(
        scores=row.scores,
        true_slices=row.true_slices,
        volume=row.volume or row.id,
        places_mm=row.slice_places_mm,
        measured_by=row.evidence or "scores",
    )


def _task_part(scored: Scored, task: str) -> dict[str, Any] | None:
    chosen = [place for place, row in enumerate(scored.rows) if row.task == task]
    if not chosen:
        return None
    rows = [scored.rows[place] for place in chosen]
    topics = list(dict.fromkeys(row.topic for row in rows))
    metrics = [name for name in metrics_of(task) if name not in scored.missing]
    values = {name: scored.values[name][chosen] for name in metrics}
    in_topic = {topic: np.array([row.topic == topic for row in rows]) for topic in topics}
    by_topic = {
        topic: {name: _mean(values[name][mask]) if name in values else None for name in metrics_of(task)}
        for topic, mask in in_topic.items()
    }
    part = {
        "num_pairs": len(rows),
        "num_empty": sum(not row.prediction.strip() for row in rows),
        "num_pairs_by_topic": {topic: int(mask.sum()) for topic, mask in in_topic.items()},
        "num_without_answer": sum(not has_truth(row) for row in rows),
        "reasoning": count_reasoning(rows),
        "micro": {name: _mean(values[name]) if name in values else None for name in metrics_of(task)},
        "macro": {
            name: _mean(np.array([by_topic[topic][name] for topic in topics], dtype=np.float64))
            if name in values
            else None
            for name in metrics_of(task)
        },
        "by_topic": by_topic,
        "ci95": _intervals(rows, values, in_topic, names=metrics_of(task)) if scored.has_volumes else None,
    }
    if task != "closed":
        part["corpus"] = _corpus_part(rows, has_volumes=scored.has_volumes)
    if task == "closed":
        part["outcomes"] = count_outcomes(rows)
        part["ways"] = count_ways(rows)
    return part


def _mean(values: Floats) -> float | None:
    """The mean of what is known; None where nothing is."""
    known = values[~np.isnan(values)]
    return float(np.mean(known)) if len(known) else None


def _without_answer(rows: Sequence[Prediction]) -> dict[str, str]:
    """Which kinds of questions have lines without a true answer, and what becomes of them."""
    found = {}
    for task in TASKS:
        of_task = [row for row in rows if row.task == task]
        lacking = [row for row in of_task if not has_truth(row)]
        if lacking:
            found[f"{task}.answer"] = (
                f"{len(lacking)} of {len(of_task)} {task} lines have no true answer (the first is {lacking[0].id}); "
                "they are in no mean"
            )
    return found


def _corpus_part(rows: Sequence[Prediction], *, has_volumes: bool) -> dict[str, Any] | None:
    """BLEU-4 of all texts together, as machine translation and captioning print it, with its interval by volume."""
    told = [row for row in rows if has_truth(row)]
    if not told:
        return None
    counts_P10 = np.array([bleu_counts(final_text(row.prediction).text, row.answer.strip()) for row in told], float)
    ends = None
    if has_volumes:
        volumes = [row.volume or "" for row in told]
        sums_V10 = np.stack([volume_sums(volumes, counts_P10[:, column])[0] for column in range(10)], axis=1)
        ends = bounds(np.array([corpus_bleu4(list(drawn)) for drawn in draw_sums(sums_V10)]), len(sums_V10))
    return {"bleu4": corpus_bleu4(list(counts_P10.sum(axis=0))), "bleu4_ci95": ends}


def _intervals(
    rows: Sequence[Prediction], values: Mapping[str, Floats], in_topic: Mapping[str, Any], *, names: Sequence[str]
) -> dict[str, Any]:
    """Intervals of micro, macro and every topic, from one set of bootstrap draws of volumes."""
    volumes = [row.volume or "" for row in rows]
    found: dict[str, Any] = {"micro": {}, "macro": {}, "by_topic": defaultdict(dict)}
    for name in names:
        ends: list[list[float] | None] = [None] * (2 + len(in_topic))
        if name in values:
            groups = [values[name], *(np.where(mask, values[name], np.nan) for mask in in_topic.values())]
            sums, counts = zip(*(volume_sums(volumes, group) for group in groups), strict=True)
            micro_R, *topics_R = draw_means(np.stack(sums, axis=1), np.stack(counts, axis=1)).T
            known_R = [drawn_R for drawn_R, count in zip(topics_R, counts[1:], strict=True) if count.any()] or topics_R
            drawn = (micro_R, np.stack(known_R, axis=1).mean(axis=1), *topics_R)
            volumes_of = [int(np.count_nonzero(count)) for count in (counts[0], counts[0], *counts[1:])]
            ends = [bounds(drawn_R, number) for drawn_R, number in zip(drawn, volumes_of, strict=True)]
        found["micro"][name], found["macro"][name], *by_topic = ends
        for topic, one in zip(in_topic, by_topic, strict=True):
            found["by_topic"][topic][name] = one
    return {**found, "by_topic": dict(found["by_topic"])}


def _without_intervals(value: Any) -> Any:
    """The same with null for what is one seed's alone: intervals, a curve, the bins of confidences."""
    if isinstance(value, dict):
        return {
            key: None if key.endswith("ci95") or key in ("curve", "bins") else _without_intervals(inner)
            for key, inner in value.items()
        }
    return value


def _mean_of(values: list[Any]) -> Any:
    """Means of numbers in nested dicts; whatever is no number is the first's."""
    first = values[0]
    if isinstance(first, dict):
        return {key: _mean_of([value[key] for value in values if key in value]) for key in first}
    if isinstance(first, float) and all(isinstance(value, int | float) for value in values):
        return float(np.mean(values))
    return first
