"""What is kept of a run beside its weights? What is needed to repeat it, and its losses as one picture.

The resolved recipe can be trained again as it is, run.json says with what code, libraries and kind of machine.
"""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import yaml

from slicesight import __version__
from slicesight.files import replacing, write_text
from slicesight.training.recipe import Recipe
from slicesight.training.run_folder import VAL_LOSS, plain, read_log

LIBRARIES = ("torch", "transformers", "accelerate", "peft", "tokenizers", "safetensors", "numpy", "monai", "deepspeed")
NOT_CURVES = ("step", "of", "loss", VAL_LOSS, "seconds", "minutes_left", "learning_rate", "prompts_cut")
TRAINING_COLOUR, VALIDATION_COLOUR = "#0b6e99", "#c2571a"


def describe_run(recipe: Recipe, *, num_processes: int = 1, engine: str = "single") -> dict[str, Any]:
    """Seed, code, library versions and how many processes on what."""
    about = {"recipe": recipe.name, "seed": recipe.seed}
    return {**about, **describe_software(), "processes": num_processes, "engine": engine}


def describe_software() -> dict[str, Any]:
    """Code, library versions and the machine's kind; no host name, no user, no path."""
    return {
        "slicesight": __version__,
        "git": find_commit(Path(__file__).parent),
        "python": platform.python_version(),
        "libraries": dict(list_versions((*LIBRARIES, "POT"))),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads(),
    }


def write_recipe(recipe: Recipe, path: Path) -> None:
    """The recipe with every default and every --set in it, as YAML that `slicesight train` reads."""
    write_text(path, text=yaml.safe_dump(plain(recipe.to_dict()), sort_keys=False, allow_unicode=True, width=110))


def find_commit(folder: Path) -> dict[str, Any] | None:
    """The commit that the code in this folder is of, and whether it was changed since; None outside git."""

    def ask(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, encoding="utf-8", check=True, timeout=20).stdout.strip()  # noqa: S603

    try:
        return {"commit": ask("rev-parse", "HEAD"), "changed": bool(ask("status", "--porcelain", "--", "."))}
    except (OSError, subprocess.SubprocessError):
        return None


def list_versions(names: Iterable[str]) -> Iterable[tuple[str, str]]:
    """Name and version of every library that is installed."""
    for name in names:
        try:
            yield name, version(name)
        except PackageNotFoundError:
            continue


def draw_losses(log: Path, picture: Path) -> None:
    """One panel per stage that logged a loss; a run of one stage has one for each of its loss's parts too.

    Nothing is written for a log without a loss.
    """
    from matplotlib.figure import Figure

    stages: dict[str, list[dict[str, Any]]] = {}
    for line in read_log(log):
        if "loss" in line or VAL_LOSS in line:
            stages.setdefault(line.get("stage", "training"), []).append(line)
    stages = {stage: lines for stage, lines in stages.items() if any("loss" in line for line in lines)}
    if not stages:
        return
    panels = [(stage, stage, "loss") for stage in stages]
    if len(stages) == 1:
        ((stage, lines),) = stages.items()
        last = [line for line in lines if "loss" in line][-1]
        panels += [(name.replace("_", " "), stage, name) for name, value in last.items() if _is_curve(name, value)]
    figure = Figure(figsize=(3.2 * len(panels), 2.8), layout="constrained")
    for axes, (title, stage, name) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        lines = stages[stage]
        _plot(axes, lines, name, color=TRAINING_COLOUR, label="training")
        axes.set(title=title, xlabel="step")
        if name == "loss":
            axes.set(ylabel="loss", yscale="log" if all(line.get("loss", 1) > 0 for line in lines) else "linear")
            if any(VAL_LOSS in line for line in lines):
                _plot(axes, lines, VAL_LOSS, color=VALIDATION_COLOUR, label="validation", marker="o")
                axes.legend()
        axes.grid(alpha=0.3, which="both")
    with replacing(picture) as temporary:
        figure.savefig(temporary, dpi=110)


def _plot(axes: Any, lines: list[dict[str, Any]], name: str, **style: Any) -> None:
    points = [(line["step"], line[name]) for line in lines if name in line]
    axes.plot(*zip(*points, strict=True), linewidth=1.4, markersize=3, **style)


def _is_curve(name: str, value: Any) -> bool:
    return name not in NOT_CURVES and isinstance(value, int | float) and not isinstance(value, bool)
