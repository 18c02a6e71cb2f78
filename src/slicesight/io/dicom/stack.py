"""In which order do a series' frames stack, and do they make one plain volume?"""

from __future__ import annotations

from collections.abc import Hashable, Iterable

import numpy as np
from numpy.typing import NDArray

from slicesight.io.assemble import ReadOptions
from slicesight.io.dicom.frames import Frame
from slicesight.io.dicom.groups import SAME_PLACE_MM, is_one_direction, normal_of, off_line_mm, volumes_of
from slicesight.io.dicom.pixels import raw_pixels
from slicesight.io.dicom.values import text_of
from slicesight.io.files import ScanError

_UNEVEN_SHARE = 0.02  # of the usual spacing
_GAP_SHARE = 1.5
_GAP_TOLERANCE = 0.1
_MAX_LISTED = 20


def sorted_stack(frames: list[Frame], options: ReadOptions, notes: list[str]) -> list[Frame]:
    """The frames of one volume in geometric order, checked to be one stack of one size, direction and line."""
    if len(frames) < 2:
        raise ScanError("found a single 2D slice; expected at least 2 slices of one series, point at their folder")
    identities = ((frame.sop_instance_uid, frame.number, frame.position.tobytes()) for frame in frames)
    frames = _without_copies(frames, identities, notes)
    volumes = volumes_of(frames)
    if len(volumes) > 1:
        number = options.time_point
        if number is None or number >= len(volumes):
            listed = "; ".join(f"{k}: {volume.label}" for k, volume in enumerate(volumes[:_MAX_LISTED]))
            rest = "; …" if len(volumes) > _MAX_LISTED else ""
            raise ScanError(
                f"found {len(volumes)} volumes in one series (4D); choose one with --time-point 0…{len(volumes) - 1} "
                f"({listed}{rest})"
            )
        frames = volumes[number].frames
        notes.append(
            f"a series of {len(volumes)} volumes; read number {number} (from 0): {volumes[number].label or 'unnamed'}"
        )
    _check_alike(frames)
    frames = _one_at_each_place(frames, options, notes)
    places = _places(frames)
    if len(frames) < 2:
        raise ScanError("all slices lie at the same position; expected at least 2 positions, fix the header")
    _check_line(frames)
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
    if not is_one_direction(frames):
        raise ScanError("slices of different orientation in one series; expected one stack, separate the files")


def _check_line(frames: list[Frame]) -> None:
    """Frames that are shifted sideways are no stack; what a header rounds off stays below a pixel."""
    off = off_line_mm(frames)
    if off.max() > max(frames[0].spacing):
        raise ScanError(
            f"{int((off > max(frames[0].spacing)).sum())} of {len(frames)} slices lie up to {off.max():.1f} mm beside "
            "the line of the others; expected one stack, separate the files of the stacks or fix the positions"
        )


def _places(frames: list[Frame]) -> NDArray[np.float64]:
    return np.array([float(frame.position @ normal_of(frames[0])) for frame in frames])


def _one_at_each_place(frames: list[Frame], options: ReadOptions, notes: list[str]) -> list[Frame]:
    """In order, one frame per position: a 4D series that tells nothing else is ordered by instance number."""
    order = np.argsort(_places(frames), kind="stable")
    frames = [frames[i] for i in order]
    places = _places(frames)
    starts = np.flatnonzero(np.diff(places, prepend=-np.inf) > SAME_PLACE_MM)
    if len(starts) == len(frames):
        return frames
    counts = np.diff(np.append(starts, len(frames)))
    if counts.min() == counts.max():
        return _at_time_point(frames, starts.tolist(), options, notes)
    contents = (
        (round(place, 3), frame.slope, frame.intercept, raw_pixels(frame))
        for frame, place in zip(frames, places, strict=True)
    )
    kept = _without_copies(frames, contents, notes)
    if len(kept) == len(frames):
        raise ScanError(
            f"{int((counts > 1).sum())} of {len(starts)} slice positions hold more than one image; "
            "expected one each, remove the duplicates or separate the series"
        )
    return _one_at_each_place(kept, options, notes)


def _at_time_point(frames: list[Frame], starts: list[int], options: ReadOptions, notes: list[str]) -> list[Frame]:
    count = len(frames) // len(starts)
    if options.time_point is None or options.time_point >= count:
        raise ScanError(
            f"found {count} images at every slice position (4D); choose one with --time-point 0…{count - 1}"
        )
    chosen = []
    for start in starts:
        here = sorted(frames[start : start + count], key=lambda frame: frame.order_in_time)
        times = [text_of(frame.header, "AcquisitionTime") for frame in here]
        if all(times) and times != sorted(times):
            raise ScanError(
                f"found {count} images at every slice position, whose instance numbers and times disagree; "
                "expected volumes that can be told apart, separate their files"
            )
        chosen.append(here[options.time_point])
    notes.append(f"4D series of {count} volumes; read number {options.time_point} (from 0, by instance number)")
    return chosen


def _without_copies(frames: list[Frame], identities: Iterable[Hashable], notes: list[str]) -> list[Frame]:
    first: dict[Hashable, Frame] = {}
    for frame, identity in zip(frames, identities, strict=True):
        first.setdefault(identity, frame)
    if len(first) < len(frames):
        notes.append(f"left out {len(frames) - len(first)} duplicate slices")
    return list(first.values())


def _note_spacing(places: NDArray[np.float64], notes: list[str]) -> None:
    gaps = np.diff(places)
    usual = float(np.median(gaps))
    steps = np.rint(gaps / usual)
    num_missing = int((steps - 1)[gaps > _GAP_SHARE * usual].sum())
    is_gap_pattern = np.abs(gaps - steps * usual).max() <= _GAP_TOLERANCE * usual
    if num_missing > 0 and is_gap_pattern:
        notes.append(f"about {num_missing} slices are missing (gaps up to {gaps.max():.2f} mm, usual {usual:.2f} mm)")
    elif np.abs(gaps - usual).max() > max(_UNEVEN_SHARE * usual, 2 * SAME_PLACE_MM):
        notes.append(f"uneven slice spacing, {gaps.min():.2f} to {gaps.max():.2f} mm; positions follow each header")
