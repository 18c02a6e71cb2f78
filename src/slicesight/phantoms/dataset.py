"""How are phantoms trained and evaluated on? `phantoms:SEED:COUNT`, painted when wanted, or kept on a grid in a folder.

C cases, N slices, H rows, W columns. Folder: voxels.npy (C, N, H, W) uint8, organs.npy and findings.npy (so too, the
labels of the phantom brought to the grid), truths.jsonl (one `PhantomTruth` a line), settings.json (what made them).
Phantom i depends on the seed and i alone, so a folder serves any smaller set too, and grows when a larger one is asked
for. One made with another seed or grid is refused, never silently reused.
"""

from __future__ import annotations

import contextlib
import copy
import json
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slicesight.data.dataset import Dataset, digest_of, to_float
from slicesight.data.manifest import Case, Conversation
from slicesight.errors import InputError
from slicesight.phantoms.anatomy import Finding, PhantomTruth
from slicesight.phantoms.folder import phantom_case, truth_case
from slicesight.phantoms.rendering import Phantom, make_phantom
from slicesight.phantoms.texts import conversation_rng, phantom_conversations
from slicesight.volumes.grid import GridSpec, GridVolume, to_grid

Progress = Callable[[int, int], None]
FORMAT = 1
ARRAYS = ("voxels", "organs", "findings")


@dataclass(frozen=True, eq=False)
class PhantomSet:
    """Phantoms on one grid; arrays are memory maps."""

    voxels: NDArray[np.uint8]
    organs: NDArray[np.uint8]
    findings: NDArray[np.uint8]
    truths: list[PhantomTruth]
    num_source_slices: list[int]
    seed: int
    grid: GridSpec

    def __len__(self) -> int:
        return len(self.truths)


def open_phantom_set(
    folder: str | Path, *, seed: int, count: int, grid: GridSpec, workers: int = 2, progress: Progress | None = None
) -> PhantomSet:
    """Open the first `count` phantoms of the set in `folder`, making first what it does not hold yet.

    Raises:
        InputError: the folder holds phantoms of another seed or grid.
    """
    folder = Path(folder)
    settings = {**_made_with(seed, grid), "count": count}
    kept, num_made = folder / "settings.json", 0
    if kept.exists():
        found = json.loads(kept.read_text(encoding="utf-8"))
        if {**found, "count": count} != settings:
            raise InputError(f"{folder}: holds phantoms made with {found}, wanted {settings}; name another folder")
        num_made = found["count"]
    if num_made < count:
        _make(folder, settings, grid, workers, progress, num_made=num_made)
    lines = [json.loads(line) for line in (folder / "truths.jsonl").read_text(encoding="utf-8").splitlines()[:count]]
    arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r")[:count] for name in ARRAYS}
    return PhantomSet(
        **arrays,
        truths=[truth_from_dict(line["truth"]) for line in lines],
        num_source_slices=[line["num_source_slices"] for line in lines],
        seed=seed,
        grid=grid,
    )


def truth_from_dict(fields: dict[str, Any]) -> PhantomTruth:
    """Inverse of `dataclasses.asdict` on a `PhantomTruth`."""
    findings = tuple(
        Finding(**{**f, "centre_mm": tuple(f["centre_mm"]), "source_slices": tuple(f["source_slices"])})
        for f in fields["findings"]
    )
    slices = {name: tuple(indices) for name, indices in fields["organ_slices"].items()}
    return PhantomTruth(**{**fields, "findings": findings, "organ_slices": slices})


