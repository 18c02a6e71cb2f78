"""The training phantoms on the model grid: voxels, labels and truth, made once and kept on disk.

C cases, N slices, H x W pixels. Folder: voxels.npy (C, N, H, W) uint8, organs.npy and findings.npy (same shape, the
labels of the phantom brought to the grid), truths.jsonl (one `PhantomTruth` a line), settings.json (what made them).
Phantom i depends on the seed and i alone, so a folder serves any smaller set too, and grows when a larger one is asked
for. One made with another seed or grid is refused, never silently reused.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slicesight.errors import InputError
from slicesight.phantoms.rendering import Finding, Phantom, PhantomTruth, make_phantom
from slicesight.volumes.grid import GridSpec, GridVolume, to_grid

Progress = Callable[[int, int], None]
Made = tuple[tuple[NDArray[np.uint8], ...], PhantomTruth, int]
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
    settings: dict[str, Any]

    @property
    def seed(self) -> int:
        """The seed that made every phantom."""
        return int(self.settings["seed"])

    @property
    def grid(self) -> GridSpec:
        """What every phantom was brought to."""
        return GridSpec.from_dict(self.settings["grid"])

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
    settings = {"format": FORMAT, "seed": seed, "count": count, "grid": grid.to_dict()}
    kept, num_made = folder / "settings.json", 0
    if kept.exists():
        found = json.loads(kept.read_text())
        if {**found, "count": count} != settings:
            raise InputError(f"{folder}: holds phantoms made with {found}, wanted {settings}; name another folder")
        num_made = found["count"]
    if num_made < count:
        _make(folder, settings, grid, workers, progress, num_made=num_made)
    lines = [json.loads(line) for line in _read_truths(folder)[:count]]
    arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r")[:count] for name in ARRAYS}
    return PhantomSet(
        **arrays,
        truths=[truth_from_dict(line["truth"]) for line in lines],
        num_source_slices=[line["num_source_slices"] for line in lines],
        settings=settings,
    )


def truth_from_dict(fields: dict[str, Any]) -> PhantomTruth:
    """Inverse of `dataclasses.asdict` on a `PhantomTruth`."""
    findings = tuple(
        Finding(**{**f, "centre_mm": tuple(f["centre_mm"]), "source_slices": tuple(f["source_slices"])})
        for f in fields["findings"]
    )
    slices = {name: tuple(indices) for name, indices in fields["organ_slices"].items()}
    return PhantomTruth(plane=fields["plane"], phase=fields["phase"], findings=findings, organ_slices=slices)


def labels_on_grid(phantom: Phantom, grid: GridVolume) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Organ and finding labels at the grid's pixels -> two (N, H, W) uint8.

    Organs by nearest neighbour; every voxel of a finding marks its nearest grid pixel, so that none is lost between.
    """
    shape = grid.voxels.shape
    index = np.stack(np.meshgrid(*(np.arange(size) for size in shape), indexing="ij"), axis=-1)
    near = np.rint(grid.to_canonical(index)).astype(int)
    near = np.clip(near, 0, np.array(phantom.organ_labels.shape) - 1)
    organs = phantom.organ_labels[near[..., 0], near[..., 1], near[..., 2]]
    findings = np.zeros(shape, dtype=np.uint8)
    voxels = np.argwhere(phantom.lesion_labels)
    if len(voxels):
        place = np.clip(np.rint(grid.to_grid_index(voxels)).astype(int), 0, np.array(shape) - 1)
        findings[place[:, 0], place[:, 1], place[:, 2]] = phantom.lesion_labels[tuple(voxels.T)]
    return organs, findings


def _make(
    folder: Path, settings: dict[str, Any], grid: GridSpec, workers: int, progress: Progress | None, *, num_made: int
) -> None:
    """Make phantoms from number `num_made` on behind those already there; the folder changes when all are done."""
    folder.mkdir(parents=True, exist_ok=True)
    count = settings["count"]
    shape = (count, grid.num_slices, grid.height, grid.width)
    arrays = [
        np.lib.format.open_memmap(folder / f"{name}.npy.partial", mode="w+", dtype=np.uint8, shape=shape)
        for name in ARRAYS
    ]
    if num_made:
        for name, array in zip(ARRAYS, arrays, strict=True):
            array[:num_made] = np.load(folder / f"{name}.npy", mmap_mode="r")[:num_made]
    jobs = [(settings["seed"], index, grid) for index in range(num_made, count)]
    with contextlib.ExitStack() as stack:
        made: Iterable[Made] = map(_make_one, jobs)
        if workers > 1:
            pool = stack.enter_context(multiprocessing.get_context("spawn").Pool(workers))
            made = pool.imap(_make_one, jobs, chunksize=4)
        truths = stack.enter_context((folder / "truths.jsonl.partial").open("w"))
        truths.writelines(f"{line}\n" for line in (_read_truths(folder)[:num_made] if num_made else ()))
        for index, (row, truth, num_slices) in enumerate(made, start=num_made):
            for array, values in zip(arrays, row, strict=True):
                array[index] = values
            truths.write(json.dumps({"truth": asdict(truth), "num_source_slices": num_slices}) + "\n")
            if progress:
                progress(index + 1, count)
    for array in arrays:
        array.flush()
    (folder / "settings.json.partial").write_text(json.dumps(settings))
    for name in (*(f"{array}.npy" for array in ARRAYS), "truths.jsonl", "settings.json"):
        os.replace(folder / f"{name}.partial", folder / name)


def _read_truths(folder: Path) -> list[str]:
    return (folder / "truths.jsonl").read_text().splitlines()


def _make_one(job: tuple[int, int, GridSpec]) -> Made:
    seed, index, spec = job
    phantom = make_phantom(seed, index)
    grid = to_grid(phantom.volume, spec)
    organs, findings = labels_on_grid(phantom, grid)
    voxels = np.rint(grid.voxels * 255).astype(np.uint8)
    return (voxels, organs, findings), phantom.truth, phantom.volume.num_source_slices
