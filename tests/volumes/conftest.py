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


@pytest.fixture
def refused() -> Callable[..., str]:
    """Checks that a scan is refused as promised and returns the line that says so.

    One line with what was found and, after a semicolon, what to do; nothing written; with
    `watch_memory` (which is slow) less than 1 GiB asked for.
    """
    import tracemalloc

    from slicesight.errors import InputError
    from slicesight.volumes.inspection import inspect

    def check(path: Path, *, watch_memory: bool = False) -> str:
        folder = path.parent
        before = sorted(str(file) for file in folder.rglob("*"))
        if watch_memory:
            tracemalloc.start()
        try:
            with pytest.raises(InputError) as caught:
                inspect(path, png=folder / "sheet.png")
            assert tracemalloc.get_traced_memory()[1] < 1 << 30
        finally:
            tracemalloc.stop()
        line = str(caught.value)
        assert "\n" not in line
        assert ";" in line, line
        assert len(line) < 300 + len(str(path)), line
        assert sorted(str(file) for file in folder.rglob("*")) == before
        return line

    return check


@pytest.fixture
def refused_by_command_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[[Path], None]:
    """Checks that the command line ends with code 2, one line on stderr and nothing on stdout."""
    import sys

    from slicesight.cli import main

    def check(path: Path) -> None:
        monkeypatch.setattr(sys, "argv", ["slicesight", "inspect", str(path)])
        with pytest.raises(SystemExit) as stopped:
            main()
        printed = capsys.readouterr()
        assert stopped.value.code == 2
        assert printed.out == ""
        assert printed.err.startswith("slicesight: ")
        assert printed.err.count("\n") == 1

    return check
