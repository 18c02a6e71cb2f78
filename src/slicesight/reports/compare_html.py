"""Which system is better, on what, by how much, and where do all fail? One HTML page that needs nothing else.

A leaderboard with intervals that can be sorted and narrowed to a topic, the paired tests, every topic, the published
rows of a benchmark, and the worst cases side by side: the slices each system points at, from the scan itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from slicesight.data.dataset import Dataset, open_dataset
from slicesight.errors import InputError
from slicesight.evaluation.comparing import MAIN_METRIC, ComparedSystem, Comparison, SharedQuestion, best_of
from slicesight.evaluation.predictions import Prediction
from slicesight.evaluation.sheet import metrics_of
from slicesight.evaluation.statistics import FLIPS, ONE_SCAN
from slicesight.files import write_text
from slicesight.reports.benchmark_table import board_rows
from slicesight.reports.evaluation_html import MAIN_NAMES, verdict
from slicesight.reports.evidence import EVIDENCE_CAVEAT
from slicesight.reports.figure import height_over_width
from slicesight.reports.html import data_address, grey_image, render_template, score_bars
from slicesight.reports.score_tables import blocks, ends_text, or_dash, percent
from slicesight.volumes.grid import GridSpec, GridVolume

MAX_QUESTIONS = 1000
TILE, TILES_ACROSS, NUM_THUMBS = 112, 8, 3
ALL, MACRO = "all questions", "mean of topics"
CHANCE = 0.05
NO_GRID = "its sheet.json does not say how it cuts the scan; run slicesight evaluate again"
NO_FOLDER = "a result file names no scans; give the folder that slicesight evaluate wrote, or --data"


@dataclass(frozen=True, kw_only=True)
class Sprite:
    """All slices of one scan on one grid in one picture, `TILES_ACROSS` in a row."""

    name: str
    address: str
    tile_height: int
    num_slices: int

    def place(self, index: int) -> str:
        """Where in the picture a slice begins, as CSS has it."""
        return f"-{index % TILES_ACROSS * TILE}px -{index // TILES_ACROSS * self.tile_height}px"


def write_comparison(
    path: Path,
    comparison: Comparison,
    *,
    num_cases: int,
    data: str | None = None,
    board: Mapping[str, Any] | None = None,
) -> None:
    """Write the page.

    Args:
        num_cases: how many of the worst scans are pictured. data: where the scans lie, if not where the runs had them.
        board: a benchmark's table with these systems.

    Raises:
        InputError: the data that were named cannot be opened.
    """
    write_text(path, text=render_comparison(comparison, num_cases=num_cases, data=data, board=board))


def render_comparison(
    comparison: Comparison, *, num_cases: int, data: str | None = None, board: Mapping[str, Any] | None = None
) -> str:
    """The page as HTML text; arguments as `write_comparison`."""
    columns = sorted(_columns(comparison), key=lambda column: not column["is_main"])
    topics = [ALL, MACRO, *_topics(comparison)]
    worst = sorted(comparison.shared, key=lambda one: (one.mean, -one.spread))[:MAX_QUESTIONS]
    pictures = _Pictures(comparison, data)
    cases = list(pictures.cases(num_cases))
    tested = [test for test in comparison.tests if test["p"] is not None]
    num_scans = len({one.truth.volume for one in comparison.shared})
    return render_template(
        "compare.html.j2",
        caveat=EVIDENCE_CAVEAT,
        systems=[_system(one, comparison) for one in comparison.systems],
        num_shared=len(comparison.shared),
        num_scans=num_scans,
        no_interval=ONE_SCAN if num_scans == 1 else "no interval",
        is_one_test=comparison.is_one_test,
        columns=columns,
        topics=topics,
        board_rows=_leaderboard(comparison, columns, topics),
        tests=[_test(test) for test in tested],
        test_scale=max(
            [1.0, *(100 * abs(end) for test in tested for end in (*(test["ci95"] or ()), 1.05 * test["difference"]))]
        ),
        smallest_p=_smallest_p(tested),
        untested=sorted(
            {f"{t['first']} and {t['second']}: {t['missing']}" for t in comparison.tests if t["p"] is None}
        ),
        by_topic=list(_by_topic(comparison)),
        benchmark=None if board is None else {**board, "table": board_rows(board)},
        questions=[_question(one) for one in worst],
        question_topics=list(dict.fromkeys(one.truth.topic for one in worst)),
        question_tasks=list(dict.fromkeys(one.truth.task for one in worst)),
        cases=cases,
        sprites=pictures.sprites,
        tile=TILE,
        across=TILES_ACROSS,
        no_pictures=pictures.reasons,
    )


def _columns(comparison: Comparison) -> Iterator[dict[str, str]]:
    """Every number that any system has, by kind of question in the order of the papers' tables."""
    titles = {(task, metric): title for _, _, parts in blocks() for task, names in parts for metric, title in names}
    for task in comparison.tasks:
        for metric in metrics_of(task):
            has = [
                one.sheet[task] is not None and one.sheet[task]["micro"][metric] is not None
                for one in comparison.systems
            ]
            if any(has):
                title = titles.get((task, metric), metric)
                yield {
                    "key": f"{task}.{metric}",
                    "task": task,
                    "metric": metric,
                    "title": title if task == "closed" else f"{task} {title}",
                    "is_main": "yes" if MAIN_METRIC[task] == metric else "",
                }


