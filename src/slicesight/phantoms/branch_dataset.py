"""How are phantoms in which the branches must differ trained and evaluated on? `branches:SEED:COUNT`, painted once.

N slices, H rows, W columns. What a phantom is, branches.py says; what stage 0 learns from it, branch_stage0.py.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from slicesight.data.dataset import Dataset, to_float
from slicesight.data.manifest import Case, Conversation
from slicesight.errors import InputError
from slicesight.phantoms.branches import SHAPE, BranchTruth, branch_conversations, make_branch_phantom
from slicesight.phantoms.texts import conversation_rng
from slicesight.volumes.grid import GridSpec, GridVolume, to_grid

FORMAT = 1
"""Changes with the pictures that a seed gives."""


class Kept(NamedTuple):
    """What is kept of a `branches.BranchPhantom`: its truth, its labels, and its voxels on the own grid as bytes."""

    truth: BranchTruth
    labels: NDArray[np.uint8]
    voxels: NDArray[np.uint8] | None


class BranchPhantoms(Dataset):
    """Painted once, then kept as bytes; every epoch words the questions anew."""

    asks_anew = True

    def __init__(self, seed: int, count: int, *, grid: GridSpec | None = None) -> None:
        self.seed, self.count, self.spec, self.draw_seed = seed, count, grid, 0
        self._kept: dict[int, Kept] = {}

    def with_seed(self, seed: int) -> BranchPhantoms:
        other = copy.copy(self)
        other.draw_seed = seed
        return other

    @cached_property
    def cases(self) -> list[Case]:
        return [
            Case(
                id=f"branches_{self.seed}_{index:05d}",
                volume=f"branches:{self.seed}:{index}",
                conversations=branch_conversations(self.kept(index).truth, conversation_rng(self.seed, index)),
                truth=asdict(self.kept(index).truth),
            )
            for index in range(self.count)
        ]

    def kept(self, index: int) -> Kept:
        """Phantom number `index`, painted if it was not."""
        if index not in self._kept:
            made = make_branch_phantom(self.seed, index)
            voxels = None if self.spec is None else np.rint(to_grid(made.volume(), self.spec).voxels * 255)
            self._kept[index] = Kept(made.truth, made.labels, None if voxels is None else voxels.astype(np.uint8))
        return self._kept[index]

    def conversations(self, case: Case, epoch: int) -> Sequence[Conversation]:
        index = _index(case)
        rng = conversation_rng(self.seed, index, 1 + epoch + 1000 * self.draw_seed)
        return branch_conversations(self.kept(index).truth, rng)

    def grid(self, case: Case, spec: GridSpec) -> GridVolume:
        return to_grid(make_branch_phantom(self.seed, _index(case)).volume(), spec)

    def voxels(self, case: Case) -> NDArray[np.float32]:
        voxels = self.kept(_index(case)).voxels
        assert voxels is not None, self.own_spec
        return to_float(voxels)

    def true_slices(self, case: Case, conversation: Conversation) -> NDArray[np.bool_]:
        if self.own_spec.num_slices != SHAPE[0] or self.own_spec.plane not in ("acquired", "axial"):
            return super().true_slices(case, conversation)
        shown = np.zeros(SHAPE[0], dtype=bool)
        shown[list(conversation.source_slices or ())] = True
        return shown

    def stamp(self, case: Case) -> str:
        return self.content(case)

    def content(self, case: Case) -> str:
        return f"{case.volume}:{FORMAT}"

    def stage0(self, *arguments: Any, **settings: Any) -> None:
        from slicesight.phantoms.branch_stage0 import BranchStage0  # loads torch
        from slicesight.training.stage0.sections import pretrain

        if self.own_spec.num_slices != SHAPE[0]:
            raise InputError(f"stage 0: these phantoms have {SHAPE[0]} slices; set grid.num_slices to that")
        pretrain(BranchStage0(self), *arguments, **settings)


def open_branches(rest: str, *, grid: GridSpec | None = None) -> BranchPhantoms:
    """`branches:SEED:COUNT`.

    Raises:
        InputError: not SEED:COUNT.
    """
    seed, _, count = rest.partition(":")
    if not (seed.isdecimal() and count.isdecimal() and int(count) > 0):
        raise InputError(
            f"branches:{rest}: expected branches:SEED:COUNT, a seed from 0 and at least one phantom; "
            "for instance branches:9000:120."
        )
    return BranchPhantoms(int(seed), int(count), grid=grid)


def _index(case: Case) -> int:
    return int(case.volume.rpartition(":")[2])
