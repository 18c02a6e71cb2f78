"""Small scans for the tests of this room."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest

from slicesight.volumes import Volume
from slicesight.volumes.writers import write_dicom

Edit = Callable[[pydicom.Dataset, int], None]


def small_scan(shape: tuple[int, int, int] = (6, 12, 10), *, seed: int = 0) -> Volume:
    """A body in air with one asymmetric insert, whole HU."""
    rng = np.random.default_rng(seed)
    voxels = rng.integers(-1010, -990, shape).astype(np.float32)
    voxels[:, 2:-2, 2:-2] = rng.integers(-60, 90, (shape[0], shape[1] - 4, shape[2] - 4))
    voxels[1:3, 3:5, 4:8] = 700
    affine = np.array([[0, 0, 0.75, -40.5], [0, 0.75, 0, 12.25], [2.5, 0, 0, 100], [0, 0, 0, 1.0]])
    return Volume(
        voxels=voxels, affine_lps=affine, spacing_mm=(2.5, 0.75, 0.75), modality="CT", unit="HU", is_synthetic=True
    )


@pytest.fixture
def scan() -> Volume:
    """See `small_scan`."""
    return small_scan()


@pytest.fixture
def dicom_folder(tmp_path: Path) -> Callable[..., Path]:
    """Writes `small_scan` as DICOM, with every header passed through `edit(dataset, index)`."""

    def write(edit: Edit | None = None, *, name: str = "series", shape: tuple[int, int, int] = (6, 12, 10)) -> Path:
        folder = tmp_path / name
        write_dicom(small_scan(shape), folder)
        for index, file in enumerate(sorted(folder.iterdir())):
            dataset = pydicom.dcmread(file)
            if edit is not None:
                edit(dataset, index)
            dataset.save_as(file)
        return folder

    return write
