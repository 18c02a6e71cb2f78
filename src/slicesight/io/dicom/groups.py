"""Which frames of one DICOM series make one volume, where it holds several: echoes, b-values, phases, passes, stacks?

Echo time, b-value and gradient direction always part a series, for their values mean different things, and so does the
frame of reference, within which alone positions compare. Stacks and
acquisitions part it where together they are no plain stack. What is still at one position several times is parted by
what else the headers tell: kind of image, position in time, trigger, time. Nothing is guessed: a key has to part the
frames into whole volumes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.multival import MultiValue

from slicesight.io.dicom.frames import Frame
from slicesight.io.dicom.values import first_item, number_of, shown, text_of, value_of
from slicesight.io.files import DAMAGED

SAME_PLACE_MM = 1e-3
_SAME_DIRECTION = 1e-3  # largest difference between direction cosines of one stack
_PRIVATE_B_VALUES = (  # group, creator, element
    (0x0019, "SIEMENS MR HEADER", 0x0C),
    (0x0043, "GEMS_PARM_01", 0x39),
    (0x2001, "Philips Imaging DD 001", 0x03),
)
_GE_B_VALUE_OFFSET = 100_000  # GE adds multiples of it


@dataclass(frozen=True)
class FrameGroup:
    """Frames that make one volume, and what sets it apart from the series' others: "TE 72 ms, b = 1000"."""

    frames: list[Frame]
    label: str = ""


def volumes_of(frames: list[Frame]) -> list[FrameGroup]:
    """The volumes of a series in the order of their echo times, b-values, …; one where it holds one."""
    groups = [FrameGroup(frames)]
    for keys, is_parting in (
        (_ALWAYS, _are_pairs),
        (_WHERE_NO_STACK, _are_stacks),
        (_WHERE_REPEATED, _are_fewer_at_one_place),
    ):
        for key in keys:
            groups = [part for group in groups for part in _parted(group, key, is_parting)]
    return groups


def normal_of(frame: Frame) -> NDArray[np.float64]:
    """The direction in which slices stack."""
    return np.asarray(np.cross(frame.directions[0], frame.directions[1]))


def off_line_mm(frames: list[Frame]) -> NDArray[np.float64]:
    """How far each frame's first pixel lies off the line through the others' (a tilted stack is on a line, too)."""
    origins = np.stack([frame.position for frame in frames])
    places = origins @ normal_of(frames[0])
    across = origins - places[:, None] * normal_of(frames[0])
    order = np.argsort(places, kind="stable")
    steps = np.diff(places[order])
    is_step = steps > SAME_PLACE_MM
    if not is_step.any():
        return np.asarray(np.linalg.norm(across - np.median(across, axis=0), axis=1))
    slope = np.median(np.diff(across[order], axis=0)[is_step] / steps[is_step, None], axis=0)
    rest = across - places[:, None] * slope
    return np.asarray(np.linalg.norm(rest - np.median(rest, axis=0), axis=1))


def is_one_direction(frames: list[Frame]) -> bool:
    """Whether rows and columns of all frames run alike."""
    directions = np.stack([frame.directions for frame in frames])
    return bool(np.abs(directions - directions[0]).max() <= _SAME_DIRECTION)


def _parted(
    group: FrameGroup, key: _Key, is_parting: Callable[[list[Frame], list[list[Frame]]], bool]
) -> list[FrameGroup]:
    by_value: dict[Any, list[Frame]] = defaultdict(list)
    for frame in group.frames:
        by_value[key.read(frame)].append(frame)
    values = sorted(by_value, key=lambda value: (value is not None, value if value is not None else 0))
    parts = [by_value[value] for value in values]
    if len(parts) < 2 or not is_parting(group.frames, parts):
        return [group]
    prefix = f"{group.label}, " if group.label else ""
    return [FrameGroup(parts[k], prefix + key.label(value, k)) for k, value in enumerate(values)]


def _are_pairs(_: list[Frame], parts: list[list[Frame]]) -> bool:
    return min(map(len, parts)) >= 2


def _are_stacks(frames: list[Frame], parts: list[list[Frame]]) -> bool:
    if min(map(len, parts)) < 2:
        return False
    is_plain = is_one_direction(frames) and _most_at_one_place(frames) == 1
    if is_plain and off_line_mm(frames).max() <= max(frames[0].spacing):
        return any(_is_striped(one, other) for one, other in combinations(parts, 2))
    return True


def _is_striped(one: list[Frame], other: list[Frame]) -> bool:
    """Whether the slices of two passes over one region would take turns though each pass leaves no room between."""
    normal = normal_of(one[0])
    first, second = (np.sort([float(frame.position @ normal) for frame in part]) for part in (one, other))
    low, high = max(first[0], second[0]), min(first[-1], second[-1])
    usual = float(np.median(np.diff(first)))
    if high - low < 0.6 * usual:
        return False
    together = np.sort(np.concatenate([first, second]))
    gap = float(np.diff(together[(together >= low - usual) & (together <= high + usual)]).min())
    thickness = _number(one[0], "SliceThickness")
    return thickness is None or thickness > 1.2 * gap


