"""How far does a vector lie from those seen before? A Gaussian in its main directions, and one number for the rest.

Few scans and many numbers each: the covariance is kept along the K directions of largest variance, shrunk toward their
mean, and as one variance for all others (probabilistic PCA, Tipping and Bishop 1999). The distance is Mahalanobis' in
that model. n vectors of D numbers, K directions, G groups with a mean of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
SHRINKAGE = 0.1
"""Weight of the mean variance in each direction's own."""
LEAST = 1e-9
LEAST_SCALE = 1e-6
LEAST_REST = 0.02
"""Of the variance of a number as it is scaled: what never varied among few scans may yet vary a little."""


@dataclass(frozen=True, kw_only=True)
class SubspaceGaussian:
    """means: (G, D) by group; scale: (D,) that every number is divided by; directions: (K, D), orthonormal; variances:
    (K,) along them; rest: variance of what they leave, per number."""

    means: Floats
    scale: Floats
    directions: Floats
    variances: Floats
    rest: float

    def distance(self, vectors_nD: Floats, groups: Sequence[int]) -> Floats:
        """Mahalanobis distance of each from its group's mean, per number -> (n,)."""
        centred = (vectors_nD - self.means[list(groups)]) / self.scale
        along_nK = centred @ self.directions.T
        left = np.maximum(0.0, (centred**2).sum(axis=1) - (along_nK**2).sum(axis=1))
        squared = (along_nK**2 / self.variances).sum(axis=1) + left / self.rest
        found: Floats = np.sqrt(squared / vectors_nD.shape[1])
        return found


def fit_gaussian(
    vectors_nD: Floats, groups: Sequence[int], *, num_groups: int, most_directions: int = 32
) -> SubspaceGaussian:
    """The Gaussian of n vectors, each centred in its group; a group without vectors has the mean of all."""
    labels = np.asarray(groups)
    means = np.stack(
        [
            vectors_nD[labels == group].mean(axis=0) if (labels == group).any() else vectors_nD.mean(axis=0)
            for group in range(num_groups)
        ]
    )
    centred = vectors_nD - means[labels]
    scale = centred.std(axis=0)
    scale = np.where(scale > LEAST + 1e-3 * scale.max(initial=0.0), scale, max(float(scale.max(initial=0.0)), 1.0))
    scaled = centred / scale
    count, size = scaled.shape
    free = max(1, count - len(np.unique(labels)))
    kept = max(1, min(most_directions, free // 3, size))
    _, lengths, directions = np.linalg.svd(scaled, full_matrices=False)
    variances = lengths**2 / free
    along, others = variances[:kept], variances[kept:]
    rest = max(LEAST_REST, float(others.sum()) / max(1, size - kept))
    shrunk = (1 - SHRINKAGE) * along + SHRINKAGE * along.mean()
    return SubspaceGaussian(
        means=means, scale=scale, directions=directions[:kept], variances=np.maximum(shrunk, rest), rest=rest
    )


@dataclass(frozen=True, kw_only=True)
class TwoClasses:
    """A linear rule between vectors as they should be and changed ones: weights (D,), its value for each class."""

    weights: Floats
    usual: float
    changed: float

    def score(self, vectors_nD: Floats) -> Floats:
        """0 where a vector is as it should be, 1 where it is as a changed one -> (n,)."""
        found: Floats = (vectors_nD @ self.weights - self.usual) / (self.changed - self.usual)
        return found


def fit_two_classes(usual_nD: Floats, changed_nD: Floats, *, ridge: float = 1.0) -> TwoClasses:
    """Fisher's discriminant with a ridge, for more numbers than vectors: solved in the space of the vectors."""
    middle = usual_nD.mean(axis=0), changed_nD.mean(axis=0)
    within = np.concatenate([usual_nD - middle[0], changed_nD - middle[1]])
    within = within / np.sqrt(len(within))
    strength = ridge * float((within**2).sum()) / usual_nD.shape[1] + LEAST
    step = middle[1] - middle[0]
    inner = within @ within.T + strength * np.eye(len(within))  # Woodbury
    weights = (step - within.T @ np.linalg.solve(inner, within @ step)) / strength
    values = float(middle[0] @ weights), float(middle[1] @ weights)
    if values[1] - values[0] < LEAST:
        return TwoClasses(weights=np.zeros_like(weights), usual=0.0, changed=1.0)
    return TwoClasses(weights=weights, usual=values[0], changed=values[1])


def fit_scaled_classes(usual_nD: Floats, changed_nD: Floats) -> TwoClasses:
    """`fit_two_classes` of numbers in their own units, each first divided by how much it varies."""
    middle, scale = usual_nD.mean(axis=0), np.concatenate([usual_nD, changed_nD]).std(axis=0)
    scale = np.where(scale > LEAST_SCALE, scale, 1.0)  # what is the same in all says nothing
    rule = fit_two_classes((usual_nD - middle) / scale, (changed_nD - middle) / scale)
    weights = rule.weights / scale
    shift = float(middle @ weights)
    return TwoClasses(weights=weights, usual=rule.usual + shift, changed=rule.changed + shift)
