"""How do result files, ours and anyone's, become systems to score, and the sheets one JSON document?

Files of one run hold different kinds of questions (reports, open, closed) and are merged; runs of one name are seeds.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from slicesight.errors import InputError
from slicesight.evaluation.external import merge, read_predictions
from slicesight.evaluation.predictions import PredictionFile


def read_systems(arguments: Sequence[str], *, answers: Sequence[Path] = ()) -> dict[str, list[PredictionFile]]:
    """{system's name: its runs}; nameless files that hold different kinds of questions are one run of one system."""
    left = list(answers)
    runs: list[tuple[str | None, Path, PredictionFile]] = []
    for argument in arguments:
        name, equals, paths = argument.partition("=")
        if not equals or Path(argument).exists():
            name, paths = "", argument
        parts = [Path(path) for path in (paths.split(",") if equals and name else [paths])]
        files = []
        for part in parts:
            needs_answers = part.suffix.lower() == ".json" and bool(left)
            files.append(read_predictions(part, answers=left.pop(0) if needs_answers else None))
        runs.append((name or None, parts[0], merge(files)))
    if left:
        raise InputError(f"--answers {left[0]}: there is no official .json output left for it; leave it out.")
    nameless = [run for run in runs if run[0] is None]
    kinds = [task for _, _, file in nameless for task in file.tasks]
    systems: dict[str, list[PredictionFile]] = {}
    if len(nameless) > 1 and len(kinds) == len(set(kinds)):
        systems[name_of(nameless[0][1].parent / "run")] = [merge([file for _, _, file in nameless])]
        runs = [run for run in runs if run[0] is not None]
    for given, path, file in runs:
        systems.setdefault(given or _fresh(name_of(path), systems), []).append(file)
    return systems


def name_of(path: Path) -> str:
    """A system's name from its file: the folder's where the file is called predictions, else the file's own."""
    stem = path.resolve().stem if path.suffix else path.resolve().name
    return path.resolve().parent.name if stem in ("predictions", "run") else stem


def to_json(document: Any) -> str:
    """Unrounded JSON; what is not a number is null."""
    return json.dumps(_finite(document), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _fresh(name: str, taken: Mapping[str, Any]) -> str:
    """The name itself, or with a number where another nameless file has it."""
    number, fresh = 2, name
    while fresh in taken:
        fresh, number = f"{name} {number}", number + 1
    return fresh