def labels_on_grid(phantom: Phantom, grid: GridVolume) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Organ and finding labels at the grid's pixels -> two (N, H, W) uint8.

    Organs by nearest neighbour; every voxel of a finding marks its nearest grid pixel, so that none is lost between.
    """
    shape = grid.voxels.shape
    index = np.moveaxis(np.indices(shape), 0, -1)
    near = np.clip(np.rint(grid.to_canonical(index)).astype(int), 0, np.array(phantom.organ_labels.shape) - 1)
    organs = phantom.organ_labels[near[..., 0], near[..., 1], near[..., 2]]
    findings = np.zeros(shape, dtype=np.uint8)
    voxels = np.argwhere(phantom.lesion_labels)
    if len(voxels):
        place = np.clip(np.rint(grid.to_grid_index(voxels)).astype(int), 0, np.array(shape) - 1)
        findings[place[:, 0], place[:, 1], place[:, 2]] = phantom.lesion_labels[tuple(voxels.T)]
    return organs, findings


class PhantomDataset(Dataset):
    """Synthetic scans, painted anew each time; the same seed gives the same ones."""

    def __init__(self, seed: int, count: int, *, grid: GridSpec | None = None) -> None:
        self.seed, self.count, self.spec = seed, count, grid

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
        super().__init__(phantoms.seed, len(phantoms), grid=phantoms.grid)
        self.phantoms, self.draw_seed = phantoms, seed

    def with_seed(self, seed: int) -> StoredPhantoms:
        other = copy.copy(self)
        other.draw_seed = seed
        return other

    @cached_property
    def cases(self) -> list[Case]:
        made = enumerate(zip(self.phantoms.truths, self.phantoms.num_source_slices, strict=True))
        return [
            truth_case(truth, num_slices=count, seed=self.seed, index=index, volume=_name(self.seed, index))
            for index, (truth, count) in made
        ]

    def texts(self, *, count: int, seed: int) -> Iterator[str]:
        from slicesight.phantoms.stage0 import sample_texts  # loads torch

        return sample_texts(self.phantoms, count=count, seed=seed)

    def stage0(self, *arguments: Any, **settings: Any) -> None:
        from slicesight.phantoms.stage0 import pretrain_on_phantoms  # loads torch

        pretrain_on_phantoms(self.phantoms, *arguments, **settings)

    def conversations(self, case: Case, epoch: int) -> Sequence[Conversation]:
        index = _index(case)
        rng = conversation_rng(self.seed, index, 1 + epoch + 1000 * self.draw_seed)
        num_slices = self.phantoms.num_source_slices[index]
        return phantom_conversations(self.phantoms.truths[index], rng, num_slices=num_slices)

    def voxels(self, case: Case) -> NDArray[np.float32]:
        return to_float(self.phantoms.voxels[_index(case)])

    def true_slices(self, case: Case, conversation: Conversation) -> NDArray[np.bool_]:
        """Slices with more than 0.3 of the pixels that the finding has in its fullest slice."""
        findings, truth = self.phantoms.findings[_index(case)], self.phantoms.truths[_index(case)]
        shown = np.zeros(findings.shape[0], dtype=bool)
        if conversation.topic in ("organ", "abnormality", "location"):
            for number, finding in enumerate(truth.findings, start=1):
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
        return digest_of(json.dumps(_made_with(self.seed, self.phantoms.grid), sort_keys=True).encode())


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
        return PhantomDataset(seed, count, grid=grid)
    if grid is None:
        raise InputError(f"phantoms:{rest}: phantoms kept in {folder} need a grid")
    kept = open_phantom_set(folder, seed=seed, count=count, grid=grid, workers=workers, progress=progress)
    return StoredPhantoms(kept)


def _make(
    folder: Path, settings: dict[str, Any], grid: GridSpec, workers: int, progress: Progress | None, *, num_made: int
) -> None:
    """Make phantoms from number `num_made` on behind those already there; the folder changes when all are done."""
    folder.mkdir(parents=True, exist_ok=True)
    count = settings["count"]
    shape = (count, grid.num_slices, grid.height, grid.width)
    arrays = []
    for name in ARRAYS:
        place = folder / f"{name}.npy.partial"
        arrays.append(np.lib.format.open_memmap(place, mode="w+", dtype=np.uint8, shape=shape))
        if num_made:
            arrays[-1][:num_made] = np.load(folder / f"{name}.npy", mmap_mode="r")[:num_made]
    jobs = [(settings["seed"], index, grid) for index in range(num_made, count)]
    with contextlib.ExitStack() as stack:
        made: Iterable[tuple[tuple[NDArray[np.uint8], ...], PhantomTruth, int]] = map(_make_one, jobs)
        if workers > 1:
            pool = stack.enter_context(multiprocessing.get_context("spawn").Pool(workers))
            made = pool.imap(_make_one, jobs, chunksize=4)
        truths = stack.enter_context((folder / "truths.jsonl.partial").open("w", encoding="utf-8"))
        if num_made:
            truths.writelines(
                (folder / "truths.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)[:num_made]
            )
        for index, (row, truth, num_slices) in enumerate(made, start=num_made):
            for array, values in zip(arrays, row, strict=True):
                array[index] = values
            truths.write(json.dumps({"truth": asdict(truth), "num_source_slices": num_slices}) + "\n")
            if progress:
                progress(index + 1, count)
    for array in arrays:
        array.flush()
    (folder / "settings.json.partial").write_text(json.dumps(settings), encoding="utf-8")
    for name in (*(f"{array}.npy" for array in ARRAYS), "truths.jsonl", "settings.json"):
        os.replace(folder / f"{name}.partial", folder / name)


def _made_with(seed: int, grid: GridSpec) -> dict[str, Any]:
    return {"format": FORMAT, "seed": seed, "grid": grid.to_dict()}


def _make_one(job: tuple[int, int, GridSpec]) -> tuple[tuple[NDArray[np.uint8], ...], PhantomTruth, int]:
    seed, index, spec = job
    phantom = make_phantom(seed, index)
    grid = to_grid(phantom.volume, spec)
    organs, findings = labels_on_grid(phantom, grid)
    voxels = np.rint(grid.voxels * 255).astype(np.uint8)
    return (voxels, organs, findings), phantom.truth, phantom.volume.num_source_slices


def _name(seed: int, index: int) -> str:
    return f"phantoms:{seed}:{index}"


def _index(case: Case) -> int:
    return int(case.volume.rpartition(":")[2])


@lru_cache(maxsize=4)
def _paint(seed: int, index: int) -> Phantom:
    return make_phantom(seed, index)
