"""How do scores look in the terminal? The papers' columns, a row per system, the paired tests, and what is missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table

from slicesight.evaluation.metrics import text_metric_names
from slicesight.evaluation.report_labels import NO_LABELS
from slicesight.evaluation.statistics import ONE_SCAN

TEXT_COLUMNS = (("bleu1", "B@1"), ("rouge1", "R@1"), ("meteor", "M"), ("bertscore_f1", "BERT"), ("exact", "exact"))
CHALLENGE_COLUMNS = (("rougel", "R-L"), ("bleu4", "B@4"), ("chrf", "chrF"), ("cider", "CIDEr"))
"""Beside the papers' for reports; in the sheet for open questions too."""
NO_FRACTIONS = ("cider",)
"""From 0 to 10, so printed as they are."""
CLOSED_COLUMNS = (
    ("accuracy", "closed acc."),
    ("accuracy_legacy", "(legacy rule)"),
    ("accuracy_constrained", "(choices only)"),
)
Columns = Sequence[tuple[str, str]]


def blocks() -> list[tuple[str, str, list[tuple[str, Columns]]]]:
    """(title, average, columns by task) in the order of the papers' tables; other packages' metrics come last."""
    known = dict((*TEXT_COLUMNS, *CHALLENGE_COLUMNS))
    texts = (*TEXT_COLUMNS, *((name, name) for name in text_metric_names() if name not in known))
    questions: list[tuple[str, Columns]] = [("open", texts), ("closed", CLOSED_COLUMNS)]
    return [
        ("reports", "micro", [("report", (*TEXT_COLUMNS, *CHALLENGE_COLUMNS, *texts[len(TEXT_COLUMNS) :]))]),
        ("VQA, macro over topics", "macro", questions),
        ("VQA, micro over questions", "micro", questions),
    ]


def tables_of(sheets: Sequence[dict[str, Any]]) -> list[Table]:
    """The systems under one another, in percent as the papers print them: reports, VQA macro, VQA micro."""
    tables = []
    for title, average, parts in blocks():
        columns = [(task, metric, heading) for task, names in parts for metric, heading in names]
        used = [each for each in columns if any(_value(sheet, average, *each[:2]) is not None for sheet in sheets)]
        if not used:
            continue
        table = headed_table(title, "system", title_style="bold", pad_edge=False)
        for _, _, heading in used:
            table.add_column(heading, justify="right")
        for sheet in sheets:
            numbers = [printed(metric, _value(sheet, average, task, metric)) for task, metric, _ in used]
            table.add_row(sheet["system"], *numbers)
        tables.append(table)
    return tables


def comparison_table(comparisons: Sequence[dict[str, Any]]) -> Table:
    """The paired tests, a row per metric."""
    headings = ("systems", "metric", "difference (95 % CI)", "p, Holm", "d")
    table = headed_table("paired by volume", *headings, title_style="bold", pad_edge=False)
    for entry in comparisons:
        if entry["p"] is not None:
            table.add_row(
                f"{entry['first']} - {entry['second']}",
                f"{entry['task']} {entry['metric']}",
                f"{100 * entry['difference']:+.2f} ({ends_text(entry['ci95'], '+.2f', scale=100)})",
                f"{entry['p_holm']:.4f}",
                or_dash(entry["effect_size_d"]),
            )
    return table


def notes_of(sheets: Sequence[dict[str, Any]]) -> list[str]:
    """What is null and why, and what may not be compared."""
    notes = []
    for sheet in sheets:
        about = sheet["metrics"].get("bertscore_f1", {})
        if about and not about["comparable_with_published"]:
            notes.append(f"{sheet['system']}: BERTScore by {about['model']}, layer {about['layer']}: {about['note']}")
        skipped = {"controls", "leaks", "accuracy_constrained", "clinical", "selective"}
        if str(sheet["missing"].get("clinical", "")) not in ("", NO_LABELS):
            skipped.discard("clinical")
        notes += [f"{sheet['system']}: no {key}: {why}" for key, why in sheet["missing"].items() if key not in skipped]
    return notes


def _value(sheet: Mapping[str, Any], average: str, task: str, metric: str) -> float | None:
    return None if sheet[task] is None else sheet[task][average][metric]


def headed_table(title: str, *headings: str, **style: Any) -> Table:
    """An empty table under a title."""
    return Table(*headings, title=title, title_justify="left", box=box.SIMPLE_HEAD, **style)


def ends_text(ends: Sequence[float] | None, form: str, *, scale: float = 1.0, none: str = ONE_SCAN) -> str:
    """An interval's ends, each printed in `form`; `none` where there is no interval."""
    return none if ends is None else "…".join(f"{scale * end:{form}}" for end in ends)


def or_dash(number: float | None) -> str:
    """Two decimals, – for none."""
    return "–" if number is None else f"{number:.2f}"


def percent(number: float | None) -> str:
    """53.63 for 0.5363, – for none."""
    return or_dash(None if number is None else 100 * number)


def printed(metric: str, number: float | None) -> str:
    """A metric's value as the papers print it."""
    return or_dash(number) if metric in NO_FRACTIONS else percent(number)


def why_not_compared(entry: Mapping[str, Any]) -> str:
    """One line for a comparison that could not be made."""
    return f"{entry['first']} and {entry['second']} not compared: {entry['missing']}"
