"""Which models come with the package, which were pulled, and where do they lie?"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from slicesight.models.known import KNOWN_MODELS

if TYPE_CHECKING:
    from slicesight.volumes.volume import Volume

SHIPPED_FOLDER = Path(__file__).parents[1] / "weights"
PULLED_VARIABLE = "SLICESIGHT_MODELS"
DEFAULT_MODEL = "anatomy-small"
"""Of the shipped models the one for real scans: what is loaded where no model is named."""
PHANTOM_MODEL = "phantom-tiny"
"""The shipped model for synthetic scans."""


def shipped_models() -> list[str]:
    """Names of the models that come with the package."""
    return sorted(path.parent.name for path in SHIPPED_FOLDER.glob("*/config.json"))


def model_for(volume: Volume) -> str:
    """The shipped model that was trained on scans like this one: synthetic or real."""
    return PHANTOM_MODEL if volume.is_synthetic else DEFAULT_MODEL


def pulled_folder() -> Path:
    """Where `slicesight pull` puts models: SLICESIGHT_MODELS, else slicesight/models among the user's own data."""
    if chosen := os.environ.get(PULLED_VARIABLE):
        return Path(chosen).expanduser()
    data = os.environ.get("XDG_DATA_HOME")
    return (Path(data) if data else Path.home() / ".local" / "share") / "slicesight" / "models"


def folder_name(name: str) -> str:
    """What the folder of a model on the hub is called: "owner/model" cannot be one folder's name."""
    return name.replace("/", "--")


def pulled_models() -> list[str]:
    """Names of the models that `slicesight pull` brought."""
    found = (path.parent.name for path in pulled_folder().glob("*/config.json"))
    return sorted(name.replace("--", "/", 1) for name in found if not name.startswith("."))


def find_folder(name_or_dir: str | Path) -> Path:
    """The folder of a shipped or pulled model by its name; any other name is taken for a folder's path."""
    name = str(name_or_dir)
    if name in shipped_models():
        return SHIPPED_FOLDER / name
    if name in pulled_models():
        return pulled_folder() / folder_name(name)
    return Path(name_or_dir)


def how_to_get(name: str) -> str | None:
    """What to do about the name of a known model that is not on this machine; None for a name that is not known."""
    if name not in KNOWN_MODELS:
        return None
    known = KNOWN_MODELS[name]
    return f"{name} is not on this machine; fetch it once ({known.gib:g} GiB): slicesight pull {name}"


def nearest_model(name: str, *, among: Iterable[str] = ()) -> str:
    """ "did you mean …?" where a model is called much the same, else the names there are."""
    names = [*dict.fromkeys([*shipped_models(), *pulled_models(), *KNOWN_MODELS, *among])]
    near = difflib.get_close_matches(name.lower(), names, n=1)
    return f"did you mean {near[0]!r}?" if near else f"names known here: {', '.join(names)}"
