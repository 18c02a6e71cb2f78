"""The training phantoms on the model grid: voxels, labels and truth, made once and kept on disk.

C cases, N slices, H x W pixels. Folder: voxels.npy (C, N, H, W) uint8, organs.npy and findings.npy (same shape, the
labels of the phantom brought to the grid), truths.jsonl (one `Truth` a line), settings.json (what made them). A folder
whose settings differ is refused, never silently reused.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slicesight.errors import InputError
from slicesight.volumes.grid import GridSpec, GridVolume, to_grid
from slicesight.volumes.phantoms import Finding, Phantom, Truth, make_phantom

Progress = Callable[[int, int], None]
FORMAT = 1


@dataclass(frozen=True, eq=False)
class PhantomSet:
    """Phantoms on one grid; arrays are memory maps."""

    voxels: NDArray[np.uint8]
    organs: NDArray[np.uint8]
    findings: NDArray[np.uint8]
    truths: list[Truth]
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
    """Open the set in `folder`, making it first where it does not exist.

    Raises:
        InputError: the folder holds phantoms made with other settings.
    """
    folder = Path(folder)
    settings = {"format": FORMAT, "seed": seed, "count": count, "grid": grid.to_dict()}
    kept = folder / "settings.json"
    if kept.exists():
        found = json.loads(kept.read_text())
        if found != settings:
            raise InputError(f"{folder}: holds phantoms made with {found}, wanted {settings}; name another folder")
    else:
        _make(folder, settings, grid, workers, progress)
    lines = [json.loads(line) for line in (folder / "truths.jsonl").read_text().splitlines()]
    arrays = [np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("voxels", "organs", "findings")]
    return PhantomSet(
        *arrays,
        truths=[truth_from_dict(line["truth"]) for line in lines],
        num_source_slices=[line["num_source_slices"] for line in lines],
        settings=settings,
    )


def truth_from_dict(fields: dict) -> Truth:
    """Inverse of `dataclasses.asdict` on a `Truth`."""
    findings = tuple(
        Finding(**{**f, "centre_mm": tuple(f["centre_mm"]), "source_slices": tuple(f["source_slices"])})
        for f in fields["findings"]
    )
    slices = {name: tuple(indices) for name, indices in fields["organ_slices"].items()}
    return Truth(plane=fields["plane"], phase=fields["phase"], findings=findings, organ_slices=slices)


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


def _make(folder: Path, settings: dict, grid: GridSpec, workers: int, progress: Progress | None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    count = settings["count"]
    shape = (count, grid.num_slices, grid.height, grid.width)
    arrays = [
        np.lib.format.open_memmap(folder / f"{name}.npy", mode="w+", dtype=np.uint8, shape=shape)
        for name in ("voxels", "organs", "findings")
    ]
    jobs = [(settings["seed"], index, grid) for index in range(count)]
    with contextlib.ExitStack() as stack:
        made = map(_make_one, jobs)
        if workers > 1:
            pool = stack.enter_context(multiprocessing.get_context("spawn").Pool(workers))
            made = pool.imap(_make_one, jobs, chunksize=4)
        truths = stack.enter_context((folder / "truths.jsonl").open("w"))
        for index, (row, truth, num_slices) in enumerate(made):
            for array, values in zip(arrays, row, strict=True):
                array[index] = values
            truths.write(json.dumps({"truth": asdict(truth), "num_source_slices": num_slices}) + "\n")
            if progress:
                progress(index + 1, count)
    for array in arrays:
        array.flush()
    partial = folder / "settings.json.partial"
    partial.write_text(json.dumps(settings))
    os.replace(partial, folder / "settings.json")


def _make_one(job: tuple[int, int, GridSpec]) -> tuple[tuple[NDArray[np.uint8], ...], Truth, int]:
    seed, index, spec = job
    phantom = make_phantom(seed, index)
    grid = to_grid(phantom.volume, spec)
    organs, findings = labels_on_grid(phantom, grid)
    voxels = np.rint(grid.voxels * 255).astype(np.uint8)
    return (voxels, organs, findings), phantom.truth, phantom.volume.num_source_slices
