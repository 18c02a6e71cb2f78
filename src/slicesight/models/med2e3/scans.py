"""How do files, Volumes and arrays become the volumes of a batch? On the model's grid, in [0, 1], of one shape.

V volumes of N slices of H x W pixels.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from slicesight.errors import InputError
from slicesight.volumes.grid import GridSpec, GridVolume, to_grid
from slicesight.volumes.volume import Volume

VolumeInput = Tensor | np.ndarray | Volume | GridVolume | str | os.PathLike[str]
log = logging.getLogger(__name__)
ROUNDING = 1e-3  # how far resizing may carry a voxel out of [0, 1]


def flatten_scans(given: Any, *, num_questions: int) -> tuple[Any, list[list[int]] | None]:
    """Scans in one list, and which of them each question is about, where they were lists for each question.

    Raises:
        InputError: lists for some questions only; pictures instead of scans.
    """
    if not isinstance(given, (list, tuple)):
        refuse_picture(given)
        return given, None
    if not any(isinstance(one, (list, tuple)) for one in given):
        for one in given:
            refuse_picture(one)
        return given, None
    if not all(isinstance(one, (list, tuple)) for one in given) or len(given) != num_questions:
        raise InputError(
            f"volumes are {len(given)} lists or scans for {num_questions} questions; give a list for each."
        )
    scans: list[Any] = []
    keys: list[Any] = []  # a scan that several questions name, as a file or as the same object, is encoded once
    rows = []
    for own in given:
        row = []
        for scan in own:
            refuse_picture(scan)
            key = os.fspath(scan) if isinstance(scan, str | os.PathLike) else id(scan)
            if key not in keys:
                keys.append(key)
                scans.append(scan)
            row.append(keys.index(key))
        rows.append(row)
    return scans, rows


def refuse_picture(given: Any) -> None:
    """Raises InputError for a 2D picture of the imaging library."""
    if type(given).__module__.split(".")[0] == "PIL":
        raise InputError(
            f"a picture of {'×'.join(map(str, given.size))} pixels is no 3D scan; give the scan's file, a "
            "slicesight.Volume, or the slices as one array (slices, rows, columns)."
        )


def stack_volumes(volumes: VolumeInput | Sequence[VolumeInput], grid: dict[str, Any] | None) -> Tensor:
    """Scans on the grid as one float32 tensor (V, 1, N, H, W).

    Raises:
        InputError: no scan, other axes, different shapes, or values that are not finite numbers in [0, 1].
    """
    if isinstance(volumes, str | os.PathLike | Volume | GridVolume):
        volumes = [volumes]
    elif isinstance(volumes, (Tensor, np.ndarray)):
        volumes = [volumes] if volumes.ndim == 3 else list(volumes)
    elif not isinstance(volumes, Sequence) or not len(volumes):
        raise InputError(
            f"volumes is a {type(volumes).__name__}; expected scans: files, Volumes, or arrays (slices, rows, columns) "
            "of numbers in [0, 1] on the model's grid."
        )
    tensors = []
    for given in volumes:
        volume = put_on_grid(given, grid)
        if not isinstance(volume, (Tensor, np.ndarray)) or volume.ndim not in (3, 4):
            shown = f"of shape {tuple(volume.shape)}" if isinstance(volume, (Tensor, np.ndarray)) else repr(volume)[:60]
            raise InputError(
                f"a volume is {shown}; expected a file, a Volume, or a tensor or array (N, H, W) or (1, N, H, W)."
            )
        tensor = torch.as_tensor(volume, dtype=torch.float32)
        tensors.append(tensor if tensor.ndim == 4 else tensor[None])
    shapes = {tuple(tensor.shape) for tensor in tensors}
    if len(shapes) != 1:
        raise InputError(f"volumes of different shapes {sorted(shapes)} in one batch; bring them to one grid.")
    stacked = torch.stack(tensors)
    low, high = (float(bound) for bound in stacked.aminmax())
    if not (low >= -ROUNDING and high <= 1 + ROUNDING):  # so that NaN is refused too
        raise InputError(
            f"volumes hold values from {low:g} to {high:g}; expected finite numbers in [0, 1]: give a scan in HU as "
            "its file or as a slicesight.Volume, which is put on the model's grid."
        )
    return stacked


def put_on_grid(scan: VolumeInput, grid: dict[str, Any] | None) -> Any:
    """The grid's voxels (N, H, W) of a file or Volume; anything else as it is."""
    from slicesight.io.loading import read_scan

    if isinstance(scan, str | os.PathLike):
        scan = read_scan(scan)
    elif isinstance(scan, np.ndarray) and grid is not None and not is_on_grid(scan, grid):
        scan = read_scan(scan)
        for warning in scan.warnings:
            log.warning("an array as a scan: %s", warning)
    if isinstance(scan, Volume):
        if grid is None:
            raise InputError("this processor has no grid settings, which a scan needs; pass grid= or a grid volume.")
        scan = to_grid(scan, GridSpec.from_dict(grid))
    if not isinstance(scan, GridVolume):
        return scan
    if scan.channels is not None:
        raise InputError(f"window {scan.spec.window!r} gives {len(scan.channels)} channels; name a single window.")
    return scan.voxels


def is_on_grid(voxels: np.ndarray, grid: dict[str, Any]) -> bool:
    """Whether an array is what the model reads already: of the grid's shape (as far as it is set), in [0, 1]."""
    shape = voxels.shape[1:] if voxels.ndim == 4 and len(voxels) == 1 else voxels.shape
    if len(shape) != 3 or voxels.dtype.kind != "f":
        return False
    wanted = [grid.get(name, size) for name, size in zip(("num_slices", "height", "width"), shape, strict=True)]
    return list(shape) == wanted and bool(voxels.min() >= -ROUNDING and voxels.max() <= 1 + ROUNDING)
