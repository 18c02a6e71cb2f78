"""What does a scan look like, at a glance and with its sides named? A picture for checking that it was read right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from slicesight.files import replacing
from slicesight.volumes.grid import GridSpec, GridVolume, to_grid
from slicesight.volumes.receipt import scan_line
from slicesight.volumes.volume import PLANES, Plane, Volume

_SIDES: dict[Plane, tuple[str, str, str, str]] = {  # left, right, top, bottom of the picture
    "axial": ("R", "L", "A", "P"),
    "coronal": ("R", "L", "S", "I"),
    "sagittal": ("A", "P", "S", "I"),
}
_COLUMNS, _ROWS = 6, 4
_TILE_INCHES = 1.7
_PIXELS = 192
_MIDDLE_SLICES = 64
_DPI = 110


def write_contact_sheet(volume: Volume, path: str | Path, *, window: str = "auto") -> None:
    """Write a PNG: 18 slices in the acquired plane, then the middle of each plane, in patient proportions."""
    acquired = _grid(volume, volume.plane, window, num_slices=_COLUMNS * (_ROWS - 1))
    figure = Figure(figsize=(_COLUMNS * _TILE_INCHES, (_ROWS + 0.6) * _TILE_INCHES + 0.9), dpi=_DPI, facecolor="black")
    FigureCanvasAgg(figure)
    places = figure.add_gridspec(_ROWS, _COLUMNS, wspace=0.04, hspace=0.16, height_ratios=[1] * (_ROWS - 1) + [1.6])
    for place, piece in enumerate(acquired.slices):
        where = f"slice {_span(piece.source_slices)}"
        if piece.position_mm is not None:
            where += f" · {'zyx'[volume.acquisition_axis]} {piece.position_mm[2 - volume.acquisition_axis]:.0f} mm"
        axes = figure.add_subplot(places[divmod(place, _COLUMNS)])
        _show(axes, volume, acquired, piece.index, title=where, with_sides=place == 0)
    for column, plane in enumerate(PLANES):
        axes = figure.add_subplot(places[_ROWS - 1, 2 * column : 2 * column + 2])
        thin = _grid(volume, plane, window, num_slices=min(volume.shape[PLANES.index(plane)], _MIDDLE_SLICES))
        _show(axes, volume, thin, thin.spec.num_slices // 2, title=f"middle, {plane}", with_sides=True)
    facts = acquired.receipt["window"]
    view = "radiological view" if volume.affine_lps is not None else "sides unknown"
    heading = f"{scan_line(volume)}\nwindow {facts['name']} {facts['low']:g}…{facts['high']:g} · {view}"
    warnings = "\n".join(f"! {text[:150]}" for text in volume.warnings[:4])
    figure.suptitle(heading, color="white", fontsize=10, y=0.985)
    figure.text(0.01, 0.005, warnings, color="#ffb347", fontsize=6.5, va="bottom")
    figure.subplots_adjust(left=0.005, right=0.995, bottom=0.055, top=0.89)
    with replacing(Path(path)) as temporary:
        figure.savefig(temporary, format="png", facecolor="black")


def _grid(volume: Volume, plane: Plane, window: str, *, num_slices: int) -> GridVolume:
    spec = GridSpec(num_slices=num_slices, height=_PIXELS, width=_PIXELS, plane=plane, window=window)
    return to_grid(volume, spec)


def _show(axes: Any, volume: Volume, grid: GridVolume, index: int, *, title: str, with_sides: bool) -> None:
    axes.imshow(grid.voxels[index], cmap="gray", vmin=0, vmax=1, aspect=_aspect(volume, grid), interpolation="bilinear")
    axes.set_axis_off()
    axes.set_title(title, color="#bbbbbb", fontsize=6.5, pad=2)
    if with_sides:
        left, right, top, bottom = _SIDES[grid.plane] if volume.affine_lps is not None else ("?", "?", "?", "?")
        for x, y, letter in ((0.04, 0.5, left), (0.96, 0.5, right), (0.5, 0.94, top), (0.5, 0.06, bottom)):
            axes.text(x, y, letter, transform=axes.transAxes, color="#ffd75f", fontsize=8, ha="center", va="center")


def _aspect(volume: Volume, grid: GridVolume) -> float:
    """Height of a grid pixel over its width, so that the patient keeps his proportions."""
    spacing = volume.spacing_mm or (1.0, 1.0, 1.0)
    rows, columns = [axis for axis in range(3) if PLANES[axis] != grid.plane]
    extent = [(stop - start) * size for (start, stop), size in zip(grid.box, spacing, strict=True)]
    return float(np.clip(extent[rows] / extent[columns], 0.1, 10.0))


def _span(slices: tuple[int, ...]) -> str:
    return f"{slices[0]}" if len(slices) == 1 else f"{slices[0]}–{slices[-1]}"