def _topics(comparison: Comparison) -> list[str]:
    parts = (one.sheet[task] for one in comparison.systems for task in comparison.tasks)
    return list(dict.fromkeys(topic for part in parts if part for topic in part["by_topic"]))


def _leaderboard(
    comparison: Comparison, columns: Sequence[Mapping[str, str]], topics: Sequence[str]
) -> list[dict[str, Any]]:
    """A row per system and control: {topic: {column: [text, value, low, high]}}, best and not-worse marked."""
    rows = []
    marks = {task: best_of(comparison, task) for task in comparison.tasks}
    for number, one in enumerate(comparison.systems):
        cells = {topic: _cells(one.sheet, columns, topic) for topic in topics}
        best = [task for task in marks if marks[task][0] == one.name]
        alike = [task for task in marks if one.name in marks[task][1]]
        rows.append({"name": one.name, "number": number, "kind": "", "cells": cells, "best": best, "alike": alike})
    for one in comparison.systems:
        for name, parts in (one.stated.get("controls") or {}).items():
            if parts and name in ("majority", "blind", "blank") and not any(row["name"] == name for row in rows):
                cells = {topic: _cells(parts, columns, topic) for topic in topics}
                rows.append({"name": name, "number": -1, "kind": "control", "cells": cells, "best": [], "alike": []})
    return rows


def _cells(parts: Mapping[str, Any], columns: Sequence[Mapping[str, str]], topic: str) -> dict[str, list[Any]]:
    """Column -> [text, value, low, high] in percent; without what is not there."""
    found = {}
    for column in columns:
        part = parts.get(column["task"])
        value, ends = _value_of(part, column["metric"], topic) if part else (None, None)
        if value is not None:
            low, high = (100 * ends[0], 100 * ends[1]) if ends and ends[0] is not None else (None, None)
            found[column["key"]] = [percent(value), 100 * value, low, high]
    return found


def _value_of(part: Mapping[str, Any], metric: str, topic: str) -> tuple[float | None, Sequence[float] | None]:
    where = {ALL: "micro", MACRO: "macro"}.get(topic)
    values = part[where] if where else part["by_topic"].get(topic, {})
    ends = part["ci95"] and (part["ci95"][where] if where else part["ci95"]["by_topic"].get(topic, {}))
    return values.get(metric), (ends or {}).get(metric)


def _by_topic(comparison: Comparison) -> Iterator[dict[str, Any]]:
    """Per kind of question: every topic with a bar per system."""
    for task in comparison.tasks:
        metric = MAIN_METRIC[task]
        topics = [topic for topic in _topics(comparison) if any(_has(one, task, topic) for one in comparison.systems)]
        groups = [
            {
                "topic": topic,
                "count": max(_has(one, task, topic) for one in comparison.systems),
                "bars": [_topic_bar(one, number, task, metric, topic) for number, one in enumerate(comparison.systems)],
            }
            for topic in ([ALL, *topics] if len(topics) > 1 else [ALL])
        ]
        yield {"title": MAIN_NAMES[task], "groups": groups}


