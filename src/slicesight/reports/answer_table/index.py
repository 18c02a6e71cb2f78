"""How does a person look through the answers about a folder of scans? One page with the slice each answer points at.

The page stands in the folder of answers, beside `thumbnails/` and `reports/`, and needs nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from slicesight.reports.html import render_template


def render_index(rows: Sequence[Mapping[str, Any]], *, table: str, model: str, warnings: Sequence[str]) -> str:
    """The page as HTML text.

    Args:
        rows: of the table, scan by scan; their files' paths are relative to the page, as `table` is.
        model: its name; warnings: what must stand beside its answers.
    """
    scans = [
        {"name": name, "series": series, "rows": list(of_scan)}
        for (name, series), of_scan in groupby(rows, key=lambda row: (row["scan"], row["series"]))
    ]
    return render_template(
        "answers.html.j2",
        scans=scans,
        table=table,
        model=model,
        warnings=warnings,
        num_answered=sum(not row["error"] for row in rows),
        num_abstained=sum(bool(row["abstained"]) for row in rows),
        num_failed=sum(bool(row["error"]) for row in rows),
    )
