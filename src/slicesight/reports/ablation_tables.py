"""How do our ablations look beside the paper's? Markdown, CSV, LaTeX and PNG, and a page for the manual."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from slicesight.evaluation.ablation_tables import METRICS, SURE, TITLES, AblationTable, Column, orderings, printed_value
from slicesight.files import write_text
from slicesight.reports.figure import EVEN_COLOUR, FAINT, INK, PICTURED_COLOUR, save_figure
from slicesight.reports.score_tables import ends_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_table(table: AblationTable, folder: Path) -> None:
    """tableN.md, .csv, .tex and .png."""
    for ending, text in (("md", to_markdown(table)), ("csv", to_csv(table)), ("tex", to_latex(table))):
        write_text(folder / f"table{table.number}.{ending}", text=text)
    save_figure(draw_table(table), folder / f"table{table.number}.png")


def to_markdown(table: AblationTable, *, beside_paper: bool = False) -> str:
    """Percent with intervals; † marks what differs from the last row; beside_paper adds what was printed."""
    lines = ["| | " + " | ".join(_heading(column) for column in table.columns) + " |"]
    lines.append("|---" * (len(table.columns) + 1) + "|")
    for row in table.rows:
        cells = []
        for column in table.columns:
            value = table.values[row, column[0], column[1]]
            printed = f" [{printed_value(table.number, row, column):.2f}]" if beside_paper else ""
            ends = f"({ends_text(value.ends, '.1f', scale=100)})".replace("…", "–")
            differs = value.p_holm is not None and value.p_holm < SURE
            cells.append(f"{100 * value.value:.2f} {ends}{'†' if differs else ''}{printed}")
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def to_csv(table: AblationTable) -> str:
    """One line per row: value, low, high, p of every column, unrounded fractions."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    names = [f"{task}.{metric}" for task, metric, _ in table.columns]
    writer.writerow(["row", *(f"{name}{end}" for name in names for end in ("", ".low", ".high", ".p_holm"))])
    for row in table.rows:
        values = [table.values[row, task, metric] for task, metric, _ in table.columns]
        writer.writerow([row, *(part for v in values for part in (v.value, *(v.ends or ("", "")), v.p_holm))])
    return file.getvalue()


def to_latex(table: AblationTable) -> str:
    """A booktabs table; the best of each column bold, the interval small below."""
    columns = table.columns
    headings = " & " + " & ".join(_heading(column) for column in columns) + r" \\"
    begin = rf"\begin{{tabular}}{{l{'c' * len(columns)}}}"
    lines = [f"% {TITLES[table.number]}", begin, r"\toprule", headings, r"\midrule"]
    best = {column: max(table.values[row, column[0], column[1]].value for row in table.rows) for column in columns}
    for row in table.rows:
        cells = []
        for column in columns:
            value = table.values[row, column[0], column[1]]
            number = f"{100 * value.value:.2f}"
            number = rf"\textbf{{{number}}}" if value.value == best[column] else number
            ends = ends_text(value.ends, ".1f", scale=100).replace("…", "--")
            cells.append(rf"{number} {{\tiny ({ends})}}")
        lines.append(f"{row} & " + " & ".join(cells) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def draw_table(table: AblationTable) -> Figure:
    """A panel per column: our value with its interval per row, the paper's as a ring on its own scale beside it."""
    from matplotlib.figure import Figure

    width = max(4.0, 1.9 * len(table.columns) + 1.5)
    figure = Figure(figsize=(width, 0.42 * len(table.rows) + 1.5), layout="constrained", facecolor="white")
    panels = figure.subplots(1, max(1, len(table.columns)), sharey=True, squeeze=False)[0]
    places = np.arange(len(table.rows))[::-1]
    for axes, column in zip(panels, table.columns, strict=False):
        for place, row in zip(places, table.rows, strict=True):
            value = table.values[row, column[0], column[1]]
            axes.plot([100 * value.low, 100 * value.high], [place, place], color=PICTURED_COLOUR, linewidth=2)
            axes.plot([100 * value.value], [place], "o", color=PICTURED_COLOUR, markersize=5)
        above = axes.twiny()
        printed = [printed_value(table.number, row, column) for row in table.rows]
        above.plot(printed, places, "o", mfc="none", color=EVEN_COLOUR)
        above.tick_params(labelsize=7, colors=EVEN_COLOUR, length=2)
        axes.set_xlabel(_heading(column), size=9, color=INK)
        axes.tick_params(labelsize=8, colors=FAINT, length=2)
        axes.grid(axis="y", alpha=0.3)
    panels[0].set_yticks(places, table.rows, color=INK)
    figure.suptitle(f"{TITLES[table.number]}\nblue ours, 95 % CI (lower scale); red the paper's (upper scale)", size=10)
    return figure


def results_page(tables: Sequence[AblationTable], *, num_volumes: int, num_seeds: int) -> str:
    """docs/results.md's part on ablations: ours beside the paper's, and what becomes of each printed ordering."""
    seeds = "1 seed" if num_seeds == 1 else f"{num_seeds} seeds"
    lines = [
        "## Ablations",
        "",
        f"Ours: {num_volumes} synthetic scans nobody trained on, {seeds}, percent, 95 % interval over",
        "scans and seeds; † differs from the last row (paired by scan, Holm, p < .05). In brackets what the paper",
        "printed, for real scans and one seed: the numbers cannot be compared, only their order can.",
        "",
    ]
    if absent := [_heading(column) for column in METRICS if any(column not in table.columns for table in tables)]:
        lines += [f"Left out, because their model or data was not named or not there: {', '.join(absent)}.", ""]
    for table in tables:
        lines += [f"### {TITLES[table.number]}", "", to_markdown(table, beside_paper=True), *_ordering_lines(table), ""]
        if table.number == 5:
            lines += ["The paper's marks for text, 3D and 2D are read in the order of these rows; an assumption.", ""]
    return "\n".join(lines)


def _ordering_lines(table: AblationTable) -> list[str]:
    lines = ["| metric | printed | ours | orders that hold | reversed | cannot be told |", "|---|---|---|---|---|---|"]
    every = orderings(table)
    for column in table.columns:
        task, metric, _ = column
        mine = [entry for entry in every if (entry["task"], entry["metric"]) == (task, metric)]
        counted = {
            verdict: [f"{e['first']} / {e['second']}" for e in mine if e["verdict"] == verdict]
            for verdict in ("holds", "reversed", "not sure", "not tested")
        }
        printed = sorted(table.rows, key=lambda row: -printed_value(table.number, row, column))
        ours = sorted(table.rows, key=lambda row: -table.values[row, task, metric].value)
        unsure = len(counted["not sure"]) + len(counted["not tested"])
        lines.append(
            f"| {_heading(column)} | {' > '.join(printed)} | {' > '.join(ours)} | {', '.join(counted['holds']) or '–'} "
            f"| {', '.join(counted['reversed']) or '–'} | {unsure} |"
        )
    return lines


def _heading(column: Column) -> str:
    return f"{'VQA' if column[0] != 'report' else 'report'} {column[2]}"
