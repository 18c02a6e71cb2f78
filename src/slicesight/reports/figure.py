"""How does one see which slices weigh most in an answer? Eight slices over the volume, above the scores of all of them.

One block per answer: question and answer, eight slices (of each eighth of the volume its heaviest), and below them a
bar per grid slice with the dashed line of an even spread (1/N). Each picture stands above its own eighth of the bars.
Where slices of several planes are scored together, each plane has its block of bars, and as many pictures above it.
Lengths are inches, counted from the top of the page.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from slicesight.files import replacing
from slicesight.inference.answers import Answer
from slicesight.models.card import RESEARCH_NOTICE
from slicesight.reports.evidence import (
    EVIDENCE_CAVEAT,
    KnownTruth,
    caveats_of,
    confidence_line,
    describe_answer,
    doubts_about,
    named_place,
    peak_slice,
    pick_over_volume,
    share_name,
    sides,
)
from slicesight.reports.fonts import fonts_for, wrap
from slicesight.volumes.grid import GridVolume
from slicesight.volumes.grid import height_over_width as height_over_width

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from slicesight.reports.ask import AnswerReport

NUM_PICTURES = 8
SCORE_COLOUR, PICTURED_COLOUR, EVEN_COLOUR, TRUTH_COLOUR = "#a9c3e6", "#1f5fae", "#c8372d", "#0d8a6a"
INK, FAINT, WARNING_INK, WARNING_PAPER = "#1c2430", "#66707e", "#7a2e00", "#fff1e0"
LINE = "#c9d0d8"
PAGE_IN, MARGIN_IN, LEFT_IN = 13.0, 0.35, 0.75
LINE_IN, CAPTION_IN, BARS_IN, GAP_IN, BLOCK_GAP_IN = 0.25, 0.42, 0.95, 0.55, 0.12
WRAP_CHARACTERS = 150


def draw_report(report: AnswerReport) -> Figure:
    """Draw every answer with its evidence on one tall page; the slices of a known truth are marked under the bars."""
    from matplotlib.figure import Figure

    grid, notes, warnings = report.grid, report.volume.warnings, report.warnings
    texts = [_lines(answer, truth) for answer, truth in report.judged]
    width_in = (PAGE_IN - LEFT_IN - MARGIN_IN) / NUM_PICTURES
    picture_in = width_in * min(max(height_over_width(stack) for stack in grid.stacks), 1.5)
    block_in = [LINE_IN * len(lines) + 0.1 + picture_in + CAPTION_IN + BARS_IN + GAP_IN for lines in texts]
    notes_in = 0.24 * len(notes)
    top = 0.75 + notes_in + 0.42 * len(warnings)
    page = _FigureLayout(Figure(figsize=(PAGE_IN, top + sum(block_in) + 0.55), facecolor="white"))
    page.text(f"{report.title} · answered by {report.card.name}", left=MARGIN_IN, top=0.2, size=13, weight="bold")
    for number, note in enumerate(notes):
        page.text(f"note: {note}", left=MARGIN_IN, top=0.55 + 0.24 * number, size=9.5, colour=FAINT)
    for number, warning in enumerate(warnings):
        page.banner(warning, top=0.62 + notes_in + 0.42 * number)
    for (answer, truth), lines, height in zip(report.judged, texts, block_in, strict=True):
        _draw_answer(page, grid, answer, truth=truth, lines=lines, top=top, picture_in=picture_in)
        top += height
    (caveat, *_) = caveats_of(report.answers) or [EVIDENCE_CAVEAT]
    page.text(caveat, left=MARGIN_IN, top=top, size=8.5, colour=FAINT)
    page.text(f"{report.reading} · {RESEARCH_NOTICE}", left=MARGIN_IN, top=top + 0.2, size=8.5, colour=FAINT)
    return page.figure


def pick_pictures(answer: Answer, *, grid: GridVolume) -> list[int]:
    """Which scored slices a report shows of an answer, as many of each plane."""
    stacks = grid.stacks
    return pick_over_volume(
        answer, num_slices=len(stacks) * len(grid.slices), count=NUM_PICTURES, num_planes=len(stacks)
    )


def save_figure(figure: Figure, path: Path) -> None:
    """Write the figure as PNG in one step."""
    with replacing(path) as temporary, fonts_for(figure):
        figure.savefig(temporary, format="png", dpi=110)


def tidy(axes: Axes, *, size: int = 8) -> None:
    """Faint small ticks, no frame above and to the right."""
    axes.tick_params(labelsize=size, colors=FAINT, length=2)
    axes.spines[["top", "right"]].set_visible(False)


def mark_sides(axes: Axes, plane: str | None) -> None:
    """The patient's sides at the edges of a picture, question marks where they are not known."""
    places = ((0.04, 0.5), (0.96, 0.5), (0.5, 0.95), (0.5, 0.05))
    for (x, y), letter in zip(places, sides(plane) if plane else "????", strict=True):
        axes.text(x, y, letter, transform=axes.transAxes, color="#ffd75f", fontsize=8, ha="center", va="center")


