"""Which crops of a scan stand for it, where a network shall learn at the voxel size that it will work at?

A crop is `size` voxels of `spacing_mm`: a box of the scan's own voxels round a random voxel of the body, cut as a scan
of its own, so that its slices and their pictures are those of any scan. Where the scan is smaller, black is put round
it. Which crops are drawn follows from the scan's name alone.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slicesight.errors import VolumeError
from slicesight.models.med3dinsight.descriptions import SlicePlace
from slicesight.training.pretraining_recipe import TripletSettings
from slicesight.training.triplets.slices import ScanSlices, cut_scan
from slicesight.volumes.foreground import Box, foreground_box, foreground_threshold, whole_box
from slicesight.volumes.volume import PLANES, Volume
from slicesight.volumes.windows import window_bounds


@dataclass(frozen=True)
class CropBox:
    """Where a crop lies: first voxel and number of voxels along each canonical axis; it may stand over the scan."""

    starts: tuple[int, int, int]
    lengths: tuple[int, int, int]

    def take(self, values_ZYX: NDArray[Any], fill: float) -> NDArray[Any]:
        """The crop's part of an array of the scan's size, with `fill` where there is no scan."""
        inside, before_after = [], []
        for start, length, whole in zip(self.starts, self.lengths, values_ZYX.shape, strict=True):
            inside.append(slice(max(0, start), max(0, min(whole, start + length))))
            before_after.append((max(0, -start), max(0, start + length - whole)))
        return np.pad(values_ZYX[tuple(inside)], before_after, constant_values=fill)


def cut_crops(
    volume: Volume, settings: TripletSettings, *, name: str, labels_ZYX: NDArray[Any] | None = None
) -> Iterator[ScanSlices]:
    """The crops of a scan, each with its slices, and with each slice's place in the whole scan.

    Raises:
        VolumeError: a scan without voxel size, or a crop without a single foreground slice.
    """
    assert settings.spacing_mm is not None
    if volume.spacing_mm is None:
        raise VolumeError(
            f"{name}: the file states no voxel size, and crops are of {list(settings.spacing_mm)} mm; store the scan "
            "with a spacing, or set spacing_mm: null"
        )
    threshold = foreground_threshold(volume)
    body = foreground_box(volume.voxels, threshold) if settings.crop_foreground else whole_box(volume.shape)
    window = window_bounds(volume, settings.window, threshold=threshold)
    own = replace(settings, crop_foreground=False, window=f"{window.low:g},{window.high:g}", spacing_mm=None, crops=1)
    lengths = [
        max(2, round(size * wanted / found))
        for size, wanted, found in zip(settings.size, settings.spacing_mm, volume.spacing_mm, strict=True)
    ]
    inside = volume.voxels[tuple(slice(*part) for part in body)]
    body_voxels = np.argwhere(inside[::2, ::2, ::2] > threshold) * 2 + [part[0] for part in body]
    if not len(body_voxels):
        raise VolumeError(f"{name}: nothing in the scan is brighter than air; check its unit")
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    for _ in range(settings.crops):
        centre = body_voxels[rng.integers(len(body_voxels))]
        starts = [_start(int(at), length, part) for at, length, part in zip(centre, lengths, body, strict=True)]
        box = CropBox((starts[0], starts[1], starts[2]), (lengths[0], lengths[1], lengths[2]))
        crop = _as_scan(volume, box.take(volume.voxels, window.low))
        found = cut_scan(crop, own, labels_ZYX=None if labels_ZYX is None else box.take(labels_ZYX, 0))
        yield replace(found, places=tuple(_in_scan(place, box, body) for place in found.places))


def _start(centre: int, length: int, part: tuple[int, int]) -> int:
    """Round the centre, inside the body's part where it fits, in its middle where it does not."""
    first, end = part
    if end - first <= length:
        return first - (length - (end - first)) // 2
    return min(max(first, centre - length // 2), end - length)


def _in_scan(place: SlicePlace, box: CropBox, body: Box) -> SlicePlace:
    axis = PLANES.index(place.plane)
    first, end = body[axis]
    at = box.starts[axis] + (place.index + 0.5) / place.count * box.lengths[axis]
    return replace(place, at=round(min(1.0, max(0.0, (at - first) / (end - first))), 4))


def _as_scan(volume: Volume, voxels_ZYX: NDArray[Any]) -> Volume:
    return Volume(
        voxels=np.ascontiguousarray(voxels_ZYX, dtype=np.float32),
        spacing_mm=volume.spacing_mm,
        modality=volume.modality,
        unit=volume.unit,
        is_synthetic=volume.is_synthetic,
    )
