"""How is a range of a scan's slices cut out so that it looks as it does in the whole scan?

A part that is cropped to its own foreground gives its place away: the shoulders fill another frame than the head. So
the part keeps the frame of the whole scan, in rows and columns, and is not cropped again (`Volume.keeps_frame`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np

from slicesight.errors import InputError
from slicesight.volumes.foreground import Box, foreground_box, foreground_threshold
from slicesight.volumes.volume import Volume

Side = Literal["left", "right"]
COLUMNS = 2
"""The canonical axis that runs to the patient's left."""


def cut_range(volume: Volume, slices: tuple[int, int] | None, *, side: Side | None = None) -> Volume:
    """The part of a whole scan that some of its slices, or one half of the patient, show.

    Args:
        slices: first and last source slice, both included; None takes all that hold foreground.
        side: of the patient; keeps that half of the frame's columns.

    `source["box_zyx"]` of the result says which part of the whole scan's canonical voxels it is.

    Raises:
        InputError: slices that the scan has not, or a side of slices that are sagittal.
    """
    box = range_box(volume, slices, side=side)
    starts = [start for start, _ in box]
    axis, count = volume.acquisition_axis, volume.num_source_slices
    first, last = box[axis]
    source = range(count - last, count - first) if volume.slices_reversed else range(first, last)
    affine, positions = volume.affine_lps, volume.slice_positions_mm
    if affine is not None:
        affine = affine.copy()
        affine[:3, 3] += affine[:3, :3] @ np.asarray(starts, dtype=float)
        if positions is not None:
            moved = np.array([(start + stop - size) / 2 for (start, stop), size in zip(box, volume.shape, strict=True)])
            moved[axis] = 0.0
            positions = positions[source.start : source.stop] + moved @ affine[:3, :3].T
    return replace(
        volume,
        voxels=volume.voxels[tuple(slice(start, stop) for start, stop in box)],
        affine_lps=affine,
        slice_positions_mm=positions,
        sop_instance_uids=volume.sop_instance_uids[source.start : source.stop],
        frame_numbers=volume.frame_numbers[source.start : source.stop],
        first_source_slice=source.start,
        keeps_frame=True,
        source={**volume.source, "box_zyx": [list(extent) for extent in box]},
    )


def range_box(volume: Volume, slices: tuple[int, int] | None, *, side: Side | None = None) -> Box:
    """Which canonical voxels of a whole scan `cut_range` keeps; arguments and errors as there."""
    box = list(foreground_box(volume.voxels, foreground_threshold(volume)))
    axis, count = volume.acquisition_axis, volume.num_source_slices
    if slices is not None:
        first, last = slices
        if not 0 <= first <= last < count:
            raise InputError(
                f"slices {first} to {last} are asked for, and the scan has slices 0 to {count - 1}; change the range"
            )
        box[axis] = (count - 1 - last, count - first) if volume.slices_reversed else (first, last + 1)
    if side is not None:
        if axis == COLUMNS:
            raise InputError(f"side {side} is asked for, and the slices are sagittal; leave the side out")
        start, stop = box[COLUMNS]
        middle = (start + stop + 1) // 2
        box[COLUMNS] = (middle, stop) if side == "left" else (start, middle)
        if stop - start < 2:
            raise InputError(f"side {side} is asked for, and the scan is {stop - start} columns wide; expected 2")
    return box[0], box[1], box[2]
