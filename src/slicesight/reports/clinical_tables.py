"""How do clinical figures look in the terminal? A row per system, then a row per finding of a single one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from slicesight.reports.score_tables import headed_table, percent

CONTROL_NAMES = {
    "nothing": "finds nothing",
    "everything": "finds everything",
    "another_scan": "speaks of another scan",
}
COLUMNS = (
    ("CRG", ("crg",)),
    ("F1 macro", ("macro", "f1")),
    ("F1 micro", ("micro", "f1")),
    ("prec.", ("micro", "precision")),
    ("recall", ("micro", "recall")),
    ("AUROC", ("macro", "auroc")),
    ("AP", ("macro", "average_precision")),
    ("side", ("side", "agreement")),
    ("location", ("location", "agreement")),
)


def value_at(part: Mapping[str, Any], path: Sequence[str]) -> float | None:
    """A figure of a clinical part; None where it is not to be had."""
    found: Any = part
    for key in path:
        found = None if found is None else found.get(key)
    return found if isinstance(found, float | int) else None


def clinical_tables(sheets: Sequence[Mapping[str, Any]]) -> list[Table]:
    """In percent: the systems with the controls of the first under them, and its findings where it is the only one."""
    told = [sheet for sheet in sheets if sheet.get("clinical")]
    if not told:
        return []
    rows = [(str(sheet["system"]), sheet["clinical"]) for sheet in told]
    controls = (told[0]["clinical"].get("controls") or {}).items()
    rows += [(CONTROL_NAMES.get(name, name), part) for name, part in controls]
    used = [(heading, path) for heading, path in COLUMNS if any(value_at(part, path) is not None for _, part in rows)]
    table = headed_table("findings", "system", title_style="bold", pad_edge=False)
    for heading, _ in used:
        table.add_column(heading, justify="right")
    for name, part in rows:
        table.add_row(name, *(percent(value_at(part, path)) for _, path in used))
    return [table, _by_finding(told[0]["clinical"])] if len(told) == 1 and told[0]["clinical"]["findings"] else [table]


def _by_finding(part: Mapping[str, Any]) -> Table:
    has_ranks = part["macro"]["auroc"] is not None
    headings = ("true", "said", "prec.", "recall", "F1 (95 % CI)", *(("AUROC", "AP") if has_ranks else ()))
    table = headed_table("by finding", "finding", title_style="bold", pad_edge=False)
    for heading in headings:
        table.add_column(heading, justify="right")
    for name, figures in part["findings"].items():
        ends = (figures["ci95"] or {}).get("f1")
        interval = f" ({100 * ends[0]:.0f}…{100 * ends[1]:.0f})" if ends else ""
        table.add_row(
            name,
            f"{figures['num_positive']:.0f}",
            f"{figures['num_said']:.0f}",
            percent(figures["precision"]),
            percent(figures["recall"]),
            percent(figures["f1"]) + interval,
            *((percent(figures["auroc"]), percent(figures["average_precision"])) if has_ranks else ()),
        )
    return table
