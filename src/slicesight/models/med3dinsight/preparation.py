"""What does a segmenter or classifier see of a scan, and how do its voxels find their way back?

    canonical volume -> crop to the foreground -> window to [0, 1] -> anti-aliased resize to `spacing_mm`

Size after the resize is round(extent / spacing): the whole extent is kept, so a grid point maps back exactly, as in
volumes/grid.py. Masks are resized class by class with the same filter and the fullest class wins. Without spacing_mm
the scan becomes one cube of the network's own size. Axes are canonical, ZYX.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from slicesight.errors import InputError, VolumeError
from slicesight.models.encoders3d.monai import import_monai
from slicesight.volumes.foreground import Box, foreground_box, foreground_threshold, whole_box
from slicesight.volumes.resize import resize
from slicesight.volumes.volume import Volume
from slicesight.volumes.windows import checked_window, window_bounds

Size = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """How a scan is brought to the network.

    spacing_mm: (z, y, x) of the network's voxels; None makes the whole scan one cube of the network's image_size.
    window: a grey window of one channel (volumes/windows.py). max_voxels refuses a scan that would not fit.
    """

    spacing_mm: tuple[float, float, float] | None = None
    window: str = "auto"
    crop_foreground: bool = False
    max_voxels: int = 512**3

    def __post_init__(self) -> None:
        object.__setattr__(self, "window", checked_window(self.window))
        if "+" in self.window:
            raise InputError(f"window {self.window!r} has three channels; this network reads one, name one window")
        if self.spacing_mm is not None and not all(0.01 <= size <= 100 for size in self.spacing_mm):
            raise InputError(
                f"spacing_mm is {list(self.spacing_mm)}; expected three sizes from 0.01 to 100 mm, or null"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "spacing_mm": None if self.spacing_mm is None else list(self.spacing_mm)}


@dataclass(frozen=True)
class PreparedScan:
    """A scan as the network sees it: voxels (D, H, W) float32 in [0, 1], and the canonical box they cover."""

    voxels: NDArray[np.float32]
    box: Box


def prepare_scan(volume: Volume, how: Preparation, *, image_size: Sequence[int], name: str) -> PreparedScan:
    """Crop, window and resize a scan.

    Raises:
        VolumeError: a scan without a spacing where one is needed, or larger than `max_voxels`.
    """
    threshold = foreground_threshold(volume)
    box = foreground_box(volume.voxels, threshold) if how.crop_foreground else whole_box(volume.shape)
    size = grid_size(volume, how, box=box, image_size=image_size, name=name)
    window = window_bounds(volume, how.window, threshold=threshold)
    inside = volume.voxels[tuple(slice(*extent) for extent in box)]
    return PreparedScan(resize(inside, size, to_grey=window.to_grey), box)


def prepare_mask(
    labels_ZYX: NDArray[np.integer], *, box: Box, size: tuple[int, ...], values: Sequence[int | None]
) -> NDArray[np.uint8]:
    """Class numbers (D, H, W) of a canonical label map: 1 for the first of `values` and so on, 0 for all others.

    values: None where a structure was not drawn, so that no voxel has its class.
    """
    inside = labels_ZYX[tuple(slice(*extent) for extent in box)]
    depth, height, width = size
    classes = np.zeros(size, np.uint8)
    fullest = _share(inside, (depth, height, width), [0, *(set(np.unique(inside).tolist()) - set(values))])
    for number, value in enumerate(values, start=1):
        if value is None:
            continue
        share = _share(inside, (depth, height, width), [value])
        wins = share > fullest
        classes[wins] = number
        fullest[wins] = share[wins]
    return classes


def grid_size(volume: Volume, how: Preparation, *, box: Box, image_size: Sequence[int], name: str) -> Size:
    """(D, H, W) of the prepared scan."""
    if how.spacing_mm is None:
        return int(image_size[0]), int(image_size[1]), int(image_size[2])
    if volume.spacing_mm is None:
        raise VolumeError(
            f"{name}: the file states no voxel size, and this recipe resamples to {list(how.spacing_mm)} mm; "
            "store the scan with a spacing or set spacing_mm: null"
        )
    size = [
        max(1, round((stop - start) * found / wanted))
        for (start, stop), found, wanted in zip(box, volume.spacing_mm, how.spacing_mm, strict=True)
    ]
    if np.prod([float(axis) for axis in size]) > how.max_voxels:
        raise VolumeError(
            f"{name}: {'×'.join(map(str, size))} voxels of {list(how.spacing_mm)} mm are above the limit of "
            f"{how.max_voxels}; choose a coarser spacing_mm, or crop_foreground: true"
        )
    return size[0], size[1], size[2]


def fitted_cube(voxels: NDArray[Any], size: Sequence[int]) -> Tensor:
    """(1, D, H, W) of one prepared scan, unchanged but for padding or cutting around its middle."""
    fit = import_monai("monai.transforms").ResizeWithPadOrCrop(tuple(size))
    cube: Tensor = fit(grey(voxels)).as_tensor()
    return cube


def grey(voxels: NDArray[Any]) -> Tensor:
    """(1, D, H, W) float32 in [0, 1] of a prepared scan, which may be stored as 8-bit grey."""
    values = torch.from_numpy(np.array(voxels)[None])
    return values.float() / 255 if voxels.dtype == np.uint8 else values.float()


def _share(labels: NDArray[np.integer], size: Size, values: Sequence[int]) -> NDArray[np.float32]:
    """Which share of every voxel of the grid these values fill."""
    return resize(labels, size, to_grey=lambda block: np.isin(block, values).astype(np.float32))
