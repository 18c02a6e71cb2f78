"""How did a run go, and what made it? log.jsonl as a picture, and recipe.json with the versions behind the numbers."""

from __future__ import annotations

import json
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from slicesight import __version__
from slicesight.atomic import replacing, write_text

LIBRARIES = ("torch", "transformers", "monai", "POT", "numpy")
NOT_CURVES = ("step", "of", "seconds", "minutes_left", "learning_rate")


def draw_losses(log: Path, picture: Path) -> None:
    """One panel per number; nothing is written for a log without a loss."""
    from matplotlib.figure import Figure

    lines = [line for line in map(json.loads, log.read_text(encoding="utf-8").splitlines()) if "loss" in line]
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
