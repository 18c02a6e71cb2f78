"""What was read and what was done to it, in facts a user can check: the receipt kept with every answer.

JSON-able; no patient name, id or date ever enters it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from slicesight.volumes.geometry import NATURAL_ORIENTATION
from slicesight.volumes.volume import Volume
from slicesight.volumes.windows import Window


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
) -> dict[str, Any]:
    """The scan's facts and how it became the model grid."""
    return scan_receipt(volume) | {
        "window": _window_facts(windows[0], volume.unit),
        **({"windows": [_window_facts(window, volume.unit) for window in windows]} if len(windows) > 1 else {}),
        "crop_zyx": [list(extent) for extent in box],
        "grid": {"plane": plane, "num_slices": size[0], "height": size[1], "width": size[2]},
        "resize": "triangle filter, anti-aliased" if antialias else "trilinear, not anti-aliased",
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