def _has(one: ComparedSystem, task: str, topic: str) -> int:
    part = one.sheet[task]
    if part is None:
        return 0
    return int(part["num_pairs"] if topic == ALL else part["num_pairs_by_topic"].get(topic, 0))


def _topic_bar(one: ComparedSystem, number: int, task: str, metric: str, topic: str) -> dict[str, Any]:
    part = one.sheet[task]
    value, ends = _value_of(part, metric, topic) if part else (None, None)
    has_ends = ends is not None and ends[0] is not None
    return {
        "name": one.name,
        "number": number,
        "label": percent(value),
        "value": 100 * (value or 0.0),
        "low": 100 * ends[0] if has_ends and ends is not None else None,
        "high": 100 * ends[1] if has_ends and ends is not None else None,
    }


def _system(one: ComparedSystem, comparison: Comparison) -> dict[str, Any]:
    """What must be read before its numbers."""
    model = one.stated.get("model") or {}
    leaks = (one.stated.get("leaks") or {}).get("num_leaking")
    notes = []
    if model.get("trained_on") == "synthetic":
        notes.append("trained on synthetic CT only: what it scores says nothing about real scans")
    if leaks:
        notes.append(f"{leaks} of its test cases were in its training data")
    if skipped := one.stated.get("skipped_cases"):
        notes.append(f"{len(skipped)} scans could not be read and are left out")
    return {
        "name": one.name,
        "summary": model.get("summary", ""),
        "format": one.first.file.format,
        "num_questions": comparison.num_questions[one.name],
        "num_seeds": len(one.runs),
        "notes": notes,
    }


def _smallest_p(tests: Sequence[Mapping[str, Any]]) -> float:
    """The smallest p after Holm's correction that tests of so few scans could give at all."""
    smallest = [max(2.0 ** (1 - test["num_volumes"]), 1 / (1 + FLIPS)) for test in tests]
    return min(1.0, len(tests) * min(smallest, default=0.0))


def _test(test: Mapping[str, Any]) -> dict[str, Any]:
    low, high = test["ci95"] or (None, None)
    is_chance = test["p_holm"] >= CHANCE
    better = test["first"] if test["difference"] > 0 else test["second"]
    return {
        "first": test["first"],
        "second": test["second"],
        "task": test["task"],
        "title": MAIN_NAMES[test["task"]],
        "difference": f"{100 * test['difference']:+.1f}",
        "value": 100 * test["difference"],
        "low": None if low is None else 100 * low,
        "high": None if high is None else 100 * high,
        "ends": ends_text(test["ci95"], "+.1f", scale=100),
        "p": f"{test['p_holm']:.4f}",
        "p_value": test["p_holm"],
        "size": or_dash(test["effect_size_d"]),
        "num_volumes": test["num_volumes"],
        "verdict": "may be chance" if is_chance else f"{better} is better",
        "is_chance": is_chance,
    }


def _question(one: SharedQuestion) -> dict[str, Any]:
    """A question as the page's list has it."""
    return {
        "task": one.truth.task,
        "topic": one.truth.topic,
        "scan": one.truth.volume or "",
        "question": one.truth.question,
        "truth": _true_text(one.truth),
        "says": [
            [row.prediction or "(nothing)", verdict(row.task, value), "" if row.task == "closed" else f"{value:.2f}"]
            for row, value in zip(one.rows, one.values, strict=True)
        ],
        "spread": one.spread,
        "wrong": all(verdict(one.truth.task, value) == "wrong" for value in one.values),
    }


def _true_text(row: Prediction) -> str:
    return f"{row.answer_choice}. {row.answer}" if row.answer_choice else row.answer


