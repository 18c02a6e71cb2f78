"""Do the answers rest on the slices that the scores point at? Deletion and insertion curves, and the mass on the truth.

Deletion: take the k heaviest (or random, or lightest) slices away; a faithful score makes the answer's log-likelihood
fall fastest when the heaviest go. Insertion: show only k slices. A curve is log p(k) - log p(nothing taken away), its
area is over k / N. gain = area(random) - area(heaviest) for deletion, the other way round for insertion; above 0 is
faithful.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from slicesight.data.dataset import Dataset
from slicesight.data.manifest import Case
from slicesight.errors import InputError
from slicesight.evaluation.controls import MAX_NEW_TOKENS
from slicesight.evaluation.likelihood import (
    BRANCHES,
    MaskableScan,
    answer_token_mask,
    log_likelihoods,
    open_scan,
    score_questions,
)
from slicesight.evaluation.score_claims import AskedScores, ask_for_claims, weigh_claims
from slicesight.evaluation.sheet import score_evidence
from slicesight.evaluation.statistics import Floats, holm, mean_interval, sign_flip_p

if TYPE_CHECKING:
    from slicesight.inference.predictor import Predictor

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
    reader: Predictor,
    source: Dataset,
    *,
    tasks: Sequence[str] = ("open", "closed"),
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Everything that is known about how faithful a model's slice scores are, as numbers with intervals by volume.

    Raises:
        InputError: the model does not weigh slices, or weighs those of several planes.
    """
    if reader.model.scorer is None or reader.model.config.aggregation == "max":
        raise InputError(f"{reader.card.name} has no slice scores to be faithful; choose a model that weighs slices.")
    if reader.planes:
        raise InputError(
            f"{reader.card.name} weighs {', '.join(reader.planes)} slices together, and none of them can be taken "
            "away alone; choose a model of one plane."
        )
    curves: list[QuestionCurves] = []
    pointed: list[tuple[Sequence[float], Sequence[int] | None, str]] = []
    asked: list[AskedScores] = []
    for place, case in enumerate(source.cases):
        if progress is not None:
            progress(place, len(source.cases))
        grid = source.grid(case, reader.grid_spec)
        scan = open_scan(reader, grid)
        prompts = [pair.prompt for pair in case.conversations]
        scores_QN = score_questions(scan, prompts)
        for number, pair in enumerate(case.conversations):
            shown = grid.grid_slices_of(pair.source_slices) if pair.source_slices is not None else ()
            true = shown if 0 < len(shown) < len(grid.slices) else None
            pointed.append((tuple(scores_QN[number]), true, case.id))
        asked += ask_for_claims(scan, case)
        curves += _curves_of(scan, case, grid, scores_QN, tasks=tasks, rng=np.random.default_rng([seed, place]))
    if progress is not None:
        progress(len(source.cases), len(source.cases))
    num_slices = reader.model.config.image_size[0]
    evidence = score_evidence(pointed)
    found = {
        "model": reader.card.name,
        "scoring": scoring_words(reader),
        "num_volumes": len(source.cases),
        "num_questions": len(curves),
        "num_slices": num_slices,
        "steps": steps_of(num_slices),
        "curves": _mean_curves(curves),
        "gains": _gains(curves, steps_of(num_slices), num_slices),
        "evidence": evidence,
        "claims": weigh_claims(asked),
    }
    return {**found, "verdict": _verdict(found)}


def scoring_words(reader: Predictor) -> dict[str, Any]:
    """The words of the configuration that make the scores."""
    config = reader.model.config
    names = ("aggregation", "scoring_inputs", "question_source", "score_norm", "score_dim", "learn_score_scale")
    words = {name: getattr(config, name, None) for name in names}
    log_scale = getattr(reader.model.scorer, "log_scale", None)
    words["score_scale"] = float(config.score_scale) if log_scale is None else float(log_scale.detach().exp())
    words["score_heads"] = getattr(config, "score_heads", 1)
    return words


