"""How do our ablations look in the paper's shape, and which of its orderings hold here? Markdown, CSV, LaTeX and PNG.

S seeds, V volumes. A value is the mean over seeds; its interval comes from a bootstrap that draws volumes and seeds;
every row is compared with the full model, the last one, by the paired test over volumes, Holm-corrected over the table.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from slicesight.evaluation.published import METRICS, TABLES, TITLES
from slicesight.evaluation.sheet import Scored, compare_systems
from slicesight.evaluation.statistics import DRAWS, Floats, bounds, volume_sums
from slicesight.files import write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Column = tuple[str, str, str]
SURE = 0.05


@dataclass(frozen=True, kw_only=True)
class Value:
    """A mean over seeds with its interval, the spread of the seeds, and p against the full model."""

    mean: float
    low: float
    high: float
    seed_sd: float | None
    p_holm: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Documented keys."""
        return {"value": self.mean, "ci95": [self.low, self.high], "seed_sd": self.seed_sd, "p_holm": self.p_holm}


@dataclass(frozen=True, kw_only=True)
class AblationTable:
    """One of the paper's tables, ours. values: (row, task, metric) -> Value; columns nobody could fill are left out.

    pairs: for every two rows and column, how sure the order of the two is.
    """

    number: int
    rows: tuple[str, ...]
    columns: tuple[Column, ...]
    values: Mapping[tuple[str, str, str], Value]
    pairs: Mapping[tuple[str, str, str, str], dict[str, Any]]

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "table": self.number,
            "rows": [
                {
                    "row": row,
                    **{
                        f"{task}.{metric}": self.values[row, task, metric].to_dict() for task, metric, _ in self.columns
                    },
                }
                for row in self.rows
            ],
            "comparisons": list(self.pairs.values()),
            "orderings": orderings(self),
        }


def make_table(number: int, rows: Sequence[tuple[str, Sequence[Scored]]]) -> AblationTable:
    """The table from every row's runs, one per seed."""
    columns = tuple(
        column
        for column in METRICS
        if all(column[0] in run.file.tasks and column[1] not in run.missing for _, runs in rows for run in runs)
    )
    full, metrics = rows[-1][0], {column[:2] for column in columns}
    pairs = _by_key(compare_systems(dict(rows), metrics=metrics))
    with_full = _by_key(compare_systems(dict(rows), metrics=metrics, against=full))
    values = {}
    for row, runs in rows:
        for task, metric, _ in columns:
            against = with_full.get((row, full, task, metric))
            values[row, task, metric] = _value(runs, task, metric, p_holm=against["p_holm"] if against else None)
    return AblationTable(number=number, rows=tuple(row for row, _ in rows), columns=columns, values=values, pairs=pairs)


def write_table(table: AblationTable, folder: Path) -> None:
    """tableN.md, .csv, .tex and .png."""
    from slicesight.reports.case_figure import save_figure

    write_text(folder / f"table{table.number}.md", text=to_markdown(table))
    write_text(folder / f"table{table.number}.csv", text=to_csv(table))
    write_text(folder / f"table{table.number}.tex", text=to_latex(table))
    save_figure(draw_table(table), folder / f"table{table.number}.png")


def to_markdown(table: AblationTable, *, beside_paper: bool = False) -> str:
    """Percent with intervals; † marks what differs from the last row; beside_paper adds what was printed."""
    lines = ["| | " + " | ".join(_heading(column) for column in table.columns) + " |"]
    lines.append("|---" * (len(table.columns) + 1) + "|")
    for row in table.rows:
        cells = []
        for column in table.columns:
            value = table.values[row, column[0], column[1]]
            printed = f" [{_printed(table.number, row, column):.2f}]" if beside_paper else ""
            cells.append(f"{_percent(value)}{_mark(value)}{printed}")
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
        writer.writerow([row, *(part for v in values for part in (v.mean, v.low, v.high, v.p_holm))])
    return file.getvalue()


