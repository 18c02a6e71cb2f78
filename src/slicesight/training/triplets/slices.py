"""Which slices of a scan are shown to the 2D models, and what lies in each by its label map?

The cube is the scan on an axial grid: axes grow superior, posterior, patient-left. Slice k of a plane's n is the
cube's layer k along that plane's axis; its picture is cut from the scan itself at full sharpness, upright, in true
proportions, padded with black to a square.

D, H, W cube voxels, T slices chosen, P picture pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slicesight.errors import VolumeError
from slicesight.models.med3dinsight.descriptions import SlicePlace, Structure
from slicesight.training.pretraining_recipe import TripletSettings
from slicesight.volumes.grid import GridSpec, GridVolume, to_grid
from slicesight.volumes.volume import PLANES, Plane, Volume

FOREGROUND_GREY = 0.05
LEAST_FOREGROUND = 0.1
"""Of the fullest slice's foreground: emptier slices are not chosen."""
_ROWS_AND_COLUMNS = {"axial": (1, 2), "coronal": (0, 2), "sagittal": (0, 1)}


@dataclass(frozen=True, eq=False)
class ScanSlices:
    """A scan ready for triplets.

    cube: (D, H, W) uint8 grey. pictures: (T, P, P) uint8. structures: per slice, largest first; empty without labels.
    shapes: of each plane's pictures, rows and columns that are no padding.
    """

    cube: NDArray[np.uint8]
    places: tuple[SlicePlace, ...]
    pictures: NDArray[np.uint8]
    structures: tuple[tuple[Structure, ...], ...]
    modality: str
    shapes: dict[Plane, tuple[int, int]]


def cut_scan(volume: Volume, settings: TripletSettings, *, labels_ZYX: NDArray[Any] | None = None) -> ScanSlices:
    """The cube and the foreground slices of all three planes, evenly spread over each.

    Args:
        labels_ZYX: the scan's label map on its own canonical voxels, for what the slices show.

    Raises:
        VolumeError: a plane without a single foreground slice.
    """
    cube_DHW = _grid(volume, settings, "axial", settings.size).voxels
    places: list[SlicePlace] = []
    pictures: list[NDArray[np.uint8]] = []
    structures: list[tuple[Structure, ...]] = []
    shapes: dict[Plane, tuple[int, int]] = {}
    for axis, plane in enumerate(PLANES):
        count = settings.size[axis]
        chosen = foreground_slices(cube_DHW, axis, settings.slices_per_plane)
        height, width = picture_shape(volume, _box_lengths(volume, settings), plane, settings.picture_size)
        shapes[plane] = height, width
        grid = _grid(volume, settings, plane, (count, height, width))
        for index in chosen:
            places.append(SlicePlace(plane, int(index), count))
            pictures.append(padded(to_grey8(grid.voxels[index]), settings.picture_size))
            shown = () if labels_ZYX is None else find_structures(grid, labels_ZYX, int(index))
            structures.append(shown)
    return ScanSlices(
        cube=to_grey8(cube_DHW),
        places=tuple(places),
        pictures=np.stack(pictures),
        structures=tuple(structures),
        modality=settings.modality or volume.modality,
        shapes=shapes,
    )


def foreground_slices(cube_DHW: NDArray[np.float32], axis: int, wanted: int) -> NDArray[np.int64]:
    """Up to `wanted` layers along an axis that hold a fair part of the body, evenly spread.

    Raises:
        VolumeError: every layer is black.
    """
    others = tuple(other for other in range(3) if other != axis)
    share = (cube_DHW > FOREGROUND_GREY).mean(axis=others)
    if not share.any():
        raise VolumeError(f"the scan is black everywhere in its {PLANES[axis]} slices; choose another window")
    held = np.flatnonzero(share >= LEAST_FOREGROUND * share.max())
    spread = ((np.arange(wanted) + 0.5) * len(held) / wanted).astype(int)
    chosen: NDArray[np.int64] = held[np.unique(spread)]
    return chosen


def picture_shape(volume: Volume, lengths: tuple[int, int, int], plane: Plane, side: int) -> tuple[int, int]:
    """(rows, columns) of a picture in true proportions whose longer side is `side`; square voxels without spacing."""
    spacing = volume.spacing_mm or (1.0, 1.0, 1.0)
    rows_mm, columns_mm = (lengths[axis] * spacing[axis] for axis in _ROWS_AND_COLUMNS[plane])
    longer = max(rows_mm, columns_mm)
    return max(1, round(side * rows_mm / longer)), max(1, round(side * columns_mm / longer))


def find_structures(grid: GridVolume, labels_ZYX: NDArray[Any], index: int) -> tuple[Structure, ...]:
    """What the label map shows in one slice of a grid, the largest first (nearest label at every pixel)."""
    count, height, width = grid.voxels.shape
    assert 0 <= index < count
    rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    places = np.stack([np.full_like(rows, index), rows, columns], axis=-1)
    near = np.clip(np.rint(grid.to_canonical(places)).astype(int), 0, np.array(labels_ZYX.shape) - 1)
    labels_HW = labels_ZYX[near[..., 0], near[..., 1], near[..., 2]]
    body_HW = (grid.voxels[index] > FOREGROUND_GREY) | (labels_HW > 0)
    if not body_HW.any():
        return ()
    top, bottom = np.flatnonzero(body_HW.any(axis=1))[[0, -1]]
    left, right = np.flatnonzero(body_HW.any(axis=0))[[0, -1]]
    found = []
    for label in np.unique(labels_HW[labels_HW > 0]):
        here_rows, here_columns = np.nonzero(labels_HW == label)
        found.append(
            Structure(
                label=int(label),
                share=len(here_rows) / int(body_HW.sum()),
                row=(float(here_rows.mean()) - top + 0.5) / (bottom - top + 1),
                column=(float(here_columns.mean()) - left + 0.5) / (right - left + 1),
            )
        )
    return tuple(sorted(found, key=lambda structure: -structure.share))


def to_grey8(grey: NDArray[np.float32]) -> NDArray[np.uint8]:
    """[0, 1] as 8-bit grey."""
    return np.rint(grey * 255).astype(np.uint8)


def padded(picture: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """The picture in the middle of a black square."""
    height, width = picture.shape
    square = np.zeros((side, side), np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = picture
    return square


def _grid(volume: Volume, settings: TripletSettings, plane: Plane, size: tuple[int, int, int]) -> GridVolume:
    num_slices, height, width = size
    return to_grid(
        volume,
        GridSpec(
            num_slices=num_slices,
            height=height,
            width=width,
            plane=plane,
            window=settings.window,
            crop_foreground=settings.crop_foreground,
        ),
    )


def _box_lengths(volume: Volume, settings: TripletSettings) -> tuple[int, int, int]:
    (z0, z1), (y0, y1), (x0, x1) = _grid(volume, settings, "axial", (1, 1, 1)).box
    return z1 - z0, y1 - y0, x1 - x0
