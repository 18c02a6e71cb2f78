"""Which way of scoring slices points at what is asked, when nobody tells it where to look? Excess mass and accuracy.

    python benchmarks/scorings.py --out runs/ablation [--scoring cosine ...] [--seeds 3] [--set data.folder=...]

Every scoring is a few words of the model or of its stages; each is a cell of `slicesight ablate` (same recipe, same
stage 0, frozen encoders, cached features, no label maps in the loss), about 4 CPU minutes a seed, kept in OUT/cells and
never trained twice: "learned_scale" is the ablation's own full cell. Tables on stdout and in OUT/scorings.md and .json:
closed accuracy, excess mass (mass - share) / (1 - share) of the scores on the slices that show what is asked, effective
number of slices; mean over seeds with the 95 % interval over scans and seeds; each against the paper's scoring by the
paired sign-flip test over scans, seeds averaged, Holm-corrected over the table.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console

from slicesight.data.choices import is_right
from slicesight.data.dataset import open_dataset
from slicesight.evaluation.ablation import FULL, CachedGrids, Cell, run_cell
from slicesight.evaluation.predictions import read_jsonl
from slicesight.evaluation.statistics import DRAWS, bounds, compare, effective_number, holm
from slicesight.reports.ask import load_quietly
from slicesight.reports.terminal import progress_bar
from slicesight.training.recipe import read_recipe

RECIPE = Path(__file__).resolve().parents[1] / "recipes" / "phantom-ablation.yaml"
PAPER = "paper"
MEASURES = ("closed accuracy", "excess mass", "effective slices")


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """cell: its name below OUT/cells. words: of the model. stage: of every stage."""

    cell: str
    words: dict = field(default_factory=dict)
    stage: dict = field(default_factory=dict)


SCORINGS = {
    PAPER: Scoring(cell="score-paper", words={"score_scale": 1.0, "learn_score_scale": False}),
    "learned_scale": Scoring(cell="full"),
    "cosine": Scoring(cell="score-cosine", words={"score_norm": "l2", "score_scale": 10.0}),
    "entropy": Scoring(cell="score-entropy", stage={"entropy_weight": 0.1}),
    "narrowed": Scoring(cell="score-narrowed", words={"score_dim": 64}),
    "four_heads": Scoring(cell="score-heads", words={"score_dim": 16, "score_heads": 4}),
    "taught": Scoring(cell="score-taught", words={"score_dim": 64}, stage={"score_weight": 0.1}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--scoring", action="append", choices=list(SCORINGS), help="repeatable; all if left out")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--data", default="phantoms:9000:100")
    parser.add_argument("--set", action="append", default=[], dest="changes", metavar="KEY=VALUE")
    options = parser.parse_args()
    recipe = read_recipe(RECIPE, tuple(options.changes))
    source = CachedGrids(open_dataset(options.data, prefer="test"))
    console = Console(stderr=True)
    found = {}
    for name in options.scoring or SCORINGS:
        scoring = SCORINGS[name]
        stages = tuple(replace(stage, **scoring.stage) for stage in recipe.stages)
        cell = Cell(name=scoring.cell, row=name, options={**FULL, **scoring.words})
        runs = []
        for seed in range(options.seeds):
            folder = options.out / "cells" / scoring.cell / f"seed{seed}"
            console.print(f"{name}, seed {seed}", highlight=False)
            run_cell(
                replace(recipe, stages=stages), cell, seed=seed, folder=folder, source=source, load=load_quietly,
                bars=partial(progress_bar, console),
            )  # fmt: skip
            runs.append(measure(folder / "predictions.jsonl"))
        found[name] = runs
    table = weigh(found)
    lines = to_markdown(table, seeds=options.seeds, scans=len(source.cases))
    (options.out / "scorings.json").write_text(json.dumps(table, indent=1) + "\n")
    (options.out / "scorings.md").write_text(lines)
    print(lines)


def measure(path: Path) -> dict[str, dict[str, float]]:
    """{measure: {scan: mean over its questions}} of one run."""
    values: dict[str, dict[str, list[float]]] = {name: {} for name in MEASURES}
    for row in read_jsonl(path):
        if row.task == "closed":
            values[MEASURES[0]].setdefault(row.volume, []).append(is_right(row.prediction, row))
        if row.scores:
            values[MEASURES[2]].setdefault(row.volume, []).append(effective_number(np.array(row.scores)))
        share = len(row.true_slices or ()) / len(row.scores) if row.scores else 1.0
        if 0 < share < 0.5:
            mass = sum(row.scores[place] for place in row.true_slices)
            values[MEASURES[1]].setdefault(row.volume, []).append((mass - share) / (1 - share))
    return {name: {scan: float(np.mean(each)) for scan, each in by_scan.items()} for name, by_scan in values.items()}


def weigh(found: dict[str, list[dict[str, dict[str, float]]]]) -> list[dict]:
    """A row per scoring: mean, interval, spread over seeds, and the paired difference from the paper's scoring."""
    rows, tested = [], []
    for name, runs in found.items():
        row = {"scoring": name}
        for measured in MEASURES:
            scans = list(runs[0][measured])
            values_SV = np.array([[run[measured][scan] for scan in scans] for run in runs])
            seeds, volumes = values_SV.shape
            rng = np.random.default_rng(0)
            weights_RS = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=DRAWS) / seeds
            weights_RV = rng.multinomial(volumes, np.full(volumes, 1 / volumes), size=DRAWS) / volumes
            row[measured] = {
                "value": float(values_SV.mean()),
                "ci95": bounds(((weights_RS @ values_SV) * weights_RV).sum(axis=1), volumes),
                "seeds": values_SV.mean(axis=1).tolist(),
            }
            if name != PAPER and PAPER in found and measured != MEASURES[2]:
                paired = compare([run[measured] for run in runs], [run[measured] for run in found[PAPER]])
                row[measured]["minus_paper"] = paired.to_dict()
                tested.append(row[measured]["minus_paper"])
        rows.append(row)
    for entry, corrected in zip(tested, holm([entry["p"] for entry in tested]), strict=True):
        entry["p_holm"] = corrected
    return rows


def to_markdown(table: list[dict], *, seeds: int, scans: int) -> str:
    """The table, percent but for the number of slices; † differs from the paper's scoring."""
    lines = [
        f"{scans} unseen scans, {seeds} seeds; percent, 95 % interval over scans and seeds; † differs from the paper's",
        "scoring (paired by scan, Holm, p < .05).",
        "",
        "| scoring | " + " | ".join(MEASURES) + " | excess mass by seed |",
        "|---" * (len(MEASURES) + 2) + "|",
    ]
    for row in table:
        cells = []
        for measured in MEASURES:
            factor = 1 if measured == MEASURES[2] else 100
            entry = row[measured]
            low, high = (factor * end for end in entry["ci95"])
            mark = "†" if entry.get("minus_paper", {}).get("p_holm", 1) < 0.05 else ""
            cells.append(f"{factor * entry['value']:.1f} ({low:.1f}–{high:.1f}){mark}")
        cells.append(", ".join(f"{100 * value:.0f}" for value in row[MEASURES[1]]["seeds"]))
        lines.append(f"| {row['scoring']} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
