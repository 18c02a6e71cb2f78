"""How does a scan look with one thing wrong? Copies of good scans, from which a gauge learns what to notice.

Each is the grid that the model sees, changed as another header, export or viewer's settings would change it: turned,
mirrored, in reverse, of another spacing, contrast or brightness, noisy, blurred. Which of them can be told from the
good ones is found out when the gauge is fitted; a left-right mirrored neck, say, cannot.
N slices of H x W voxels from 0 to 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from slicesight.volumes.grid import GridVolume

Voxels = NDArray[np.float32]
LEAST_TURN, MOST_TURN = 15.0, 40.0
NOISE = 0.25
"""Standard deviation of the noise, of the window's width: 100 HU in one of 400."""
BRIGHTER = 0.25
BLUR_VOXELS = 1.2


def turned(voxels_NHW: Voxels, rng: np.random.Generator) -> Voxels:
    """Every slice turned by 15° to 40° to either side, black where nothing was scanned."""
    from scipy import ndimage

    degrees = float(rng.uniform(LEAST_TURN, MOST_TURN) * rng.choice((-1, 1)))
    found: Voxels = ndimage.rotate(voxels_NHW, degrees, axes=(1, 2), reshape=False, order=1, cval=0.0)
    return found


def flatter(voxels_NHW: Voxels, rng: np.random.Generator) -> Voxels:
    """Half the contrast about the window's middle; what is black stays so."""
    return np.where(voxels_NHW > 0, (voxels_NHW - 0.5) * 0.5 + 0.5, voxels_NHW)


def blurred(voxels_NHW: Voxels, rng: np.random.Generator) -> Voxels:
    """Every slice smoothed."""
    from scipy import ndimage

    found: Voxels = ndimage.gaussian_filter(voxels_NHW, (0, BLUR_VOXELS, BLUR_VOXELS))
    return found


PICTURES: dict[str, Callable[[Voxels, np.random.Generator], Voxels]] = {
    "mirrored": lambda voxels, rng: voxels[:, :, ::-1],
    "upside down": lambda voxels, rng: voxels[:, ::-1],
    "slices in reverse": lambda voxels, rng: voxels[::-1],
    "turned by 180°": lambda voxels, rng: voxels[:, ::-1, ::-1],
    "turned by 90°": lambda voxels, rng: np.rot90(voxels, axes=(1, 2)),
    "turned by 270°": lambda voxels, rng: np.rot90(voxels, k=3, axes=(1, 2)),
    "turned": turned,
    "of more contrast": lambda voxels, rng: (voxels - 0.5) * 2 + 0.5,
    "of less contrast": flatter,
    "brighter": lambda voxels, rng: voxels + BRIGHTER,
    "noisier": lambda voxels, rng: voxels + rng.normal(0, NOISE, voxels.shape).astype(np.float32),
    "blurred": blurred,
}
"""What the encoders see anew."""
SPACINGS: dict[str, tuple[float, float]] = {
    "larger than it is": (2.0, 2.0),
    "smaller than it is": (0.5, 0.5),
    "longer than it is": (2.0, 1.0),
    "shorter than it is": (0.5, 1.0),
    "wider than it is": (1.0, 2.0),
}
"""Factors of the spacing between slices and within them; the picture stays the same."""
CHANGES = (*PICTURES, *SPACINGS)


def changed_grid(grid: GridVolume, change: str, rng: np.random.Generator) -> GridVolume:
    """The grid with another picture, in all its channels, of the same size."""
    channels = [grid.voxels] if grid.channels is None else list(grid.channels)
    seed = int(rng.integers(1 << 31))
    found = [_changed(one, change, np.random.default_rng(seed)) for one in channels]
    return replace(grid, voxels=found[0], channels=None if grid.channels is None else np.stack(found))


def _changed(voxels_NHW: Voxels, change: str, rng: np.random.Generator) -> Voxels:
    found = np.clip(PICTURES[change](voxels_NHW, rng), 0.0, 1.0)
    if found.shape != voxels_NHW.shape:  # not square, turned by 90°
        sizes = zip(voxels_NHW.shape[1:], found.shape[1:], strict=True)
        rows, columns = (np.arange(size) * own // size for size, own in sizes)
        found = found[:, rows][:, :, columns]
    return np.ascontiguousarray(found, dtype=np.float32)
