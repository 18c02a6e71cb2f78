"""How are phantoms trained and evaluated on? `phantoms:SEED:COUNT`, painted when wanted, or kept in a folder.

N slices, H rows, W columns.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slicesight.data.dataset import Dataset, digest_of, to_float
from slicesight.data.manifest import Case, Conversation
from slicesight.errors import InputError
from slicesight.phantoms.folder import phantom_case, truth_case
from slicesight.phantoms.grid_set import PhantomSet, Progress, open_phantom_set
from slicesight.phantoms.rendering import Phantom, make_phantom
from slicesight.phantoms.texts import conversation_rng, phantom_conversations
from slicesight.volumes.grid import GridSpec, GridVolume, to_grid


class PhantomDataset(Dataset):
    """Synthetic scans, painted anew each time; the same seed gives the same ones."""

    def __init__(self, seed: int, count: int) -> None:
        self.seed, self.count = seed, count

    @cached_property
    def cases(self) -> list[Case]:
        return [
            phantom_case(_paint(self.seed, index), seed=self.seed, index=index, volume=_name(self.seed, index))
            for index in range(self.count)
        ]

    def grid(self, case: Case, spec: GridSpec) -> GridVolume:
        return to_grid(_paint(self.seed, _index(case)).volume, spec)

    def stamp(self, case: Case) -> str:
        return case.volume

    def content(self, case: Case) -> str:
        return case.volume


class StoredPhantoms(PhantomDataset):
    """Phantoms on one grid in a folder, whose eleven questions are worded anew in every epoch."""

    asks_anew = True

    def __init__(self, phantoms: PhantomSet, *, seed: int = 0) -> None:
        super().__init__(phantoms.seed, len(phantoms))
        self.phantoms, self.spec, self.draw_seed = phantoms, phantoms.grid, seed

    def with_seed(self, seed: int) -> StoredPhantoms:
        other = copy.copy(self)
        other.draw_seed = seed
        return other

    @cached_property
    def cases(self) -> list[Case]:
        made = zip(self.phantoms.truths, self.phantoms.num_source_slices, strict=True)
        return [
            truth_case(truth, num_slices=num_slices, seed=self.seed, index=index, volume=_name(self.seed, index))
            for index, (truth, num_slices) in enumerate(made)
        ]

    def texts(self, *, count: int, seed: int) -> Iterator[str]:
        from slicesight.phantoms.pretrain_language import sample_texts  # loads torch

        return sample_texts(self.phantoms, count=count, seed=seed)

    def stage0(self, *arguments: Any, **settings: Any) -> None:
        from slicesight.phantoms.stage0 import pretrain  # loads torch

        pretrain(self.phantoms, *arguments, **settings)

    def conversations(self, case: Case, epoch: int) -> Sequence[Conversation]:
        phantoms, index = self.phantoms, _index(case)
        rng = conversation_rng(phantoms.seed, index, 1 + epoch + 1000 * self.draw_seed)
        return phantom_conversations(phantoms.truths[index], rng, num_slices=phantoms.num_source_slices[index])

    def voxels(self, case: Case) -> NDArray[np.float32]:
        return to_float(self.phantoms.voxels[_index(case)])

    def true_slices(self, case: Case, conversation: Conversation) -> NDArray[np.bool_]:
        """Slices with more than 0.3 of the pixels that the finding has in its fullest slice."""
        index = _index(case)
        findings = self.phantoms.findings[index]
        shown = np.zeros(findings.shape[0], dtype=bool)
        if conversation.topic in ("organ", "abnormality", "location"):
            for number, finding in enumerate(self.phantoms.truths[index].findings, start=1):
                if finding.abnormality in conversation.question or finding.organ in conversation.question:
                    pixels = np.count_nonzero(findings == number, axis=(1, 2))
                    shown |= pixels > 0.3 * pixels.max()
        return shown

    def plane(self, case: Case) -> str | None:
        plane = self.phantoms.grid.plane
        return self.phantoms.truths[_index(case)].plane if plane == "acquired" else plane

    def fingerprint(self, case: Case) -> str:
        return digest_of(np.ascontiguousarray(self.phantoms.voxels[_index(case)]).tobytes())

    @property
    def preparation(self) -> str:
        made_with = {key: value for key, value in self.phantoms.settings.items() if key != "count"}
        return digest_of(json.dumps(made_with, sort_keys=True).encode())


def open_phantoms(
    rest: str,
    *,
    grid: GridSpec | None = None,
    folder: str | Path | None = None,
    workers: int = 2,
    progress: Progress | None = None,
) -> PhantomDataset:
    """`phantoms:SEED:COUNT`: painted whenever they are looked at, or on a grid in `folder`, where they are made once.

    Raises:
        InputError: not SEED:COUNT, or the folder holds other phantoms.
    """
    try:
        seed, count = (int(part) for part in rest.split(":"))
    except ValueError:
        raise InputError(f"phantoms:{rest}: expected phantoms:SEED:COUNT, for instance phantoms:9000:300.") from None
    if count < 1 or seed < 0:
        raise InputError(f"phantoms:{rest}: at least one phantom and a seed from 0; for instance phantoms:9000:300.")
    if folder is None:
        dataset = PhantomDataset(seed, count)
        dataset.spec = grid
        return dataset
    if grid is None:
        raise InputError(f"phantoms:{rest}: phantoms kept in {folder} need a grid")
    return StoredPhantoms(
        open_phantom_set(folder, seed=seed, count=count, grid=grid, workers=workers, progress=progress)
    )


def _name(seed: int, index: int) -> str:
    return f"phantoms:{seed}:{index}"


def _index(case: Case) -> int:
    return int(case.volume.rpartition(":")[2])


@lru_cache(maxsize=4)
def _paint(seed: int, index: int) -> Phantom:
    return make_phantom(seed, index)
