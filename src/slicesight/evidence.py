"""Which part of the scan does an answer rest on, said so that a person can find it again?

Neighbouring grid slices that weigh above an even spread become one range of source slices with its millimetres.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from slicesight.reader import Answer, SliceEvidence
from slicesight.volumes.grid import GridVolume

AXIS_NAMES = ("x", "y", "z")
WORTH_NAMING = 0.5


@dataclass(frozen=True, kw_only=True)
class SliceRange:
    """Neighbouring grid slices and the source slices they cover.

    grid_slices, source_slices: (first, last), both included; source_slices are the file's own 0-based numbers.
    axis, position_mm: the LPS axis along which the slices differ most, and the range's (first, last) place on it.
    share: the sum of the slices' scores.
    """

    grid_slices: tuple[int, int]
    source_slices: tuple[int, int]
    axis: str | None
    position_mm: tuple[float, float] | None
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
    """Name the heaviest slices until they hold half of the score, joined with their neighbours into ranges.

    A model that does not weigh slices has no evidence: no ranges, nothing left over.
    """
    if not answer.slices:
        return Evidence(ranges=(), num_other_slices=0, other_share=0.0, even_share=0.0)
    by_index = sorted(answer.slices, key=lambda found: found.grid_slice)
    even_share = 1.0 / len(by_index)
    axis = _stacking_axis(by_index)
    named: set[int] = set()
    covered = 0.0
    for found in answer.slices:
        if found.score <= even_share or covered >= WORTH_NAMING:
            break
        named.add(found.grid_slice)
        covered += found.score
    ranges = [_join(group, axis=axis) for group in _neighbours([s for s in by_index if s.grid_slice in named])]
    ranges.sort(key=lambda found: -found.share)
    ranges = ranges[:max_ranges]
    return Evidence(
        ranges=tuple(ranges),
        num_other_slices=len(by_index) - sum(found.num_slices for found in ranges),
        other_share=max(0.0, sum(answer.scores) - sum(found.share for found in ranges)),
        even_share=even_share,
    )


def slices_label(source_slices: Sequence[int]) -> str:
    """`slice 7` or `slices 71–76`, in the file's own 0-based numbers."""
    first, last = min(source_slices), max(source_slices)
    return f"slice {first}" if first == last else f"slices {first}–{last}"


def position_label(found: SliceRange) -> str:
    """`z -214…-202 mm`, or nothing where the file holds no geometry."""
    if found.position_mm is None or found.axis is None:
        return ""
    first, last = (f"{value:.0f}" for value in found.position_mm)
    return f"{found.axis} {first} mm" if first == last else f"{found.axis} {first}…{last} mm"


def reading_line(grid: GridVolume) -> str:
    """How the scan was put before the model: `window soft tissue -160…240 HU · read as 32×256×256, axial`."""
    window, size = grid.receipt["window"], "×".join(str(length) for length in grid.voxels.shape)
    name = str(window["name"]).replace("_", " ")
    bounds = f"{window['low']:g}…{window['high']:g}" + (" HU" if window["unit"] == "HU" else "")
    return f"window {name + ' ' if not name[-1].isdigit() else ''}{bounds} · read as {size}, {grid.plane}"


def sides(plane: str) -> tuple[str, str, str, str]:
    """The letters at a grid slice's left, right, top and bottom edge (radiological convention)."""
    return {"axial": ("R", "L", "A", "P"), "coronal": ("R", "L", "S", "I"), "sagittal": ("A", "P", "S", "I")}[plane]


def pick_over_volume(scores: Sequence[float], *, count: int) -> list[int]:
    """`count` grid slices spread over the volume: of each equal part its heaviest slice, so the peak is always there."""
    num_slices = len(scores)
    count = min(count, num_slices)
    edges = [round(part * num_slices / count) for part in range(count + 1)]
    return [max(range(start, stop), key=lambda index: scores[index]) for start, stop in zip(edges, edges[1:], strict=False)]


def _neighbours(found: Sequence[SliceEvidence]) -> list[list[SliceEvidence]]:
    groups: list[list[SliceEvidence]] = []
    for one in found:
        if groups and one.grid_slice == groups[-1][-1].grid_slice + 1:
            groups[-1].append(one)
        else:
            groups.append([one])
    return groups


def _stacking_axis(by_index: Sequence[SliceEvidence]) -> int | None:
    first, last = by_index[0].position_mm, by_index[-1].position_mm
    if first is None or last is None:
        return None
    return max(range(3), key=lambda axis: abs(last[axis] - first[axis]))


def _join(group: Sequence[SliceEvidence], *, axis: int | None) -> SliceRange:
    numbers = [number for one in group for number in one.source_slices]
    ends = (group[0].position_mm, group[-1].position_mm)
    place = None
    if axis is not None and ends[0] is not None and ends[1] is not None:
        low, high = sorted((ends[0][axis], ends[1][axis]))
        place = (low, high)
    return SliceRange(
        grid_slices=(group[0].grid_slice, group[-1].grid_slice),
        source_slices=(min(numbers), max(numbers)),
        axis=None if axis is None else AXIS_NAMES[axis],
        position_mm=place,
        share=sum(one.score for one in group),
    )
