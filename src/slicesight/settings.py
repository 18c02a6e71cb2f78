"""How does a YAML recipe become checked, frozen settings?

Key by key into keyword-only dataclasses: an unknown key or word names the nearest known one, every value is checked
against its field's type, and `--set stages.0.learning_rate=1e-4` changes one value before anything is checked. A recipe
says in its line `verb:` which command it is for, so that the wrong command is one clear line; `slicesight train` takes
recipes without one.
"""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterable
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from slicesight.errors import InputError

T = TypeVar("T")
MOST_VALUES = 100_000
WORDS = {int: "a whole number", str: "text", bool: "true or false", float: "a number"}


def read_settings(
    kind: type[T], path: str | Path, changes: Iterable[str] = (), *, verb: str, needs_verb: bool = True
) -> T:
    """Read and check a YAML file as the frozen dataclass `kind`.

    Args:
        changes: "key=value" strings, dotted keys, list positions as numbers; values are YAML.
        verb: what the file's `verb` must say; the key itself is not part of `kind`.
        needs_verb: whether a file without that line is refused.

    Raises:
        InputError: no such file, not YAML, another verb's, or a key or value that does not belong there; one line.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such recipe; expected a YAML file")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        _count_values(content)
    except RecursionError:
        raise InputError(f"{path.name}: nested too deep; expected a recipe of a few levels") from None
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(f"{path.name}: not valid YAML: {' '.join(str(error).split())}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); expected a file that you may read") from None
    if not isinstance(content, dict):
        raise InputError(f"{path.name}: expected a mapping of settings, found {type(content).__name__}")
    found = content.pop("verb", None)
    if found != verb and (found is not None or needs_verb):
        right = f"run it with: slicesight {found} {path}" if found else f"expected the line 'verb: {verb}'"
        raise InputError(f"{path.name}: is no recipe for 'slicesight {verb}'; {right}")
    return build_settings(kind, changed(content, changes), where=path.name)


def _count_values(value: Any, limit: int = MOST_VALUES) -> int:
    """How many values are still allowed after this one; ValueError: aliases make more of a small file than a recipe."""
    if limit <= 0:
        raise ValueError(f"its aliases (*name) make more than {MOST_VALUES} values; write the values out")
    limit -= 1
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            limit = _count_values(inner, limit)
    return limit


def changed(content: dict[str, Any], changes: Iterable[str]) -> dict[str, Any]:
    """The mapping itself with every "key=value" applied."""
    for change in changes:
        key, equals, value = change.partition("=")
        if not equals:
            raise InputError(f"--set {change}: expected key=value, for instance --set seed=3")
        *parents, last = key.split(".")
        place: Any = content
        try:
            for part in parents:
                place = place[int(part)] if isinstance(place, list) else place.setdefault(part, {})
            place[int(last) if isinstance(place, list) else last] = yaml.safe_load(value)
        except (IndexError, ValueError, TypeError, AttributeError):
            raise InputError(f"--set {change}: the recipe has no place {key!r}") from None
        except (yaml.YAMLError, RecursionError):
            raise InputError(f"--set {change}: {value!r} is not valid YAML") from None
    return content


def build_settings(kind: type[T], content: Any, *, where: str) -> T:
    """The dataclass of a mapping; `where` opens every complaint.

    Raises:
        InputError: an unknown or missing key, or a value of the wrong type; one line.
    """
    if not isinstance(content, dict):
        raise InputError(f"{where}: expected a mapping, found {type(content).__name__}")
    known = {field.name: field for field in fields(kind)}  # type: ignore[arg-type]
    for key in content:
        if key not in known:
            raise InputError(f"{where}: unknown key {key!r}; {nearest(str(key), known, noun='keys')}")
    for name, field in known.items():
        if name not in content and field.default is MISSING and field.default_factory is MISSING:
            raise InputError(f"{where}: {name} is missing; set it")
    hints = get_type_hints(kind)
    return kind(**{key: _convert(hints[key], value, where=f"{where}: {key}") for key, value in content.items()})


def _convert(hint: Any, value: Any, *, where: str) -> Any:
    """A YAML value as what the field's type says: X | None, Literal, tuple, dict, dataclass, number, text, or Any."""
    origin, options = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in options:
            return None
        kinds = [option for option in options if option is not type(None)]
        return _convert(_kind_of(kinds, value), value, where=where)
    if origin is Literal:
        if value not in options:
            raise InputError(f"{where}: {value!r} is unknown; {nearest(str(value), options, noun='words')}")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise InputError(f"{where}: expected a list, found {value!r}")
        inner = options[:1] * len(value) if options[-1] is Ellipsis else options
        if len(value) != len(inner):
            raise InputError(f"{where}: expected {len(inner)} values, found {len(value)}")
        pairs = zip(inner, value, strict=True)
        return tuple(_convert(option, item, where=f"{where}.{i}") for i, (option, item) in enumerate(pairs))
    if origin is dict:
        if not isinstance(value, dict):
            raise InputError(f"{where}: expected a mapping, found {value!r}")
        return {key: _convert(options[1], item, where=f"{where}.{key}") for key, item in value.items()}
    if is_dataclass(hint):
        return build_settings(hint, value, where=where)  # type: ignore[arg-type]
    return _plain(hint, value, where=where)


def _kind_of(kinds: list[Any], value: Any) -> Any:
    """Of several dataclasses, the one whose keys the value has most of."""
    if len(kinds) == 1 or not isinstance(value, dict):
        return kinds[0]
    return max(kinds, key=lambda kind: len({field.name for field in fields(kind)} & set(value)))


def _plain(hint: Any, value: Any, *, where: str) -> Any:
    if hint is float and isinstance(value, int | str) and not isinstance(value, bool):
        try:
            return float(value)  # YAML reads 1e-4 as text
        except ValueError:
            pass
    if hint in WORDS and type(value) is not hint:
        raise InputError(f"{where}: expected {WORDS[hint]}, found {value!r}")
    return value


def nearest(word: str, known: Iterable[Any], *, noun: str) -> str:
    """ "did you mean …?", or the list of what is known."""
    names = [str(name) for name in known]
    near = difflib.get_close_matches(word, names, n=1)
    return f"did you mean {near[0]!r}?" if near else f"the {noun} are {', '.join(names)}"
