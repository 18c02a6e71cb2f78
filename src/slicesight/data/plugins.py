"""How is a data source, or anything else chosen by name, found here or in another package?

A registry is a dict from name to "module:function", imported when it is wanted. Another package adds a name by an entry
point of the registry's group, or by putting a line into the dict.
"""

from __future__ import annotations

import pkgutil
import sys
from collections.abc import Mapping
from functools import lru_cache
from importlib.metadata import entry_points
from typing import Any

from slicesight.errors import InputError


def known_names(registry: Mapping[str, str], group: str) -> dict[str, str]:
    """Name -> "module:function", this package's first."""
    others = _installed(group, tuple(sys.path))
    return {**registry, **{name: place for name, place in others.items() if name not in registry}}


@lru_cache(maxsize=64)
def _installed(group: str, path: tuple[str, ...]) -> dict[str, str]:
    """What installed packages say, read once for each state of the import path: every package's file is opened."""
    return {point.name: point.value for point in entry_points(group=group)}


def find_plugin(name: str, registry: Mapping[str, str], group: str) -> Any:
    """What the name stands for (InputError: nothing has this name, or what has it cannot be imported)."""
    known = known_names(registry, group)
    if name not in known:
        raise InputError(f"{name!r} is unknown; use one of {', '.join(known)}")
    try:
        return pkgutil.resolve_name(known[name])
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"{name!r}: {known[name]} cannot be imported ({error}); install its package again") from error
