"""Does the mask lie where the structure is? Slices of the scan with the outlines of what was found and what is true."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from slicesight.files import checked_place
from slicesight.reports.figure import mark_sides, save_figure
from slicesight.volumes.foreground import foreground_threshold
from slicesight.volumes.receipt import scan_line
from slicesight.volumes.volume import PLANES, Volume
from slicesight.volumes.windows import channel_windows, window_bounds

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from slicesight.evaluation.metrics.masks import CaseScore
    from slicesight.models.med3dinsight import Segmenter
    from slicesight.training.scan_list import ScanCase

FOUND_COLOURS = ("#ff5c33", "#33c3ff", "#ffd633", "#b366ff", "#ffffff", "#ff66c4", "#ff9f80", "#8cb3ff")
TRUE_COLOUR = "#5cff5c"
COLUMNS, ROWS = 4, 2
TILE_INCHES = 2.6


def write_overlay(
    volume: Volume,
    labels_ZYX: NDArray[np.integer],
    path: str | Path,
    *,
    names: Sequence[str],
    values: Sequence[int],
    true_ZYX: NDArray[np.integer] | None = None,
    window: str = "auto",
    title: str = "",
) -> None:
    """Write a PNG of eight slices of the acquired plane, spread over the extent of what is outlined.

    Args:
        names, values: of the labels; each found label has its colour. true_ZYX: the true labels, outlined in green.
    """
    from matplotlib.figure import Figure

    place = checked_place(Path(path))
    axis = volume.acquisition_axis
    bounds = window_bounds(volume, channel_windows(window)[0], threshold=foreground_threshold(volume))
    shown = pick_slices(labels_ZYX, true_ZYX, axis=axis, count=COLUMNS * ROWS)
    rows, columns = [other for other in range(3) if other != axis]
    spacing = volume.spacing_mm or (1.0, 1.0, 1.0)
    aspect = spacing[rows] / spacing[columns]
    height = TILE_INCHES * min(max(volume.shape[rows] / volume.shape[columns] * aspect, 0.4), 2.0)
    figure = Figure(figsize=(COLUMNS * TILE_INCHES, ROWS * height + 0.75), dpi=110, facecolor="black")
    grid = figure.add_gridspec(ROWS, COLUMNS, wspace=0.03, hspace=0.12, left=0.01, right=0.99, bottom=0.01)
    grid.update(top=1 - 0.75 / figure.get_figheight())
    for number, index in enumerate(shown):
        axes = figure.add_subplot(grid[divmod(number, COLUMNS)])
        axes.imshow(bounds.to_grey(upright(volume.voxels, axis, index)), cmap="gray", vmin=0, vmax=1,
                    aspect=aspect, interpolation="bilinear")  # fmt: skip
        for colour, value in zip(cycle(FOUND_COLOURS), values, strict=False):
            _outline(axes, upright(labels_ZYX, axis, index) == value, colour)
        if true_ZYX is not None:
            _outline(axes, upright(true_ZYX, axis, index) > 0, TRUE_COLOUR)
        axes.set_axis_off()
        (source,) = volume.geometry.source_slices([index])
        axes.set_title(f"slice {source}", color="#bbbbbb", fontsize=7, pad=2)
        if number == 0:
            mark_sides(axes, PLANES[axis] if volume.affine_lps is not None else None)
    known = list(zip(cycle(FOUND_COLOURS), names, strict=False))
    if true_ZYX is not None:
        known.append((TRUE_COLOUR, "the truth"))
    figure.text(0.01, 0.985, title, color="white", fontsize=9, va="top")
    for number, (colour, name) in enumerate(known):
        figure.text(
            0.01 + 0.98 / max(7, len(known)) * number,
            1 - 0.42 / figure.get_figheight(),
            f"— {name}",
            color=colour,
            fontsize=8,
        )
    save_figure(figure, place)


def draw_prediction(path: Path, volume: Volume, labels_ZYX: NDArray[np.integer], segmenter: Segmenter) -> None:
    """The overlay of one predicted scan."""
    title = f"{scan_line(volume)}\nfor research use only; not a medical device"
    names, values, window = segmenter.names, segmenter.values, segmenter.preparation.window
    write_overlay(volume, labels_ZYX, path, names=names, values=values, window=window, title=title)


def draw_scored_scan(
    folder: Path,
    run: str,
    case: ScanCase,
    volume: Volume,
    found_ZYX: NDArray[np.integer],
    true_ZYX: NDArray[np.integer],
    scores: Sequence[CaseScore],
    segmenter: Segmenter,
) -> None:
    """The overlay of one scored scan of a run, with the truth, in the run's folder."""
    (folder / "overlays").mkdir(exist_ok=True)
    dice = ", ".join(f"{score.structure} {score.dice:.2f}" for score in scores)
    write_overlay(
        volume,
        found_ZYX,
        folder / "overlays" / f"{case.name}.png",
        names=segmenter.names,
        values=segmenter.values,
        true_ZYX=np.where(np.isin(true_ZYX, segmenter.values), true_ZYX, 0),
        window=segmenter.preparation.window,
        title=f"{run} · {case.split} scan of line {case.line} · Dice {dice[:80]}",
    )


def pick_slices(
    labels_ZYX: NDArray[np.integer], true_ZYX: NDArray[np.integer] | None, *, axis: int, count: int
) -> list[int]:
    """Slices spread evenly over the extent of both masks, or over the scan where both are empty; none twice."""
    marked = labels_ZYX > 0 if true_ZYX is None else (labels_ZYX > 0) | (true_ZYX > 0)
    held = np.flatnonzero(marked.any(axis=tuple(other for other in range(3) if other != axis)))
    first, last = (held[0], held[-1]) if held.size else (0, labels_ZYX.shape[axis] - 1)
    return sorted({int(place) for place in np.linspace(first, last, count).round()})


def upright(values_ZYX: NDArray[Any], axis: int, index: int) -> NDArray[Any]:
    """One canonical slice as a radiological picture: axial anterior up, the others superior up, left on the right."""
    picture: NDArray[Any] = np.take(values_ZYX, index, axis=axis)
    return picture if axis == 0 else picture[::-1]


def _outline(axes: Axes, mask: NDArray[np.bool_], colour: str) -> None:
    if mask.any():
        axes.contour(mask.astype(float), levels=[0.5], colors=[colour], linewidths=0.9)
