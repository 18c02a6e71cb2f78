"""How well does a predicted mask cover the true one? Dice and the 95th percentile of surface distances, by MONAI.

Dice = 2 |P ∩ T| / (|P| + |T|); HD95 in mm, both directions. Where both masks are empty Dice is 1 and HD95 0; where one
is, Dice is 0 and HD95 the diagonal of the scan, so that a missed structure counts as the worst case and not as none.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from slicesight.models.encoders3d.monai import import_monai


@dataclass(frozen=True, kw_only=True)
class CaseScore:
    """One structure in one scan. hd95_mm is None where the file states no voxel size."""

    case: str
    patient: str
    split: str
    structure: str
    dice: float
    hd95_mm: float | None
    volume_ml: float | None
    true_volume_ml: float | None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def overlap(
    predicted_ZYX: NDArray[np.bool_], true_ZYX: NDArray[np.bool_], *, spacing_mm: Sequence[float] | None
) -> tuple[float, float | None]:
    """(Dice, HD95 in mm) of two masks of one shape."""
    assert predicted_ZYX.shape == true_ZYX.shape
    if not predicted_ZYX.any() or not true_ZYX.any():
        is_right = not predicted_ZYX.any() and not true_ZYX.any()
        if spacing_mm is None:
            return float(is_right), None
        extent = [size * step for size, step in zip(true_ZYX.shape, spacing_mm, strict=True)]
        return float(is_right), 0.0 if is_right else float(np.linalg.norm(extent))
    metrics = import_monai("monai.metrics")
    inside = _box_of(predicted_ZYX | true_ZYX)
    predicted, true = (torch.from_numpy(np.ascontiguousarray(m[inside]))[None, None] for m in (predicted_ZYX, true_ZYX))
    dice = metrics.compute_dice(predicted, true, include_background=True)
    if spacing_mm is None:
        return float(dice), None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # MONAI 1.6 calls its own deprecated argument
        distance = metrics.compute_hausdorff_distance(
            predicted, true, include_background=True, percentile=95, spacing=[float(step) for step in spacing_mm]
        )
    return float(dice), float(distance)


def summarise(scores: Iterable[CaseScore]) -> list[dict[str, Any]]:
    """Mean and standard deviation over the patients of every split and structure (a patient's scans are averaged)."""
    groups: dict[tuple[str, str], list[CaseScore]] = {}
    for score in scores:
        groups.setdefault((score.split, score.structure), []).append(score)
    rows = []
    for (split, structure), members in groups.items():
        dice = by_patient(members, "dice")
        row = {"split": split, "structure": structure, "scans": len(members), "patients": len(dice)}
        row |= {"dice": float(np.mean(dice)), "dice_sd": _sd(dice)}
        if all(score.hd95_mm is not None for score in members):
            distances = by_patient(members, "hd95_mm")
            row |= {"hd95_mm": float(np.mean(distances)), "hd95_mm_sd": _sd(distances)}
        rows.append(row)
    return rows


def by_patient(scores: Sequence[CaseScore], field: str) -> list[float]:
    """The mean of every patient's scans, in the order of their names."""
    patients = sorted({score.patient for score in scores})
    return [float(np.mean([getattr(s, field) for s in scores if s.patient == patient])) for patient in patients]


def _sd(values: Sequence[float]) -> float | None:
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def _box_of(mask: NDArray[np.bool_]) -> tuple[slice, ...]:
    """The smallest box around the mask, with a voxel to spare, which changes no distance and saves time."""
    box = []
    for axis in range(3):
        held = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        box.append(slice(max(0, int(held[0]) - 1), int(held[-1]) + 2))
    return tuple(box)
