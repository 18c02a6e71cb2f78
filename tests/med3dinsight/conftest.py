"""Tiny scans with a bright ball each, for every insight test that needs data."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

SIZE = (20, 24, 22)  # stored i, j, k


def write_ball(folder: Path, name: str, *, centre, radius, rng, value=1, axes=("L", "P", "S"), spacing=(1.5, 1.0, 2.0)):
    """A noisy NIfTI with a bright ball, and its mask; `axes` are where the stored axes grow toward."""
    grid = np.stack(np.meshgrid(*map(np.arange, SIZE), indexing="ij"), -1)
    ball = np.linalg.norm((grid - centre) * spacing, axis=-1) <= radius
    image = (rng.normal(100, 8, SIZE) + 120 * ball).clip(0).astype(np.int16)
    column = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}
    affine = np.eye(4)
    affine[:3, :3] = 0
    for stored, letter in enumerate(axes):
        axis, sign = column[letter]
        affine[axis, stored] = sign * spacing[stored]
    affine[:3, 3] = (-7.25, 12.5, 30.0)
    nib.save(nib.Nifti1Image(image, affine), folder / f"{name}.nii.gz")
    nib.save(nib.Nifti1Image((ball * value).astype(np.uint8), affine), folder / f"{name}_mask.nii.gz")
    return ball


@pytest.fixture(scope="session")
def balls(tmp_path_factory) -> Path:
    """A .jsonl of seven patients: five to train, one val, one test; big balls are labelled "large"."""
    folder = tmp_path_factory.mktemp("balls")
    rng = np.random.default_rng(11)
    lines = []
    for number in range(8):
        large = number % 2 == 1
        centre = np.array([10, 12, 11]) + rng.uniform(-2, 2, 3)
        name = f"scan{number}"
        axes = ("R", "P", "I") if number == 7 else ("L", "P", "S")
        write_ball(folder, name, centre=centre, radius=9 if large else 5, rng=rng, axes=axes)
        split = {6: "val", 7: "test"}.get(number, "train")
        lines.append(
            {
                "image": f"{name}.nii.gz",
                "mask": f"{name}_mask.nii.gz",
                "label": "large" if large else "small",
                "patient": f"p{number}",
                "split": split,
            }
        )
    path = folder / "balls.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture(scope="session")
def segment_settings() -> dict:
    """What is left of a segmentation recipe besides name, data and output_dir; learns the balls in seconds."""
    return {
        "backbone": {
            "name": "segresnet",
            "image_size": (16, 16, 16),
            "settings": {"init_filters": 8, "blocks_down": [1, 1], "blocks_up": [1]},
        },
        "preparation": {"spacing_mm": (2.0, 2.0, 2.0)},
        "training": {"steps": 40, "batch_size": 2, "learning_rate": 0.01, "checkpoint_every": 10, "log_every": 5},
        "overlap": 0.25,
    }
