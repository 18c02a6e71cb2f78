"""What was read, what was done to it and what about it should make its reader doubt: the receipt.

JSON-able; no patient name, id or date ever enters it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slicesight.volumes.foreground import sampled
from slicesight.volumes.geometry import NATURAL_ORIENTATION
from slicesight.volumes.volume import Volume
from slicesight.volumes.windows import Window

_FEW_SLICES = 10
_ANISOTROPY = 5.0
_BODY_HU = (-200.0, 300.0)  # fat to contrast-filled vessels: some of it is in every CT
_BODY_WITHOUT_RESCALE = (824.0, 1324.0)  # the same stored with an offset of 1024
_RANGE_HU = (-1500.0, 5000.0)


def scan_receipt(volume: Volume) -> dict[str, Any]:
    """The facts of the scan itself."""
    return {
        "modality": volume.modality,
        "unit": volume.unit,
        "shape_zyx": list(volume.shape),
        "spacing_mm_zyx": None if volume.spacing_mm is None else [round(s, 6) for s in volume.spacing_mm],
        "plane": volume.plane,
        "num_source_slices": volume.num_source_slices,
        "stored_orientation": volume.source.get("stored_orientation", NATURAL_ORIENTATION[volume.acquisition_axis]),
        "has_positions": volume.affine_lps is not None,
        "is_synthetic": volume.is_synthetic,
        "source": dict(volume.source),
        "warnings": list(volume.warnings),
    }


def grid_receipt(
    volume: Volume,
    *,
    windows: Sequence[Window],
    box: tuple[tuple[int, int], tuple[int, int], tuple[int, int]],
    size: tuple[int, int, int],
    plane: str,
    antialias: bool,
    picked: bool = False,
) -> dict[str, Any]:
    """The scan's facts and how it became the model grid."""
    return scan_receipt(volume) | {
        "window": _window_facts(windows[0], volume.unit),
        **({"windows": [_window_facts(window, volume.unit) for window in windows]} if len(windows) > 1 else {}),
        "crop_zyx": [list(extent) for extent in box],
        "grid": {"plane": plane, "num_slices": size[0], "height": size[1], "width": size[2]},
        "resize": ("single slices, evenly spaced; within them " if picked else "")
        + ("triangle filter, anti-aliased" if antialias else "trilinear, not anti-aliased"),
    }


def _window_facts(window: Window, unit: str) -> dict[str, Any]:
    return {"name": window.name, "low": window.low, "high": window.high, "unit": unit}


def scan_line(volume: Volume) -> str:
    """One line such as "CT 512×512×187, 0.78×0.78×2.50 mm, axial"."""
    columns, rows, slices = _slice_order(volume.shape, volume.acquisition_axis)
    name = volume.modality if volume.modality != "unknown" else "scan of unknown modality"
    parts = [f"{name} {columns}×{rows}×{slices}"]
    if volume.spacing_mm is not None:
        parts.append("×".join(f"{s:.2f}" for s in _slice_order(volume.spacing_mm, volume.acquisition_axis)) + " mm")
    else:
        parts.append("spacing unknown")
    return ", ".join([*parts, volume.plane])


def _slice_order(zyx: tuple[Any, Any, Any], axis: int) -> tuple[Any, Any, Any]:
    rows, columns = [a for a in range(3) if a != axis]
    return zyx[columns], zyx[rows], zyx[axis]


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


def looks_like_shifted_hu(voxels: NDArray[np.float32]) -> bool:
    """Whether whole numbers from 0 gather where a CT's air and soft tissue lie with an offset of 1024."""
    values = sampled(voxels)
    is_whole = bool((values == np.rint(values)).all())
    tissue, between = _share(values, (924.0, 1224.0)), _share(values, (400.0, 700.0))
    return is_whole and values.max() <= 5119 and _share(values, (0.0, 200.0)) > 0.05 and tissue > max(0.1, 2 * between)


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
