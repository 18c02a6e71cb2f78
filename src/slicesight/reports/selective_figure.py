"""How does one see whether a confidence may be believed? A reliability diagram, and risk against coverage.

Reliability: in every bin the share of right answers (bar) beside the mean confidence (dashed diagonal: as it says), and
below how many answers lie there. Risk: the share of wrong answers among the surest, from few to all, between the best
order and none; the mark stands at 80 % of the answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from slicesight.models.card import RESEARCH_NOTICE
from slicesight.reports.figure import EVEN_COLOUR, FAINT, INK, PICTURED_COLOUR, SCORE_COLOUR, TRUTH_COLOUR, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COVERAGE = 0.8
PANEL_IN = 4.6
MIN_FOR_A_BIN = 5
"""Bins of fewer answers are drawn pale: a few answers say little."""


def measured_tasks(selective: Mapping[str, Any] | None) -> dict[str, Mapping[str, Any]]:
    """{kind of question: its numbers} of a sheet's `selective`, those without any left out."""
    return {task: part for task, part in (selective or {}).items() if part is not None and part["curve"] is not None}


def draw_reliability(selective: Mapping[str, Any], *, system: str) -> Figure:
    """A diagram per kind of question."""
    figure, panels = _page(selective, f"{system}: is it right as often as it says?")
    for axes, (task, part) in zip(panels, measured_tasks(selective).items(), strict=True):
        _draw_bins(axes, part)
        ece, brier = part["ece"], part["brier"]
        axes.set_title(f"{task}: ECE {_with_ends(ece)}\nBrier {_with_ends(brier)}", size=9.5, color=INK)
    return figure


def draw_risk_coverage(selective: Mapping[str, Any], *, system: str) -> Figure:
    """A curve per kind of question."""
    figure, panels = _page(selective, f"{system}: what is left wrong among the surest answers?")
    for axes, (task, part) in zip(panels, measured_tasks(selective).items(), strict=True):
        _draw_curve(axes, part)
        title = f"{task}: AURC {_with_ends(part['aurc'])}\naccuracy at 80 % {_with_ends(part['accuracy_at_80'])}"
        axes.set_title(title, size=9.5, color=INK)
    return figure


def _page(selective: Mapping[str, Any], title: str) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure

    count = len(measured_tasks(selective))
    figure = Figure(figsize=(max(PANEL_IN * count, 5.6), 5.0), facecolor="white", layout="constrained")
    panels = figure.subplots(1, count, squeeze=False)[0]
    figure.suptitle(title, weight="bold", color=INK, size=11)
    figure.supxlabel(RESEARCH_NOTICE, size=6.5, color=FAINT)
    return figure, list(panels)


def _draw_bins(axes: Axes, part: Mapping[str, Any]) -> None:
    held = [one for one in part["bins"] if one["num_answers"]]
    most = max(one["num_answers"] for one in held)
    for one in held:
        width = one["high"] - one["low"]
        is_few = one["num_answers"] < MIN_FOR_A_BIN
        axes.bar(
            one["low"],
            one["accuracy"],
            width=width * 0.94,
            align="edge",
            color=SCORE_COLOUR,
            alpha=0.4 if is_few else 1.0,
            zorder=1,
        )
        axes.plot([one["confidence"]], [one["accuracy"]], "o", color=PICTURED_COLOUR, markersize=4, zorder=3)
        axes.bar(
            one["low"],
            -0.16 * one["num_answers"] / most,
            width=width * 0.94,
            align="edge",
            bottom=-0.02,
            color=FAINT,
            alpha=0.55,
        )
        axes.annotate(
            str(one["num_answers"]),
            ((one["low"] + one["high"]) / 2, -0.215),
            ha="center",
            va="center",
            fontsize=6,
            color=FAINT,
        )
    axes.plot([0, 1], [0, 1], linestyle=(0, (5, 3)), color=EVEN_COLOUR, linewidth=1, label="as it says", zorder=2)
    axes.set(xlim=(0, 1), ylim=(-0.24, 1.02), yticks=[0, 0.25, 0.5, 0.75, 1])
    axes.set_xlabel("confidence (grey: how many answers)", size=9)
    axes.set_ylabel("share of right answers", size=9)
    axes.legend(fontsize=7, frameon=False, loc="upper left")
    tidy(axes)


def _draw_curve(axes: Axes, part: Mapping[str, Any]) -> None:
    coverage, risk = part["curve"]["coverage"], part["curve"]["risk"]
    overall, count = part["aurc_none"], part["num_answers"]
    wrong = round(overall * count)
    places = [min(1.0, (step + 1) / 200) for step in range(200)]
    best = [max(0.0, (place * count - (count - wrong)) / (place * count)) for place in places]
    axes.plot(places, best, color=TRUTH_COLOUR, linewidth=1, label="best order")
    axes.axhline(overall, color=EVEN_COLOUR, linestyle=(0, (5, 3)), linewidth=1, label="no order")
    axes.plot(coverage, risk, color=PICTURED_COLOUR, linewidth=1.8, label="its confidence")
    at_80 = 1 - part["accuracy_at_80"]["value"]
    axes.plot([COVERAGE], [at_80], "o", color=PICTURED_COLOUR, markersize=5)
    axes.annotate(
        "80 %", (COVERAGE, at_80), xytext=(0, 7), textcoords="offset points", ha="center", fontsize=7.5, color=INK
    )
    axes.set(xlim=(0, 1), ylim=(0, max(0.05, *risk, overall) * 1.12))
    axes.set_xlabel("coverage: share of answers kept, the surest first", size=9)
    axes.set_ylabel("risk: share of wrong ones among them", size=9)
    axes.legend(fontsize=7, frameon=False)
    tidy(axes)


def _with_ends(found: Mapping[str, Any]) -> str:
    if found["ci95"] is None:
        return f"{found['value']:.3f}"
    low, high = found["ci95"]
    return f"{found['value']:.3f} ({low:.3f}…{high:.3f})"
