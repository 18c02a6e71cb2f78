"""Which part of the scan does an answer rest on, said so that a person can find it again?

Neighbouring grid slices that weigh more than twice an even spread become one range of source slices with its
millimetres. In a reformatted plane every grid slice cuts all source slices, so there the cut itself is named.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

from slicesight.reader import Answer, SliceEvidence
from slicesight.volumes.grid import GridVolume

AXIS_NAMES = ("x", "y", "z")
WORTH_NAMING = 2.0
"""A slice is named where it weighs this many times an even spread."""


class Piece(Protocol):
    """What a grid slice and a piece of evidence share: where they come from and where they lie."""

    @property
    def source_slices(self) -> tuple[int, ...]: ...

    @property
    def position_mm(self) -> tuple[float, float, float] | None: ...


@dataclass(frozen=True, kw_only=True)
class SliceRange:
    """Neighbouring grid slices that together hold `share` of the score.

    grid_slices: (first, last), both included. name: `slices 71–76` in the file's own 0-based numbers.
    place: `z -214…-202 mm`, from edge to edge along the patient axis they stack on; empty without geometry.
    """

    grid_slices: tuple[int, int]
    name: str
    place: str
    share: float

    @property
    def num_slices(self) -> int:
        return self.grid_slices[1] - self.grid_slices[0] + 1


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """The few ranges worth naming, heaviest first, and what is left over."""

    ranges: tuple[SliceRange, ...]
    num_other_slices: int
    other_share: float
    even_share: float


@dataclass(frozen=True, kw_only=True)
class Truth:
    """What is known to be right about a question.

    grid_slices: the slices that show it, empty where nobody knows. is_right: the answer says so too.
    """

    answer: str
    grid_slices: tuple[int, ...]
    is_right: bool


def summarise(answer: Answer, *, max_ranges: int = 3) -> Evidence:
    """Name the slices that weigh more than twice an even spread, neighbours joined into ranges.

    A model that does not weigh slices has no evidence: no ranges, nothing left over.
    """
    if not answer.slices:
        return Evidence(ranges=(), num_other_slices=0, other_share=0.0, even_share=0.0)
    by_index = sorted(answer.slices, key=lambda found: found.grid_slice)
    even_share = 1.0 / len(by_index)
    ranges = [
        SliceRange(
            grid_slices=(group[0].grid_slice, group[-1].grid_slice),
            name=slice_name(by_index, group[0].grid_slice, group[-1].grid_slice),
            place=place_name(by_index, group[0].grid_slice, group[-1].grid_slice),
            share=sum(one.score for one in group),
        )
        for group in _neighbours([found for found in by_index if found.score > WORTH_NAMING * even_share])
    ]
    ranges = sorted(ranges, key=lambda found: -found.share)[:max_ranges]
    return Evidence(
        ranges=tuple(ranges),
        num_other_slices=len(by_index) - sum(found.num_slices for found in ranges),
        other_share=max(0.0, sum(answer.scores) - sum(found.share for found in ranges)),
        even_share=even_share,
    )


def peak_slice(answer: Answer) -> int | None:
    """The heaviest grid slice, where any is worth naming."""
    return answer.slices[0].grid_slice if summarise(answer).ranges else None


def slice_name(pieces: Sequence[Piece], first: int, last: int | None = None) -> str:
    """`slice 7`, `slices 71–76`, or `cut 5 of 32` in a reformatted plane.

    Args:
        pieces: every grid slice, in grid order; first, last: which of them, both included.
    """
    last = first if last is None else last
    if _is_reformatted(pieces):
        return f"cut {first} of {len(pieces)}" if first == last else f"cuts {first}–{last} of {len(pieces)}"
    numbers = [number for piece in pieces[first : last + 1] for number in piece.source_slices]
    low, high = min(numbers), max(numbers)
    return f"slice {low}" if low == high else f"slices {low}–{high}"


def place_name(pieces: Sequence[Piece], first: int, last: int | None = None) -> str:
    """Where they lie, `z -208 mm` for one grid slice's centre, `z -214…-202 mm` from edge to edge for a range."""
    axis = stacking_axis(pieces)
    if axis is None:
        return ""
    along = [piece.position_mm[axis] for piece in pieces if piece.position_mm is not None]
    if last is None:
        return f"{AXIS_NAMES[axis]} {along[first]:.0f} mm"
    half = abs(along[-1] - along[0]) / (len(along) - 1) / 2
    low, high = sorted((along[first], along[last]))
    return f"{AXIS_NAMES[axis]} {low - half:.0f}…{high + half:.0f} mm"


def stacking_axis(pieces: Sequence[Piece]) -> int | None:
    """The LPS axis (0, 1, 2) along which the slices differ most; None without geometry."""
    first, last = pieces[0].position_mm, pieces[-1].position_mm
    if first is None or last is None or len(pieces) == 1:
        return None
    return max(range(3), key=lambda axis: abs(last[axis] - first[axis]))


def reading_line(grid: GridVolume) -> str:
    """How the scan was put before the model: `window soft tissue -160…240 HU · read as 32×256×256, axial`."""
    window, size = grid.receipt["window"], "×".join(str(length) for length in grid.voxels.shape)
    name = str(window["name"]).replace("_", " ")
    bounds = f"{window['low']:g}…{window['high']:g}" + (" HU" if window["unit"] == "HU" else "")
    return f"window {name + ' ' if not name[-1].isdigit() else ''}{bounds} · read as {size}, {grid.plane}"


def sides(plane: str) -> tuple[str, str, str, str]:
    """The letters at a grid slice's left, right, top and bottom edge (radiological convention)."""
    return {"axial": ("R", "L", "A", "P"), "coronal": ("R", "L", "S", "I"), "sagittal": ("A", "P", "S", "I")}[plane]


def pick_over_volume(answer: Answer, *, num_slices: int, count: int) -> list[int]:
    """`count` slices spread over the volume: of each equal part its heaviest, so the peak is always there."""
    scores = answer.scores or (1.0 / num_slices,) * num_slices
    count = min(count, num_slices)
    edges = [round(part * num_slices / count) for part in range(count + 1)]
    return [max(range(start, stop), key=lambda index: scores[index]) for start, stop in pairwise(edges)]


def _is_reformatted(pieces: Sequence[Piece]) -> bool:
    every = pieces[0].source_slices
    return len(every) > 1 and len(pieces) > 1 and all(piece.source_slices == every for piece in pieces)


def _neighbours(found: Sequence[SliceEvidence]) -> list[list[SliceEvidence]]:
    groups: list[list[SliceEvidence]] = []
    for one in found:
        if groups and one.grid_slice == groups[-1][-1].grid_slice + 1:
            groups[-1].append(one)
        else:
            groups.append([one])
    return groups
