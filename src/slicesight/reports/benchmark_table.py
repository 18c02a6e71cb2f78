"""How does a benchmark's table look: in the terminal against the best published row, on the page with every row?

Published numbers are their authors' own. "≠" stands by a row that is of another split or kind of system.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from slicesight.reports.score_tables import headed_table, percent

THIS_RUN, PUBLISHED = "this run", "published"
CONTROL = "control: "
OTHER = "≠"


def board_table(board: Mapping[str, Any]) -> Table:
    """A row per number of the benchmark: each system of this run with its interval, and the best published one."""
    ours = [row for row in board["rows"] if row["origin"] == THIS_RUN]
    shown = [row for row in ours if not row["system"].startswith(CONTROL) or row["system"] == CONTROL + "majority"]
    table = headed_table(f"{board['title']}, {board['split']}", "", title_style="bold", pad_edge=False)
    for row in shown:
        table.add_column(row["system"].removeprefix(CONTROL), justify="right")
    table.add_column("best published", justify="right")
    table.add_column("by")
    for column in board["columns"]:
        best = best_published(board, column["key"])
        values = [row["values"].get(column["key"]) for row in shown]
        if best is None and not any(values):
            continue
        by = "" if best is None else best["system"] + (f" {OTHER}" if best["differs"] else "")
        published = "–" if best is None else percent(best["values"][column["key"]]["value"])
        table.add_row(column["title"], *(cell_text(value) for value in values), published, by)
    return table


def best_published(board: Mapping[str, Any], key: str) -> Mapping[str, Any] | None:
    """The published row with the highest value; one that may be compared before one that may not."""
    rows = [row for row in board["rows"] if row["origin"] == PUBLISHED and key in row["values"]]
    fair = [row for row in rows if not row["differs"]]
    return max(fair or rows, key=lambda row: row["values"][key]["value"], default=None)


def cell_text(value: Mapping[str, Any] | None) -> str:
    """ "53.6 (50.1–57.0)", with the stricter reading behind it in brackets where there is one."""
    if value is None:
        return "–"
    ends = value["ci95"]
    text = percent(value["value"]) + (f" ({100 * ends[0]:.1f}–{100 * ends[1]:.1f})" if ends else "")
    strict = value.get("strict")
    return text if strict is None else f"{text} [{percent(strict)}]"


def board_notes(board: Mapping[str, Any]) -> list[str]:
    """What may not be compared and why, what could not be had, where the published numbers are from."""
    published = sum(row["origin"] == PUBLISHED for row in board["rows"])
    lines = [f"{OTHER} {difference}" for difference in board["differs"]]
    systems = [row["system"] for row in board["rows"] if row["origin"] == THIS_RUN]
    first = f"{systems[0]}: " if systems else ""
    lines += [f"no {key.removeprefix(first)}: {why}" for key, why in board["missing"].items() if key.startswith(first)]
    lines += list(board["remarks"])
    return [*lines, f"{published} published rows, their authors' own numbers: {board['source']}"]


def board_rows(board: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows for a page: name, whether of this run, its cells as text and number, what differs."""
    keys = [column["key"] for column in board["columns"]]
    return [
        {
            "system": row["system"],
            "is_ours": row["origin"] == THIS_RUN,
            "is_control": row["system"].startswith(CONTROL),
            "source": row["source"] or "",
            "differs": row["differs"] or "",
            "cells": [_cell(row["values"].get(key)) for key in keys],
        }
        for row in _ours_first(board["rows"])
        if any(key in row["values"] for key in keys)
    ]


def _ours_first(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return sorted(rows, key=lambda row: row["origin"] != THIS_RUN)


def _cell(value: Mapping[str, Any] | None) -> dict[str, Any]:
    if value is None:
        return {"text": "–", "sort": "", "ends": "", "strict": ""}
    ends, strict = value["ci95"], value.get("strict")
    return {
        "text": percent(value["value"]),
        "sort": f"{value['value']:.6f}",
        "ends": f"{100 * ends[0]:.1f}–{100 * ends[1]:.1f}" if ends else "",
        "strict": "" if strict is None else percent(strict),
    }
