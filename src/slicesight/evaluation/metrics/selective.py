"""May an answer be believed the more, the surer the system says it is? Risk and coverage, calibration, by patient.

Q answers, each with a confidence c in [0, 1] and right y (1 or 0), sorted by falling c; k of them kept:

    risk(k) = share of wrong answers among the k surest        coverage(k) = k / Q
    AURC    = mean over k of risk(k)                           (Geifman & El-Yaniv, NeurIPS 2017)
    ECE     = sum over bins of |B| / Q · |mean y - mean c|     (Guo et al., ICML 2017; 15 equal bins, (low, high])
    Brier   = mean (c - y)^2                                   (Brier, 1950)

Answers of one confidence have no order among themselves: what depends on it is the mean over all their orders. T
distinct confidences, P patients (or whatever is drawn), R bootstrap draws of P. Plain arrays only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from slicesight.errors import InputError
from slicesight.evaluation.statistics import DRAWS, Floats, bounds

NUM_BINS = 15
COVERAGE = 0.8
CURVE_POINTS = 101
_CHUNK = 4_000_000


def risk_coverage(confidence_Q: ArrayLike, right_Q: ArrayLike) -> tuple[Floats, Floats]:
    """Coverage k / Q and risk of the k surest answers, k = 1 … Q -> two (Q,).

    Raises:
        InputError: no answers, another number of each, a confidence outside 0…1, or a right that is neither 0 nor 1.
    """
    confidence, right = _checked(confidence_Q, right_Q)
    blocks = _Blocks.of(confidence)
    counts_T, right_T = blocks.sums(np.ones(len(right))), blocks.sums(right)
    before_T, right_before_T = np.cumsum(counts_T) - counts_T, np.cumsum(right_T) - right_T
    block_Q = np.repeat(np.arange(len(counts_T)), counts_T.astype(int))
    place_Q = np.arange(1, len(right) + 1)
    share_T = right_T / counts_T
    kept_right_Q = right_before_T[block_Q] + (place_Q - before_T[block_Q]) * share_T[block_Q]
    return place_Q / len(right), 1.0 - kept_right_Q / place_Q


def aurc(confidence_Q: ArrayLike, right_Q: ArrayLike) -> float:
    """Area under the risk-coverage curve: 0 at best, the whole risk for a confidence that says nothing."""
    return float(risk_coverage(confidence_Q, right_Q)[1].mean())


def accuracy_at(confidence_Q: ArrayLike, right_Q: ArrayLike, *, coverage: float = COVERAGE) -> float:
    """Share of right answers among the ceil(coverage · Q) surest."""
    if not 0 < coverage <= 1:
        raise InputError(f"coverage is {coverage!r}; expected a share above 0, at most 1")
    risk_Q = risk_coverage(confidence_Q, right_Q)[1]
    return float(1.0 - risk_Q[_num_kept(len(risk_Q), coverage) - 1])


def brier(confidence_Q: ArrayLike, right_Q: ArrayLike) -> float:
    """Mean squared distance of the confidence from what came true."""
    confidence, right = _checked(confidence_Q, right_Q)
    return float(np.mean((confidence - right) ** 2))


def reliability(confidence_Q: ArrayLike, right_Q: ArrayLike, *, num_bins: int = NUM_BINS) -> list[dict[str, Any]]:
    """Every bin: low, high, num_answers, and, where it holds any, mean confidence and share of right answers."""
    confidence, right = _checked(confidence_Q, right_Q)
    place_Q, edges = _bins_of(confidence, num_bins), np.linspace(0, 1, num_bins + 1)
    found = []
    for number in range(num_bins):
        inside = place_Q == number
        count = int(inside.sum())
        found.append(
            {
                "low": float(edges[number]),
                "high": float(edges[number + 1]),
                "num_answers": count,
                "confidence": float(confidence[inside].mean()) if count else None,
                "accuracy": float(right[inside].mean()) if count else None,
            }
        )
    return found


def expected_calibration_error(confidence_Q: ArrayLike, right_Q: ArrayLike, *, num_bins: int = NUM_BINS) -> float:
    """How far confidence and share of right answers lie apart, averaged over the bins by their answers."""
    bins = reliability(confidence_Q, right_Q, num_bins=num_bins)
    total = sum(one["num_answers"] for one in bins)
    apart = [one["num_answers"] * abs(one["accuracy"] - one["confidence"]) for one in bins if one["num_answers"]]
    return float(sum(apart) / total)


def measure_selective(
    confidence_Q: ArrayLike, right_Q: ArrayLike, patients: Sequence[str] | None, *, draws: int = DRAWS
) -> dict[str, Any]:
    """All of it as a sheet holds it, every number with its interval (patients are drawn).

    Beside AURC stands that of the best order and that of none (the risk), and `gain`, risk minus AURC: above 0 the
    confidence says something. Beside Brier stands that of one who always says the accuracy.

    Args:
        patients: whose answer it is; None leaves the intervals out.
    """
    confidence, right = _checked(confidence_Q, right_Q)
    accuracy = float(right.mean())
    values = {
        "accuracy": accuracy,
        "confidence": float(confidence.mean()),
        "aurc": aurc(confidence, right),
        "gain": 1.0 - accuracy - aurc(confidence, right),
        "accuracy_at_80": accuracy_at(confidence, right),
        "ece": expected_calibration_error(confidence, right),
        "brier": brier(confidence, right),
    }
    ends = None if patients is None else _intervals(confidence, right, patients, draws=draws)
    coverage_Q, risk_Q = risk_coverage(confidence, right)
    shown = np.unique(np.linspace(0, len(risk_Q) - 1, min(len(risk_Q), CURVE_POINTS)).round().astype(int))
    return {
        "num_answers": len(right),
        "num_patients": None if patients is None else len(set(patients)),
        **{name: {"value": value, "ci95": None if ends is None else ends[name]} for name, value in values.items()},
        "aurc_best": aurc(right, right),
        "aurc_none": 1.0 - accuracy,
        "brier_constant": accuracy * (1.0 - accuracy),
        "curve": {"coverage": coverage_Q[shown].tolist(), "risk": risk_Q[shown].tolist()},
        "bins": reliability(confidence, right),
    }


@dataclass(frozen=True)
class _Blocks:
    """Answers in falling order of confidence, those of one confidence together. start_T: where each begins."""

    order_Q: NDArray[np.int64]  # noqa: N815
    start_T: NDArray[np.int64]  # noqa: N815

    @classmethod
    def of(cls, confidence_Q: Floats) -> _Blocks:
        order = np.argsort(-confidence_Q, kind="stable")
        falling = confidence_Q[order]
        return cls(order, np.flatnonzero(np.concatenate([[True], falling[1:] != falling[:-1]])))

    def sums(self, values_Q: Floats) -> Floats:
        """Of every block, over the last axis -> (…, T)."""
        found: Floats = np.add.reduceat(values_Q[..., self.order_Q], self.start_T, axis=-1)
        return found


def _intervals(
    confidence_Q: Floats, right_Q: Floats, patients: Sequence[str], *, draws: int
) -> dict[str, list[float] | None]:
    """[low, high] of every number, from one set of draws of patients; None of a single one."""
    names = {name: place for place, name in enumerate(dict.fromkeys(patients))}
    if len(patients) != len(right_Q):
        raise InputError(f"{len(patients)} patients for {len(right_Q)} answers; give one of each")
    patient_Q = np.array([names[name] for name in patients])
    blocks, place_Q, num_patients = _Blocks.of(confidence_Q), _bins_of(confidence_Q, NUM_BINS), len(names)
    largest = int(np.bincount(patient_Q).max()) * num_patients
    harmonic = np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, largest + 1))])

    def by_patient(values_Q: Floats) -> Floats:
        return np.bincount(patient_Q, weights=values_Q, minlength=num_patients).astype(np.float64)

    ones = np.ones(len(right_Q))
    sums_PM = [
        np.stack([by_patient(values * (place_Q == number)) for number in range(NUM_BINS)], axis=1)
        for values in (right_Q, confidence_Q)
    ]
    totals_P3 = np.stack([by_patient(values) for values in (ones, right_Q, confidence_Q)], axis=1)
    squares_P = by_patient((confidence_Q - right_Q) ** 2)
    rng, step = np.random.default_rng(0), max(1, _CHUNK // len(right_Q))
    drawn: dict[str, list[Floats]] = {}
    for first in range(0, draws, step):
        picked_RP = rng.multinomial(
            num_patients, np.full(num_patients, 1 / num_patients), size=min(step, draws - first)
        ).astype(float)
        count_R, right_R, said_R = (picked_RP @ totals_P3).T
        weight_RQ = picked_RP[:, patient_Q]
        weight_RT, right_RT = blocks.sums(weight_RQ), blocks.sums(weight_RQ * right_Q)
        area_R = _area(weight_RT, right_RT, harmonic) / count_R
        right_RM, said_RM = (picked_RP @ sums for sums in sums_PM)
        found = {
            "accuracy": right_R / count_R,
            "confidence": said_R / count_R,
            "aurc": area_R,
            "gain": 1.0 - right_R / count_R - area_R,
            "accuracy_at_80": _accuracy_at(weight_RT, right_RT, count_R),
            "ece": np.abs(right_RM - said_RM).sum(axis=1) / count_R,
            "brier": (picked_RP @ squares_P) / count_R,
        }
        for name, values in found.items():
            drawn.setdefault(name, []).append(values)
    return {name: bounds(np.concatenate(parts), num_patients) for name, parts in drawn.items()}


def _area(weight_RT: Floats, right_RT: Floats, harmonic: Floats) -> Floats:
    """Sum over k of risk(k) in every draw -> (R,).

    Within a block of w answers, a before it, l wrong ones before it and m the block's share of wrong ones:
    sum over j of (l + j m) / (a + j) = w m + (l - a m) (H(a + w) - H(a)).
    """
    before_RT = np.cumsum(weight_RT, axis=1) - weight_RT
    wrong_RT = weight_RT - right_RT
    wrong_before_RT = np.cumsum(wrong_RT, axis=1) - wrong_RT
    share_RT = np.divide(wrong_RT, weight_RT, out=np.zeros_like(wrong_RT), where=weight_RT > 0)
    first, last = before_RT.astype(int), (before_RT + weight_RT).astype(int)
    steps_RT = harmonic[last] - harmonic[first]
    area: Floats = (wrong_RT + (wrong_before_RT - before_RT * share_RT) * steps_RT).sum(axis=1)
    return area


def _accuracy_at(weight_RT: Floats, right_RT: Floats, count_R: Floats) -> Floats:
    """Share of right answers among the surest COVERAGE of every draw -> (R,)."""
    kept_R = np.array([_num_kept(int(count), COVERAGE) for count in count_R], dtype=float)
    before_RT = np.cumsum(weight_RT, axis=1) - weight_RT
    inside_RT = np.clip(kept_R[:, None] - before_RT, 0, weight_RT)
    share_RT = np.divide(right_RT, weight_RT, out=np.zeros_like(right_RT), where=weight_RT > 0)
    found: Floats = (inside_RT * share_RT).sum(axis=1) / kept_R
    return found


def _num_kept(count: int, coverage: float) -> int:
    """ceil(coverage · count), untouched by the last bit of 0.8 · 10."""
    return max(1, int(np.ceil(coverage * count - 1e-9)))


def _bins_of(confidence_Q: Floats, num_bins: int) -> NDArray[np.int64]:
    """The bin (low, high] of every confidence; 0 lies in the first."""
    return np.searchsorted(np.linspace(0, 1, num_bins + 1)[1:-1], confidence_Q, side="left")


def _checked(confidence_Q: ArrayLike, right_Q: ArrayLike) -> tuple[Floats, Floats]:
    confidence, right = np.asarray(confidence_Q, dtype=np.float64), np.asarray(right_Q, dtype=np.float64)
    if confidence.ndim != 1 or confidence.shape != right.shape or not confidence.size:
        raise InputError(
            f"confidences are {confidence.shape} and rights {right.shape}; expected one of each for at least one answer"
        )
    outside = confidence[~((confidence >= 0) & (confidence <= 1))]
    if outside.size:
        raise InputError(f"a confidence is {outside[0]:g}; expected a probability from 0 to 1")
    if not np.isin(right, (0.0, 1.0)).all():
        raise InputError("right holds values other than 0 and 1; expected 1 for a right answer and 0 for a wrong one")
    return confidence, right
