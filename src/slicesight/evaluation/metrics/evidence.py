"""Do the slices that an answer points at show what was asked? Four numbers, for slice scores and for occlusion alike.

N slices of one stack with weights w >= 0 that sum to 1, of which the slices S truly show what is asked:

    excess mass      (sum of w over S - |S| / N) / (1 - |S| / N)   1 at best, 0 for an even spread, below 0 elsewhere
    pointing game    1 where the heaviest slice is in S             (Zhang et al., IJCV 2018, on slices)
    range IoU        |R ∩ S| / |R ∪ S|, R the shortest run of neighbouring slices that holds half of the weight
    distance in mm   from the centre of the heaviest slice to that of the nearest one in S; 0 within

Beside each stands what chance gives on the same question: a slice, or a run of R's length, drawn evenly. Slices of one
weight are all the heaviest: their mean counts, so that an even spread is never right by its order. Questions that half
of the slices or more show have no place to point at and are left out. Intervals are drawn by volume.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from slicesight.errors import InputError
from slicesight.evaluation.statistics import Floats, mean_interval

HALF = 0.5
SUM_TOLERANCE = 1e-3
MEASURES = ("pointing_game", "range_iou", "distance_mm")


@dataclass(frozen=True, kw_only=True)
class Pointed:
    """What one question's answer points at.

    scores: a weight per slice, or what leaving each out costs (occlusion); true_slices: those that show what is asked.
    volume: by which intervals are drawn. places_mm: where the slices' centres lie, as numbers along the stack or as
    (x, y, z); None where nobody knows. measured_by: "scores" or "occlusion".
    """

    scores: Sequence[float] | None
    true_slices: Sequence[int] | None
    volume: str
    places_mm: ArrayLike | None = None
    measured_by: str = "scores"

    @classmethod
    def of(cls, given: Pointed | Bare) -> Pointed:
        """The same of a bare tuple."""
        if isinstance(given, Pointed):
            return given
        scores, true_slices, volume = given
        return cls(scores=scores, true_slices=true_slices, volume=volume)


def as_weights(values_N: ArrayLike) -> Floats:
    """Weights >= 0 that sum to 1: scores as they are, what occlusion costs without its negative part.

    Where nothing is above 0 all slices weigh alike: nothing is pointed at.
    """
    values = np.asarray(values_N, dtype=np.float64)
    if not np.isfinite(values).all():
        raise InputError("a slice's score is not a finite number; expected one number per slice")
    if values.min(initial=0.0) >= 0 and abs(values.sum() - 1) < SUM_TOLERANCE:
        return values
    positive = values.clip(min=0)
    total = positive.sum()
    return positive / total if total > 0 else np.full(len(values), 1 / len(values))


def excess_mass(weights_N: Floats, is_true_N: NDArray[np.bool_]) -> float:
    """How much more weight lies on the true slices than an even spread has there."""
    share = is_true_N.mean()
    return float((weights_N[is_true_N].sum() - share) / (1 - share))


def pointing_game(weights_N: Floats, is_true_N: NDArray[np.bool_]) -> float:
    """Whether the heaviest slice is a true one; the share of them where several are the heaviest."""
    return float(is_true_N[heaviest(weights_N)].mean())


def range_iou(weights_N: Floats, is_true_N: NDArray[np.bool_]) -> tuple[float, float]:
    """(IoU of the run that holds half of the weight, IoU of a run as long drawn evenly)."""
    starts, length = shortest_runs(weights_N)
    ious = _iou_of_runs(is_true_N, length)
    return float(ious[starts].mean()), float(ious.mean())


def distance_mm(weights_N: Floats, is_true_N: NDArray[np.bool_], places_mm: ArrayLike) -> tuple[float, float]:
    """(mm from the heaviest slice to the nearest true one, the same of a slice drawn evenly)."""
    places = np.asarray(places_mm, dtype=np.float64).reshape(len(weights_N), -1)
    nearest_N = np.linalg.norm(places[:, None] - places[is_true_N][None], axis=-1).min(axis=1)
    return float(nearest_N[heaviest(weights_N)].mean()), float(nearest_N.mean())


def heaviest(weights_N: Floats) -> NDArray[np.int64]:
    """The places of the heaviest slices, several where they weigh the same."""
    return np.flatnonzero(weights_N >= weights_N.max() * (1 - 1e-12))


def shortest_runs(weights_N: Floats, *, share: float = HALF) -> tuple[NDArray[np.int64], int]:
    """(where they begin, how long): the shortest runs of neighbours with at least `share` of the weight.

    Of several of one length the heaviest, all of those that weigh the same.
    """
    sums = np.concatenate([[0.0], np.cumsum(weights_N)])
    wanted = share * sums[-1] * (1 - 1e-9)
    for length in range(1, len(weights_N) + 1):
        held = sums[length:] - sums[:-length]
        if held.max() >= wanted:
            return np.flatnonzero(held >= held.max() * (1 - 1e-9)), length
    raise AssertionError("all slices together hold all of the weight")


Bare = tuple[Sequence[float] | None, Sequence[int] | None, str]
"""(scores, true_slices, volume), where that is all there is."""


def score_evidence(pointed: Iterable[Pointed | Bare]) -> dict[str, Any] | None:
    """The four numbers with their intervals and what chance gives; None where no question has a place to point at.

    mass, share, excess and excess_ci95 stand for themselves; each of MEASURES has value, ci95, chance, gain (how much
    better than chance: more of the first two, fewer mm) and gain_ci95, and is None where it could not be had.
    """
    masses, shares, volumes, methods = [], [], [], []
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in MEASURES}
    nothing = (np.nan, np.nan)
    for given in pointed:
        one = Pointed.of(given)
        true = list(dict.fromkeys(one.true_slices or ()))
        num_slices = len(one.scores or ())
        share = len(true) / num_slices if num_slices else 1.0
        if not 0 < share < HALF:
            continue
        weights_N, is_true_N = as_weights(one.scores or ()), np.zeros(num_slices, dtype=bool)
        if min(true) < 0 or max(true) >= num_slices:
            raise InputError(f"true slice {max(true)} of a stack of {num_slices}; expected numbers from 0")
        is_true_N[true] = True
        masses.append(float(weights_N[true].sum()))
        shares.append(share)
        volumes.append(one.volume)
        methods.append(one.measured_by)
        found["pointing_game"].append((pointing_game(weights_N, is_true_N), share))
        found["range_iou"].append(range_iou(weights_N, is_true_N))
        found["distance_mm"].append(
            nothing if one.places_mm is None else distance_mm(weights_N, is_true_N, one.places_mm)
        )
    if not masses:
        return None
    mass, share_array = np.array(masses), np.array(shares)
    excess = mean_interval((mass - share_array) / (1 - share_array), volumes)
    return {
        "mass": float(mass.mean()),
        "share": float(share_array.mean()),
        "excess": excess.value,
        "excess_ci95": excess.ends,
        "num_questions": len(masses),
        **{name: _beside_chance(np.array(pairs), volumes, name) for name, pairs in found.items()},
        "measured_by": {name: methods.count(name) for name in dict.fromkeys(methods)},
    }


def _beside_chance(pairs_Q2: Floats, volumes: Sequence[str], name: str) -> dict[str, Any] | None:
    """One measure's mean and its gain over chance, of the questions that have it."""
    if np.isnan(pairs_Q2).all():
        return None
    value_Q, chance_Q = pairs_Q2.T
    gain_Q = chance_Q - value_Q if name == "distance_mm" else value_Q - chance_Q
    value, gain = mean_interval(value_Q, volumes), mean_interval(gain_Q, volumes)
    return {
        **value.to_dict(),
        "chance": float(np.nanmean(chance_Q)),
        "gain": gain.value,
        "gain_ci95": gain.ends,
        "num_questions": int((~np.isnan(value_Q)).sum()),
    }


def _iou_of_runs(is_true_N: NDArray[np.bool_], length: int) -> Floats:
    """IoU with the true slices of every run of this length, by where it begins."""
    sums = np.concatenate([[0], np.cumsum(is_true_N)])
    shared = sums[length:] - sums[:-length]
    found: Floats = shared / (length + sums[-1] - shared)
    return found
