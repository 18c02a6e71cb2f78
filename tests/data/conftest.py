"""Small scans with a manifest, quick enough to prepare dozens of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from slicesight.data.manifest import Case, Conversation, write_manifest
from slicesight.io.writers import write_nifti
from slicesight.volumes.volume import Volume

AFFINE = np.array([[0, 0, 2.0, -20], [0, 2.0, 0, -24], [5.0, 0, 0, 100], [0, 0, 0, 1]])


def small_volume(number: int, *, modality: str = "CT", shape: tuple[int, int, int] = (12, 24, 20)) -> Volume:
    """Noise in a box: soft tissue in air for CT, positive values for MR."""
    rng = np.random.default_rng(number)
    inside = tuple(slice(size // 6, -(size // 6)) for size in shape)
    voxels = np.full(shape, -1000 if modality == "CT" else 0, np.float32)
    low, high = (-150, 230) if modality == "CT" else (100, 900)
    voxels[inside] = rng.integers(low, high, voxels[inside].shape)
    return Volume(voxels=voxels, affine_lps=AFFINE, spacing_mm=(5.0, 2.0, 2.0), modality=modality)


@pytest.fixture
def write_scans() -> Callable[..., Path]:
    """Write scans into a folder -> its manifest. Number k is the same scan whatever else is written."""

    def write(
        folder: Path, numbers: Sequence[int], *, mr: Sequence[int] = (), shape: tuple[int, int, int] = (12, 24, 20)
    ) -> Path:
        (folder / "scans").mkdir(parents=True, exist_ok=True)
        cases = []
        for number in numbers:
            path = folder / "scans" / f"{number}.nii"
            if not path.exists():
                write_nifti(small_volume(number, modality="MR" if number in mr else "CT", shape=shape), path)
            told = Conversation(task="open", topic="plane", question="Which plane?", answer="axial")
            cases.append(Case(id=f"case {number}", volume=f"scans/{number}.nii", conversations=(told,)))
        write_manifest(cases, folder / "manifest.jsonl")
        return folder / "manifest.jsonl"

    return write
