"""Small scans that differ, with questions about them, and the tiny random model calibrated on them."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest

from slicesight.data.dataset import Dataset
from slicesight.data.manifest import Case, Conversation
from slicesight.volumes.grid import GridSpec, GridVolume, to_grid
from slicesight.volumes.volume import Volume

CLOSED = "Which phase is this? Choices: A. arterial phase B. venous phase"


def body(seed: int, **changes) -> Volume:
    """An ellipsoid in air, wider than deep and narrower at its top, with a bright insert on the patient's right."""
    rng = np.random.default_rng(seed)
    z, y, x = np.meshgrid(np.linspace(-1, 1, 16), np.linspace(-1, 1, 40), np.linspace(-1, 1, 48), indexing="ij")
    width = 0.85 + 0.03 * rng.normal()
    inside = (x / width) ** 2 + (y / (0.6 * width)) ** 2 < 1 - 0.3 * z
    voxels = np.where(inside, 40 + 10 * rng.normal(size=z.shape), -1000.0)
    insert = (x + 0.4) ** 2 + (y + 0.15) ** 2 + (z + 0.3) ** 2 < 0.06
    voxels[insert & inside] = 200 + 20 * rng.normal()
    affine = np.array([[0, 0, 5.0, -120], [0, 5.0, 0, -100], [15.0, 0, 0, 50], [0, 0, 0, 1]])
    volume = Volume(
        voxels=voxels.astype(np.float32), affine_lps=affine, spacing_mm=(15.0, 5.0, 5.0), modality="CT", unit="HU"
    )
    return replace(volume, **changes)


class Bodies(Dataset):
    """`count` bodies from `first` on, each asked a closed question, an open one and for a report."""

    def __init__(self, count: int, *, first: int = 0) -> None:
        asked = (
            Conversation(
                task="closed", topic="phase", question="Which phase is this?",
                choices=("arterial phase", "venous phase"), answer="venous phase", answer_choice="B",
            ),
            Conversation(task="open", topic="organ", question="Which organ contains the cyst?", answer="liver"),
            Conversation(task="report", topic="report", question="Describe the findings.", answer="A cyst."),
        )  # fmt: skip
        self.cases = [
            Case(id=f"body {number}", patient=f"p{number}", volume=str(number), conversations=asked)
            for number in range(first, first + count)
        ]

    def grid(self, case: Case, spec: GridSpec) -> GridVolume:
        return to_grid(body(int(case.volume)), spec)

    def stamp(self, case: Case) -> str:
        return case.volume

    def content(self, case: Case) -> str:
        return case.volume


@pytest.fixture(scope="session")
def bodies():
    return Bodies


@pytest.fixture(scope="session")
def make_body():
    return body


@pytest.fixture(scope="session")
def fitted(tiny_model_folder):
    """What `calibrate` makes of the tiny model."""
    import slicesight
    from slicesight.inference.calibration.fitting import calibrate

    return calibrate(slicesight.load(tiny_model_folder), Bodies(40), data="bodies", max_new_tokens=3)


@pytest.fixture(scope="session")
def calibrated_folder(tiny_model_folder, fitted, tmp_path_factory):
    """A copy of the tiny model's folder with its calibration."""
    from slicesight.inference.calibration.confidence import fit_curve
    from slicesight.inference.calibration.storage import write_calibration

    rng = np.random.default_rng(0)  # the random model names no choice of itself, so its closed curve is made up
    closed = fit_curve(rng.normal(size=(50, 1)), (rng.random(50) < 0.5).tolist())
    calibration = replace(fitted.calibration, curves={**fitted.calibration.curves, "closed": closed})
    folder = tmp_path_factory.mktemp("calibrated") / "tiny-random"
    shutil.copytree(tiny_model_folder, folder)
    write_calibration(calibration, folder)
    return folder


@pytest.fixture(scope="session")
def calibrated(calibrated_folder):
    import slicesight

    return slicesight.load(calibrated_folder)


def rod(seed: int) -> Volume:
    """A bright bar along the patient: a scan that is known, but of which nobody was asked for a phase."""
    volume = body(seed)
    grid = np.indices(volume.voxels.shape)
    inside = (abs(grid[1] - 20) < 4) & (abs(grid[2] - 24) < 4 + seed % 2)
    noise = np.random.default_rng(seed).normal(size=volume.voxels.shape)
    return replace(volume, voxels=np.where(inside, 150 + 10 * noise, -1000.0).astype(np.float32))


class BodiesAndRods(Bodies):
    """Bodies as ever, and as many rods that are only asked which kind of scan they are."""

    def __init__(self, count: int, *, first: int = 0) -> None:
        super().__init__(count, first=first)
        asked = Conversation(task="open", topic="modality", question="What is the modality?", answer="CT")
        bodies = [one.model_copy(update={"conversations": (*one.conversations, asked)}) for one in self.cases]
        rods = [
            one.model_copy(update={"id": f"rod {one.id}", "patient": f"r{one.patient}", "conversations": (asked,)})
            for one in self.cases
        ]
        self.cases = [*bodies, *rods]

    def grid(self, case: Case, spec: GridSpec) -> GridVolume:
        return to_grid(rod(int(case.volume)), spec) if case.id.startswith("rod") else super().grid(case, spec)


@pytest.fixture(scope="session")
def knows_rods(tiny_model_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("rods") / "model"
    shutil.copytree(tiny_model_folder, folder)
    import slicesight
    from slicesight.inference.calibration.fitting import calibrate
    from slicesight.inference.calibration.storage import write_calibration

    predictor = slicesight.load(str(folder), ignore_calibration=True)
    write_calibration(calibrate(predictor, BodiesAndRods(30), max_new_tokens=3).calibration, folder)
    return slicesight.load(str(folder))


@pytest.fixture(scope="session")
def make_rod():
    return rod
