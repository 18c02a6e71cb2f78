"""What does a segmenter or classifier see of a scan, and how do its voxels find their way back?

    canonical volume -> crop to the foreground -> window to [0, 1] -> anti-aliased resize to `spacing_mm`

Size after the resize is round(extent / spacing): the whole extent is kept, so a grid point maps back exactly, as in
volumes/grid.py. Masks are resized class by class with the same filter and the fullest class wins. Without spacing_mm
the scan becomes one cube of the network's own size. Axes are canonical, ZYX.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slicesight.errors import InputError, VolumeError
from slicesight.files import replacing
from slicesight.io.loading import read_volume
from slicesight.training.insight.scan_list import ScanCase
from slicesight.volumes.foreground import Box, foreground_box, foreground_threshold, whole_box
from slicesight.volumes.resize import resize
from slicesight.volumes.volume import Volume
from slicesight.volumes.windows import checked_window, window_bounds

Size = tuple[int, int, int]
SAME_PLACE_MM = 0.5


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


def prepare_mask(labels_ZYX: NDArray[np.integer], *, box: Box, size: Size, values: Sequence[int]) -> NDArray[np.uint8]:
    """Class numbers (D, H, W) of a canonical label map: 1 for the first of `values` and so on, 0 for all others."""
    inside = labels_ZYX[tuple(slice(*extent) for extent in box)]
    classes = np.zeros(size, np.uint8)
    fullest = _share(inside, size, [0, *(set(np.unique(inside).tolist()) - set(values))])
    for number, value in enumerate(values, start=1):
        share = _share(inside, size, [value])
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


def read_labels(path: Path, volume: Volume) -> NDArray[np.int32]:
    """The canonical label map of a mask file.

    Raises:
        VolumeError: not whole numbers, or another shape or place than the scan's.
    """
    mask = read_volume(path, unit="arbitrary", may_be_blank=True)
    if mask.shape != volume.shape:
        raise VolumeError(
            f"{path.name}: the mask is {mask.shape}, the scan {volume.shape} (z, y, x); expected one grid, resample it"
        )
    if mask.affine_lps is not None and volume.affine_lps is not None:
        corners = np.array([[0, 0, 0, 1], [*(size - 1 for size in volume.shape), 1]], dtype=float)
        apart = np.abs(corners @ (mask.affine_lps - volume.affine_lps).T).max()
        if apart > SAME_PLACE_MM:
            raise VolumeError(
                f"{path.name}: the mask lies up to {apart:.1f} mm off the scan; expected the same place, fix its header"
            )
    labels = mask.voxels.astype(np.int32)
    if not np.array_equal(labels, mask.voxels) or labels.min() < 0:
        raise VolumeError(f"{path.name}: the mask holds fractions or negative values; expected labels 0, 1, 2, …")
    return labels


class ScanDataset:
    """Prepared scans and masks as files that are mapped, not loaded: made once, found again by later runs.

    Names of files are digests of the preparation, the label values and the source files' place, size and time.
    """

    def __init__(
        self, folder: Path, how: Preparation, *, image_size: Sequence[int], values: Sequence[int] = ()
    ) -> None:
        self.folder, self.how, self.image_size, self.values = folder, how, tuple(image_size), tuple(values)

    def prepare(self, case: ScanCase) -> None:
        """Write a case's files unless they are there."""
        voxels_file, mask_file = self._files(case)
        if voxels_file.exists() and (mask_file is None or mask_file.exists()):
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        volume = read_volume(case.image)
        scan = prepare_scan(volume, self.how, image_size=self.image_size, name=case.image.name)
        if mask_file is not None:
            assert case.mask is not None
            labels = read_labels(case.mask, volume)
            classes = prepare_mask(labels, box=scan.box, size=_size(scan.voxels), values=self.values)
            _save(mask_file, classes)
        _save(voxels_file, np.rint(scan.voxels * 255).astype(np.uint8))

    def load(self, case: ScanCase) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
        """Grey values 0 to 255 and class numbers, mapped from disk."""
        voxels_file, mask_file = self._files(case)
        mask = None if mask_file is None else np.load(mask_file, mmap_mode="r", allow_pickle=False)
        return np.load(voxels_file, mmap_mode="r", allow_pickle=False), mask

    def _files(self, case: ScanCase) -> tuple[Path, Path | None]:
        size = [] if self.how.spacing_mm is not None else list(self.image_size)
        scan = _digest([self.how.to_dict(), size, _facts(case.image)])
        if case.mask is None or not self.values:
            return self.folder / f"{scan}.npy", None
        return self.folder / f"{scan}.npy", self.folder / f"{_digest([scan, self.values, _facts(case.mask)])}.npy"


def _share(labels: NDArray[np.integer], size: Size, values: Sequence[int]) -> NDArray[np.float32]:
    """Which share of every voxel of the grid these values fill."""
    return resize(labels, size, to_grey=lambda block: np.isin(block, values).astype(np.float32))


def _save(path: Path, values: NDArray[np.uint8]) -> None:
    with replacing(path) as temporary:
        np.save(temporary, values, allow_pickle=False)


def _size(voxels: NDArray[Any]) -> Size:
    depth, height, width = voxels.shape
    return depth, height, width


def _facts(path: Path) -> list[Any]:
    found = path.stat()
    return [str(path.resolve()), found.st_size, found.st_mtime_ns]


def _digest(facts: list[Any]) -> str:
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:24]
