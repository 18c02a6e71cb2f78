"""What do the paper's Figures 4 to 7 look like for our own cases? The scan's slices, then every question's scores.

Above: all grid slices, heaviest on average framed. Below: one panel per question and answer with a bar per slice and
the dashed line of an even spread, 1/N; green marks lie under the slices that truly show what is asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from slicesight.data.choices import is_right
from slicesight.evaluation.predictions import Prediction
from slicesight.models.card import RESEARCH_NOTICE
from slicesight.reports.evidence import caveat_of_rows
from slicesight.reports.figure import (
    EVEN_COLOUR,
    FAINT,
    INK,
    LINE,
    PICTURED_COLOUR,
    SCORE_COLOUR,
    TRUTH_COLOUR,
    height_over_width,
    tidy,
)
from slicesight.reports.fonts import shorten, wrap
from slicesight.volumes.grid import GridVolume

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PAGE_IN, PANELS_ACROSS, SLICES_ACROSS = 13.0, 3, 16
PANEL_IN, WRAP = 2.1, 62


def draw_case(grid: GridVolume, rows: Sequence[Prediction], *, title: str) -> Figure:
    """One page for one case."""
    from matplotlib.figure import Figure

    across = min(SLICES_ACROSS, len(grid.voxels))
    slice_rows = -(-len(grid.voxels) // across)
    slices_in = slice_rows * PAGE_IN / across * min(1.5, height_over_width(grid))
    panel_rows = -(-len(rows) // PANELS_ACROSS)
    total_in = 0.5 + slices_in + panel_rows * PANEL_IN + 0.4
    figure = Figure(figsize=(PAGE_IN, total_in), facecolor="white")
    figure.text(0.015, 1 - 0.18 / total_in, title, size=13, weight="bold", color=INK, va="top", parse_math=False)
    heavy = _heaviest(rows, len(grid.voxels))
    cell = (1 - 0.03) / across
    for place, voxels_HW in enumerate(grid.voxels):
        row, column = divmod(place, across)
        height = slices_in / slice_rows / total_in
        axes = figure.add_axes(
            (0.015 + column * cell, 1 - 0.5 / total_in - (row + 1) * height, cell * 0.96, height * 0.96)
        )
        axes.imshow(voxels_HW, cmap="gray", vmin=0, vmax=1, aspect="auto")
        axes.set(xticks=[], yticks=[])
        axes.text(0.03, 0.97, str(place), color="#ffd54a", size=7, va="top", transform=axes.transAxes)
        axes.spines[:].set(color=PICTURED_COLOUR if place in heavy else LINE, linewidth=2.5 if place in heavy else 0.6)
    for place, asked in enumerate(rows):
        row, column = divmod(place, PANELS_ACROSS)
        top = 1 - (0.5 + slices_in + row * PANEL_IN + 0.12) / total_in
        _draw_question(figure, asked, left=0.015 + column * 0.328, top=top, total_in=total_in)
    figure.text(
        0.015, 0.12 / total_in, f"{RESEARCH_NOTICE} {caveat_of_rows(row.evidence for row in rows)}", size=8, color=FAINT
    )
    return figure


def _heaviest(rows: Sequence[Prediction], num_slices: int) -> set[int]:
    """The four slices that weigh most over all questions."""
    scores = [row.scores for row in rows if row.scores and len(row.scores) == num_slices]
    return set(np.argsort(-np.mean(scores, axis=0))[:4].tolist()) if scores else set()


def _draw_question(figure: Figure, row: Prediction, *, left: float, top: float, total_in: float) -> None:
    said = row.prediction or "(nothing)"
    right = is_right(row.prediction, row)
    asked = row.task if row.task == row.topic else f"{row.task} · {row.topic}"
    mark, colour = ("✓ ", TRUTH_COLOUR) if right else ("✗ ", EVEN_COLOUR)
    if row.task == "report":  # neither right nor wrong
        mark, colour = "", INK
    lines = [(f"{asked}: {row.question}", WRAP - 8, INK, "bold"), (f"{mark}{said}", WRAP, colour, "normal")]
    if not right:
        lines.append((f"truth: {row.answer}", WRAP, FAINT, "normal"))
    height = 0.0
    for text, width, colour, weight in lines:
        wrapped = wrap(shorten(text, WRAP + width - (8 if weight == "bold" else 12)), width)
        figure.text(
            left, top - height, "\n".join(wrapped), size=8, color=colour, weight=weight, va="top", parse_math=False
        )
        height += 0.145 * len(wrapped) / total_in
    if row.scores:
        bottom = top - (PANEL_IN - 0.32) / total_in
        tall = max(0.4 / total_in, top - height - bottom - 0.06 / total_in)
        _draw_scores(figure.add_axes((left + 0.012, bottom, 0.3, tall)), row.scores, row.true_slices or ())


def _draw_scores(axes: Axes, scores: Sequence[float], true_slices: Sequence[int]) -> None:
    num_slices = len(scores)
    ceiling = max(*scores, 2 / num_slices) * 1.1
    axes.bar(range(num_slices), scores, width=0.82, color=SCORE_COLOUR)
    axes.axhline(1 / num_slices, color=EVEN_COLOUR, linestyle=(0, (5, 3)), linewidth=1)
    if true_slices:
        axes.bar(true_slices, [-0.08 * ceiling] * len(true_slices), width=1.0, color=TRUTH_COLOUR)
    axes.set(xlim=(-0.5, num_slices - 0.5), ylim=(-0.1 * ceiling, ceiling), yticks=[])
    axes.set_xticks([0, num_slices // 2, num_slices - 1])
    tidy(axes, size=7)
    axes.spines["left"].set_visible(False)