class _FigureLayout:
    """Places text and axes by inches from the top left corner."""

    def __init__(self, figure: Figure) -> None:
        self.figure = figure
        self.width_in, self.height_in = figure.get_size_inches()

    def axes(self, *, left: float, top: float, width: float, height: float) -> Axes:
        bottom = self.height_in - top - height
        return self.figure.add_axes(
            (left / self.width_in, bottom / self.height_in, width / self.width_in, height / self.height_in)
        )

    def text(
        self, text: str, *, left: float, top: float, size: float, weight: str = "normal", colour: str = INK
    ) -> None:
        self.figure.text(
            left / self.width_in, 1 - top / self.height_in, text, fontsize=size, weight=weight, color=colour, va="top",
            parse_math=False,
        )  # fmt: skip

    def banner(self, text: str, *, top: float) -> None:
        axes = self.axes(left=MARGIN_IN, top=top, width=self.width_in - 2 * MARGIN_IN, height=0.32)
        axes.set_facecolor(WARNING_PAPER)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_color(WARNING_INK)
        axes.text(
            0.01, 0.48, text, color=WARNING_INK, fontsize=10, weight="bold", va="center", transform=axes.transAxes
        )


def _lines(answer: Answer, truth: KnownTruth | None) -> list[tuple[str, str, str]]:
    """(text, weight, colour) of each line above the pictures."""
    rows = [(line, "bold", INK) for line in wrap(answer.question, WRAP_CHARACTERS)]
    rows += [(line, "normal", INK) for line in wrap(answer.text, WRAP_CHARACTERS)]
    rows += [(line, "normal", FAINT) for line in filter(None, [confidence_line(answer)])]
    rows += [(line, "normal", WARNING_INK) for doubt in doubts_about(answer) for line in wrap(doubt, WRAP_CHARACTERS)]
    if truth is not None:
        verdict, colour = ("right", TRUTH_COLOUR) if truth.is_right else ("wrong", EVEN_COLOUR)
        said = verdict if truth.is_right else f"{verdict}; the truth: {truth.answer}"
        rows += [(line, "normal", colour) for line in wrap(said, WRAP_CHARACTERS)]
    rows += [(line, "normal", FAINT) for line in wrap(describe_answer(answer), WRAP_CHARACTERS)]
    return rows


def _draw_answer(
    page: _FigureLayout,
    grid: GridVolume,
    answer: Answer,
    *,
    truth: KnownTruth | None,
    lines: Sequence[tuple[str, str, str]],
    top: float,
    picture_in: float,
) -> None:
    for text, weight, colour in lines:
        page.text(text, left=MARGIN_IN, top=top, size=11, weight=weight, colour=colour)
        top += LINE_IN
    top += 0.1
    pictured = pick_pictures(answer, grid=grid)
    _draw_pictures(page, grid, answer, pictured, top=top, picture_in=picture_in)
    if answer.scores:
        _draw_bars(page, grid, answer, pictured, truth=truth, top=top + picture_in + CAPTION_IN)


