"""Who answers which kind of finding? Tables 3 and 4 of recipes/branches-ablation.yaml by kind of finding.

    python benchmarks/branch_tables.py OUT

OUT is what `slicesight ablate` wrote; cells that are not there yet are left out, and each row says how many seeds it
has. Closed accuracy in percent with its interval over scans and seeds; p of the difference to the full model,
paired by scan, Holm over all kinds and rows of the table. Markdown on stdout.
"""

from __future__ import annotations

import argparse
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import numpy as np

from slicesight.evaluation.ablation import CELLS
from slicesight.evaluation.ablation_tables import METRICS, TABLES, TITLES, make_table
from slicesight.evaluation.predictions import own_file
from slicesight.evaluation.sheet import Scored, score_file
from slicesight.evaluation.statistics import holm
from slicesight.phantoms.branches import GROUPS

KINDS = {**GROUPS, "all": tuple(topic for topics in GROUPS.values() for topic in topics)}
CLOSED = ("closed", "accuracy")
PRINTED = [column[:2] for column in METRICS].index(CLOSED)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="the folder that slicesight ablate wrote")
    parser.add_argument("--table", type=int, nargs="+", default=[3, 4], choices=sorted(CELLS))
    options = parser.parse_args()
    for number in options.table:
        rows = [(cell.row, runs) for cell in CELLS[number] if (runs := finished(options.out / "cells" / cell.name))]
        if CELLS[number][-1].row in dict(rows) and len(rows) > 1:
            print(f"### {TITLES[number]}\n\n{table_by_kind(number, rows)}")
        else:
            print(f"{TITLES[number]}: the full model or every other cell is not there yet")


def finished(folder: Path) -> list[Scored]:
    """The runs of one cell, one per seed that answered everything (its sheet is written last)."""
    return [score_file(own_file(sheet.parent / "predictions.jsonl")) for sheet in sorted(folder.glob("*/sheet.json"))]


def table_by_kind(number: int, rows: list[tuple[str, list[Scored]]]) -> str:
    """The table in Markdown, what was printed for real scans beside it."""
    full, made = rows[-1][0], {}
    for kind, topics in KINDS.items():
        made[kind] = make_table(number, [(row, [of_topics(run, topics) for run in runs]) for row, runs in rows])
    tested = [(kind, row) for kind in KINDS for row, _ in rows[:-1]]
    differences = {key: made[key[0]].pairs[(key[1], full, *CLOSED)] for key in tested}
    sure = dict(zip(tested, holm([differences[key]["p"] for key in tested]), strict=True))
    lines = [f"| | seeds | {' | '.join(KINDS)} | printed |", "|---" * (len(KINDS) + 3) + "|"]
    for row, runs in rows:
        cells = []
        for kind in KINDS:
            value = made[kind].values[(row, *CLOSED)]
            text = f"{100 * value.value:.1f} ({100 * value.low:.1f}–{100 * value.high:.1f})"
            cells.append(text if row == full else f"{text} p = {sure[kind, row]:.4f}")
        lines.append(f"| {row} | {len(runs)} | {' | '.join(cells)} | {TABLES[number][row][PRINTED]:.2f} |")
    return "\n".join(lines) + "\n"


def of_topics(run: Scored, topics: Collection[str]) -> Scored:
    """The same run with the questions of some topics only."""
    kept = [place for place, row in enumerate(run.rows) if row.topic in topics]
    file = replace(run.file, rows=tuple(run.rows[place] for place in kept))
    return replace(run, file=file, values={name: np.asarray(values)[kept] for name, values in run.values.items()})


if __name__ == "__main__":
    main()
