"""How does a viewer get masks of the scan on screen? By `slicesight insight predict` on this machine.

The server answers questions and makes no masks, so the command line does, in a process of its own: a model's memory is
given back, and no torch enters the viewer. The standard library, Python 3.9 or newer.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .scan_file import ScreenScan, ViewerError, read_labels, write_nifti

OWN_PYTHON = "python -m"
"""The program's name where slicesight is installed beside the viewer."""
_LOOK_EVERY_S = 0.2


@dataclass(frozen=True)
class Structure:
    """What a label value of a mask means.

    volume_ml: None where the scan has no spacing.
    """

    name: str
    value: int
    volume_ml: float | None = None


def outline(
    scan: ScreenScan,
    *,
    program: str,
    model: str,
    launch: Callable[[list[str]], Any] | None = None,
    on_line: Callable[[str], Any],
    is_stopped: Callable[[], bool],
) -> tuple[Any, list[Structure]]:
    """Have structures outlined -> (labels on the scan's own voxels (K, J, I), what they mean).

    Args:
        program, model: as of `predict_command`. launch: starts a program with its output as lines of text; left out,
            `subprocess` does. on_line: called with each line that the program says.

    Raises:
        ViewerError: the program fails, in its own last line, or is called off.
    """
    with tempfile.TemporaryDirectory(prefix="slicesight-") as place:
        file, mask, findings = (Path(place) / name for name in ("scan.nii.gz", "mask.nii.gz", "findings.json"))
        command = predict_command(program, scan=file, model=model, mask=mask, findings=findings)
        write_nifti(scan, file)
        _run((launch or _launch)(command), on_line=on_line, is_stopped=is_stopped)
        return read_labels(mask), read_structures(findings)


def predict_command(program: str, *, scan: Path, model: str, mask: Path, findings: Path) -> list[str]:
    """The arguments that have a scan segmented by `slicesight insight predict` on this machine.

    Args:
        program: the installed `slicesight`, by name or path; OWN_PYTHON where it is this interpreter's own.

    Raises:
        ViewerError: there is no such program, or no model is named.
    """
    if not model.strip():
        raise ViewerError("no model for masks is named; choose the folder that slicesight insight segment wrote.")
    found = [sys.executable, "-m", "slicesight"] if program == OWN_PYTHON else [shutil.which(program) or ""]
    if not found[0]:
        raise ViewerError(
            f"{program} is not on this machine's path; masks are made by the command line, install slicesight and name "
            "its program by its whole path."
        )
    written = ["--out", str(mask), "--json", str(findings)]
    return [*found, "insight", "predict", str(scan), "--model", model.strip(), *written]


def read_structures(findings: Path) -> list[Structure]:
    """Names and values of the labels, as the command line wrote them."""
    found = json.loads(findings.read_text(encoding="utf-8"))
    return [Structure(one["name"], one["value"], one.get("volume_ml")) for one in found.get("structures", ())]


def _launch(command: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(  # noqa: S603  # a list, no shell
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8", errors="replace"
    )


def _run(process: Any, *, on_line: Callable[[str], Any], is_stopped: Callable[[], bool]) -> None:
    """Wait for a program; one that is silent can be called off too."""
    lines: list[str] = []

    def read() -> None:
        for line in process.stdout:
            if line.strip():
                lines.append(line.strip())
                on_line(line.strip())

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    while True:
        try:
            process.wait(timeout=_LOOK_EVERY_S)
            break
        except subprocess.TimeoutExpired:
            if is_stopped():
                process.kill()
                process.wait()
                raise ViewerError("outlining was called off.", "stopped") from None
    reader.join(timeout=5)
    if process.returncode != 0:
        raise ViewerError(f"outlining failed: {lines[-1] if lines else 'the program said nothing'}")
