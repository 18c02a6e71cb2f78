"""How often is an answer right that was as likely as this one? Likelihood to probability, by a kind's own curve.

Closed: confidence = sigmoid(a · logit(share of the named choice) + b), temperature and offset per kind (Platt 1999;
Guo et al. 2017 without the offset). Open: the same of the answer's own probability, beside its tokens' mean log p and
its least likely token. The fewer answers a kind has, the more its curve is drawn toward that of all closed, or all
open, questions, and that toward the model's own probability.
n answers, F numbers each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slicesight.inference.calibration.likelihood import AnswerLikelihood

Floats = NDArray[np.float64]
MOST_LOGIT = 12.0
PULL_TO_OWN, PULL_TO_ALL = 10.0, 4.0
"""How strongly the curve of all is drawn toward the model's own probability, and that of a kind toward that of all: a
model that is calibrated already, or a kind of few answers, is left as it is."""


@dataclass(frozen=True, kw_only=True)
class ConfidenceCurve:
    """weights: (F,) and offset of the standardised numbers; count: of answers it was fitted on."""

    middle: Floats
    scale: Floats
    weights: Floats
    offset: float
    count: int

    def confidence(self, numbers_F: Floats) -> float:
        """The probability that the answer is right; never nearer to 0 or 1 than the answers seen allow."""
        value = float((numbers_F - self.middle) / self.scale @ self.weights) + self.offset
        found = 1 / (1 + math.exp(-max(-MOST_LOGIT, min(MOST_LOGIT, value))))
        least = 0.5 / (self.count + 1)
        return max(least, min(1 - least, found))


def numbers_of(likelihood: AnswerLikelihood, *, is_closed: bool) -> Floats:
    """What the curve reads of an answer: (1,) for a closed question, (3,) for an open one."""
    own = min(1 - 1e-6, max(1e-6, uncalibrated(likelihood)))
    logit = math.log(own / (1 - own))
    logs = likelihood.token_logs or (0.0,)
    return np.array([logit] if is_closed else [logit, likelihood.total / len(logs), min(logs)])


def uncalibrated(likelihood: AnswerLikelihood) -> float:
    """The model's own probability: of the named choice among all, else of the answer's words."""
    return math.exp(likelihood.total) if likelihood.share is None else likelihood.share


def fit_curve(
    numbers_nF: Floats, is_right: Sequence[bool], *, toward: ConfidenceCurve | None = None
) -> ConfidenceCurve:
    """The likeliest curve, drawn toward another (or, without one, toward the first number being the logit)."""
    from scipy.optimize import minimize

    right = np.asarray(is_right, dtype=np.float64)
    if toward is None:
        middle, scale = numbers_nF.mean(axis=0), np.maximum(numbers_nF.std(axis=0), 1e-6)
        start = np.zeros(numbers_nF.shape[1] + 1)
        start[0], start[-1] = scale[0], middle[0]
        pull = np.full(start.shape, PULL_TO_OWN)
    else:
        middle, scale = toward.middle, toward.scale
        start = np.append(toward.weights, toward.offset)
        pull = np.full(start.shape, PULL_TO_ALL)
    inputs = np.column_stack([(numbers_nF - middle) / scale, np.ones(len(numbers_nF))])

    def loss(found: Floats) -> tuple[float, Floats]:
        values = inputs @ found
        total = np.logaddexp(0, values).sum() - (right * values).sum() + (pull * (found - start) ** 2).sum()
        slope = inputs.T @ (1 / (1 + np.exp(-values)) - right) + 2 * pull * (found - start)
        return float(total), slope

    best = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(-30, 30)] * len(start)).x
    return ConfidenceCurve(middle=middle, scale=scale, weights=best[:-1], offset=float(best[-1]), count=len(right))
