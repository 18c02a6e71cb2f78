"""How is a scan brought to the model grid's size without moiré and without a second copy, and cut in another plane?

Each axis is resized on its own by the triangle filter, widened by the reduction factor (as Pillow and torch's
`antialias=True` do); an axis that grows is interpolated linearly. Pixel centres sit at half indices.
S source slices, R rows, C columns -> N grid slices, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slicesight.volumes.volume import PLANES, Plane

Block = NDArray[np.float32]
_BLOCK_SLICES = 16  # 16 float32 neighbours fill a cache line when the slices run along the fastest axis


def resize(
    source_SRC: NDArray[Any],
    size_NHW: tuple[int, int, int],
    *,
    to_grey: Callable[[NDArray[Any]], Block],
    antialias: bool = True,
) -> Block:
    """Grey values of the source at the grid's size; `to_grey` turns a block of source slices into float32 in [0, 1]."""
    num_slices, height, width = size_NHW
    num_source, rows, columns = source_SRC.shape
    weights_NS = resize_weights(num_source, num_slices, antialias)
    weights_HR, weights_WC = resize_weights(rows, height, antialias), resize_weights(columns, width, antialias)
    if num_slices < num_source:  # the stack shrinks: shrink it first, then resize the few slices left
        stack_NRC = np.zeros((num_slices, rows, columns), np.float32)
        for first in range(0, num_source, _BLOCK_SLICES):
            block_BRC = to_grey(source_SRC[first : first + _BLOCK_SLICES])
            weights_NB = weights_NS[:, first : first + len(block_BRC)]
            used = np.flatnonzero(weights_NB.any(axis=1))
            if used.size == 0:
                continue
            low, high = used[0], used[-1] + 1
            product = weights_NB[low:high] @ block_BRC.reshape(len(block_BRC), -1)
            stack_NRC[low:high] += product.reshape(high - low, rows, columns)
        return _resize_slices(stack_NRC, weights_HR, weights_WC)
    small_SHW = np.empty((num_source, height, width), np.float32)
    for first in range(0, num_source, _BLOCK_SLICES):
        block_BRC = to_grey(source_SRC[first : first + _BLOCK_SLICES])
        small_SHW[first : first + len(block_BRC)] = _resize_slices(block_BRC, weights_HR, weights_WC)
    grid_NHW: Block = (weights_NS @ small_SHW.reshape(num_source, -1)).reshape(num_slices, height, width)
    return grid_NHW


def cut_plane(voxels_NHW: NDArray[np.float32], plane: Plane) -> NDArray[np.float32]:
    """Upright pictures (N, H, W) of an axial grid cut in another plane, stacked along that plane's axis.

    The formulas of `models.med2e3.planes.cut_planes`, which cuts the same as a tensor: H or W positions are averaged to
    N cuts, the N axial slices interpolated to rows.
    """
    if plane == "axial":
        return voxels_NHW
    num_slices, height, width = voxels_NHW.shape
    upright_PRC = np.moveaxis(voxels_NHW[::-1], PLANES.index(plane), 0)
    positions, rows, columns = upright_PRC.shape
    cuts_NRC = np.stack(
        [
            upright_PRC[j * positions // num_slices : -(-(j + 1) * positions // num_slices)].mean(axis=0)
            for j in range(num_slices)
        ]
    )
    weights_HR = resize_weights(rows, height, antialias=False)
    weights_WC = resize_weights(columns, width, antialias=False)
    return np.ascontiguousarray(weights_HR @ cuts_NRC @ weights_WC.T)


@lru_cache(maxsize=256)
def resize_weights(num_in: int, num_out: int, antialias: bool = True) -> Block:
    """(num_out, num_in) weights whose rows sum to one."""
    scale = num_in / num_out
    support = max(scale, 1.0) if antialias else 1.0
    centres = (np.arange(num_out) + 0.5) * scale - 0.5
    if not antialias:
        centres = np.clip(centres, 0, num_in - 1)
    distance = np.abs(np.arange(num_in)[None, :] - centres[:, None]) / support
    weights = np.maximum(1.0 - distance, 0.0)
    result: Block = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    result.setflags(write=False)
    return result


def _resize_slices(slices_BRC: Block, weights_HR: Block, weights_WC: Block) -> Block:
    height, rows = weights_HR.shape
    width, columns = weights_WC.shape
    if (height, width) == (rows, columns):
        return slices_BRC
    if height * columns * (rows + width) <= width * rows * (columns + height):
        return np.asarray((weights_HR @ slices_BRC) @ weights_WC.T)
    return np.asarray(weights_HR @ (slices_BRC @ weights_WC.T))
