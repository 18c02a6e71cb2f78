"""Do the answers rest on the slices that the scores point at? Deletion and insertion curves, and the mass on the truth.

Deletion: take the k heaviest (or random, or lightest) slices away; a faithful score makes the answer's log-likelihood
fall fastest when the heaviest go. Insertion: show only k slices. A curve is log p(k) - log p(nothing taken away), its
area is over k / N. gain = area(random) - area(heaviest) for deletion, the other way round for insertion; above 0 is
faithful.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slicesight.data.dataset import Dataset
from slicesight.data.manifest import Case
from slicesight.errors import InputError
from slicesight.evaluation.controls import MAX_NEW_TOKENS, labels_wanted, true_slices
from slicesight.evaluation.likelihood import (
    BRANCHES,
    MaskableScan,
    as_generated,
    log_likelihoods,
    open_scan,
    score_questions,
)
from slicesight.evaluation.metrics.evidence import Pointed, score_evidence
from slicesight.evaluation.predict import slice_places_mm, unwatched
from slicesight.evaluation.score_claims import AskedScores, ask_for_claims, weigh_claims
from slicesight.evaluation.statistics import Floats, holm, mean_interval, sign_flip_p
from slicesight.inference.answers import NO_WORDS, Progress
from slicesight.inference.guests.predictor import GuestPredictor
from slicesight.inference.predictor import Predictor
from slicesight.volumes.grid import GridVolume

ORDERS = ("heaviest", "random", "lightest")
CURVES = ("deletion", "insertion")
NUM_RANDOM = 3
AIM = 0.3


@dataclass(frozen=True, kw_only=True)
class QuestionCurves:
    """One question: {(branch, curve, order): log p along the steps, minus that of the whole scan}."""

    volume: str
    topic: str
    curves: Mapping[tuple[str, str, str], Floats]


def steps_of(num_slices: int) -> list[int]:
    """0, 1, 2, 4, ... and all slices."""
    steps = [0, 1]
    while steps[-1] * 2 < num_slices:
        steps.append(steps[-1] * 2)
    return [*steps, num_slices] if steps[-1] < num_slices else steps


def measure(
    predictor: Predictor,
    source: Dataset,
    *,
    tasks: Sequence[str] = ("open", "closed"),
    seed: int = 0,
    progress: Progress = unwatched,
) -> dict[str, Any]:
    """Everything that is known about how faithful a model's slice scores are, as numbers with intervals by volume.

    A guest's evidence, which is measured by occlusion, is held against the same curves (`guest_faithfulness.py`).

    Raises:
        InputError: the model does not weigh slices, or weighs those of several planes.
    """
    if isinstance(predictor, GuestPredictor):
        from slicesight.evaluation.guest_faithfulness import measure_guest

        return measure_guest(predictor, source, tasks=tasks, seed=seed, progress=progress)
    if predictor.model.scorer is None or predictor.model.config.aggregation == "max":
        raise InputError(
            f"{predictor.card.name} has no slice scores to be faithful; choose a model that weighs slices."
        )
    if predictor.planes:
        planes = ", ".join(predictor.planes)
        raise InputError(
            f"{predictor.card.name} weighs {planes} slices together, and none of them can be taken away alone; choose "
            "a model of one plane."
        )
    curves: list[QuestionCurves] = []
    pointed: list[Pointed] = []
    asked: list[AskedScores] = []
    for place, case in enumerate(source.cases):
        progress(place, len(source.cases))
        grid = source.grid(case, predictor.grid_spec)
        scan = open_scan(predictor, grid)
        prompts = [pair.prompt for pair in case.conversations]
        scores_QN = score_questions(scan, prompts)
        labels_ZYX = labels_wanted(source, case)
        for scores_N, pair in zip(scores_QN, case.conversations, strict=True):
            pointed.append(
                Pointed(
                    scores=tuple(scores_N),
                    true_slices=true_slices(pair, grid, labels_ZYX=labels_ZYX),
                    volume=case.id,
                    places_mm=slice_places_mm(grid),
                )
            )
        asked.append(ask_for_claims(scan, case))
        curves += _curves_of(scan, case, grid, scores_QN, tasks=tasks, rng=np.random.default_rng([seed, place]))
    progress(len(source.cases), len(source.cases))
    num_slices = predictor.model.config.image_size[0]
    found = {
        "model": predictor.card.name,
        "scoring": _scoring_options(predictor),
        "num_volumes": len(source.cases),
        "num_questions": len(curves),
        "num_slices": num_slices,
        "steps": steps_of(num_slices),
        "curves": mean_curves(curves),
        "gains": area_gains(curves, steps_of(num_slices), num_slices),
        "evidence": score_evidence(pointed),
        "claims": weigh_claims(asked),
    }
    return {**found, "verdict": verdict_of(found)}


def _scoring_options(predictor: Predictor) -> dict[str, Any]:
    """The options of the configuration that make the scores."""
    config = predictor.model.config
    names = ("aggregation", "scoring_inputs", "question_source", "score_norm", "score_dim", "learn_score_scale")
    log_scale = getattr(predictor.model.scorer, "log_scale", None)
    return {
        **{name: getattr(config, name, None) for name in names},
        "score_scale": float(config.score_scale if log_scale is None else log_scale.detach().exp()),
        "score_heads": getattr(config, "score_heads", 1),
    }


def _curves_of(
    scan: MaskableScan,
    case: Case,
    grid: GridVolume,
    scores_QN: Floats,
    *,
    tasks: Sequence[str],
    rng: np.random.Generator,
) -> list[QuestionCurves]:
    random_orders = [rng.permutation(len(grid.slices)) for _ in range(NUM_RANDOM)]
    num_steps = len(steps_of(len(grid.slices)))
    wanted = [
        (pair, scores_N) for pair, scores_N in zip(case.conversations, scores_QN, strict=True) if pair.task in tasks
    ]
    answers = scan.predictor.ask(grid, [pair.prompt for pair, _ in wanted], max_new_tokens=MAX_NEW_TOKENS)
    found = []
    for (pair, scores_N), answer in zip(wanted, answers, strict=True):
        if answer.text == NO_WORDS:
            continue
        said = as_generated(scan, pair.prompt, answer.text)
        kept_VN, keys = curve_masks(scores_N, random_orders)
        curves: dict[tuple[str, str, str], Floats] = {}
        for branch in BRANCHES:
            likely_V = log_likelihoods(scan, pair.prompt, said, kept_VN, branch=branch)
            for key in dict.fromkeys(keys):
                is_key = np.array([name == key for name in keys])
                curves[branch, *key] = (likely_V[is_key] - likely_V[0]).reshape(-1, num_steps).mean(axis=0)
        found.append(QuestionCurves(volume=case.id, topic=pair.topic, curves=curves))
    return found


def curve_masks(
    scores_N: Floats, random_orders: Sequence[NDArray[np.int_]]
) -> tuple[NDArray[np.bool_], list[tuple[str, str]]]:
    """Which slices are kept at every step of every curve (V, N), and each row's (curve, order); the first keeps all.

    random_orders: the same for all questions of a scan, whose masked versions are then encoded once.
    """
    num_slices = len(scores_N)
    heaviest = np.argsort(-scores_N, kind="stable")
    orders = [("heaviest", heaviest), ("lightest", heaviest[::-1])]
    orders += [("random", order) for order in random_orders]
    masks, keys = [], []
    for curve in CURVES:
        for order, slices in orders:
            for step in steps_of(num_slices):
                kept = np.full(num_slices, curve == "deletion")
                kept[slices[:step]] = curve == "insertion"
                masks.append(kept)
                keys.append((curve, order))
    assert masks[0].all()
    return np.array(masks), keys


def mean_curves(curves: Sequence[QuestionCurves], *, branches: Sequence[str] = BRANCHES) -> dict[str, Any]:
    """{branch: {curve: {order: {"mean": per step, "ci95": per step}}}}."""
    volumes = [one.volume for one in curves]

    def along_steps(*key: str) -> dict[str, Any]:
        values_QS = np.array([one.curves[key[0], key[1], key[2]] for one in curves])
        ends = [mean_interval(values_Q, volumes, draws=500) for values_Q in values_QS.T]
        return {"mean": [end.value for end in ends], "ci95": [end.ends for end in ends]}

    return {
        branch: {curve: {order: along_steps(branch, curve, order) for order in ORDERS} for curve in CURVES}
        for branch in branches
    }


def area_gains(
    curves: Sequence[QuestionCurves], steps: Sequence[int], num_slices: int, *, branches: Sequence[str] = BRANCHES
) -> list[dict[str, Any]]:
    """How much faster the answer is lost (or found) by the heaviest slices than by others: area between two curves."""
    across = np.asarray(steps) / num_slices
    volumes = [one.volume for one in curves]
    found: list[dict[str, Any]] = []
    for branch, curve, other in product(branches, CURVES, ("random", "lightest")):
        sign = 1.0 if curve == "deletion" else -1.0
        differences = [one.curves[branch, curve, other] - one.curves[branch, curve, "heaviest"] for one in curves]
        gain = np.array([sign * np.trapezoid(difference, across) for difference in differences])
        interval = mean_interval(gain, volumes)
        by_volume = np.array([gain[[v == name for v in volumes]].mean() for name in dict.fromkeys(volumes)])
        spread = float(np.std(by_volume, ddof=1)) if len(by_volume) > 1 else 0.0
        found.append(
            {
                "branch": branch,
                "curve": curve,
                "against": other,
                "gain": interval.value,
                "ci95": interval.ends,
                "p": sign_flip_p(by_volume),
                "effect_size_d": float(by_volume.mean()) / spread if spread > 0 else None,
            }
        )
    for entry, corrected in zip(found, holm([entry["p"] for entry in found]), strict=True):
        entry["p_holm"] = corrected
    return found


def verdict_of(found: Mapping[str, Any]) -> dict[str, Any]:
    """Plain answers: does the model use what it points at, and does it point at what is true? None of one scan."""
    against_random = [entry for entry in found["gains"] if entry["against"] == "random"]
    gains = {branch: [one for one in against_random if one["branch"] == branch] for branch in found["curves"]}
    used = {
        branch: None
        if any(one["ci95"] is None for one in of_branch)
        else all(one["ci95"][0] > 0 and one["p_holm"] < 0.05 for one in of_branch)
        for branch, of_branch in gains.items()
    }
    evidence = found["evidence"]
    return {
        "answers_rest_on_the_heaviest_slices": used["whole"],
        "answers_rest_on_the_heaviest_slices_of_the_2d_branch": used.get("slices"),
        "excess_mass_reaches_the_aim": None if evidence is None else evidence["excess"] >= AIM,
        "aim": AIM,
    }
