"""How does a name in a recipe or configuration become code, this package's own or a stranger's?

A registry maps a name to "module:object", which is imported when it is asked for. Another package adds a name by an
entry point of the registry's group, without a change here.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any


def find_registered(registry: Mapping[str, str], name: str, *, group: str) -> Any:
    """The object of that name, or None where neither the registry nor an installed package's entry point has it."""
    if name in registry:
        return pkgutil.resolve_name(registry[name])
    for found in entry_points(group=group, name=str(name)):
        return found.load()
    return None


def is_registered(registry: Mapping[str, str], name: str, *, group: str) -> bool:
    """Whether `find_registered` would find it; nothing is imported."""
    return name in registry or bool(entry_points(group=group, name=str(name)))
