"""Which slices did an answer need, asked of a model that has no slice scores? Blank some and see what the answer loses.

Groups of neighbouring slices are blanked, and the fall of the answer's log-likelihood is noted; the groups whose loss
is largest are halved and tried again (Zeiler & Fergus 2014, along the stack and from coarse to fine). Weight flows down
that tree: a group's share is divided between its halves as their own falls are to one another, so a slice that matters
together with its neighbours keeps the weight that blanking it alone would not show. A rise counts as no fall.

N slices, k groups halved at a time (WIDTH), V masks in one call. Passes: at most 2·log2(N)·k unless named.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from slicesight.errors import InputError

WIDTH = 4
FEWEST_PASSES = 4
"""Nothing blanked, everything blanked, and the two halves."""
LEAST_FALL = 0.01
"""In nats (or of an agreement from 0 to 1): where no group's blanking costs more, the answer does not rest on any."""
Likelihood = Callable[[NDArray[np.bool_]], NDArray[np.float64]]
"""Masks (V, N) of the slices that are left -> how likely the answer is then (V,)."""


@dataclass(frozen=True, kw_only=True)
class Occlusion:
    """What blanking showed.

    shares: (N,) of the fall, summing to 1; all alike where the answer rests on no slice (`is_flat`).
    fall: how much the answer loses when every slice is blanked. num_passes: how many masks it took.
    """

    shares: tuple[float, ...]
    fall: float
    num_passes: int
    is_flat: bool


@dataclass(eq=False)
class _Group:
    """Neighbouring slices [start, stop) with their share of the whole."""

    start: int
    stop: int
    fall: float = 0.0
    share: float = 0.0

    @property
    def size(self) -> int:
        return self.stop - self.start


def default_passes(num_slices: int, *, width: int = WIDTH) -> int:
    """2·log2(N)·k, at least what the coarsest look takes."""
    return max(FEWEST_PASSES, math.ceil(2 * math.log2(max(num_slices, 2)) * width))


def check_passes(passes: int | None) -> None:
    """Raises InputError for a budget that cannot be."""
    if passes is not None and (not isinstance(passes, int) or isinstance(passes, bool) or passes < FEWEST_PASSES):
        raise InputError(
            f"evidence passes are {passes!r}; expected at least {FEWEST_PASSES}: nothing blanked, everything, and two "
            "halves (--no-evidence measures none)"
        )


def occlude(likelihood: Likelihood, num_slices: int, *, max_passes: int | None = None, width: int = WIDTH) -> Occlusion:
    """Measure every slice's share in an answer.

    Args:
        max_passes: most masks; left out, `default_passes`.
        width: groups halved at a time, whose halves are one call of `likelihood`.
    """
    check_passes(max_passes)
    budget = default_passes(num_slices, width=width) if max_passes is None else max_passes
    if num_slices == 1:
        whole, blank = likelihood(np.array([[True], [False]])).tolist()
        return Occlusion(shares=(1.0,), fall=whole - blank, num_passes=2, is_flat=whole - blank < LEAST_FALL)
    groups = _split(_Group(0, num_slices, share=1.0), min(num_slices, 2 * width, budget - 2))
    masks = np.ones((2 + len(groups), num_slices), dtype=bool)
    masks[1] = False
    for mask, group in zip(masks[2:], groups, strict=True):
        mask[group.start : group.stop] = False
    base, blank, *found = likelihood(masks).tolist()
    used = len(masks)
    for group, value in zip(groups, found, strict=True):
        group.fall = max(0.0, base - value)
    if max(group.fall for group in groups) < LEAST_FALL:
        return Occlusion(shares=(1 / num_slices,) * num_slices, fall=base - blank, num_passes=used, is_flat=True)
    _share(groups, 1.0)
    while used + 2 <= budget:
        wanted = sorted((one for one in groups if one.size > 1 and one.share > 0), key=lambda one: -one.share)
        wanted = wanted[: min(width, (budget - used) // 2)]
        if not wanted:
            break
        halves = [_split(group, 2) for group in wanted]
        masks = np.ones((2 * len(halves), num_slices), dtype=bool)
        for mask, half in zip(masks, (half for pair in halves for half in pair), strict=True):
            mask[half.start : half.stop] = False
        values = iter(likelihood(masks).tolist())
        used += len(masks)
        for parent, pair in zip(wanted, halves, strict=True):
            for half in pair:
                half.fall = max(0.0, base - next(values))
            _share(pair, parent.share)
            groups.remove(parent)
            groups += pair
    shares = np.zeros(num_slices)
    for group in groups:
        shares[group.start : group.stop] = group.share / group.size
    return Occlusion(shares=tuple((shares / shares.sum()).tolist()), fall=base - blank, num_passes=used, is_flat=False)


def _split(group: _Group, count: int) -> list[_Group]:
    """`count` neighbouring parts, as equal as can be."""
    edges = [group.start + round(part * group.size / count) for part in range(count + 1)]
    return [_Group(start, stop) for start, stop in pairwise(edges)]


def _share(groups: list[_Group], whole: float) -> None:
    """Divide a share as the groups' falls are to one another; by their sizes where none fell."""
    total = sum(group.fall for group in groups)
    num_slices = sum(group.size for group in groups)
    for group in groups:
        group.share = whole * (group.fall / total if total > 0 else group.size / num_slices)
