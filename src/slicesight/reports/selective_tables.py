"""How do confidences and evidence look in the terminal and on the page? Rows of name, value, interval and what to hold
it against."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from slicesight.reports.score_tables import ends_text, headed_table
from slicesight.reports.selective_figure import measured_tasks

Row = tuple[str, str, str, str]
EVIDENCE_NAMES = {
    "pointing_game": "heaviest slice is a true one",
    "range_iou": "IoU of the run with half of the weight",
    "distance_mm": "mm from the heaviest slice to the nearest true one",
}


def selective_rows(part: Mapping[str, Any]) -> list[Row]:
    """(number, value, 95 % interval, beside) of one kind of question."""
    beside = {
        "accuracy": f"mean confidence {part['confidence']['value']:.3f}",
        "accuracy_at_80": f"all answers {part['accuracy']['value']:.3f}",
        "aurc": f"best order {part['aurc_best']:.3f}, none {part['aurc_none']:.3f}",
        "ece": "0 is as it says",
        "brier": f"always the accuracy {part['brier_constant']:.3f}",
    }
    names = {
        "accuracy": "accuracy",
        "accuracy_at_80": "accuracy of the surest 80 %",
        "aurc": "AURC",
        "ece": "ECE",
        "brier": "Brier",
    }
    none = f"one {part['drawn_by']}: no interval" if part["num_patients"] == 1 else "–"
    return [
        (names[name], f"{part[name]['value']:.3f}", ends_text(part[name]["ci95"], ".3f", none=none), text)
        for name, text in beside.items()
    ]


def evidence_rows(evidence: Mapping[str, Any]) -> list[Row]:
    """(number, value, 95 % interval, what chance gives) of all evidence metrics that could be had."""
    rows = [("excess mass", f"{evidence['excess']:.3f}", ends_text(evidence["excess_ci95"], ".3f"), "0.000")]
    for name, text in EVIDENCE_NAMES.items():
        if (found := evidence.get(name)) is not None:
            digits = 1 if name == "distance_mm" else 3
            row = (
                f"{found['value']:.{digits}f}",
                ends_text(found["ci95"], f".{digits}f"),
                f"{found['chance']:.{digits}f}",
            )
            rows.append((text, *row))
    return rows


def selective_tables(sheets: Sequence[Mapping[str, Any]]) -> list[Table]:
    """A table per system and kind of question whose answers have a confidence."""
    tables = []
    for sheet in sheets:
        for task, part in measured_tasks(sheet.get("selective")).items():
            title = f"{sheet['system']}: {part['num_answers']} {task} answers with a confidence"
            table = headed_table(title, "", "value", "95 % CI", "beside", title_style="bold", pad_edge=False)
            for row in selective_rows(part):
                table.add_row(*row)
            if line := abstention_line(part):
                table.caption, table.caption_justify = line, "left"
            tables.append(table)
    return tables


def evidence_tables(sheets: Sequence[Mapping[str, Any]]) -> list[Table]:
    """A table per system whose answers point at slices, where the true ones are known."""
    tables = []
    for sheet in sheets:
        if (found := sheet.get("evidence")) is None:
            continue
        name = sheet.get("system") or sheet.get("model")
        how = " and ".join(found.get("measured_by") or ("scores",))
        title = f"{name}: where {found['num_questions']} answers point ({how})"
        table = headed_table(title, "", "value", "95 % CI", "chance", title_style="bold", pad_edge=False)
        for row in evidence_rows(found):
            table.add_row(*row)
        tables.append(table)
    return tables


def abstention_line(part: Mapping[str, Any]) -> str:
    """Where the system abstains, or would, and how good its other answers are; empty where it never does."""
    if not part["abstained"]:
        return ""
    why = ", ".join(f"{count} for {name.replace('_', ' ')}" for name, count in part["abstained"].items())
    answered = part["answered"]
    if answered["accuracy"] is None:
        return f"Abstains from all: {why}."
    rest = f"{100 * answered['coverage']:.1f} % of all, {100 * answered['accuracy']:.1f} % of them are right"
    return f"Abstains from {why}; the other answers are {rest}."
