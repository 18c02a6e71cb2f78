"""In which order do a series' frames stack, and is the stack one plain volume?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray

from slicesight.errors import VolumeError
from slicesight.volumes.readers.options import ReadOptions

_SAME_DIRECTION = 1e-3  # largest difference between direction cosines of one stack
_SAME_PLACE_MM = 1e-3
_UNEVEN_SHARE = 0.02  # of the usual spacing
_GAP_SHARE = 1.5


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One stored slice: its header, where it lies and how its values scale."""

    header: pydicom.Dataset
    number: int
    shape: tuple[int, int]
    position: NDArray[np.float64] | None
    directions: NDArray[np.float64] | None
    spacing: tuple[float, float] | None
    slope: float
    intercept: float

    @property
    def sop_instance_uid(self) -> str:
        return str(self.header.get("SOPInstanceUID", ""))


def frames_of(name: str, headers: list[pydicom.Dataset]) -> list[Frame]:
    """Every frame of the series' headers, in file order."""
    return [_classic_frame(name, header) for header in headers]


def sorted_stack(name: str, frames: list[Frame], options: ReadOptions, notes: list[str]) -> list[Frame]:
    """The frames in geometric order, checked to be one stack of one size and direction."""
    if len(frames) < 2:
        raise VolumeError(
            f"{name}: found a single 2D slice; expected a folder or file with at least 2 slices of one series"
        )
    shapes = {frame.shape for frame in frames}
    if len(shapes) > 1:
        sizes = ", ".join(f"{columns}×{rows}" for rows, columns in sorted(shapes))
        raise VolumeError(
            f"{name}: slices of different size in one series ({sizes}); expected one size, separate the files"
        )
    if any(frame.position is None or frame.directions is None for frame in frames):
        missing = sum(frame.position is None or frame.directions is None for frame in frames)
        raise VolumeError(
            f"{name}: {missing} of {len(frames)} slices have no ImagePositionPatient or ImageOrientationPatient; "
            "expected a position for every slice, export the original series"
        )
    directions = np.stack([frame.directions for frame in frames if frame.directions is not None])
    if np.abs(directions - directions[0]).max() > _SAME_DIRECTION:
        raise VolumeError(
            f"{name}: slices of different orientation in one series; expected one stack, separate the files"
        )
    normal = np.cross(directions[0, 0], directions[0, 1])
    places = np.array([float(frame.position @ normal) for frame in frames if frame.position is not None])
    order = np.argsort(places, kind="stable")
    frames, places = [frames[i] for i in order], places[order]
    frames, places = _without_repeats(name, frames, places, options, notes)
    if len(frames) < 2:
        raise VolumeError(f"{name}: all slices lie at the same position; expected at least 2 positions")
    _note_spacing(places, notes)
    return frames


def _without_repeats(
    name: str, frames: list[Frame], places: NDArray[np.float64], options: ReadOptions, notes: list[str]
) -> tuple[list[Frame], NDArray[np.float64]]:
    starts = np.flatnonzero(np.diff(places, prepend=-np.inf) > _SAME_PLACE_MM)
    if len(starts) == len(frames):
        return frames, places
    unique: dict[str, int] = {}
    for index, frame in enumerate(frames):
        unique.setdefault(f"{frame.sop_instance_uid}/{frame.number}", index)
    kept = sorted(unique.values())
    if len(kept) < len(frames):
        notes.append(f"left out {len(frames) - len(kept)} files that repeat another one's SOP instance UID")
        return _without_repeats(name, [frames[i] for i in kept], places[kept], options, notes)
    counts = np.diff(np.append(starts, len(frames)))
    if counts.min() != counts.max():
        raise VolumeError(
            f"{name}: {int((counts > 1).sum())} of {len(starts)} slice positions hold more than one image; "
            "expected one each, remove the duplicates or separate the series"
        )
    count = int(counts[0])
    if options.time_point is None or options.time_point >= count:
        raise VolumeError(
            f"{name}: found {count} images at every slice position (4D); choose one with --time-point 0…{count - 1}"
        )
    notes.append(f"4D series of {count} volumes; read number {options.time_point} (from 0, by instance number)")
    chosen = []
    for start in starts:
        here = sorted(range(start, start + count), key=lambda i: _instance_number(frames[i]))
        chosen.append(here[options.time_point])
    return [frames[i] for i in chosen], places[chosen]


def _note_spacing(places: NDArray[np.float64], notes: list[str]) -> None:
    gaps = np.diff(places)
    usual = float(np.median(gaps))
    num_missing = int(sum(round(gap / usual) - 1 for gap in gaps if gap > _GAP_SHARE * usual))
    if num_missing > 0:
        notes.append(f"about {num_missing} slices are missing (gaps up to {gaps.max():.2f} mm, usual {usual:.2f} mm)")
    elif np.abs(gaps - usual).max() > max(_UNEVEN_SHARE * usual, 2 * _SAME_PLACE_MM):
        notes.append(f"uneven slice spacing, {gaps.min():.2f} to {gaps.max():.2f} mm; positions are exact per slice")


def _classic_frame(name: str, header: Any) -> Frame:
    return Frame(
        header=header,
        number=0,
        shape=(int(header.Rows), int(header.Columns)),
        position=_numbers(name, header, "ImagePositionPatient", 3),
        directions=_directions(name, header),
        spacing=_pixel_spacing(name, header),
        slope=_number(name, header, "RescaleSlope", 1.0),
        intercept=_number(name, header, "RescaleIntercept", 0.0),
    )


def _directions(name: str, header: Any) -> NDArray[np.float64] | None:
    cosines = _numbers(name, header, "ImageOrientationPatient", 6)
    if cosines is None:
        return None
    pair = cosines.reshape(2, 3)
    lengths = np.linalg.norm(pair, axis=1)
    if np.abs(lengths - 1).max() > 0.05 or abs(float(pair[0] @ pair[1])) > 0.05:
        raise VolumeError(
            f"{name}: ImageOrientationPatient {cosines.tolist()} is not a pair of right-angled unit vectors; fix the header"
        )
    return np.asarray(pair / lengths[:, None])


def _pixel_spacing(name: str, header: Any) -> tuple[float, float]:
    spacing = _numbers(name, header, "PixelSpacing", 2)
    if spacing is None:
        spacing = _numbers(name, header, "ImagerPixelSpacing", 2)
    if spacing is None:
        raise VolumeError(
            f"{name}: PixelSpacing is missing; expected row and column spacing in mm, export the original series"
        )
    return float(spacing[0]), float(spacing[1])


def _numbers(name: str, header: Any, keyword: str, count: int) -> NDArray[np.float64] | None:
    value = header.get(keyword)
    if value is None or value == "":
        return None
    try:
        numbers = np.asarray([float(part) for part in value], dtype=np.float64)
    except (TypeError, ValueError):
        numbers = np.array([np.nan])
    if len(numbers) != count or not np.isfinite(numbers).all():
        raise VolumeError(f"{name}: {keyword} is {value!r}; expected {count} numbers, fix the header")
    return numbers


def _number(name: str, header: Any, keyword: str, default: float) -> float:
    value = header.get(keyword)
    if value is None or value == "":
        return default
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = np.nan
    if not np.isfinite(number):
        raise VolumeError(f"{name}: {keyword} is {value!r}; expected a number, fix the header")
    return number


def _instance_number(frame: Frame) -> tuple[int, str]:
    number = frame.header.get("InstanceNumber")
    return (int(number) if number is not None else 0, frame.sop_instance_uid)
