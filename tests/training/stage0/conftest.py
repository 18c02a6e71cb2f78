"""Four small prepared scans: boxes as structures in noise, not all of them drawn everywhere, and one scan with none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from slicesight.data.manifest import Case, Conversation, write_manifest
from slicesight.volumes.grid import GridSpec
from slicesight.volumes.volume import Volume

AFFINE = np.array([[0, 0, 2.0, -20], [0, 2.0, 0, -24], [5.0, 0, 0, 100], [0, 0, 0, 1]])
SHAPE = (16, 48, 48)
VALUES = {"heart": 1, "left lung": 2, "right lung": 3, "stone": 7}
GREY = {1: 240.0, 2: -150.0, 3: -150.0, 7: 200.0}
SPEC = GridSpec(num_slices=8, height=32, width=32, window="-160,240", crop_foreground=False)
DRAWN = (("heart", "left lung", "right lung", "stone"), ("heart", "left lung"), ("heart", "right lung"), ())


def boxes(number: int) -> dict[str, tuple[slice, slice, slice]]:
    """Where the structures of scan `number` lie; the stone is in the first scan only."""
    first = 2 + number
    return {
        "heart": (slice(first, first + 6), slice(10, 22), slice(18, 30)),
        "left lung": (slice(first, first + 9), slice(24, 40), slice(32, 44)),
        "right lung": (slice(first, first + 9), slice(24, 40), slice(4, 16)),
        "stone": (slice(12, 14), slice(26, 30), slice(22, 26)),
    }


def questions(number: int) -> tuple[Conversation, ...]:
    names = [name for name in VALUES if name in DRAWN[number]]
    asked = [
        Conversation(task="open", topic="presence", question=f"Is the {name} in view?", answer="yes") for name in names
    ]
    asked.append(Conversation(task="open", topic="modality", question="Which modality is it?", answer="CT"))
    if names:
        said = f"The scan shows the {' and the '.join(names)}."
        asked.append(Conversation(task="report", topic="report", question="Describe the scan.", answer=said))
    return tuple(asked)


@pytest.fixture(scope="session")
def labelled_folder(tmp_path_factory) -> Path:
    pytest.importorskip("pyarrow")
    from slicesight.data.preprocess import prepare_volumes
    from slicesight.io.writers import write_nifti

    folder = tmp_path_factory.mktemp("labelled")
    cases = []
    for number, drawn in enumerate(DRAWN):
        rng = np.random.default_rng(number)
        voxels = rng.normal(20, 15, SHAPE).astype(np.float32)
        labels = np.zeros(SHAPE, np.uint8)
        for name, place in boxes(number).items():
            if name != "stone" or number == 0:
                voxels[place] = GREY[VALUES[name]]
            if name in drawn and (name != "stone" or number == 0):
                labels[place] = VALUES[name]
        volume = Volume(voxels=voxels, affine_lps=AFFINE, spacing_mm=(5.0, 2.0, 2.0), modality="CT")
        write_nifti(volume, folder / f"{number}.nii")
        write_nifti(volume, folder / f"{number}-labels.nii", labels=labels)
        truth = {
            "kind": "masks",
            "structures": {name: VALUES[name] for name in drawn},
            "unknown": {"heart": [[0, 3]]} if number == 2 else {},
            "facts": {"modality": "CT"} if number != 1 else {"modality": "CT", "region": "chest"},
            "synonyms": {"stone": ["calculus"]} if number == 0 else {},
        }
        cases.append(
            Case(
                id=f"scan {number}",
                split="train",
                volume=f"{number}.nii",
                labels=f"{number}-labels.nii" if drawn else None,
                conversations=questions(number),
                truth=truth,
            )
        )
    write_manifest(cases, folder / "manifest.jsonl")
    prepare_volumes(folder / "manifest.jsonl", folder, spec=SPEC)
    return folder


@pytest.fixture(scope="session")
def scans(labelled_folder: Path):
    from slicesight.data.dataset import open_dataset
    from slicesight.training.stage0.label_maps import read_labelled_scans

    return read_labelled_scans(open_dataset(f"prepared:{labelled_folder}"))