def to_latex(table: AblationTable) -> str:
    """A booktabs table; the best of each column bold, the interval small below."""
    columns = table.columns
    lines = [f"% {TITLES[table.number]}", rf"\begin{{tabular}}{{l{'c' * len(columns)}}}", r"\toprule"]
    lines.append(" & " + " & ".join(_heading(column) for column in columns) + r" \\")
    lines.append(r"\midrule")
    best = {column: max(table.values[row, column[0], column[1]].mean for row in table.rows) for column in columns}
    for row in table.rows:
        cells = []
        for column in columns:
            value = table.values[row, column[0], column[1]]
            number = f"{100 * value.mean:.2f}"
            number = rf"\textbf{{{number}}}" if value.mean == best[column] else number
            cells.append(rf"{number} {{\tiny ({100 * value.low:.1f}--{100 * value.high:.1f})}}")
        lines.append(f"{row} & " + " & ".join(cells) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def draw_table(table: AblationTable) -> Figure:
    """A panel per column: our value with its interval per row, the paper's as a ring on its own scale beside it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from slicesight.reports.figure import EVEN_COLOUR, FAINT, INK, PICTURED_COLOUR

    width = max(4.0, 1.9 * len(table.columns) + 1.5)
    figure = Figure(figsize=(width, 0.42 * len(table.rows) + 1.5), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, max(1, len(table.columns)), sharey=True, squeeze=False)[0]
    places = np.arange(len(table.rows))[::-1]
    for axes, column in zip(panels, table.columns, strict=False):
        values = [table.values[row, column[0], column[1]] for row in table.rows]
        for place, value in zip(places, values, strict=True):
            axes.plot([100 * value.low, 100 * value.high], [place, place], color=PICTURED_COLOUR, linewidth=2)
            axes.plot([100 * value.mean], [place], "o", color=PICTURED_COLOUR, markersize=5)
        above = axes.twiny()
        above.plot(
            [_printed(table.number, row, column) for row in table.rows], places, "o", mfc="none", color=EVEN_COLOUR
        )
        above.tick_params(labelsize=7, colors=EVEN_COLOUR, length=2)
        axes.set_xlabel(_heading(column), size=9, color=INK)
        axes.tick_params(labelsize=8, colors=FAINT, length=2)
        axes.grid(axis="y", alpha=0.3)
    panels[0].set_yticks(places, table.rows, color=INK)
    figure.suptitle(f"{TITLES[table.number]}\nblue ours, 95 % CI (lower scale); red the paper's (upper scale)", size=10)
    return figure


def orderings(table: AblationTable) -> list[dict[str, Any]]:
    """Every printed order of two rows: does it hold here, is it the other way round, or can it not be told?"""
    found = []
    for column in table.columns:
        task, metric, _ = column
        for first, second in combinations(table.rows, 2):
            printed = _printed(table.number, first, column) - _printed(table.number, second, column)
            ours = table.pairs[first, second, task, metric]
            if ours["p"] is None:
                verdict = "not tested"
            elif ours["p_holm"] >= SURE:
                verdict = "not sure"
            else:
                verdict = "holds" if ours["difference"] * printed > 0 else "reversed"
            found.append(
                {
                    "task": task,
                    "metric": metric,
                    "first": first,
                    "second": second,
                    "printed_difference": printed / 100,
                    "our_difference": ours.get("difference"),
                    "same_sign": None if ours["p"] is None else bool(ours["difference"] * printed > 0),
                    "p_holm": ours.get("p_holm"),
                    "verdict": verdict,
                }
            )
    return found


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
        printed = sorted(table.rows, key=lambda row: -_printed(table.number, row, column))
        ours = sorted(table.rows, key=lambda row: -table.values[row, task, metric].mean)
        unsure = len(counted["not sure"]) + len(counted["not tested"])
        lines.append(
            f"| {_heading(column)} | {' > '.join(printed)} | {' > '.join(ours)} | {', '.join(counted['holds']) or '–'} "
            f"| {', '.join(counted['reversed']) or '–'} | {unsure} |"
        )
    return lines


def _value(runs: Sequence[Scored], task: str, metric: str, *, p_holm: float | None) -> Value:
    sums, counts = zip(*(_sums(run, task, metric) for run in runs), strict=True)
    names = list(sums[0])
    sums_SV = np.array([[one[name] for name in names] for one in sums])
    counts_SV = np.array([[one[name] for name in names] for one in counts])
    by_seed = sums_SV.sum(axis=1) / counts_SV.sum(axis=1)
    low, high = bounds(_draw_both(sums_SV, counts_SV))
    return Value(
        mean=float(by_seed.mean()),
        low=low,
        high=high,
        seed_sd=float(by_seed.std(ddof=1)) if len(by_seed) > 1 else None,
        p_holm=p_holm,
    )


def _draw_both(sums_SV: Floats, counts_SV: Floats) -> Floats:
    """Bootstrap means over drawn seeds and drawn volumes -> (DRAWS,)."""
    rng = np.random.default_rng(0)
    num_seeds, num_volumes = sums_SV.shape
    seeds_RS = rng.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), size=DRAWS)
    volumes_RV = rng.multinomial(num_volumes, np.full(num_volumes, 1 / num_volumes), size=DRAWS)
    with np.errstate(invalid="ignore"):
        means: Floats = ((seeds_RS @ sums_SV) * volumes_RV).sum(axis=1) / ((seeds_RS @ counts_SV) * volumes_RV).sum(
            axis=1
        )
    return means


def _sums(run: Scored, task: str, metric: str) -> tuple[dict[str, float], dict[str, float]]:
    """{volume: sum} and {volume: number} of a metric."""
    chosen = [place for place, row in enumerate(run.rows) if row.task == task]
    names = [run.rows[place].volume or "" for place in chosen]
    sums, counts = volume_sums(names, run.values[metric][chosen])
    unique = list(dict.fromkeys(names))
    return dict(zip(unique, sums.tolist(), strict=True)), dict(zip(unique, counts.tolist(), strict=True))


def _by_key(found: Sequence[dict[str, Any]]) -> dict[tuple[str, str, str, str], dict[str, Any]]:
    return {(entry["first"], entry["second"], entry["task"], entry["metric"]): entry for entry in found}


def _heading(column: Column) -> str:
    return f"{'VQA' if column[0] != 'report' else 'report'} {column[2]}"


def _printed(number: int, row: str, column: Column) -> float:
    return TABLES[number][row][METRICS.index(column)]


def _percent(value: Value) -> str:
    return f"{100 * value.mean:.2f} ({100 * value.low:.1f}–{100 * value.high:.1f})"


def _mark(value: Value) -> str:
    return "†" if value.p_holm is not None and value.p_holm < SURE else ""
