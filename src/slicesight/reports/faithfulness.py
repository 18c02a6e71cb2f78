"""How do the numbers about faithful slice scores look? One figure with a row per model, and tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Table

from slicesight.models.card import RESEARCH_NOTICE
from slicesight.reports.figure import EVEN_COLOUR, FAINT, INK, LINE, PICTURED_COLOUR, TRUTH_COLOUR, tidy
from slicesight.reports.score_tables import ends_text, headed_table, or_dash

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GREY = "#8a94a0"
ORDER_COLOURS = {"heaviest": PICTURED_COLOUR, "random": GREY, "lightest": EVEN_COLOUR}
BRANCH_NAMES = {"whole": "whole scan", "slices": "2D branch only"}
ROW_IN, PAGE_IN = 3.1, 15.0


def draw_faithfulness(models: Sequence[Mapping[str, Any]]) -> Figure:
    """Per model: deletion and insertion curves, area gains with intervals, the paper's claims."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(PAGE_IN, ROW_IN * len(models) + 0.7), facecolor="white", layout="constrained")
    panels = figure.subplots(len(models), 4, squeeze=False, width_ratios=[1, 1, 0.9, 1.7])
    for row, found in zip(panels, models, strict=True):
        _draw_curve(row[0], found, "deletion")
        _draw_curve(row[1], found, "insertion")
        _draw_gains(row[2], found)
        _draw_claims(row[3], found)
        row[0].set_ylabel(f"{found['model']}\nΔ log p(answer)", color=INK)
    figure.suptitle("How faithful are the slice scores?", weight="bold", color=INK)
    figure.supxlabel(RESEARCH_NOTICE, size=8, color=FAINT)
    return figure


def faithfulness_tables(found: Mapping[str, Any]) -> list[Table]:
    """Gains and claims of one model."""
    title = f"{found['model']}: area gained by the heaviest slices"
    gains = headed_table(title, "curve", "against", "gain (95 % CI)", "p, Holm", "d")
    for entry in found["gains"]:
        gains.add_row(
            f"{entry['curve']}, {entry['branch']}",
            entry["against"],
            _with_ends(entry["gain"], entry["ci95"], "+.3f"),
            f"{entry['p_holm']:.4f}",
            or_dash(entry["effect_size_d"]),
        )
    claims = headed_table("the paper's claims", "", "claim", "value", "difference (95 % CI)")
    for claim in _claims_of(found):
        if claim["value"] is not None:
            difference = _with_ends(claim["difference"], claim["difference_ci95"], "+.3f")
            claims.add_row(
                {True: "✓", False: "✗", None: "–"}[claim["holds"]], claim["says"], f"{claim['value']:.3f}", difference
            )
    return [gains, claims] if found["claims"] else [gains]


def verdict_line(found: Mapping[str, Any]) -> str:
    """What to say in one sentence."""
    verdict, evidence = found["verdict"], found["evidence"]
    rests = {
        True: "its answers rest on the slices it weighs most",
        False: "its answers do NOT rest on the slices it weighs most",
        None: "one scan cannot tell whether its answers rest on the slices it weighs most",
    }
    line = f"{found['model']}: {rests[verdict['answers_rest_on_the_heaviest_slices']]}"
    if evidence is not None:
        reaches = "reaches" if verdict["excess_mass_reaches_the_aim"] else "misses"
        excess = _with_ends(evidence["excess"], evidence["excess_ci95"])
        line += f"; excess mass on the truth {excess} {reaches} {verdict['aim']}"
    return f"{line}; {found['note']}" if found.get("note") else line


def _claims_of(found: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [claim for name, claim in found["claims"].items() if name != "effective_slices"]


def _with_ends(value: float, ends: Sequence[float] | None, form: str = ".2f") -> str:
    return f"{value:{form}} ({ends_text(ends, form)})"


def _draw_curve(axes: Axes, found: Mapping[str, Any], curve: str) -> None:
    steps = np.arange(len(found["steps"]))
    styles = {"whole": "-", "slices": ":"}
    for branch, style in ((name, styles[name]) for name in found["curves"]):
        for order, colour in ORDER_COLOURS.items():
            one = found["curves"][branch][curve][order]
            label = f"{order} first" if branch == "whole" else None
            axes.plot(steps, one["mean"], style, color=colour, label=label, linewidth=1.6)
            if branch == "whole" and None not in one["ci95"]:
                low, high = np.array(one["ci95"]).T
                axes.fill_between(steps, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.axhline(0, color=LINE, linewidth=0.8, zorder=0)
    axes.set_xticks(steps, [str(step) for step in found["steps"]])
    axes.set_title(curve + (" (dotted: 2D branch only)" if "slices" in found["curves"] else ""), size=10)
    axes.set_xlabel("slices taken away" if curve == "deletion" else "slices shown", size=9)
    axes.legend(fontsize=7, frameon=False)
    tidy(axes)


def _draw_gains(axes: Axes, found: Mapping[str, Any]) -> None:
    entries = list(reversed(found["gains"]))
    for place, entry in enumerate(entries):
        colour = PICTURED_COLOUR if entry["p_holm"] < 0.05 else GREY
        if entry["ci95"] is not None:
            axes.plot(entry["ci95"], [place, place], color=colour, linewidth=2)
        axes.plot([entry["gain"]], [place], "o", color=colour, markersize=5)
    names = [f"{e['curve']}, {BRANCH_NAMES[e['branch']]}\nvs {e['against']}" for e in entries]
    axes.set_yticks(range(len(entries)), names, size=7)
    axes.axvline(0, color=EVEN_COLOUR, linestyle=(0, (5, 3)), linewidth=1)
    evidence = found["evidence"]
    note = "" if evidence is None else "\nexcess mass " + _with_ends(evidence["excess"], evidence["excess_ci95"])
    axes.set_title(f"area gained (blue: p < .05, Holm){note}", size=10)
    tidy(axes)


def _draw_claims(axes: Axes, found: Mapping[str, Any]) -> None:
    claims = _claims_of(found)
    axes.set(xlim=(0, 1), ylim=(max(1, len(claims)), 0), xticks=[], yticks=[])
    if not claims:
        axes.text(0.0, 0.5, "a guest: its evidence is measured by occlusion", color=FAINT, size=8, va="center")
        axes.spines[:].set_visible(False)
        return
    for place, claim in enumerate(claims):
        holds = claim["holds"]
        mark, colour = ("–", FAINT) if holds is None else ("✓", TRUTH_COLOUR) if holds else ("✗", EVEN_COLOUR)
        axes.text(0.0, place + 0.42, mark, color=colour, size=12, va="center", weight="bold")
        axes.text(0.05, place + 0.3, claim["says"], color=INK, size=8, va="center")
        if claim["value"] is not None:
            value = _with_ends(claim["value"], claim["ci95"])
            said = f"{value}; difference {_with_ends(claim['difference'], claim['difference_ci95'], '+.2f')}"
            axes.text(0.05, place + 0.68, said, color=FAINT, size=7.5, va="center")
    axes.set_title("the paper's section 4.6 and appendix B, here", size=10)
    axes.spines[:].set_visible(False)
