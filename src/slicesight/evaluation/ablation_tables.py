"""What do our ablations say in the paper's shape, and which of its orderings hold here?

S seeds, V volumes. A value is the mean over seeds; its interval comes from a bootstrap that draws volumes and seeds;
every row is compared with the full model, the last one, by the paired test over volumes, Holm-corrected over the table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from slicesight.evaluation.published import METRICS, TABLES
from slicesight.evaluation.sheet import Scored, compare_systems
from slicesight.evaluation.statistics import DRAWS, Floats, bounds, volume_sums

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
