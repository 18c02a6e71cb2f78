"""What do our ablations say in the shape of the paper's Tables 3, 4 and 5, and which of its orderings hold here?

S seeds, V volumes. A value is the mean over seeds; its interval comes from a bootstrap that draws volumes and seeds;
every row is compared with the full model, the last one, by the paired test over volumes, Holm-corrected over the table.
What the paper printed is one seed, 100 K samples, in percent. Table 5's marks for text, 3D and 2D are lost in the text
at hand: its rows are read as 3D, 2D and both without text, then with text, the last the full model: an assumption.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from slicesight.evaluation.sheet import Scored, compare_systems
from slicesight.evaluation.statistics import DRAWS, Floats, Interval, bounds, volume_sums

Column = tuple[str, str, str]
SURE = 0.05
METRICS = (
    ("report", "bleu1", "B@1"),
    ("report", "rouge1", "R@1"),
    ("report", "meteor", "M"),
    ("report", "bertscore_f1", "BERT"),
    ("open", "bleu1", "B@1"),
    ("open", "rouge1", "R@1"),
    ("open", "meteor", "M"),
    ("open", "bertscore_f1", "BERT"),
    ("closed", "accuracy", "acc."),
)
"""The columns of every ablation table: reports, then VQA, all micro."""

_FULL = (49.67, 52.12, 48.92, 90.25, 39.83, 43.13, 28.27, 89.95, 72.05)
TABLES: dict[int, dict[str, tuple[float, ...]]] = {
    3: {
        "3D": (44.97, 47.55, 44.19, 89.31, 37.50, 40.66, 26.42, 89.56, 70.13),
        "2D": (36.96, 39.63, 35.78, 87.65, 39.22, 42.48, 27.83, 89.84, 71.71),
        "3D + 2D": _FULL,
    },
    4: {
        "random": (47.24, 49.88, 46.47, 89.80, 39.21, 42.46, 27.67, 89.89, 71.26),
        "max": (45.91, 48.51, 45.20, 89.52, 39.09, 42.32, 27.53, 89.87, 71.51),
        "mean": (48.50, 51.10, 47.83, 90.04, 39.26, 42.51, 27.76, 89.90, 71.47),
        "TG-IS": _FULL,
    },
    5: {
        "3D": (49.65, 52.09, 48.93, 89.67, 39.51, 42.75, 27.82, 89.94, 71.76),
        "2D": (42.81, 45.43, 41.85, 88.86, 38.83, 42.16, 27.39, 89.82, 71.34),
        "3D + 2D": (45.92, 48.44, 45.18, 89.49, 39.58, 42.89, 27.90, 89.93, 71.71),
        "text + 3D": (46.92, 49.41, 46.06, 89.70, 39.83, 43.12, 28.19, 90.00, 71.25),
        "text + 2D": (47.15, 49.87, 46.55, 89.84, 39.22, 42.52, 27.58, 89.85, 71.68),
        "text + 3D + 2D": _FULL,
    },
}
TITLES = {
    3: "Table 3: which branch the language model sees",
    4: "Table 4: how the slices become one set of tokens",
    5: "Table 5: what the scores look at",
}


@dataclass(frozen=True, kw_only=True)
class Value(Interval):
    """A mean over seeds with its interval, the spread of the seeds, and p against the full model."""

    seed_sd: float | None
    p_holm: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Documented keys."""
        return {**super().to_dict(), "seed_sd": self.seed_sd, "p_holm": self.p_holm}


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
                    **{f"{task}.{name}": self.values[row, task, name].to_dict() for task, name, _ in self.columns},
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
    values = {
        (row, task, metric): _value(runs, task, metric, against=with_full.get((row, full, task, metric), {}))
        for row, runs in rows
        for task, metric, _ in columns
    }
    return AblationTable(number=number, rows=tuple(row for row, _ in rows), columns=columns, values=values, pairs=pairs)


def orderings(table: AblationTable) -> list[dict[str, Any]]:
    """Every printed order of two rows: does it hold here, is it the other way round, or can it not be told?"""
    found = []
    for column in table.columns:
        task, metric, _ = column
        for first, second in combinations(table.rows, 2):
            printed = printed_value(table.number, first, column) - printed_value(table.number, second, column)
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


def printed_value(number: int, row: str, column: Column) -> float:
    """What the paper printed, in percent."""
    return TABLES[number][row][METRICS.index(column)]


def _value(runs: Sequence[Scored], task: str, metric: str, *, against: Mapping[str, Any]) -> Value:
    sums, counts = zip(*(_sums(run, task, metric) for run in runs), strict=True)
    names = list(sums[0])
    sums_SV = np.array([[one[name] for name in names] for one in sums])
    counts_SV = np.array([[one[name] for name in names] for one in counts])
    by_seed = sums_SV.sum(axis=1) / counts_SV.sum(axis=1)
    low, high = bounds(_draw_both(sums_SV, counts_SV), len(names)) or (np.nan, np.nan)
    return Value(
        value=float(by_seed.mean()),
        low=low,
        high=high,
        seed_sd=float(by_seed.std(ddof=1)) if len(by_seed) > 1 else None,
        p_holm=against.get("p_holm"),
    )


def _draw_both(sums_SV: Floats, counts_SV: Floats) -> Floats:
    """Bootstrap means over drawn seeds and drawn volumes -> (DRAWS,)."""
    rng = np.random.default_rng(0)
    num_seeds, num_volumes = sums_SV.shape
    seeds_RS = rng.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), size=DRAWS)
    volumes_RV = rng.multinomial(num_volumes, np.full(num_volumes, 1 / num_volumes), size=DRAWS)
    sums_R, counts_R = (((seeds_RS @ each_SV) * volumes_RV).sum(axis=1) for each_SV in (sums_SV, counts_SV))
    with np.errstate(invalid="ignore"):
        means_R: Floats = sums_R / counts_R
    return means_R


def _sums(run: Scored, task: str, metric: str) -> tuple[dict[str, float], dict[str, float]]:
    """{volume: sum} and {volume: number} of a metric."""
    chosen = [place for place, row in enumerate(run.rows) if row.task == task]
    names = [run.rows[place].volume or "" for place in chosen]
    sums, counts = volume_sums(names, run.values[metric][chosen])
    unique = list(dict.fromkeys(names))
    return dict(zip(unique, sums.tolist(), strict=True)), dict(zip(unique, counts.tolist(), strict=True))


def _by_key(found: Sequence[dict[str, Any]]) -> dict[tuple[str, str, str, str], dict[str, Any]]:
    return {(entry["first"], entry["second"], entry["task"], entry["metric"]): entry for entry in found}
