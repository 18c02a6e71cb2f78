"""Which public benchmarks can be run by name, and what is known about each? facts/NAME.yaml, with every source.

A benchmark has a layout that `prepare` reads, columns as its table prints them (`rules.py` says how each is computed),
published rows with their source, remarks where split or scorer differ, and result files as its own scorer takes them
(`submissions.py`). Another package adds one by an entry point of `ENTRY_POINTS` that names a function without
arguments which returns the path of such a YAML file.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import yaml

from slicesight.data.manifest import Split
from slicesight.data.plugins import find_plugin, known_names
from slicesight.data.sources import BENCHMARKS as BENCHMARKS
from slicesight.errors import InputError
from slicesight.settings import build_settings

ENTRY_POINTS = "slicesight.benchmarks"
_FACTS = "facts"


@dataclass(frozen=True, kw_only=True)
class Column:
    """A number of the benchmark's table.

    rule: a name in `rules.RULES`. task, topic: which questions it is about; a topic is the beginning of theirs. strict:
    another rule whose value stands in brackets, where the benchmark's own is lenient.
    """

    key: str
    title: str
    rule: str
    task: str
    topic: str = ""
    strict: str | None = None


@dataclass(frozen=True, kw_only=True)
class PublishedRow:
    """What somebody reported, in percent. differs: why it may not be read beside a run of this split and scorer."""

    system: str
    source: str
    values: dict[str, float]
    differs: str = ""


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A benchmark's facts.

    expected: how many questions, scans its split holds. remarks: about the data; differs: about every comparison with
    the published rows.
    """

    name: str
    title: str
    about: str
    source: str
    layout: str
    split: Split
    columns: tuple[Column, ...]
    rows: tuple[PublishedRow, ...]
    expected: dict[str, int]
    remarks: tuple[str, ...]
    differs: tuple[str, ...]


def benchmark_names() -> tuple[str, ...]:
    """Every benchmark: this package's, then those of other packages."""
    return (*BENCHMARKS, *known_names({}, ENTRY_POINTS))


@cache
def benchmark(name: str) -> Benchmark:
    """The facts of a benchmark.

    Raises:
        InputError: nothing has this name, or another package's facts are not what they should be.
    """
    if name not in benchmark_names():
        raise InputError(f"benchmark {name!r} is unknown; use one of {', '.join(benchmark_names())}")
    place: Traversable = files(__package__) / _FACTS / f"{name}.yaml"
    if name not in BENCHMARKS:
        place = Path(find_plugin(name, {}, ENTRY_POINTS)())
    content: dict[str, Any] = yaml.safe_load(place.read_text(encoding="utf-8"))
    return build_settings(Benchmark, {"name": name, **content}, where=f"{name}.yaml")
