"""Every layout that `prepare` reads, written by code from phantoms, with all its quirks and none of its data."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from slicesight.data.plugins import find_plugin
from slicesight.data.sources import ENTRY_POINTS, LAYOUTS
from slicesight.data.sources.intake import Intake, SourceRequest
from slicesight.phantoms.rendering import make_phantom
from slicesight.volumes.volume import Volume

VQA_COLUMNS = (
    "Image Path",
    "Text",
    "Question Type",
    "Question",
    "Choice A",
    "Choice B",
    "Choice C",
    "Choice D",
    "Answer",
    "Answer Choice",
)


@cache
def coarse_volume(number: int) -> Volume:
    """Phantom `number`, coarse: some 60 x 30 x 40 voxels."""
    return make_phantom(77, number, pixel_mm=(9.0, 10.0)).volume


def grey_slices(volume: Volume) -> np.ndarray:
    """The scan as a web page shows it: soft tissue in 8 bits, one picture per acquired slice."""
    grey = np.clip((volume.voxels + 160.0) / 400.0, 0, 1) * 255
    return np.moveaxis(np.rint(grey).astype(np.uint8), volume.acquisition_axis, 0)


def write_pictures(folder: Path, volume: Volume, *, ending: str = "png") -> Path:
    folder.mkdir(parents=True)
    for number, sheet in enumerate(grey_slices(volume), start=1):
        Image.fromarray(sheet).save(folder / f"{number}.{ending}", quality=85)
    return folder


def write_array(path: Path, volume: Volume, *, size: tuple[int, int, int] = (8, 32, 32)) -> Path:
    """As M3D's preparation leaves a series: cropped to its values, resized, (1, N, H, W) float32 in [0, 1]."""
    from scipy import ndimage

    grey = grey_slices(volume) / 255.0
    box = tuple(slice(index.min(), index.max() + 1) for index in np.nonzero(grey))
    cropped = grey[box]
    scaled = ndimage.zoom(cropped, [a / b for a, b in zip(size, cropped.shape, strict=True)], order=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, scaled[None].astype(np.float32))
    return path


REPORT = "Title: A case\npresentation: pain\nstudy_findings:\nThere is a cyst\nin the liver.\n"
DISCUSSION = "study_findings: - \n\ndiscussion: A large mass, as discussed.\n"
WHOLE = "Only a title and a few words.\n"


@pytest.fixture
def write_m3d_cap(tmp_path: Path) -> Callable[..., Path]:
    """M3D-Cap, raw or processed: four cases, of which ct_quizze/000009 shows ct_case/000001 again."""

    def write(form: str = "raw", *, listed: bool = True) -> Path:
        root = tmp_path / "m3d"
        below = root / ("M3D_Cap" if form == "raw" else "M3D_Cap_npy")
        series = [
            ("ct_case/000001", "Axial_C+_Pöschl", "Axial_C+_Poschl", 0, REPORT),
            ("ct_case/000001", "Coronal_1.5mm", "Coronal_1.5mm", 1, REPORT),
            ("ct_case/000002", "Axial", "Axial", 2, DISCUSSION),
            ("ct_case/000003", "Axial", "Axial", 3, WHOLE),
            ("ct_quizze/000009", "Axial", "Axial", 0, "study_findings: What is this cyst in the liver?"),
        ]
        for case, raw_name, plain_name, number, text in series:
            if form == "raw":
                ending = "jpeg" if case.startswith("ct_quizze") else "png"
                write_pictures(below / case / raw_name, coarse_volume(number), ending=ending)
            else:
                write_array(below / case / f"{plain_name}.npy", coarse_volume(number))
            (below / case / "text.txt").write_text(text, encoding="utf-8")
        if listed:
            entries = [
                {"image": f"./M3D_Cap_npy/{case}/{name}.npy", "text": f"./M3D_Cap_npy/{case}/text.txt"}
                for case, _, name, _, _ in series
            ]
            splits = {"train": entries[:3], "validation": entries[3:4], "test": entries[4:], "test100": entries[4:]}
            (root / "M3D_Cap.json").write_text(json.dumps(splits, indent=1), encoding="utf-8")
        return root

    return write


def _vqa_row(image: str, **changes: str) -> dict[str, str]:
    row = {
        "Image Path": f"M3D_Cap_npy/{image}.npy",
        "Text": "There is a cyst\nin the spleen.",
        "Question Type": "3",
        "Question": "Which organ shows a cyst?",
        "Choice A": "liver",
        "Choice B": "spleen",
        "Choice C": "left kidney",
        "Choice D": "pancreas",
        "Answer": "spleen",
        "Answer Choice": "B",
    }
    return {**row, **{key.replace("_", " "): value for key, value in changes.items()}}


@pytest.fixture
def vqa_row() -> Callable[..., dict[str, str]]:
    """A row of M3D-VQA about an image, with cells changed by name."""
    return _vqa_row


@pytest.fixture
def scan_number() -> Callable[[int], Volume]:
    """Coarse phantoms by number."""
    return coarse_volume


@pytest.fixture
def write_m3d_vqa(write_m3d_cap: Callable[..., Path]) -> Callable[..., Path]:
    """M3D-VQA beside a processed M3D-Cap: {file name: rows} -> the folder of the tables."""

    def write(tables: dict[str, Sequence[dict[str, str]]]) -> Path:
        root = write_m3d_cap("npy", listed=False)
        folder = root / "M3D-VQA"
        folder.mkdir()
        for name, rows in tables.items():
            columns = [column for column in VQA_COLUMNS if not rows or column in rows[0]]
            with (folder / name).open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, columns, extrasaction="ignore")
                writer.writeheader()
                writer.writerows(rows)
        return folder

    return write


@pytest.fixture
def read() -> Callable[..., tuple[list[Any], Intake]]:
    """Read a source -> (cases, intake); bad cases are listed unless told to stop."""

    def call(source: Path, layout: str, *, on_bad_case: str = "skip", volumes: Path | None = None) -> Any:
        intake = Intake(on_bad_case=on_bad_case)  # type: ignore[arg-type]
        request = SourceRequest(source=source, out=source.parent / "out", volumes=volumes)
        return find_plugin(layout, LAYOUTS, ENTRY_POINTS)(request, intake), intake

    return call
