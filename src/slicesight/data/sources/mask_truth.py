"""What do a scan's label map and its settings say about any part of the scan: in view, not in view, or unknown?

A structure that nobody drew in a scan is unknown there, not absent; so are slices beyond the place where its contour
was cut (`unknown: [above]`). S canonical slices along the acquisition axis; columns 0 and 1 of a count are the
patient's right and left half of the frame.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from slicesight.errors import InputError
from slicesight.volumes.slice_range import COLUMNS, Side, range_box
from slicesight.volumes.volume import Volume

LEAST_SLICES = 3
"""A structure is in view where so many of its slices are, or all it has; fewer leave the truth unknown."""
MARGIN = 2
"""It is not in view where the view ends more than so many slices from it."""
HALF_SHARE, STRAY_SHARE = 0.5, 0.02
"""A half of the patient shows it with the larger share of its voxels in view, and not with less than the smaller."""


@dataclass(frozen=True, kw_only=True)
class Structure:
    """One structure of a label map.

    label: its value there. words: other names, which questions use too. side, pair: of one of two, and what both are
    called ("parotid gland"). unknown: where its contour was cut, so that slices beyond say nothing. ask: false for
    what is in the map and asked by no question.
    """

    label: int
    words: tuple[str, ...] = ()
    side: Side | None = None
    pair: str | None = None
    unknown: tuple[Literal["above", "below"], ...] = ()
    ask: bool = True


@dataclass(frozen=True, kw_only=True)
class View:
    """A part of a scan that is asked about: canonical slices first to last (both included), one half or both."""

    first: int
    last: int
    side: Side | None = None

    @property
    def num_slices(self) -> int:
        return self.last - self.first + 1


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A structure in a view.

    state: "present", "absent" or "unknown". slices: those that show it. is_whole: whether the view holds all of it.
    voxels: of each slice of the view.
    """

    state: Literal["present", "absent", "unknown"]
    slices: tuple[int, ...] = ()
    is_whole: bool = False
    voxels: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ScanTruth:
    """What is known of one scan.

    counts: structure -> (S, 2) voxels of every slice in each half. cubic_mm: of a voxel. frame: first and last slice
    that hold foreground.
    """

    counts: dict[str, NDArray[np.int64]]
    structures: dict[str, Structure]
    frame: tuple[int, int]
    num_slices: int
    cubic_mm: float | None = None
    slices_reversed: bool = False
    unknown: dict[str, list[tuple[int, int]]] = field(default_factory=dict)

    def source(self, slices: tuple[int, ...]) -> tuple[int, ...]:
        """Canonical slices as the file numbers them."""
        last = self.num_slices - 1
        return tuple(sorted(last - number if self.slices_reversed else number for number in slices))

    def look(self, name: str, view: View) -> Seen:
        """What a view shows of a structure that was drawn."""
        structure, whole = self.structures[name], self.counts[name]
        held = np.flatnonzero(whole.sum(axis=1))
        low, high = int(held[0]), int(held[-1])
        if "above" in structure.unknown and view.first > high - LEAST_SLICES:
            return Seen(state="unknown")
        if "below" in structure.unknown and view.last < low + LEAST_SLICES:
            return Seen(state="unknown")
        part = whole[view.first : view.last + 1]
        inside = part.sum(axis=1)
        shown = tuple(int(view.first + number) for number in np.flatnonzero(inside))
        if not shown:
            apart = min(abs(low - view.last), abs(view.first - high))
            return Seen(state="absent" if apart > MARGIN else "unknown")
        is_whole = view.first <= low and high <= view.last
        if view.side is not None:
            half = part[:, int(view.side == "left")]
            share = half.sum() / inside.sum()
            if share < STRAY_SHARE:
                return Seen(state="absent")
            if share < HALF_SHARE:
                return Seen(state="unknown")
            is_whole = is_whole and share > 1 - STRAY_SHARE
            inside = half
            shown = tuple(int(view.first + number) for number in np.flatnonzero(inside))
        if len(shown) < min(LEAST_SLICES, len(held)):
            return Seen(state="unknown")
        return Seen(state="present", slices=shown, is_whole=is_whole, voxels=tuple(int(count) for count in inside))

    def volume_ml(self, name: str) -> float | None:
        """All of a structure; None where the scan states no spacing."""
        return None if self.cubic_mm is None else float(self.counts[name].sum() * self.cubic_mm / 1000)

    def unknown_slices(self, name: str) -> list[list[int]]:
        """Ranges of the file's slices in which nobody knows whether the structure is there."""
        structure, held = self.structures[name], np.flatnonzero(self.counts[name].sum(axis=1))
        ranges = []
        if "above" in structure.unknown and held[-1] + 1 < self.num_slices:
            ranges.append((int(held[-1]) + 1, self.num_slices - 1))
        if "below" in structure.unknown and held[0] > 0:
            ranges.append((0, int(held[0]) - 1))
        return [[source[0], source[-1]] for source in (self.source(extent) for extent in ranges)]


def truth_of(
    volume: Volume,
    labels_ZYX: NDArray[np.integer] | None,
    structures: dict[str, Structure],
    *,
    leave_out: frozenset[str] = frozenset(),
) -> ScanTruth:
    """Count every structure's voxels, slice by slice and half by half.

    Args:
        labels_ZYX: None where nothing was drawn. leave_out: structures whose contour in this scan is not to be trusted.

    Raises:
        InputError: the map is empty, holds a label that has no name, or its slices are sagittal and sides are asked.
    """
    by_label = {structure.label: name for name, structure in structures.items()}
    found = [] if labels_ZYX is None else [int(value) for value in np.unique(labels_ZYX) if value]
    if labels_ZYX is not None and not found:
        raise InputError("the label map is empty; expected at least one structure, leave the scan out")
    if unnamed := [value for value in found if value not in by_label]:
        raise InputError(
            f"label {unnamed[0]} has no name; the names are of {', '.join(map(str, sorted(by_label)))}: name it under "
            "structures, with ask: false if nothing is to be asked about it"
        )
    axis = volume.acquisition_axis
    box = range_box(volume, None)
    names = [by_label[value] for value in found if by_label[value] not in leave_out]
    if axis == COLUMNS and any(structures[name].side for name in names):
        raise InputError("the slices are sagittal, and structures have a side; leave side out, or the scan")
    middle = (box[COLUMNS][0] + box[COLUMNS][1] + 1) // 2
    counts: dict[str, NDArray[np.int64]] = {}
    for name in names:
        assert labels_ZYX is not None
        mask: NDArray[np.bool_] = np.moveaxis(np.equal(labels_ZYX, structures[name].label), axis, 0)
        if axis == COLUMNS:
            total = mask.sum(axis=(1, 2))
            counts[name] = np.stack([total, np.zeros_like(total)], axis=1)
        else:
            columns = mask.sum(axis=1)
            counts[name] = np.stack([columns[:, :middle].sum(axis=1), columns[:, middle:].sum(axis=1)], axis=1)
    return ScanTruth(
        counts=counts,
        structures={name: structures[name] for name in names},
        frame=(box[axis][0], box[axis][1] - 1),
        num_slices=volume.num_source_slices,
        cubic_mm=None if volume.spacing_mm is None else float(np.prod(volume.spacing_mm)),
        slices_reversed=volume.slices_reversed,
    )