class _Pictures:
    """Finds the scans of the worst cases again and cuts out the slices that each system points at."""

    def __init__(self, comparison: Comparison, data: str | None) -> None:
        self.comparison, self.data = comparison, data
        self._drawn: dict[tuple[str, str], Sprite | None] = {}
        self.reasons: list[str] = []
        self._opened: dict[str, Dataset | None] = {}

    def cases(self, count: int) -> Iterator[dict[str, Any]]:
        """The worst scans over all systems, each with its questions side by side."""
        by_scan: dict[str, list[SharedQuestion]] = {}
        for one in self.comparison.shared:
            by_scan.setdefault(one.truth.volume or "", []).append(one)
        by_scan.pop("", None)
        ranked = sorted(by_scan, key=lambda name: (np.mean([one.mean for one in by_scan[name]]), name))
        for name in ranked[:count]:
            grids = [self._sprite(system, name) for system in self.comparison.systems]
            questions = sorted(by_scan[name], key=lambda one: (one.mean, -one.spread))
            yield {
                "id": name,
                "mean": f"{np.mean([one.mean for one in questions]):.2f}",
                "sheets": list({id(sprite): sprite for sprite in grids if sprite}.values()),
                "questions": [
                    {
                        **_question(one),
                        "answers": [
                            self._answer(row, value, sprite)
                            for row, value, sprite in zip(one.rows, one.values, grids, strict=True)
                        ],
                    }
                    for one in questions
                ],
            }

    def _answer(self, row: Prediction, value: float, sprite: Sprite | None) -> dict[str, Any]:
        fits = sprite is not None and row.scores is not None and len(row.scores) == sprite.num_slices
        even, bars = score_bars(row.scores, height=36) if row.scores else (0.0, [])
        true = set(row.true_slices or ())
        heaviest = sorted(range(len(row.scores or ())), key=lambda n: -(row.scores or ())[n])[:NUM_THUMBS]
        return {
            "text": row.prediction or "(nothing)",
            "verdict": verdict(row.task, value),
            "value": "" if row.task == "closed" else f"ROUGE-1 {value:.2f}",
            "bars": [{**bar, "is_true": place in true} for place, bar in enumerate(bars)],
            "even": even,
            "thumbs": [
                {
                    "sprite": sprite.name,
                    "place": sprite.place(index),
                    "label": f"slice {index}, {100 * (row.scores or ())[index]:.0f} %",
                    "is_true": index in true,
                }
                for index in sorted(heaviest)
                if fits and sprite is not None
            ],
        }

    def _sprite(self, system: ComparedSystem, case_id: str) -> Sprite | None:
        """The scan's slices on the system's grid; None, with a reason noted once, where they cannot be had."""
        settings = system.stated.get("grid")
        if not isinstance(settings, dict):
            self._note(f"{system.name}: {NO_GRID if system.stated else NO_FOLDER}")
            return None
        key = case_id, json.dumps(settings, sort_keys=True)
        if key not in self._drawn:
            grid = self._grid(system, case_id, settings)
            self._drawn[key] = None if grid is None else _draw_sprite(f"s{len(self.sprites)}", grid)
        return self._drawn[key]

    @property
    def sprites(self) -> list[Sprite]:
        """Every picture that was cut, once."""
        return [sprite for sprite in self._drawn.values() if sprite is not None]

    def _grid(self, system: ComparedSystem, case_id: str, settings: dict[str, Any]) -> GridVolume | None:
        source = self._dataset(system)
        case = next((case for case in source.cases if case.id == case_id), None) if source else None
        if source is None or case is None:
            self._note(f"{system.name}: its scans are not where they were; name them with --data")
            return None
        try:
            return source.grid(case, GridSpec.from_dict(settings))
        except InputError as error:
            self._note(f"{case_id}: {error}")
            return None

    def _dataset(self, system: ComparedSystem) -> Dataset | None:
        stated = system.stated.get("data") or {}
        name = self.data or stated.get("manifest") or stated.get("source")
        if name is None:
            return None
        if name not in self._opened:
            try:
                self._opened[name] = open_dataset(name)
            except InputError:
                if self.data is not None:
                    raise
                self._opened[name] = None
        return self._opened[name]

    def _note(self, reason: str) -> None:
        if reason not in self.reasons:
            self.reasons.append(reason)


def _draw_sprite(name: str, grid: GridVolume) -> Sprite:
    from PIL import Image

    tile_height = round(TILE * min(2.0, height_over_width(grid)))
    rows = -(-len(grid.voxels) // TILES_ACROSS)
    sheet = Image.new("L", (TILES_ACROSS * TILE, rows * tile_height))
    for index, voxels_HW in enumerate(grid.voxels):
        at = (index % TILES_ACROSS * TILE, index // TILES_ACROSS * tile_height)
        sheet.paste(grey_image(voxels_HW, width=TILE, height=tile_height), at)
    return Sprite(name=name, address=data_address(sheet), tile_height=tile_height, num_slices=len(grid.voxels))
