"""In which order do a series' frames stack, and do they make one plain volume?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slicesight.io.assemble import ReadOptions
from slicesight.io.dicom.frames import Frame
from slicesight.io.dicom.pixels import raw_pixels
from slicesight.io.files import ScanError

_SAME_DIRECTION = 1e-3  # largest difference between direction cosines of one stack
_SAME_PLACE_MM = 1e-3
_UNEVEN_SHARE = 0.02  # of the usual spacing
_GAP_SHARE = 1.5
_GAP_TOLERANCE = 0.1


def sorted_stack(frames: list[Frame], options: ReadOptions, notes: list[str]) -> list[Frame]:
    """The frames in geometric order, checked to be one stack of one size and direction."""
    if len(frames) < 2:
        raise ScanError("found a single 2D slice; expected at least 2 slices of one series, point at their folder")
    _check_alike(frames)
    normal = np.cross(frames[0].directions[0], frames[0].directions[1])
    places = np.array([float(frame.position @ normal) for frame in frames])
    order = np.argsort(places, kind="stable")
    frames, places = _without_repeats([frames[i] for i in order], places[order], options, notes)
    if len(frames) < 2:
        raise ScanError("all slices lie at the same position; expected at least 2 positions, fix the header")
    _note_spacing(places, notes)
    return frames


def _check_alike(frames: list[Frame]) -> None:
    shapes = {frame.shape for frame in frames}
    if len(shapes) > 1:
        sizes = ", ".join(f"{columns}×{rows}" for rows, columns in sorted(shapes))
        raise ScanError(f"slices of different size in one series ({sizes}); expected one size, separate the files")
    spacings = np.array([frame.spacing for frame in frames])
    if np.abs(spacings - spacings[0]).max() > 1e-3 * max(float(spacings[0].max()), 1e-6):
        raise ScanError("slices of different PixelSpacing in one series; expected one, separate the files")
    directions = np.stack([frame.directions for frame in frames])
    if np.abs(directions - directions[0]).max() > _SAME_DIRECTION:
        raise ScanError("slices of different orientation in one series; expected one stack, separate the files")


def _without_repeats(
    frames: list[Frame], places: NDArray[np.float64], options: ReadOptions, notes: list[str]
) -> tuple[list[Frame], NDArray[np.float64]]:
    """One frame per position: copies are dropped, a 4D series needs a time point, anything else is an error."""
    starts = np.flatnonzero(np.diff(places, prepend=-np.inf) > _SAME_PLACE_MM)
    if len(starts) == len(frames):
        return frames, places
    kept = _first_of_each(
        {f"{frame.sop_instance_uid}/{frame.number}": index for index, frame in reversed(_listed(frames))}
    )
    if len(kept) == len(frames):
        counts = np.diff(np.append(starts, len(frames)))
        if counts.min() == counts.max():
            return _at_time_point(frames, places, starts, options, notes)
        contents = {
            (round(place, 3), raw_pixels(frame)): i
            for (i, frame), place in zip(_listed(frames)[::-1], places[::-1], strict=True)
        }
        kept = _first_of_each(contents)
        if len(kept) == len(frames):
            raise ScanError(
                f"{int((counts > 1).sum())} of {len(starts)} slice positions hold more than one image; "
                "expected one each, remove the duplicates or separate the series"
            )
    notes.append(f"left out {len(frames) - len(kept)} duplicate slices")
    return _without_repeats([frames[i] for i in kept], places[kept], options, notes)


def _at_time_point(
    frames: list[Frame],
    places: NDArray[np.float64],
    starts: NDArray[np.intp],
    options: ReadOptions,
    notes: list[str],
) -> tuple[list[Frame], NDArray[np.float64]]:
    count = len(frames) // len(starts)
    if options.time_point is None or options.time_point >= count:
        raise ScanError(
            f"found {count} images at every slice position (4D); choose one with --time-point 0…{count - 1}"
        )
    notes.append(f"4D series of {count} volumes; read number {options.time_point} (from 0, by instance number)")
    chosen = []
    for start in starts.tolist():
        here = sorted(range(start, start + count), key=lambda index: frames[index].order_in_time)
        chosen.append(here[options.time_point])
    return [frames[index] for index in chosen], places[chosen]


def _note_spacing(places: NDArray[np.float64], notes: list[str]) -> None:
    gaps = np.diff(places)
    usual = float(np.median(gaps))
    steps = np.rint(gaps / usual)
    num_missing = int((steps - 1)[gaps > _GAP_SHARE * usual].sum())
    is_gap_pattern = np.abs(gaps - steps * usual).max() <= _GAP_TOLERANCE * usual
    if num_missing > 0 and is_gap_pattern:
        notes.append(f"about {num_missing} slices are missing (gaps up to {gaps.max():.2f} mm, usual {usual:.2f} mm)")
    elif np.abs(gaps - usual).max() > max(_UNEVEN_SHARE * usual, 2 * _SAME_PLACE_MM):
        notes.append(f"uneven slice spacing, {gaps.min():.2f} to {gaps.max():.2f} mm; positions follow each header")


def _listed(frames: list[Frame]) -> list[tuple[int, Frame]]:
    return list(enumerate(frames))


def _first_of_each(last_seen: Mapping[Any, int]) -> list[int]:
    return sorted(last_seen.values())
