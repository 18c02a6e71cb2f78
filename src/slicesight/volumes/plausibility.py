"""What about a scan should make its reader doubt it? Warnings for the receipt; nothing is changed or refused here."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_FEW_SLICES = 10
_ANISOTROPY = 5.0
_BODY_HU = (-200.0, 300.0)  # fat to contrast-filled vessels: some of it is in every CT
_BODY_WITHOUT_RESCALE = (824.0, 1324.0)  # the same stored with an offset of 1024
_RANGE_HU = (-1500.0, 5000.0)
_MAX_SAMPLES = 1_000_000


def sampled(voxels: NDArray[Any]) -> NDArray[Any]:
    """At most about a million voxels, evenly spread and the same whenever the volume is the same."""
    step = max(1, int(np.ceil((voxels.size / _MAX_SAMPLES) ** (1 / 3))))
    return np.ascontiguousarray(voxels[::step, ::step, ::step]).reshape(-1)


def doubts(
    voxels: NDArray[np.float32], spacing_mm: tuple[float, float, float] | None, *, unit: str, num_slices: int
) -> list[str]:
    """Plain sentences, empty for a scan that looks right."""
    found = []
    if num_slices < _FEW_SLICES:
        found.append(f"very few slices ({num_slices}); the grid is interpolated between them")
    if spacing_mm is not None and max(spacing_mm) > _ANISOTROPY * min(spacing_mm):
        found.append(f"anisotropic voxels: {max(spacing_mm):.2f} mm against {min(spacing_mm):.2f} mm")
    if unit == "HU":
        found.extend(_doubts_about_hu(sampled(voxels)))
    return found


def _doubts_about_hu(values: NDArray[np.float32]) -> list[str]:
    low, high = float(values.min()), float(values.max())
    body = _share(values, _BODY_HU)
    if low < -800 and body < 0.01:
        rest = "air may not be at -1000, the rescale seems applied twice or wrongly"
        return [
            f"HU implausible: only {body:.1%} of the voxels lie between {_BODY_HU[0]:.0f} and {_BODY_HU[1]:.0f}; {rest}"
        ]
    if low >= -200 and _share(values, _BODY_WITHOUT_RESCALE) > max(0.05, _share(values, (100.0, 600.0))):
        rest = "the rescale intercept seems missing"
        return [f"HU implausible: no air (lowest value {low:.0f}) and tissue near 1000; {rest}"]
    if low < _RANGE_HU[0] or high > _RANGE_HU[1]:
        return [f"HU out of range: values from {low:.0f} to {high:.0f}; air is -1000 and dense bone about 2000"]
    return []


def _share(values: NDArray[np.float32], extent: tuple[float, float]) -> float:
    return float(np.count_nonzero((values >= extent[0]) & (values <= extent[1]))) / values.size
