"""How does a YAML file become checked settings? Key by key into frozen dataclasses, an unknown key naming the nearest.

`--set stages.0.learning_rate=1e-4` changes one value before anything is checked.
"""

from __future__ import annotations

import difflib
import types
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from slicesight.errors import InputError

Settings = TypeVar("Settings")


def read_settings(kind: type[Settings], path: str | Path, changes: tuple[str, ...] = ()) -> Settings:
    """Read a YAML file as one dataclass.

    Args:
        changes: "key=value" strings, dotted keys, list positions as numbers; values are YAML.

    Raises:
        InputError: no such file, not YAML, or a key or value that does not belong there; one line.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such recipe; expected a YAML file")
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path.name}: not valid YAML: {' '.join(str(error).split())}") from None
    for change in changes:
        apply_change(settings, change)
    return build(kind, settings, where=path.name)


def apply_change(settings: Any, change: str) -> None:
    """Put one "key=value" into the settings as read from YAML."""
    key, equals, value = change.partition("=")
    if not equals:
        raise InputError(f"--set {change}: expected key=value, for instance --set seed=3")
    *parents, last = key.split(".")
    place = settings
    try:
        for part in parents:
            place = place[int(part)] if isinstance(place, list) else place.setdefault(part, {})
        place[int(last) if isinstance(place, list) else last] = yaml.safe_load(value)
    except (IndexError, ValueError, TypeError, AttributeError):
        raise InputError(f"--set {change}: the recipe has no place {key!r}") from None
    except yaml.YAMLError:
        raise InputError(f"--set {change}: {value!r} is not valid YAML") from None


def build(kind: type[Settings], settings: Any, *, where: str) -> Settings:
    """A dataclass from a mapping; `where` opens every complaint."""
    if not isinstance(settings, dict):
        raise InputError(f"{where}: expected a mapping, found {type(settings).__name__}")
    known = {f.name: f for f in fields(kind)}  # type: ignore[arg-type]
    for key in settings:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"the keys are {', '.join(known)}"
            raise InputError(f"{where}: unknown key {key!r}; {hint}")
    hints = get_type_hints(kind)
    values = {key: convert(hints[key], value, where=f"{where}: {key}") for key, value in settings.items()}
    try:
        return kind(**values)
    except TypeError as error:
        raise InputError(f"{where}: {str(error).split('.')[-1].replace('__init__() ', '')}") from None


def convert(hint: Any, value: Any, *, where: str) -> Any:
    """A value as its type hint wants it."""
    origin, options = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in options:
            return None
        return convert(
            choose_kind([option for option in options if option is not type(None)], value), value, where=where
        )
    if origin is tuple:
        if not isinstance(value, list):
            raise InputError(f"{where}: expected a list, found {value!r}")
        return tuple(convert(options[0], item, where=f"{where}.{i}") for i, item in enumerate(value))
    if origin is dict:
        if not isinstance(value, dict):
            raise InputError(f"{where}: expected a mapping, found {value!r}")
        return {key: convert(options[1], item, where=f"{where}.{key}") for key, item in value.items()}
    if is_dataclass(hint):
        return build(hint, value, where=where)  # type: ignore[arg-type]
    if hint is float and isinstance(value, (int, str)) and not isinstance(value, bool):
        try:
            return float(value)
        except ValueError:
            raise InputError(f"{where}: expected a number, found {value!r}") from None
    if hint in (int, str, bool, float) and type(value) is not hint:
        raise InputError(f"{where}: expected {hint.__name__}, found {value!r}")
    return value


def choose_kind(kinds: list[Any], value: Any) -> Any:
    """Of several possible types, the one whose keys the value has most of."""
    if len(kinds) == 1 or not isinstance(value, dict):
        return kinds[0]
    return max(kinds, key=lambda kind: len({f.name for f in fields(kind)} & set(value)))
