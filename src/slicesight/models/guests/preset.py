"""How is a scan put before a vision-language model that was not made for scans of its own? A small YAML file says it.

A preset names how many slices are shown and how large, which grey windows become colours, whether every slice is a
picture or all of them are one contact sheet, and the words around them. Those in `presets/` follow what each model's
makers document; `source` says where. One's own is a file named with --preset, or any file in the folder that the
variable SLICESIGHT_PRESETS names.
"""

from __future__ import annotations

import difflib
import os
import string
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Literal

from slicesight.errors import InputError
from slicesight.settings import read_settings
from slicesight.volumes.grid import GridSpec

PRESET_FOLDER = Path(__file__).parent / "presets"
OWN_FOLDER = "SLICESIGHT_PRESETS"
FALLBACK = "contact-sheet"
"""For a model of a kind no preset names: one picture is what every such model takes."""
CAPTION_FIELDS = ("number", "count", "place")
QUESTION_FIELDS = ("question",)
MOST_SLICES = 512


@dataclass(frozen=True, kw_only=True)
class Preset:
    """What a guest is shown, and in which words.

    Raises:
        InputError: a setting cannot be.
    """

    name: str
    about: str = ""
    """One line for people."""
    source: str = ""
    """Where the model's makers describe its input."""
    model_types: tuple[str, ...] = ()
    """`model_type` of the configurations that it fits."""
    names: tuple[str, ...] = ()
    """Patterns of names that it fits, before `model_types` are looked at: "*medgemma-1.5*"."""
    slices: int = 32
    """At most so many, evenly spaced single slices; a scan of fewer shows all of its own."""
    size: int = 448
    """Pixels of a slice's longer side."""
    plane: str = "acquired"
    window: str = "auto"
    """A window's word; three joined by "+" are red, green and blue; "A|B" is A for a scan in HU and B for any other."""
    crop: bool = False
    """Whether the air around the body is cut away."""
    layout: Literal["pictures", "sheet"] = "pictures"
    columns: int = 0
    """Of a contact sheet; 0 makes it square."""
    caption: str = "slice {number} of {count}{place}"
    """Beside every picture; {place} is ", z = -121 mm" where the file holds positions."""
    caption_after: bool = False
    system: str = ""
    instruction: str = ""
    """Said before the pictures."""
    question: str = "{question}"
    """Said after them."""
    chat_template: str = ""
    """Jinja text for a model whose own processor has none."""
    processor: dict[str, Any] = field(default_factory=dict)
    """Further arguments of the model's own processor."""
    thinking: tuple[str, ...] = ()
    """The marks around what it says to itself first, which is left out of the answer."""
    trained_on: str = "unknown"

    def __post_init__(self) -> None:
        if not 1 <= self.slices <= MOST_SLICES:
            raise InputError(f"preset {self.name}: slices is {self.slices}; expected 1 to {MOST_SLICES}")
        if not 0 <= self.columns <= self.slices:
            raise InputError(f"preset {self.name}: columns is {self.columns}; expected 0 to {self.slices}")
        if len(self.thinking) not in (0, 2):
            raise InputError(
                f"preset {self.name}: thinking has {len(self.thinking)} marks; expected the first and last"
            )
        _check_fields(self.name, "caption", self.caption, CAPTION_FIELDS)
        _check_fields(self.name, "question", self.question, QUESTION_FIELDS)
        if "{question}" not in self.question:
            raise InputError(f"preset {self.name}: question has no place {{question}}; write where the question stands")
        try:
            _ = self.grid_spec
        except InputError as error:
            raise InputError(f"preset {self.name}: {error}") from None

    @property
    def grid_spec(self) -> GridSpec:
        """The grid whose slices are shown."""
        return GridSpec(
            num_slices=self.slices,
            height=self.size,
            width=self.size,
            plane=self.plane,
            window=self.window,
            crop_foreground=self.crop,
            pick_slices=True,
        )


def find_preset(given: str | Path | None, *, name: str, model_type: str | None) -> Preset:
    """The preset that was asked for, else the one that fits the model's name, else its kind, else the fallback.

    Args:
        given: a preset's name or a YAML file.
        name: of the model: a hub id, a folder's name, what a server calls it.
        model_type: of its configuration; None where nobody knows.

    Raises:
        InputError: there is no such preset, or a file is none.
    """
    if given is not None and (Path(given).suffix in (".yaml", ".yml") or Path(given).is_file()):
        return read_preset(Path(given))
    known = known_presets()
    if given is not None:
        if str(given) not in known:
            near = difflib.get_close_matches(str(given), known, n=1)
            hint = f"did you mean {near[0]}? else one of" if near else "expected a YAML file, or one of"
            raise InputError(f"preset {str(given)!r} is unknown; {hint} {', '.join(sorted(known))}")
        return read_preset(known[str(given)])
    presets = [read_preset(path) for path in known.values()]
    for preset in presets:
        if any(fnmatch(name.lower(), pattern.lower()) for pattern in preset.names):
            return preset
    for preset in presets:
        if model_type is not None and model_type in preset.model_types:
            return preset
    return read_preset(known[FALLBACK])


def known_presets() -> dict[str, Path]:
    """{name: file}, one's own before those of this package.

    Raises:
        InputError: the folder of one's own is not there.
    """
    folders = [PRESET_FOLDER]
    if own := os.environ.get(OWN_FOLDER):
        if not Path(own).is_dir():
            raise InputError(f"{OWN_FOLDER}={own}: no such folder; name one with YAML files, or unset the variable")
        folders.insert(0, Path(own))
    found: dict[str, Path] = {}
    for folder in folders:
        for path in sorted(folder.glob("*.yaml")):
            found.setdefault(path.stem, path)
    return found


def read_preset(path: Path) -> Preset:
    """A preset from its file.

    Raises:
        InputError: no such file, or a key or value in it that does not belong there.
    """
    if not path.is_file():
        raise InputError(
            f"{path}: no such preset; expected a YAML file, or one of {', '.join(sorted(known_presets()))}"
        )
    return read_settings(Preset, path, verb="guest", needs_verb=False)


def _check_fields(preset: str, setting: str, text: str, known: tuple[str, ...]) -> None:
    try:
        found = [name for _, name, _, _ in string.Formatter().parse(text) if name is not None]
    except ValueError as error:
        raise InputError(f"preset {preset}: {setting} is {text!r} ({error}); double a brace that is meant") from None
    for name in found:
        if name not in known:
            places = ", ".join(f"{{{one}}}" for one in known)
            raise InputError(f"preset {preset}: {setting} names {{{name}}}; the places are {places}")
