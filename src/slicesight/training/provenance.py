"""What has to be known to repeat a run? The resolved recipe, the code, the libraries, the machine's kind.

Written beside the log and beside the weights: recipe.yaml can be trained again as it is, run.json says with what.
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
from slicesight.files import write_text
from slicesight.training.recipe import Recipe

LIBRARIES = (
    *("torch", "transformers", "accelerate", "peft", "tokenizers", "safetensors", "numpy", "monai", "deepspeed", "POT"),
)


def describe_run(recipe: Recipe, *, num_processes: int = 1, engine: str = "single") -> dict[str, Any]:
    """Seed, code, library versions and how many processes on what."""
    return {
        "recipe": recipe.name,
        "seed": recipe.seed,
        **describe_software(),
        "processes": num_processes,
        "engine": engine,
    }


def describe_software() -> dict[str, Any]:
    """Code, library versions and the machine's kind; no host name, no user, no path."""
    return {
        "slicesight": __version__,
        "git": find_commit(Path(__file__).parent),
        "python": platform.python_version(),
        "libraries": dict(list_versions(LIBRARIES)),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads(),
    }


def write_recipe(recipe: Recipe, path: Path) -> None:
    """The recipe with every default and every --set in it, as YAML that `slicesight train` reads."""
    text = yaml.safe_dump(plain(recipe.to_dict()), sort_keys=False, allow_unicode=True, width=110)
    write_text(path, text=text)


def plain(value: Any) -> Any:
    """Tuples as lists, for YAML and JSON."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, tuple | list) else value


def find_commit(folder: Path) -> dict[str, Any] | None:
    """The commit that the code in this folder is of, and whether it was changed since; None outside git."""

    def ask(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()  # noqa: S603

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
