"""Which part of a scan holds the patient?

Foreground is what lies above a threshold: -500 HU in CT, else 5 % of the way from the minimum to the 99.5th
percentile. The crop is the box of all planes of which at least one voxel in a thousand is foreground, so a few noisy
voxels do not widen it; a scan without such a plane is not cropped.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from slicesight.volumes.volume import Volume

Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
AIR_THRESHOLD_HU = -500.0
_MIN_SHARE = 1e-3
_BLOCK_SLICES = 16
_MAX_SAMPLES = 1_000_000


def foreground_threshold(volume: Volume) -> float:
    """The value foreground lies above."""
    if volume.unit == "HU":
        return AIR_THRESHOLD_HU
    values = sampled(volume.voxels)
    low = float(values.min())
    return low + 0.05 * (float(np.percentile(values, 99.5)) - low)


def sampled(voxels: NDArray[Any]) -> NDArray[Any]:
    """At most about a million voxels, evenly spread and the same whenever the volume is the same."""
    step = max(1, int(np.ceil((voxels.size / _MAX_SAMPLES) ** (1 / 3))))
    return np.ascontiguousarray(voxels[::step, ::step, ::step]).reshape(-1)


def foreground_box(voxels_ZYX: NDArray[Any], threshold: float, *, min_share: float = _MIN_SHARE) -> Box:
    """((z0, z1), (y0, y1), (x0, x1)) of the foreground, ends exclusive."""
    num_z, num_y, num_x = voxels_ZYX.shape
    counts_Z = np.zeros(num_z, np.int64)
    counts_YX = np.zeros((num_y, num_x), np.int64)
    for first in range(0, num_z, _BLOCK_SLICES):
        is_foreground = voxels_ZYX[first : first + _BLOCK_SLICES] > threshold
        counts_Z[first : first + _BLOCK_SLICES] = [np.count_nonzero(plane) for plane in is_foreground]
        counts_YX += np.add.reduce(is_foreground, axis=0, dtype=np.uint8)
    return (
        _extent(counts_Z, num_y * num_x * min_share),
        _extent(counts_YX.sum(axis=1), num_z * num_x * min_share),
        _extent(counts_YX.sum(axis=0), num_z * num_y * min_share),
    )


def whole_box(shape: tuple[int, int, int]) -> Box:
    """The box that crops nothing."""
    return (0, shape[0]), (0, shape[1]), (0, shape[2])


def _extent(counts: NDArray[np.int64], least: float) -> tuple[int, int]:
    held = np.flatnonzero(counts > max(least, 0.0))
    return (int(held[0]), int(held[-1]) + 1) if held.size else (0, len(counts))
