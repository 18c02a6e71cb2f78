"""What is in a data set, in numbers: scans, patients and questions by split, task and topic?

`most_common` is the share of the commonest answer among the closed questions of a split and topic: what an answer that
never looks at the scan gets right.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from slicesight.data.manifest import SPLITS, Case

NO_SPLIT = "no split"
_TASKS = ("report", "open", "closed")


def counts_of(cases: Sequence[Case]) -> dict[str, Any]:
    """{split: {"scans", "patients", "questions", "tasks": {task: {topic: {"questions", "most_common"}}}}}."""
    by_split: dict[str, list[Case]] = {split: [] for split in (*SPLITS, NO_SPLIT)}
    for case in cases:
        by_split[case.split or NO_SPLIT].append(case)
    return {split: _counts_of_split(held) for split, held in by_split.items() if held}


def _counts_of_split(cases: Sequence[Case]) -> dict[str, Any]:
    answers: dict[tuple[str, str], Counter[str]] = {}
    for case in cases:
        for conversation in case.conversations:
            answers.setdefault((conversation.task, conversation.topic), Counter())[conversation.answer.lower()] += 1
    tasks: dict[str, dict[str, Any]] = {task: {} for task in _TASKS}
    for (task, topic), answer_counts in sorted(answers.items()):
        tasks[task][topic] = {"questions": answer_counts.total()}
        if task == "closed":
            tasks[task][topic]["most_common"] = round(max(answer_counts.values()) / answer_counts.total(), 4)
    return {
        "scans": len(cases),
        "patients": len({case.patient or case.id for case in cases}),
        "questions": sum(len(case.conversations) for case in cases),
        "tasks": {task: topics for task, topics in tasks.items() if topics},
    }


def counts_table(counts: Mapping[str, Any], deduplicated: Mapping[str, Any] | None = None) -> Table:
    """Counts as a table; a split that lost scans has a second column with what is left of it."""
    columns: list[tuple[str, Mapping[str, Any]]] = []
    for split, held in counts.items():
        columns.append((split, held))
        left = (deduplicated or {}).get(split, {"scans": 0, "patients": 0, "questions": 0, "tasks": {}})
        if deduplicated is not None and left["scans"] != held["scans"]:
            columns.append((f"{split}, deduplicated", left))
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    for name, _ in columns:
        table.add_column(name, justify="right")
    for word in ("scans", "patients", "questions"):
        table.add_row(word, *(str(held[word]) for _, held in columns))
    rows = {(task, topic) for _, held in columns for task, topics in held["tasks"].items() for topic in topics}
    for task, topic in sorted(rows, key=lambda row: (_TASKS.index(row[0]), row[1])):
        cells = [held["tasks"].get(task, {}).get(topic) for _, held in columns]
        table.add_row(task if task == topic else f"{task}, {topic}", *(_cell(cell) for cell in cells))
    return table


def _cell(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "0"
    share = f" ({found['most_common']:.0%})" if "most_common" in found else ""
    return f"{found['questions']}{share}"
