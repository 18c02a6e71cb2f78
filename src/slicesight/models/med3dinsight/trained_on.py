"""What scans did a network learn from, and is this one of their kind?

A segmenter answers for every scan, also for one of another modality than it ever saw. So the model folder keeps the
modalities, units, voxel sizes and grey values of its training scans, and a scan is held against them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from slicesight.volumes.foreground import sampled
from slicesight.volumes.volume import Volume

UNKNOWN = "unknown"
PERCENTILES = (0.5, 99.5)
SPACING_FACTOR = 2.0
"""Voxel sizes beyond this factor of those in training are named."""
SPAN_FACTOR = 10.0
"""So are grey values that spread wider, or less wide, than those in training by this factor."""


def scan_facts(volume: Volume) -> dict[str, Any]:
    """What `summarise_scans` needs of one scan; values: the percentiles 0.5 and 99.5."""
    low, high = np.percentile(sampled(volume.voxels), PERCENTILES).tolist()
    spacing = None if volume.spacing_mm is None else [round(float(size), 4) for size in volume.spacing_mm]
    return {"modality": volume.modality, "unit": volume.unit, "spacing_mm": spacing, "values": [low, high]}


def summarise_scans(scans: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What a model folder says of its training scans.

    spacing_mm: smallest and largest (z, y, x); None where no scan has one. values: lowest and highest of the scans'.
    """
    sizes = [scan["spacing_mm"] for scan in scans if scan["spacing_mm"] is not None]
    lows, highs = zip(*(scan["values"] for scan in scans), strict=True)
    return {
        "num_scans": len(scans),
        "modalities": sorted({scan["modality"] for scan in scans}),
        "units": sorted({scan["unit"] for scan in scans}),
        "spacing_mm": [np.min(sizes, axis=0).tolist(), np.max(sizes, axis=0).tolist()] if sizes else None,
        "values": [min(lows), max(highs)],
    }


def other_kind(volume: Volume, trained_on: Mapping[str, Any]) -> str | None:
    """In what the scan is of another kind than all of training: modality or unit; None where it is not."""
    known = set(trained_on["modalities"]) - {UNKNOWN}
    if volume.modality != UNKNOWN and known and volume.modality not in known:
        return f"this scan is {volume.modality}, the model learnt from {', '.join(sorted(known))}"
    if volume.unit not in trained_on["units"]:
        units = ", ".join(trained_on["units"])
        return f"this scan's values are in {volume.unit} units, the model learnt from {units} units"
    return None


def unusual(volume: Volume, trained_on: Mapping[str, Any]) -> list[str]:
    """How the scan's voxel sizes and grey values differ from those of training, a sentence each."""
    found, facts = [], scan_facts(volume)
    if trained_on["spacing_mm"] and facts["spacing_mm"]:
        least, most = (np.asarray(sizes) for sizes in trained_on["spacing_mm"])
        own = np.asarray(facts["spacing_mm"])
        if (own < least / SPACING_FACTOR).any() or (own > most * SPACING_FACTOR).any():
            found.append(
                f"its voxels are {_by(own)} mm (z, y, x), those in training were {_by(least)} to {_by(most)} mm"
            )
    (low, high), (least_value, most_value) = facts["values"], trained_on["values"]
    span = max(most_value - least_value, 1e-9)
    if not span / SPAN_FACTOR <= high - low <= span * SPAN_FACTOR or low < least_value - span / 2:
        found.append(
            f"its values run from {low:.4g} to {high:.4g}, those in training from {least_value:.4g} to {most_value:.4g}"
        )
    return found


def _by(sizes: Any) -> str:
    return "×".join(f"{size:g}" for size in sizes)
