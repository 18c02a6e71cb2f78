"""Which scans should a calibrated model call strange? Near ones are made of good ones, far ones are in folders.

A near case is the good scan with one thing wrong, as it would come out of a wrong header, a careless export or another
viewer's settings; it is changed as a file's voxels would be, before the grid is made, so cropping and windows see it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy import ndimage

from slicesight.errors import InputError
from slicesight.inference.predictor import Predictor
from slicesight.io.loading import read_volume
from slicesight.volumes.grid import GridVolume
from slicesight.volumes.volume import Volume

Near = Callable[[Volume, np.random.Generator], Volume]
SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".mha", ".mhd")
NOT_SCANS = ("label", "seg", "mask", "target", "dose")


def with_voxels(volume: Volume, voxels: np.ndarray) -> Volume:
    return replace(volume, voxels=np.ascontiguousarray(voxels, dtype=np.float32))


def rotated(volume: Volume, degrees: float) -> Volume:
    """Turned in the axial plane."""
    low = float(volume.voxels.min())
    found = ndimage.rotate(volume.voxels, degrees, axes=(1, 2), reshape=False, order=1, cval=low)
    return with_voxels(volume, found)


def with_spacing(volume: Volume, factors_zyx: tuple[float, float, float]) -> Volume:
    """The same voxels with another spacing in the header."""
    if volume.spacing_mm is None or volume.affine_lps is None:
        raise InputError("no spacing to change")
    z, y, x = (step * factor for step, factor in zip(volume.spacing_mm, factors_zyx, strict=True))
    affine = volume.affine_lps @ np.diag([*factors_zyx, 1.0])
    return replace(volume, spacing_mm=(z, y, x), affine_lps=affine)


def half(volume: Volume, *, upper: bool) -> Volume:
    """Half of the axial slices, the others not scanned; background stands in for them, so that the geometry stays."""
    voxels, middle = volume.voxels, len(volume.voxels) // 2
    low = float(voxels.min())
    kept = voxels.copy()
    if upper:
        kept[:middle] = low
    else:
        kept[middle:] = low
    return with_voxels(volume, kept)


def more_contrast(volume: Volume, factor: float) -> Volume:
    """Soft tissue spread (or squeezed) about 40 HU, or about the median."""
    middle = 40.0 if volume.unit == "HU" else float(np.median(volume.voxels))
    return with_voxels(volume, (volume.voxels - middle) * factor + middle)


def level(volume: Volume, offset: float) -> Volume:
    """All values shifted; in arbitrary units by that many thousandths of the range."""
    scale = 1.0 if volume.unit == "HU" else float(np.ptp(volume.voxels)) / 1000
    return with_voxels(volume, volume.voxels + offset * scale)


def noisy(volume: Volume, rng: np.random.Generator, size: float) -> Volume:
    scale = size if volume.unit == "HU" else size / 1000 * float(np.ptp(volume.voxels))
    return with_voxels(volume, volume.voxels + rng.normal(0, scale, volume.shape))


NEAR: dict[str, Near] = {
    "mirrored left to right": lambda volume, rng: with_voxels(volume, volume.voxels[:, :, ::-1]),
    "front to back": lambda volume, rng: with_voxels(volume, volume.voxels[:, ::-1]),
    "head to feet": lambda volume, rng: with_voxels(volume, volume.voxels[::-1]),
    "turned by 180°": lambda volume, rng: with_voxels(volume, volume.voxels[:, ::-1, ::-1]),
    "turned by 90°": lambda volume, rng: rotated(volume, 90),
    "turned by 20°": lambda volume, rng: rotated(volume, 20),
    "inverted": lambda volume, rng: with_voxels(volume, volume.voxels.max() + volume.voxels.min() - volume.voxels),
    "spacing x 2": lambda volume, rng: with_spacing(volume, (2, 2, 2)),
    "spacing / 2": lambda volume, rng: with_spacing(volume, (0.5, 0.5, 0.5)),
    "slice spacing x 2": lambda volume, rng: with_spacing(volume, (2, 1, 1)),
    "pixel spacing x 2": lambda volume, rng: with_spacing(volume, (1, 2, 2)),
    "HU + 1024": lambda volume, rng: level(volume, 1024),
    "HU + 100": lambda volume, rng: level(volume, 100),
    "contrast x 2": lambda volume, rng: more_contrast(volume, 2.0),
    "contrast / 2": lambda volume, rng: more_contrast(volume, 0.5),
    "upper half only": lambda volume, rng: half(volume, upper=True),
    "lower half only": lambda volume, rng: half(volume, upper=False),
    "noise of 100 HU": lambda volume, rng: noisy(volume, rng, 100),
    "nothing but noise": lambda volume, rng: with_voxels(volume, rng.uniform(-1024, 1024, volume.shape)),
    "empty": lambda volume, rng: with_voxels(volume, np.full(volume.shape, volume.voxels.min())),
}
WINDOWS = {"lung window": "lung", "bone window": "bone"}


def near_grids(volume: Volume, predictor: Predictor, *, number: int) -> Iterator[tuple[str, GridVolume]]:
    """(kind, grid) of every near case of a good scan that can be made of it."""
    for kind, change in NEAR.items():
        try:
            yield kind, predictor.grid(change(volume, np.random.default_rng(number)))
        except InputError:
            continue
    if volume.unit == "HU":
        for kind, window in WINDOWS.items():
            yield kind, predictor.grid(volume, window=window)


def find_scans(folder: Path) -> list[Path]:
    """Scan files below a folder, label maps left out; a file is itself."""
    if folder.is_file():
        return [folder]
    found = [
        path
        for path in sorted(folder.rglob("*"))
        if path.name.endswith(SUFFIXES) and not any(word in path.name.lower() for word in NOT_SCANS)
    ]
    return found or [folder]


def far_grids(folder: Path, predictor: Predictor, *, most: int, synthetic: bool) -> Iterator[GridVolume]:
    """Grids of the scans of a folder. synthetic: the marker they are given, so that it gives nothing away."""
    for path in find_scans(folder)[:most]:
        try:
            yield predictor.grid(replace(read_volume(path), is_synthetic=synthetic))
        except InputError:
            continue
