"""What does dciodvfy, an independent validator (Debian's dicom3tools), say about a DICOM file?"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

EXPLAINED = (
    "Unrecognized defined term <99SLICESIGHT>",  # a private coding scheme, named in the document as DICOM asks
    "needed to build DICOMDIR - Study",  # the source images leave study date, time and id blank
    "Retired Person Name form",  # the source images write a name without ^
)


def complaints(path: Path) -> tuple[list[str], list[str]]:
    """(errors, warnings that nobody has explained)."""
    program = shutil.which("dciodvfy")
    if program is None:
        pytest.skip("dciodvfy is not installed (Debian's dicom3tools)")
    ran = subprocess.run([program, str(path)], capture_output=True, text=True, check=False)
    lines = (ran.stdout + ran.stderr).splitlines()
    warnings = [line for line in lines if line.startswith("Warning")]
    return (
        [line for line in lines if line.startswith("Error")],
        [line for line in warnings if not any(known in line for known in EXPLAINED)],
    )