def _are_fewer_at_one_place(frames: list[Frame], parts: list[list[Frame]]) -> bool:
    """Whether whole volumes come out, of which one may lack some images; a few copies are no volume."""
    sizes = [len(part) for part in parts]
    if min(sizes) < 2 or 2 * min(sizes) < max(sizes):
        return False
    return max(map(_most_at_one_place, parts)) < _most_at_one_place(frames)


def _most_at_one_place(frames: list[Frame]) -> int:
    places = np.sort([float(frame.position @ normal_of(frames[0])) for frame in frames])
    starts = np.flatnonzero(np.diff(places, prepend=-np.inf) > SAME_PLACE_MM)
    return int(np.diff(np.append(starts, len(places))).max())


def _number(frame: Frame, *keywords: str) -> float | None:
    for item in frame.items:
        for keyword in keywords:
            if (number := number_of(item, keyword, default=None)) is not None:
                return number
    return None


def _text(frame: Frame, *keywords: str) -> str:
    return next((text for item in frame.items for keyword in keywords if (text := text_of(item, keyword))), "")


def _echo_time(frame: Frame) -> float | None:
    number = _number(frame, "EffectiveEchoTime", "EchoTime")
    return None if number is None else float(f"{number:.2g}" if number < 100 else f"{number:.3g}")


def _b_value(frame: Frame) -> float | None:
    if (number := _number(frame, "DiffusionBValue")) is not None:
        return number
    for group, creator, element in _PRIVATE_B_VALUES:
        try:
            value = frame.header.private_block(group, creator)[element].value
            number = float(value[0] if isinstance(value, list | tuple) or hasattr(value, "append") else value)
        except DAMAGED:
            continue
        return number % _GE_B_VALUE_OFFSET if group == 0x0043 else number
    return None


def _gradient(frame: Frame) -> tuple[float, ...] | None:
    for item in frame.items:
        nested = first_item(item, "DiffusionGradientDirectionSequence")
        value = value_of(item if nested is None else nested, "DiffusionGradientOrientation")
        if value is not None:
            try:
                return tuple(round(float(part), 2) for part in value)
            except (TypeError, ValueError):
                return None
    return None


def _kind(frame: Frame) -> str:
    """The words of ImageType after the first two, such as M or P for magnitude and phase."""
    for item in frame.items:
        value = value_of(item, "FrameType") or value_of(item, "ImageType")
        if isinstance(value, MultiValue):
            return " ".join(shown(part) for part in list(value)[2:])
    return ""


@dataclass(frozen=True)
class _Key:
    """By what frames are parted, and how one of its values is named; times are only counted."""

    read: Callable[[Frame], Any]
    name: str
    unit: str = ""

    def label(self, value: Any, number: int) -> str:
        if value in (None, ""):
            return f"no {self.name.strip(' =')}"
        if self.name == "time":
            return f"time {number}"
        listed = ", ".join(f"{part:g}" for part in value) if isinstance(value, tuple) else None
        return (
            f"{self.name} {f'({listed})' if listed else value if isinstance(value, str) else f'{value:g}'}{self.unit}"
        )


_ALWAYS = (
    _Key(lambda frame: text_of(frame.header, "FrameOfReferenceUID"), "frame of reference"),
    _Key(_echo_time, "TE", " ms"),
    _Key(_b_value, "b ="),
    _Key(_gradient, "direction"),
)
_WHERE_NO_STACK = (
    _Key(lambda frame: _text(frame, "StackID"), "stack"),
    _Key(lambda frame: _number(frame, "AcquisitionNumber", "FrameAcquisitionNumber"), "acquisition"),
)
_WHERE_REPEATED = (
    _Key(_kind, "image type"),
    _Key(lambda frame: _number(frame, "InversionTime"), "TI", " ms"),
    _Key(lambda frame: _number(frame, "TemporalPositionIndex", "TemporalPositionIdentifier"), "temporal position"),
    _Key(lambda frame: _number(frame, "TriggerTime", "NominalCardiacTriggerDelayTime"), "trigger", " ms"),
    _Key(lambda frame: _number(frame, "FrameReferenceTime"), "frame reference time", " ms"),
    _Key(lambda frame: _text(frame, "FrameAcquisitionDateTime", "AcquisitionDateTime"), "time"),
    _Key(lambda frame: _text(frame, "AcquisitionTime"), "time"),
    _Key(lambda frame: _text(frame, "ContentTime"), "time"),
)
