"""Do a guest's answers rest on the slices that occlusion points at? The same curves as for a model with slice scores.

Only the whole scan can be blanked: a guest has no 2D branch of its own. The shares were measured by the very blanking
that the deletion curve repeats, so that deletion is no test of its own; insertion, for which no mask was measured, and
the mass on the true slices are. The paper's claims are about slice scores and are not asked of a guest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from slicesight.data.dataset import Dataset
from slicesight.errors import InputError
from slicesight.evaluation.controls import MAX_NEW_TOKENS, true_slices
from slicesight.evaluation.faithfulness import (
    NUM_RANDOM,
    QuestionCurves,
    area_gains,
    curve_masks,
    mean_curves,
    steps_of,
    verdict_of,
)
from slicesight.evaluation.metrics.evidence import Pointed, score_evidence
from slicesight.evaluation.predict import slice_places_mm
from slicesight.evaluation.statistics import Floats
from slicesight.inference.answers import Progress
from slicesight.inference.guests.guest import GuestQuestion
from slicesight.inference.guests.predictor import GuestPredictor
from slicesight.inference.occlusion import Likelihood, occlude

WHOLE = ("whole",)
NOTE = "its shares were measured by the blanking that deletion repeats: insertion and the excess mass are the tests"


def measure_guest(
    predictor: GuestPredictor, source: Dataset, *, tasks: Sequence[str], seed: int, progress: Progress
) -> dict[str, Any]:
    """As `faithfulness.measure`, of a guest.

    Raises:
        InputError: the guest tells no likelihood, said nothing to any question, or was shown different numbers of
            slices.
    """
    name = predictor.card.name
    curves: list[QuestionCurves] = []
    pointed: list[Pointed] = []
    shown: set[int] = set()
    for place, case in enumerate(source.cases):
        progress(place, len(source.cases))
        grid = source.grid(case, predictor.grid_spec)
        scan = predictor.encode(grid)
        shown.add(len(grid.slices))
        if len(shown) > 1:
            raise InputError(
                f"{name} was shown {' and '.join(map(str, sorted(shown)))} slices; curves of one length need a "
                f"--preset of at most {min(shown)} slices."
            )
        rng = np.random.default_rng([seed, place])
        random_orders = [rng.permutation(len(grid.slices)) for _ in range(NUM_RANDOM)]
        for pair in case.conversations:
            if pair.task not in tasks:
                continue
            asked = GuestQuestion(question=pair.prompt, shown=scan.shown, max_new_tokens=MAX_NEW_TOKENS)
            said = predictor.guest.answer(asked)
            if not said.text.strip():
                continue
            found = predictor.guest.likelihood(asked, said)
            if found is None:
                raise InputError(f"{name} does not say how likely its answers are, so nothing can be measured.")
            likelihood, _ = found
            shares = occlude(likelihood, len(grid.slices), max_passes=predictor.evidence_passes or None).shares
            pointed.append(
                Pointed(
                    scores=shares,
                    true_slices=true_slices(pair, grid),
                    volume=case.id,
                    places_mm=slice_places_mm(grid),
                    measured_by="occlusion",
                )
            )
            kept_VN, keys = curve_masks(np.array(shares), random_orders)
            likely_V = _each_once(likelihood, kept_VN)
            num_steps = len(steps_of(len(grid.slices)))
            along = {
                ("whole", *key): (likely_V[[one == key for one in keys]] - likely_V[0])
                .reshape(-1, num_steps)
                .mean(axis=0)
                for key in dict.fromkeys(keys)
            }
            curves.append(QuestionCurves(volume=case.id, topic=pair.topic, curves=along))
    progress(len(source.cases), len(source.cases))
    if not curves:
        raise InputError(
            f"{name} said nothing to any question, so there is no answer whose evidence could be measured."
        )
    num_slices = shown.pop()
    result = {
        "model": name,
        "measured_by": "occlusion",
        "note": NOTE,
        "scoring": {"preset": predictor.guest.preset.name, "evidence_passes": predictor.evidence_passes},
        "num_volumes": len(source.cases),
        "num_questions": len(curves),
        "num_slices": num_slices,
        "steps": steps_of(num_slices),
        "curves": mean_curves(curves, branches=WHOLE),
        "gains": area_gains(curves, steps_of(num_slices), num_slices, branches=WHOLE),
        "evidence": score_evidence(pointed),
        "claims": {},
    }
    return {**result, "verdict": verdict_of(result)}


def _each_once(likelihood: Likelihood, kept_VN: np.ndarray[Any, np.dtype[np.bool_]]) -> Floats:
    """The likelihood under every mask, the same mask measured once."""
    unique_UN, row_V = np.unique(kept_VN, axis=0, return_inverse=True)
    found: Floats = likelihood(unique_UN)[row_V.reshape(-1)]
    return found