def _draw_pictures(
    page: _FigureLayout, grid: GridVolume, answer: Answer, pictured: Sequence[int], *, top: float, picture_in: float
) -> None:
    from matplotlib.patheffects import withStroke

    heaviest = peak_slice(answer)
    width = (PAGE_IN - LEFT_IN - MARGIN_IN) / len(pictured)
    for place, index in enumerate(pictured):
        stack, own_index = grid.scored_slice(index)
        axes = page.axes(left=LEFT_IN + place * width + 0.03, top=top, width=width - 0.06, height=picture_in)
        axes.set_facecolor("black")
        proportions = height_over_width(stack)
        axes.imshow(stack.voxels[own_index], cmap="gray", vmin=0, vmax=1, aspect=proportions, interpolation="bilinear")
        axes.set(xticks=[], yticks=[], anchor="S", adjustable="box")
        is_heaviest = index == heaviest
        axes.spines[:].set(color=PICTURED_COLOUR if is_heaviest else LINE, linewidth=3.0 if is_heaviest else 0.8)
        if stack.slices[own_index].position_mm is not None:
            for x, align, side in zip((0.03, 0.97), ("left", "right"), sides(stack.plane), strict=False):
                mark = axes.text(
                    x, 0.97, side, color="#ffd54a", fontsize=8, ha=align, va="top", transform=axes.transAxes
                )
                mark.set_path_effects([withStroke(linewidth=1.6, foreground="black")])
        weight = "bold" if is_heaviest else "normal"
        caption = named_place(grid.scored_slices, index, joint="\n")
        axes.annotate(
            caption, (0.5, 0), xycoords="axes fraction", xytext=(0, -7), textcoords="offset points",
            fontsize=8, weight=weight, color=INK, ha="center", va="top", linespacing=1.3,
        )  # fmt: skip


def _draw_bars(
    page: _FigureLayout,
    grid: GridVolume,
    answer: Answer,
    pictured: Sequence[int],
    *,
    truth: KnownTruth | None,
    top: float,
) -> None:
    num_slices, num_blocks = len(answer.scores), len(grid.stacks)
    in_block = num_slices // num_blocks
    even, ceiling = 1 / num_slices, max(*answer.scores, 2 / num_slices) * 1.25
    heaviest = answer.slices[0]
    shows_truth = truth.grid_slices if truth is not None else ()
    width = (PAGE_IN - LEFT_IN - MARGIN_IN) / num_blocks
    for number, stack in enumerate(grid.stacks):
        first, last = number * in_block, (number + 1) * in_block
        gap = BLOCK_GAP_IN if last < num_slices else 0
        axes = page.axes(left=LEFT_IN + number * width, top=top, width=width - gap, height=BARS_IN)
        colours = [PICTURED_COLOUR if index in pictured else SCORE_COLOUR for index in range(first, last)]
        axes.bar(range(in_block), answer.scores[first:last], width=0.82, color=colours)
        axes.axhline(even, color=EVEN_COLOUR, linestyle=(0, (5, 3)), linewidth=1.2)
        if first <= heaviest.grid_slice < last:
            axes.annotate(
                f"{heaviest.score:.2f}", (heaviest.grid_slice - first, heaviest.score), xytext=(0, 1.5),
                textcoords="offset points", color=PICTURED_COLOUR, fontsize=8, weight="bold", ha="center", va="bottom",
            )  # fmt: skip
        marked = [index - first for index in shows_truth if first <= index < last]
        axes.bar(marked, [-0.09 * ceiling] * len(marked), width=1.0, color=TRUTH_COLOUR)
        axes.set_xlim(-0.5, in_block - 0.5)
        axes.set_ylim(-0.1 * ceiling, ceiling)
        axes.set_yticks([])
        axes.set_xticks([index - first for index in pictured if first <= index < last])
        tidy(axes)
        axes.spines[["left", "bottom"]].set_color(LINE)
        if grid.planes:
            axes.set_xlabel(stack.plane, fontsize=9, color=INK, labelpad=1)
        if number == 0:
            axes.set_ylabel(share_name(answer), fontsize=8, color=FAINT)
            if shows_truth:
                axes.text(-0.65, -0.055 * ceiling, "truth", color=TRUTH_COLOUR, fontsize=8, ha="right", va="center")
        if last == num_slices:
            axes.text(in_block - 0.35, even, f"1/{num_slices}", color=EVEN_COLOUR, fontsize=8, va="center")
