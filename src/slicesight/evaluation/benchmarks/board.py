"""How does a run stand beside what was published? One table: this run, the published rows, what may not be compared.

Published numbers are their authors' own, in percent; none was run again. Everything that makes a comparison unfair is
named: fewer questions than the benchmark has, another split, another scorer, a number that could not be had.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from slicesight.evaluation.benchmarks import Benchmark
from slicesight.evaluation.benchmarks.deeptumorvqa import official_metrics
from slicesight.evaluation.benchmarks.rules import column_value
from slicesight.evaluation.metrics import MissingPartError
from slicesight.evaluation.sheet import Scored

THIS_RUN, PUBLISHED = "this run", "published"
Notes = Sequence[str]


def make_board(
    benchmark: Benchmark,
    systems: Mapping[str, Scored],
    *,
    split: str | None = None,
    notes: Notes = (),
) -> dict[str, Any]:
    """The benchmark's part of a sheet; values from 0 to 1 (the published percents divided by 100).

    Args:
        systems: name -> what it answered; the first is what the counts are of. split: which was asked, if not the
            benchmark's own. notes: further reasons for caution, such as scans that were left out.
    """
    rows: list[dict[str, Any]] = []
    missing: dict[str, str] = {}
    for name, scored in systems.items():
        values, why = _values(benchmark, scored)
        missing |= {f"{name}: {key}": reason for key, reason in why.items()}
        rows.append({"system": name, "origin": THIS_RUN, "values": values, "source": None, "differs": None})
    rows += [
        {
            "system": row.system,
            "origin": PUBLISHED,
            "values": {key: {"value": value / 100, "ci95": None} for key, value in row.values.items()},
            "source": row.source,
            "differs": row.differs or None,
        }
        for row in benchmark.rows
    ]
    first = next(iter(systems.values()))
    return {
        "name": benchmark.name,
        "title": benchmark.title,
        "about": benchmark.about,
        "source": benchmark.source,
        "split": split or benchmark.split,
        "counts": counts_of(first) | {"expected": benchmark.expected},
        "columns": [{"key": column.key, "title": column.title, "rule": column.rule} for column in benchmark.columns],
        "rows": rows,
        "differs": [*_own_differences(benchmark, first, split), *notes, *benchmark.differs],
        "remarks": list(benchmark.remarks),
        "official": _official(benchmark, systems),
        "missing": missing,
    }


def counts_of(scored: Scored) -> dict[str, int]:
    """Questions and scans of what was scored."""
    return {"questions": len(scored.rows), "scans": len({row.volume for row in scored.rows if row.volume is not None})}


def _values(benchmark: Benchmark, scored: Scored) -> tuple[dict[str, Any], dict[str, str]]:
    values, missing = {}, {}
    for column in benchmark.columns:
        try:
            found = column_value(scored, column.rule, task=column.task, topic=column.topic).to_dict()
            if column.strict is not None:
                found["strict"] = column_value(scored, column.strict, task=column.task, topic=column.topic).value
            values[column.key] = found
        except MissingPartError as error:
            missing[column.key] = str(error)
    return values, missing


def _own_differences(benchmark: Benchmark, scored: Scored, split: str | None) -> list[str]:
    """What makes this run another test than the benchmark's: its split, or only a part of it."""
    found = []
    if split not in (None, benchmark.split):
        found.append(f"split: this run is on {split}, the benchmark on {benchmark.split}")
    held = counts_of(scored)
    for what, expected in benchmark.expected.items():
        if held[what] != expected:
            found.append(f"{what}: {held[what]:,} in this run, {expected:,} in the benchmark")
    return found


def _official(benchmark: Benchmark, systems: Mapping[str, Scored]) -> dict[str, Any] | None:
    """What the benchmark's own scorer prints, where its rules are restated here."""
    if benchmark.name != "deeptumorvqa":
        return None
    return {
        name: {
            kind: official_metrics(scored.rows, task=task)
            for kind, task in (("mc", "closed"), ("freeform", "open"))
            if task in scored.file.tasks
        }
        for name, scored in systems.items()
    }
