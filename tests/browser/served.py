"""The server that the browser meets, and the browser."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
DESKTOP, PHONE = {"width": 1100, "height": 700}, {"width": 390, "height": 844}
TOKEN = "correct-horse-battery-staple"

CHROMIUM = os.environ.get("SLICESIGHT_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = (
    "--no-sandbox",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--ignore-gpu-blocklist",
    "--disable-background-networking",
)


def chromium_options() -> dict[str, Any]:
    """For `chromium.launch`: the system's own browser, drawing 3D without a graphics card."""
    return {"executable_path": CHROMIUM, "args": list(FLAGS)}


class Served:
    """`slicesight serve` on a free port; `folder` is where it keeps scans. Without --model it is phantom-tiny."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        folder.mkdir()
        if "--model" not in options:
            options = ("--model", "phantom-tiny", *options)
        command = [sys.executable, "-m", "slicesight.cli", "serve", "--port", "0", "--folder", str(folder), *options]
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "src"), "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        self.log: list[str] = []
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(line)
            found = re.search(r"open (http://\S+)", line)
            if found:
                self.address = found.group(1)
                return
        raise AssertionError("the server did not start:\n" + "".join(self.log))

    def kept_scans(self) -> set[Path]:
        """Files on disk that hold a scan."""
        files = self.folder.rglob("*")
        return {path for path in files if path.name.startswith(("image", "grid")) and path.is_file()}

    def stop(self) -> None:
        self.process.terminate()
        self.process.communicate(timeout=30)