def _curves_of(
    scan: MaskableScan, case: Case, grid: Any, scores_QN: Floats, *, tasks: Sequence[str], rng: np.random.Generator
) -> list[QuestionCurves]:
    from slicesight.inference.answers import NO_WORDS

    random_orders = [rng.permutation(len(grid.slices)) for _ in range(NUM_RANDOM)]
    wanted = [number for number, pair in enumerate(case.conversations) if pair.task in tasks]
    prompts = [case.conversations[number].prompt for number in wanted]
    answers = scan.reader.ask(grid, prompts, max_new_tokens=MAX_NEW_TOKENS)
    found = []
    for number, prompt, answer in zip(wanted, prompts, answers, strict=True):
        if answer.text == NO_WORDS:
            continue
        said = answer_token_mask(scan, prompt, answer.text)
        kept_VN, keys = _masks(scores_QN[number], random_orders)
        curves: dict[tuple[str, str, str], Floats] = {}
        for branch in BRANCHES:
            likely_V = log_likelihoods(scan, prompt, said, kept_VN, branch=branch)
            whole = likely_V[0]
            for key in dict.fromkeys(keys):
                places = [place for place, name in enumerate(keys) if name == key]
                per_step = np.array([likely_V[place] - whole for place in places])
                num_steps = len(steps_of(len(grid.slices)))
                curves[branch, *key] = per_step.reshape(-1, num_steps).mean(axis=0)
        found.append(QuestionCurves(volume=case.id, topic=case.conversations[number].topic, curves=curves))
    return found


def _masks(
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


def _mean_curves(curves: Sequence[QuestionCurves]) -> dict[str, Any]:
    """{branch: {curve: {order: {"mean": per step, "ci95": per step}}}}."""
    volumes = [one.volume for one in curves]
    found: dict[str, Any] = {}
    for branch in BRANCHES:
        found[branch] = {}
        for curve in CURVES:
            found[branch][curve] = {}
            for order in ORDERS:
                values = np.array([one.curves[branch, curve, order] for one in curves])
                ends = [mean_interval(values[:, step], volumes, draws=500) for step in range(values.shape[1])]
                found[branch][curve][order] = {
                    "mean": [end.value for end in ends],
                    "ci95": [[end.low, end.high] for end in ends],
                }
    return found


def _gains(curves: Sequence[QuestionCurves], steps: Sequence[int], num_slices: int) -> list[dict[str, Any]]:
    """How much faster the answer is lost (or found) by the heaviest slices than by others: area between two curves."""
    across = np.asarray(steps) / num_slices
    volumes = [one.volume for one in curves]
    names = list(dict.fromkeys(volumes))
    found: list[dict[str, Any]] = []
    for branch in BRANCHES:
        for curve in CURVES:
            sign = 1.0 if curve == "deletion" else -1.0
            for other in ("random", "lightest"):
                gain = np.array(
                    [
                        sign
                        * np.trapezoid(one.curves[branch, curve, other] - one.curves[branch, curve, "heaviest"], across)
                        for one in curves
                    ]
                )
                interval = mean_interval(gain, volumes)
                by_volume = np.array([gain[[v == name for v in volumes]].mean() for name in names])
                spread = float(np.std(by_volume, ddof=1)) if len(names) > 1 else 0.0
                found.append(
                    {
                        "branch": branch,
                        "curve": curve,
                        "against": other,
                        "gain": interval.value,
                        "ci95": [interval.low, interval.high],
                        "p": sign_flip_p(by_volume),
                        "effect_size_d": float(by_volume.mean()) / spread if spread > 0 else None,
                    }
                )
    for entry, corrected in zip(found, holm([entry["p"] for entry in found]), strict=True):
        entry["p_holm"] = corrected
    return found


def _verdict(found: Mapping[str, Any]) -> dict[str, Any]:
    """Plain answers: does the model use what it points at, and does it point at what is true?"""

    def gain(branch: str, curve: str) -> dict[str, Any]:
        return next(
            entry
            for entry in found["gains"]
            if (entry["branch"], entry["curve"], entry["against"]) == (branch, curve, "random")
        )

    used = {
        branch: all(gain(branch, curve)["ci95"][0] > 0 and gain(branch, curve)["p_holm"] < 0.05 for curve in CURVES)
        for branch in BRANCHES
    }
    evidence = found["evidence"]
    return {
        "answers_rest_on_the_heaviest_slices": used["whole"],
        "answers_rest_on_the_heaviest_slices_of_the_2d_branch": used["slices"],
        "excess_mass_reaches_the_aim": None if evidence is None else evidence["excess"] >= AIM,
        "aim": AIM,
    }
