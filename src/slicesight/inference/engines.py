"""Who computes: the package's own engine, or another that was installed beside it?

An engine is a function that takes a model's name or folder and gives a `Predictor`. Another package adds one by an
entry point of this group, as `plugins/vllm` does.
"""

from __future__ import annotations

import pkgutil
from pathlib import Path
from typing import TYPE_CHECKING, cast

from slicesight.data.plugins import known_names
from slicesight.errors import InputError

if TYPE_CHECKING:
    from slicesight.inference.predictor import Predictor

ENGINES = {"own": "slicesight.inference.loading:load"}
ENGINE_ENTRY_POINTS = "slicesight.engines"
AUTO, QUICKEST = "auto", ("vllm", "own")
"""Where nobody says otherwise: the first of these that is here and answers this model."""
HOW_TO_GET = {"vllm": "install plugins/vllm in an environment of its own, with its vLLM (docs/how-to/vllm.md)"}


def choose_engine(engine: str, model: str | Path, *, is_plain: bool = True) -> str:
    """The engine of this name, or with "auto" the quickest that is here.

    Args:
        is_plain: nothing is asked for that only the package's own engine does.

    Raises:
        InputError: there is none of this name here.
    """
    if engine != AUTO:
        check_engine(engine)
        return engine
    known = known_names(ENGINES, ENGINE_ENTRY_POINTS)
    others = [name for name in QUICKEST if name in known and name not in ENGINES]
    return others[0] if others and is_plain and answers_elsewhere(model) else "own"


def answers_elsewhere(model: str | Path) -> bool:
    """Whether a model's folder is whole: another engine makes nothing of a guest's name."""
    from slicesight.models.shipped import find_folder

    return (find_folder(model) / "config.json").is_file()


def check_engine(engine: str) -> str:
    """The engine's place, "module:function".

    Raises:
        InputError: there is none of this name here.
    """
    known = known_names(ENGINES, ENGINE_ENTRY_POINTS)
    if engine not in known:
        advice = f"; {HOW_TO_GET[engine]}" if engine in HOW_TO_GET else ""
        raise InputError(
            f"--engine is {engine!r}; expected auto, or one that is installed here: {', '.join(known)}{advice}"
        )
    return known[engine]


def load_with(engine: str, model: str | Path) -> Predictor:
    """Load a model into the engine of this name.

    Raises:
        InputError: there is no such engine, or it cannot be imported.
        ModelError: as of the engine's own loading.
    """
    place = check_engine(engine)
    try:
        load = pkgutil.resolve_name(place)
    except (ImportError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"--engine {engine}: {place} cannot be imported ({reason}); install its package again"
        ) from error
    return cast("Predictor", load(model))
