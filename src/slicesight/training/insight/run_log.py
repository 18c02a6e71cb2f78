"""How did a run go, and what made it? log.jsonl as a picture, and recipe.json with the versions behind the numbers."""

from __future__ import annotations

import json
import platform
import subprocess
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from slicesight import __version__
from slicesight.files import replacing, write_text

LIBRARIES = ("torch", "transformers", "monai", "POT", "numpy")
NOT_CURVES = ("step", "of", "seconds", "minutes_left", "learning_rate")


class RunLog:
    """log.jsonl, one line a call, on disk at once; with `keep_until` it goes on after that step of a stopped run."""

    def __init__(self, path: Path, *, keep_until: int | None = None) -> None:
        kept = [line for line in read_log(path) if keep_until is not None and line.get("step", 0) <= keep_until]
        write_text(path, text="".join(json.dumps(line) + "\n" for line in kept))
        self.path = path
        self.seconds_before = float(kept[-1].get("seconds", 0.0)) if kept else 0.0
        self.started = time.monotonic()

    def write(self, facts: dict[str, Any]) -> None:
        """Append one line, with the seconds of the run so far."""
        seconds = round(self.seconds_before + time.monotonic() - self.started, 1)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({**facts, "seconds": seconds}) + "\n")


def read_log(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a log; a last one that a crash cut short is left out."""
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1] if line]


def draw_losses(log: Path, picture: Path) -> None:
    """One panel per number; nothing is written for a log without a loss."""
    from matplotlib.figure import Figure

    lines = [line for line in read_log(log) if "loss" in line]
    if not lines:
        return
    names = [name for name, value in lines[-1].items() if name not in NOT_CURVES and _is_number(value)]
    figure = Figure(figsize=(3.2 * len(names), 2.8), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        points = [(line["step"], line[name]) for line in lines if name in line]
        axes.plot(*zip(*points, strict=True), color="#0b6e99", linewidth=1.4)
        axes.set(title=name.replace("_", " "), xlabel="step")
        axes.grid(alpha=0.3)
    with replacing(picture) as temporary:
        figure.savefig(temporary, dpi=110)


def write_provenance(folder: Path, recipe: dict[str, Any], **facts: Any) -> None:
    """recipe.json: the resolved recipe, further facts, and what it ran on."""
    content = {
        **facts,
        "recipe": recipe,
        "git": _git_commit(),
        "versions": {"slicesight": __version__, "python": platform.python_version()}
        | {name: found for name in LIBRARIES if (found := _version(name)) is not None},
    }
    write_text(folder / "recipe.json", text=json.dumps(content, indent=2) + "\n")


def _git_commit() -> str | None:
    """The commit of the source tree this runs from; None for an installed package."""
    here = Path(__file__).resolve()
    root = next((parent for parent in here.parents if (parent / ".git").exists()), None)
    if root is None:
        return None
    try:
        found = subprocess.run(  # noqa: S603
            ["git", "-C", str(root), "rev-parse", "HEAD"],  # noqa: S607
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
