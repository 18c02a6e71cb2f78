"""Does `slicesight inspect` say what was read, and does its picture show it?"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from json_checks import documented
from slicesight.cli import main
from slicesight.io.writers import write_nifti
from slicesight.reports.inspection import inspect


@pytest.fixture
def scan_file(scan, tmp_path: Path) -> Path:
    write_nifti(scan, tmp_path / "scan.nii.gz")
    return tmp_path / "scan.nii.gz"


def test_the_receipt_holds_geometry_window_crop_and_warnings(scan_file: Path) -> None:
    receipt = inspect(scan_file)
    assert receipt["shape_zyx"] == [6, 12, 10]
    assert receipt["spacing_mm_zyx"] == [2.5, 0.75, 0.75]
    assert receipt["window"] == {"name": "soft_tissue", "low": -160.0, "high": 240.0, "unit": "HU"}
    assert receipt["crop_zyx"] == [[0, 6], [2, 10], [2, 8]]
    assert receipt["warnings"] == ["very few slices (6); the grid is interpolated between them"]
    assert (receipt["plane"], receipt["is_synthetic"], receipt["has_positions"]) == ("axial", True, True)


def test_the_command_prints_lines_or_json(scan_file: Path, capsys, monkeypatch) -> None:
    for options, check in (
        ([], lambda out: "warning  very few slices" in out),
        (["--json"], lambda out: documented("inspect", out)),
    ):
        monkeypatch.setattr(sys, "argv", ["slicesight", "inspect", str(scan_file), *options])
        with pytest.raises(SystemExit) as stopped:
            main()
        assert not stopped.value.code
        assert check(capsys.readouterr().out)


def test_the_contact_sheet_is_a_picture_of_the_scan(scan_file: Path, tmp_path: Path) -> None:
    inspect(scan_file, png=tmp_path / "sheet.png")
    picture = np.asarray(Image.open(tmp_path / "sheet.png").convert("L"))
    assert picture.shape[0] > 800
    assert 20 < picture.mean() < 235
    assert len(np.unique(picture)) > 50
