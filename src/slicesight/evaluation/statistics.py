"""How sure is a number, and is the difference between two systems more than chance? Volumes are drawn, not questions.

V volumes, G groups of questions (a metric of a topic), R draws. A volume's questions share its scan, so they are no
independent evidence: the bootstrap draws volumes, the paired test compares volumes. One volume drawn again and again
gives an interval of no width, which says the opposite of what one volume is worth: it has none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
DRAWS = 2000
FLIPS = 9999
FEWEST = 2
"""Volumes that have a value, below which nothing can be drawn."""
ONE_SCAN = "one scan: no interval"
EXACT_UP_TO = 13
LEVEL = 0.95
_CHUNK = 2_000_000


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A value with the ends of its 95 % bootstrap interval, NaN where there is none."""

    value: float
    low: float
    high: float

    @property
    def ends(self) -> list[float] | None:
        """[low, high]; None where there is no interval."""
        return _known(self.low, self.high)

    def to_dict(self) -> dict[str, Any]:
        """{"value", "ci95": [low, high] or None}."""
        return {"value": self.value, "ci95": self.ends}


def _known(low: float, high: float) -> list[float] | None:
    return None if np.isnan(low) else [low, high]


def volume_sums(volumes: Sequence[str], values: Floats) -> tuple[Floats, Floats]:
    """Sum and number of the values of every volume, in order of first appearance -> two (V,); NaN counts as absent."""
    names = {name: place for place, name in enumerate(dict.fromkeys(volumes))}
    places = np.array([names[name] for name in volumes], dtype=np.int64)
    given = ~np.isnan(values)
    sums: Floats = np.bincount(places[given], weights=values[given], minlength=len(names)).astype(np.float64)
    return sums, np.bincount(places[given], minlength=len(names)).astype(np.float64)


def draw_means(sums_VG: Floats, counts_VG: Floats, *, draws: int = DRAWS, seed: int = 0) -> Floats:
    """Means of all groups in every bootstrap draw of volumes -> (R, G); NaN where a draw holds none of a group."""
    num_volumes = len(sums_VG)
    rng = np.random.default_rng(seed)
    means = np.empty((draws, sums_VG.shape[1]))
    step = max(1, _CHUNK // max(1, num_volumes))
    for start in range(0, draws, step):
        stop = min(start + step, draws)
        picked_RV = rng.multinomial(num_volumes, np.full(num_volumes, 1 / num_volumes), size=stop - start)
        with np.errstate(invalid="ignore"):
            means[start:stop] = (picked_RV @ sums_VG) / (picked_RV @ counts_VG)
    return means


def draw_counts(num_volumes: int, *, draws: int = DRAWS, seed: int = 0) -> Iterator[Floats]:
    """How often each volume is in each bootstrap draw, some draws at a time -> (r, V), R rows in all."""
    rng = np.random.default_rng(seed)
    step = max(1, _CHUNK // max(1, num_volumes))
    for start in range(0, draws, step):
        size = min(step, draws - start)
        yield rng.multinomial(num_volumes, np.full(num_volumes, 1 / num_volumes), size=size).astype(np.float64)


def draw_sums(sums_VC: Floats, *, draws: int = DRAWS, seed: int = 0) -> Floats:
    """Sums of counts over volumes in every bootstrap draw of volumes -> (R, C)."""
    return np.concatenate([picked_rV @ sums_VC for picked_rV in draw_counts(len(sums_VC), draws=draws, seed=seed)])


def bounds(drawn: Floats, num_volumes: int) -> list[float] | None:
    """The middle 95 % of the draws (R,), those without a value left out.

    Args:
        num_volumes: that had a value to draw; None of fewer than FEWEST.
    """
    kept = drawn[~np.isnan(drawn)]
    if num_volumes < FEWEST or not len(kept):
        return None
    low, high = np.percentile(kept, (50 * (1 - LEVEL), 50 * (1 + LEVEL)))
    return [float(low), float(high)]


def mean_interval(values: Floats, volumes: Sequence[str] | None = None, *, draws: int = DRAWS) -> Interval:
    """Mean of the values with its interval; drawn by volume, or one value a volume where none are named."""
    names = [str(place) for place in range(len(values))] if volumes is None else volumes
    sums_V, counts_V = volume_sums(names, values)
    drawn = draw_means(sums_V[:, None], counts_V[:, None], draws=draws)[:, 0]
    low, high = bounds(drawn, int(np.count_nonzero(counts_V))) or (np.nan, np.nan)
    return Interval(value=float(np.nanmean(values)), low=low, high=high)


@dataclass(frozen=True, kw_only=True)
class Paired:
    """Two systems on the same volumes.

    difference: mean over volumes of (first - second), each averaged over questions and seeds. p: two-sided sign-flip
    permutation test. effect_size: Cohen's d of the paired differences, None where they do not vary. p_holm: p after
    Holm's correction over the family it was tested in. low, high: NaN of a single volume.
    """

    difference: float
    low: float
    high: float
    p: float
    effect_size: float | None
    num_volumes: int
    p_holm: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """The documented keys of a comparison."""
        return {
            "difference": self.difference,
            "ci95": _known(self.low, self.high),
            "p": self.p,
            "p_holm": self.p_holm,
            "effect_size_d": self.effect_size,
            "num_volumes": self.num_volumes,
        }


def compare(first: Sequence[Mapping[str, float]], second: Sequence[Mapping[str, float]]) -> Paired | None:
    """The paired test of two systems, each given as one {volume: mean} per seed; None without a common volume."""
    ours, theirs = _average(first), _average(second)
    differences_V = np.array([ours[name] - theirs[name] for name in ours if name in theirs])
    if not len(differences_V):
        return None
    spread = float(np.std(differences_V, ddof=1)) if len(differences_V) > 1 else 0.0
    interval = mean_interval(differences_V)
    return Paired(
        difference=interval.value,
        low=interval.low,
        high=interval.high,
        p=sign_flip_p(differences_V),
        effect_size=interval.value / spread if spread > 0 else None,
        num_volumes=len(differences_V),
    )


def effective_number(weights: Floats) -> float:
    """exp(entropy) of weights that sum to 1: N for an even spread, 1 for a single one (Hill's number of order 1)."""
    positive = weights[weights > 0]
    return float(np.exp(-(positive * np.log(positive)).sum()))


def sign_flip_p(differences_V: Floats, *, flips: int = FLIPS, seed: int = 0) -> float:
    """Two-sided p of a mean difference under random signs; all 2^V of them for few volumes."""
    num_volumes = len(differences_V)
    observed = abs(differences_V.sum())
    tolerance = 1e-12 * max(1.0, np.abs(differences_V).sum())
    if num_volumes <= EXACT_UP_TO:
        patterns = (np.arange(2**num_volumes)[:, None] >> np.arange(num_volumes)) & 1
        return float(np.mean(np.abs((1 - 2 * patterns) @ differences_V) >= observed - tolerance))
    rng = np.random.default_rng(seed)
    extreme, step = 0, max(1, _CHUNK // num_volumes)
    for start in range(0, flips, step):
        signs = 1 - 2 * rng.integers(0, 2, size=(min(step, flips - start), num_volumes), dtype=np.int8)
        extreme += int(np.count_nonzero(np.abs(signs @ differences_V) >= observed - tolerance))
    return (1 + extreme) / (1 + flips)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction, in the order given."""
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    corrected, highest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = highest
    return corrected


def _average(seeds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean over seeds of every volume that all seeds have."""
    common = [name for name in seeds[0] if all(name in other for other in seeds[1:])] if seeds else []
    return {name: float(np.mean([seed[name] for seed in seeds])) for name in common}
