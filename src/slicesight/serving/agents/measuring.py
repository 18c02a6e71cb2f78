"""How large is each structure of a mask, what does the scan measure in it, and where does it lie?

A structure is a label above 0. millilitres = voxels · product of the voxel's sides in mm / 1000; mean and standard
deviation are over its voxels (divided by their number), in the scan's own unit (HU for CT).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slicesight.errors import InputError
from slicesight.volumes.volume import Volume

MAX_STRUCTURES = 200


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One label's figures. volume_ml: None where the file states no voxel size; centroid_mm: (x, y, z) LPS.

    source_slices: first and last stored slice that show it. reaches_edge: it touches the outermost slices or pixels, so
    part of it may lie outside the scan.
    """

    label: int
    voxels: int
    volume_ml: float | None
    mean: float
    sd: float
    minimum: float
    median: float
    maximum: float
    source_slices: tuple[int, int]
    centroid_mm: tuple[float, float, float] | None
    extent_mm: tuple[float, float, float] | None
    reaches_edge: bool


def labels_of(labels_ZYX: NDArray[np.int32]) -> list[int]:
    """The labels above 0 that are there."""
    return [int(label) for label in np.unique(labels_ZYX) if label > 0]


def measure(volume: Volume, labels_ZYX: NDArray[np.int32], wanted: Sequence[int] | None = None) -> list[Measured]:
    """The figures of every label, or of the wanted ones.

    Raises:
        InputError: a wanted label is not in the mask, the mask holds none, or more than can be told.
    """
    from scipy import ndimage

    assert labels_ZYX.shape == volume.shape
    present = labels_of(labels_ZYX)
    if missing := [label for label in wanted or () if label not in present]:
        listed = ", ".join(map(str, present[:20])) or "no label above 0"
        raise InputError(f"the mask has no label {missing[0]}; it holds {listed}")
    chosen = list(dict.fromkeys(wanted)) if wanted else present
    if not chosen:
        raise InputError("the mask holds no label above 0, so there is nothing to measure; name another mask")
    if len(chosen) > MAX_STRUCTURES:
        raise InputError(f"the mask holds {len(chosen)} labels; name at most {MAX_STRUCTURES} with labels")
    order = {label: number for number, label in enumerate(present, start=1)}
    boxes = ndimage.find_objects(np.searchsorted(np.array([0, *present]), labels_ZYX).astype(np.int32))
    return [_measured(volume, labels_ZYX, label, boxes[order[label] - 1]) for label in chosen]


def _measured(volume: Volume, labels: NDArray[np.int32], label: int, box: tuple[slice, slice, slice]) -> Measured:
    inside = labels[box] == label
    values = volume.voxels[box][inside].astype(np.float64)
    corner = np.array([piece.start for piece in box])
    others = [tuple(other for other in range(3) if other != along) for along in range(3)]
    centre = corner + [
        np.average(np.arange(size), weights=inside.sum(axis=across))
        for size, across in zip(inside.shape, others, strict=True)
    ]
    place = volume.geometry.to_mm(centre)
    axis, spacing = volume.acquisition_axis, volume.spacing_mm
    source = volume.geometry.source_slices(range(box[axis].start, box[axis].stop))
    sides = [piece.stop - piece.start for piece in box]
    z, y, x = (0.0, 0.0, 0.0) if spacing is None else [n * mm for n, mm in zip(sides, spacing, strict=True)]
    return Measured(
        label=label,
        voxels=int(inside.sum()),
        volume_ml=None if spacing is None else float(inside.sum() * np.prod(spacing)) / 1000,
        mean=float(values.mean()),
        sd=float(values.std()),
        minimum=float(values.min()),
        median=float(np.median(values)),
        maximum=float(values.max()),
        source_slices=(source[0], source[-1]),
        centroid_mm=None if place is None else (float(place[0]), float(place[1]), float(place[2])),
        extent_mm=None if spacing is None else (x, y, z),
        reaches_edge=any(piece.start == 0 or piece.stop == size for piece, size in zip(box, labels.shape, strict=True)),
    )
