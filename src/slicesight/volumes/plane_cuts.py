"""How do the voxels of an axial grid look when they are cut in another plane?

The pictures a model of several planes is shown (the formulas of `models.med2e3.planes.cut_planes`, which cuts the same
as a tensor): H or W positions averaged to N cuts, the N axial slices interpolated to rows. N slices, H rows, W columns.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from slicesight.volumes.resize import resize_weights
from slicesight.volumes.volume import PLANES, Plane


def cut_plane(voxels_NHW: NDArray[np.float32], plane: Plane) -> NDArray[np.float32]:
    """Upright pictures (N, H, W) of the plane, stacked along its own axis."""
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
