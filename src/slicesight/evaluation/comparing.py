"""How do several systems stand beside each other on the same questions? What `slicesight compare` and its page show.

Each system is one or more result files (`external.read_systems`); a folder that `evaluate` wrote also brings its model
card, its controls and where its scans lie. Everything is scored again. Tests are paired by scan on the main metric of
each kind of question, with Holm's correction over all of them. Two files that give one question different true answers
are refused: they are not of the same test.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from slicesight.data.choices import plain
from slicesight.errors import InputError
from slicesight.evaluation.external import read_systems
from slicesight.evaluation.predictions import TASKS, Prediction, PredictionFile
from slicesight.evaluation.sheet import Scored, average_sheets, compare_systems, make_sheet, score_file

MAIN_METRIC = {"report": "rouge1", "open": "rouge1", "closed": "accuracy"}
"""By which a kind of question is ranked and tested."""


@dataclass(frozen=True, kw_only=True)
class ComparedSystem:
    """One system: its runs scored, their sheet, and what the folder of the first says about it ({} for a file)."""

    name: str
    runs: tuple[Scored, ...]
    sheet: dict[str, Any]
    stated: Mapping[str, Any] = field(default_factory=dict)

    @property
    def first(self) -> Scored:
        return self.runs[0]

    def value(self, place: int) -> float:
        """The main metric of the first run's row at this place."""
        return float(self.first.values[MAIN_METRIC[self.first.rows[place].task]][place])


@dataclass(frozen=True, kw_only=True)
class SharedQuestion:
    """A question that every system answered: the truth, and each system's row and value in the order of the systems."""

    truth: Prediction
    rows: tuple[Prediction, ...]
    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        return float(np.mean(self.values))

    @property
    def spread(self) -> float:
        """How far the systems disagree: best minus worst."""
        return max(self.values) - min(self.values)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Systems, the tests between them, the questions all answered, and how many each answered alone."""

    systems: tuple[ComparedSystem, ...]
    tests: list[dict[str, Any]]
    shared: tuple[SharedQuestion, ...]
    num_questions: Mapping[str, int]

    @property
    def tasks(self) -> list[str]:
        """The kinds of questions that any system answered."""
        return [task for task in TASKS if any(system.sheet[task] for system in self.systems)]

    @property
    def is_one_test(self) -> bool:
        """Whether every system answered the same questions."""
        return all(number == len(self.shared) for number in self.num_questions.values())


def compare_files(
    arguments: Sequence[str],
    *,
    answers: Sequence[Path] = (),
    bertscore: str | None = None,
    layer: int | None = None,
) -> Comparison:
    """Read, score and test; arguments as `external.read_systems` takes them.

    Raises:
        InputError: fewer than two systems, a file that cannot be read, or two files with different true answers.
    """
    files = read_systems(arguments, answers=answers)
    if len(files) < 2:
        raise InputError(f"{' '.join(arguments)}: one system; name two or more, for instance ours=runs/a theirs=runs/b")
    check_truths(files)
    stated = _stated(arguments, list(files))
    systems = []
    for name, runs in files.items():
        scored = tuple(score_file(run, bertscore=bertscore, layer=layer) for run in runs)
        sheet = average_sheets([make_sheet(run, system=name) for run in scored])
        systems.append(ComparedSystem(name=name, runs=scored, sheet=sheet, stated=stated.get(name, {})))
    tests = compare_systems({one.name: one.runs for one in systems}, metrics=list(MAIN_METRIC.items()))
    return Comparison(
        systems=tuple(systems),
        tests=tests,
        shared=tuple(_shared(systems)),
        num_questions={one.name: len(one.first.rows) for one in systems},
    )


def check_truths(files: Mapping[str, Sequence[PredictionFile]]) -> None:
    """Refuse two files whose true answers to one question differ.

    Raises:
        InputError: names both places.
    """
    known: dict[tuple[str | None, str], tuple[str, str]] = {}
    for name, runs in files.items():
        for run in runs:
            for number, row in enumerate(run.rows):
                true = plain(row.answer_choice or row.answer) if row.task == "closed" else plain(row.answer)
                place = f"{name}: {run.places[number]}" if run.places else f"{name}: row {number + 1}"
                first, where = known.setdefault((row.volume, row.id), (true, place))
                if first != true:
                    raise InputError(
                        f"{place}: the true answer of {row.id!r} is {true[:60]!r}, in {where} it is {first[:60]!r}; "
                        "compare answers to one test set"
                    )


def best_of(comparison: Comparison, task: str) -> tuple[str | None, set[str]]:
    """The system with the highest main metric of a task, and those whose difference from it may be chance.

    A system that could not be tested against the best one is in neither.
    """
    metric = MAIN_METRIC[task]
    scored = {
        one.name: one.sheet[task]["micro"][metric]
        for one in comparison.systems
        if one.sheet[task] is not None and one.sheet[task]["micro"][metric] is not None
    }
    if not scored:
        return None, set()
    best = max(scored, key=lambda name: scored[name])
    alike = set()
    for test in comparison.tests:
        pair = {test["first"], test["second"]}
        if test["task"] == task and best in pair and test["p"] is not None and test["p_holm"] >= 0.05:
            alike |= pair - {best}
    return best, alike


def _shared(systems: Sequence[ComparedSystem]) -> list[SharedQuestion]:
    """The questions that all answered, in the first system's order."""
    places = [{(row.volume, row.id): n for n, row in enumerate(one.first.rows)} for one in systems]
    found = []
    for key, place in places[0].items():
        if not all(key in other for other in places):
            continue
        at = [other[key] for other in places]
        found.append(
            SharedQuestion(
                truth=systems[0].first.rows[place],
                rows=tuple(one.first.rows[n] for one, n in zip(systems, at, strict=True)),
                values=tuple(one.value(n) for one, n in zip(systems, at, strict=True)),
            )
        )
    return found


def _stated(arguments: Sequence[str], names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What sheet.json says beside each system's first file, for folders that `evaluate` wrote."""
    found: dict[str, dict[str, Any]] = {}
    nameless = [name for name in names if not any(argument.startswith(f"{name}=") for argument in arguments)]
    for argument in arguments:
        name, equals, paths = argument.partition("=")
        named = bool(equals) and not Path(argument).exists()
        path = Path(paths.split(",")[0] if named else argument)
        system = name if named else (nameless.pop(0) if nameless else "")
        sheet = (path if path.is_dir() else path.parent) / "sheet.json"
        if system in found or not sheet.is_file():
            continue
        try:
            stated = json.loads(sheet.read_text(encoding="utf-8"))
        except ValueError:
            continue
        if isinstance(stated, dict) and isinstance(stated.get("model"), dict):
            found[system] = {**stated, "folder": str(sheet.parent)}
    return found
