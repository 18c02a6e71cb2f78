"""Is this scan like those that the model was calibrated on, and if not, in what?

Every group of measurements has its own distance; each is put on one scale on which half of the good scans lie below 0
and 95 % below 1, and the largest counts. A scan is strange where it exceeds by MARGIN what all but a chosen share of
held-out good scans reach, or where a fact about it was never seen. The share is of patients: of n, the limit is
the quantile ceil((n + 1) (1 - share)) / n of all held-out scans, as in split-conformal prediction, whose cases must be
exchangeable, which two views of one patient are not. Beside the distances stand rules, one for each thing that may be
wrong with a scan (`scan_changes`), learnt from changed copies of good scans; a rule that cannot tell held-out copies
from the good scans is left out. D numbers of a scan in all.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from slicesight.inference.calibration.gaussian import (
    Floats,
    SubspaceGaussian,
    TwoClasses,
    fit_gaussian,
    fit_scaled_classes,
    fit_two_classes,
)
from slicesight.inference.calibration.scan_changes import CHANGES, SPACINGS
from slicesight.inference.calibration.scan_features import COARSE, FLIPS, NUM_SIZES, SIZE, ScanFeatures
from slicesight.volumes.volume import PLANES

SLICES = "slices"
SHARE_REFUSED = 0.05
"""Of good scans, at most so many are called strange."""
MARGIN = 1.05
"""The limit lies so far above what held-out scans reach: those of one set are more alike than the next ones."""
LEAST_TOLD = 0.8
"""AUROC of held-out copies against the good scans from which on a rule is of use; below, it would only be noise."""
NUM_FOLDS = 5
FEWEST_SCANS = 20
FEWEST_FOR_A_PLANE = 12
"""Scans of a plane from which on its flips are told apart by its own rules."""
REASONS = {
    "grey values": "its grey values (window, contrast, noise or unit) are unlike theirs",
    "picture": "what it shows, or how it lies, is unlike theirs",
    "size": "its size in mm is unlike theirs; the spacing may be wrong",
    "encoders": "the model sees it unlike theirs",
    "found": "the structures found in it, or their sizes, are unlike theirs",
    SLICES: "its slices look unlike theirs at the same place",
    **{name: f"it looks {name}" for name in CHANGES},
    **{name: f"it would be {name} by its spacing, which may be wrong" for name in SPACINGS},
    "slices in reverse": "its slices seem to be in reverse order",
}
Copies = Mapping[str, ScanFeatures]
"""{change: what is measured of the scan's copy with that change}."""


@dataclass(frozen=True, kw_only=True)
class ScanJudgement:
    """score: 1 is the limit, above it the scan is strange; reason: in what, "" where it is not.

    others: which scans it was held against.
    """

    score: float
    reason: str = ""
    others: str = "that the model was calibrated on"
    parts: dict[str, float] = field(default_factory=dict)

    @property
    def is_strange(self) -> bool:
        return bool(self.reason)


@dataclass(frozen=True, kw_only=True)
class ScanGauge:
    """What good scans are like.

    known: {fact: {value: how many scans}}. gaussians: by group. flips: {"change/plane": rule}, of the coarse picture
    alone where `usual_size` is None, else of all D numbers. usual_size: (NUM_SIZES,) for a scan that has none. scales:
    {group: (middle, width)} of held-out good scans. limit: of the largest scaled distance.
    """

    known: dict[str, dict[str, int]]
    gaussians: dict[str, SubspaceGaussian]
    slice_means: Floats | None
    flips: dict[str, TwoClasses]
    scales: dict[str, tuple[float, float]] = field(default_factory=dict)
    limit: float = math.inf
    usual_size: Floats | None = None

    def judge(self, scan: ScanFeatures) -> ScanJudgement:
        """One scan's score, and what is strange about it."""
        for name, value in scan.facts.items():
            seen = self.known.get(name, {})
            if value not in seen:
                known = " or ".join(sorted(seen)) or "none"
                return ScanJudgement(score=math.inf, reason=f"its {name} is {value}, theirs {known}")
        parts = self.scaled(self.distances(scan))
        worst = max(parts, key=lambda name: parts[name])
        score = parts[worst] / self.limit
        return ScanJudgement(score=score, reason=REASONS[worst] if score > 1 else "", parts=parts)

    def scaled(self, distances: Mapping[str, float]) -> dict[str, float]:
        """Distances on one scale: 0 the middle of the good scans, 1 what 95 % of them stay below."""
        return {
            name: (distances[name] - middle) / width
            for name, (middle, width) in self.scales.items()
            if name in distances
        }

    def distances(self, scan: ScanFeatures) -> dict[str, float]:
        """The raw distance of every group."""
        plane = scan.plane
        found = {
            name: float(self.gaussians[name].distance(vector[None], [plane])[0])
            for name, vector in scan.vectors.items()
            if name in self.gaussians
        }
        if scan.slices is not None and self.slice_means is not None and SLICES in self.gaussians:
            centred = scan.slices - self.slice_means[plane]
            each = self.gaussians[SLICES].distance(centred, [0] * len(centred))
            found[SLICES] = float(each.mean())
        found.update(self.rule_scores(scan))
        return found

    def rule_scores(self, scan: ScanFeatures) -> dict[str, float]:
        """How much the scan looks like one with each change: 0 as the good ones do, 1 as the changed ones."""
        numbers = scan.vectors["picture"] if self.usual_size is None else scan.all_numbers(self.usual_size)
        found = {}
        for change in CHANGES:
            rule = self.flips.get(f"{change}/{PLANES[scan.plane]}") or self.flips.get(f"{change}/any")
            if rule is not None and (change not in SPACINGS or SIZE in scan.vectors):
                found[change] = float(rule.score(numbers[None])[0])
        return found


def fit_gauge(
    scans: Sequence[ScanFeatures],
    *,
    patients: Sequence[str],
    held_out: Sequence[bool],
    share: float = SHARE_REFUSED,
    copies: Mapping[int, Copies] | None = None,
) -> ScanGauge:
    """The gauge of all scans; scales and limit are of those `held_out`, each measured without its own patient's fold.

    Args:
        held_out: which scans the model was not trained on; the others only say what is usual.
        copies: {number of a scan: its changed copies}; without any, flips alone are learnt, from coarse pictures.
    """
    folds = [_fold_of(patient) for patient in patients]
    copies = dict(copies or {})
    rows: list[dict[str, float]] = []
    told: dict[str, tuple[list[float], list[float]]] = {}
    for fold in range(NUM_FOLDS):
        wanted = [number for number, own in enumerate(folds) if own == fold]
        others = [number for number, own in enumerate(folds) if own != fold]
        if not others or not any(held_out[number] or number in copies for number in wanted):
            continue
        gauge = _fit(scans, others, copies)
        rows += [gauge.distances(scans[number]) for number in wanted if held_out[number]]
        for number in wanted:
            for change, copy in copies.get(number, {}).items():
                for place, scan in enumerate((scans[number], copy)):
                    scores = gauge.rule_scores(scan)
                    if change in scores:
                        told.setdefault(change, ([], []))[place].append(scores[change])
    useless = {change for change, (good, changed) in told.items() if area_under_curve(changed, good) < LEAST_TOLD}
    rows = [{name: value for name, value in row.items() if name not in useless} for row in rows]
    gauge = _fit(scans, range(len(scans)), copies, leave_out=useless)
    scales = {}
    for name in sorted({name for row in rows for name in row}):
        values = [row[name] for row in rows if name in row]
        middle = float(np.median(values))
        scales[name] = middle, max(float(np.quantile(values, 0.95)) - middle, 1e-6)
    scaled = replace(gauge, scales=scales, limit=1.0)
    worst = sorted(max(scaled.scaled(row).values()) for row in rows)
    num_patients = len({patient for patient, is_out in zip(patients, held_out, strict=True) if is_out})
    level = min(1.0, math.ceil((num_patients + 1) * (1 - share)) / num_patients)
    return replace(scaled, limit=MARGIN * max(float(np.quantile(worst, level, method="higher")), 1e-6))


def area_under_curve(changed: Sequence[float], good: Sequence[float]) -> float:
    """How often a changed scan's score is above a good one's, ties half."""
    left, right = np.asarray(changed)[:, None], np.asarray(good)[None]
    return float((left > right).mean() + 0.5 * (left == right).mean())


def _fold_of(patient: str) -> int:
    return zlib.crc32(patient.encode()) % NUM_FOLDS


def _fit(
    every_scan: Sequence[ScanFeatures],
    numbers: Sequence[int],
    copies: Mapping[int, Copies],
    *,
    leave_out: Collection[str] = (),
) -> ScanGauge:
    scans = [every_scan[number] for number in numbers]
    known: dict[str, dict[str, int]] = {}
    for scan in scans:
        for name, value in scan.facts.items():
            counts = known.setdefault(name, {})
            counts[value] = counts.get(value, 0) + 1
    gaussians = {}
    for name in sorted({name for scan in scans for name in scan.vectors}):
        own = [scan for scan in scans if name in scan.vectors]
        vectors = np.stack([scan.vectors[name] for scan in own])
        gaussians[name] = fit_gaussian(vectors, [scan.plane for scan in own], num_groups=len(PLANES))
    slice_means = None
    with_slices = [scan for scan in scans if scan.slices is not None]
    if with_slices:
        slices = np.stack([scan.slices for scan in with_slices if scan.slices is not None])
        labels = np.array([scan.plane for scan in with_slices])
        slice_means = np.stack(
            [
                slices[labels == plane].mean(axis=0) if (labels == plane).any() else slices.mean(axis=0)
                for plane in range(len(PLANES))
            ]
        )
        centred = (slices - slice_means[labels]).reshape(-1, slices.shape[-1])
        gaussians[SLICES] = fit_gaussian(centred, [0] * len(centred), num_groups=1)
    gauge = ScanGauge(known=known, gaussians=gaussians, slice_means=slice_means, flips={})
    if not copies:
        return replace(gauge, flips=_fit_flips(scans))
    sizes = [scan.vectors[SIZE] for scan in scans if SIZE in scan.vectors]
    usual_size = np.mean(sizes, axis=0) if sizes else np.zeros(NUM_SIZES)
    pairs = [(every_scan[number], copies[number]) for number in numbers if number in copies]
    return replace(gauge, flips=_fit_changes(pairs, usual_size, leave_out), usual_size=usual_size)


def _fit_changes(
    pairs: Sequence[tuple[ScanFeatures, Copies]], usual_size: Floats, leave_out: Collection[str]
) -> dict[str, TwoClasses]:
    """A rule for every change, of each plane of which there are enough scans, and for all together where none is."""
    groups: dict[str, list[tuple[ScanFeatures, Copies]]] = {
        plane: [pair for pair in pairs if pair[0].facts["plane"] == plane] for plane in PLANES
    }
    groups = {plane: own for plane, own in groups.items() if len(own) >= FEWEST_FOR_A_PLANE} or {"any": list(pairs)}
    found = {}
    for plane, own in groups.items():
        for change in CHANGES:
            with_copy = [(scan, copies[change]) for scan, copies in own if change in copies]
            if change not in leave_out and len(with_copy) >= FEWEST_FOR_A_PLANE:
                good = np.stack([scan.all_numbers(usual_size) for scan, _ in with_copy])
                changed = np.stack([copy.all_numbers(usual_size) for _, copy in with_copy])
                found[f"{change}/{plane}"] = fit_scaled_classes(good, changed)
    return found


def _fit_flips(scans: Sequence[ScanFeatures]) -> dict[str, TwoClasses]:
    """The rules for flips, of coarse pictures and flipped ones."""
    found = {}
    groups: dict[str, list[ScanFeatures]] = {
        plane: [scan for scan in scans if scan.facts["plane"] == plane] for plane in PLANES
    }
    groups = {plane: own for plane, own in groups.items() if len(own) >= FEWEST_FOR_A_PLANE} or {"any": list(scans)}
    for plane, own in groups.items():
        pictures = np.stack([scan.vectors["picture"] for scan in own])
        for name, change in FLIPS.items():
            changed = np.stack([change(picture.reshape(COARSE, COARSE, COARSE)).ravel() for picture in pictures])
            found[f"{name}/{plane}"] = fit_two_classes(pictures, changed)
    return found
