"""How does a person look through the answers about a folder of scans? One page with the slice each answer points at.

The page stands in the folder of answers, beside `thumbnails/` and `reports/`, and needs nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from slicesight.reports.html import render_template


def render_index(rows: Sequence[Mapping[str, Any]], *, table: str, model: Mapping[str, Any]) -> str:
    """The page as HTML text.

    Args:
        rows: of the table, scan by scan; their files' paths are relative to the page, as `table` is.
        model: its "name" and the "warnings" that stand beside every answer about a real scan.
    """
    scans = [
        {"name": name, "series": series, "rows": list(of_scan)}
        for (name, series), of_scan in groupby(rows, key=lambda row: (row["scan"], row["series"]))
    ]
    notes = {note for row in rows if (note := row["notes"])}
    applies = [warning for warning in model["warnings"] if any(warning in note for note in notes)]
    return render_template(
        "answers.html.j2",
        scans=scans,
        table=table,
        model=model["name"],
        warnings=applies,
        num_answered=sum(not row["error"] for row in rows),
        num_abstained=sum(bool(row["abstained"]) for row in rows),
        num_failed=sum(bool(row["error"]) for row in rows),
    )
