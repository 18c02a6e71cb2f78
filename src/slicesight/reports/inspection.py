"""What would a model be shown of this file, and what about it is doubtful? (`slicesight inspect`)"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from slicesight.io.assemble import Unit, checked_unit
from slicesight.io.loading import read_volume
from slicesight.reports.figure import mark_sides, save_figure
from slicesight.volumes.grid import GridSpec, GridVolume, to_grid
from slicesight.volumes.receipt import scan_line
from slicesight.volumes.volume import PLANES, Plane, Volume

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLUMNS, _ROWS = 6, 4
_TILE_INCHES = 1.7
_PIXELS = 192
_MIDDLE_SLICES = 64
_DPI = 110


def inspect(
    path: str | Path,
    *,
    spec: GridSpec | None = None,
    png: str | Path | None = None,
    series_uid: str | None = None,
    spacing_mm: tuple[float, float, float] | None = None,
    time_point: int | None = None,
    unit: Unit | None = None,
    fill: str | float | None = None,
) -> dict[str, Any]:
    """Read a scan and return its receipt; nothing is written unless `png` names a contact sheet.

    Args:
        spec: the grid to describe; the default one when None.
        series_uid, spacing_mm, time_point, unit, fill: as in `read_volume`.

    Raises:
        VolumeError: one line, when the scan cannot be read.
    """
    volume = read_volume(
        path, series_uid=series_uid, spacing_mm=spacing_mm, time_point=time_point, unit=unit, fill=fill
    )
    grid = to_grid(volume, spec or GridSpec())
    if png is not None:
        write_contact_sheet(volume, png, window=grid.spec.window)
    return grid.receipt


def print_receipt(
    path: Path,
    *,
    window: str,
    plane: str,
    series_uid: str | None,
    spacing_mm: tuple[float, float, float] | None,
    time_point: int | None,
    unit: str | None,
    fill: str | None,
    png: Path | None,
    as_json: bool,
) -> None:
    """Print a scan's receipt, as lines or JSON; the name of a contact sheet written goes to stderr."""
    receipt = inspect(
        path,
        spec=GridSpec(window=window, plane=plane),
        png=png,
        series_uid=series_uid,
        spacing_mm=spacing_mm,
        time_point=time_point,
        unit=checked_unit(unit),
        fill=fill,
    )
    text = json.dumps({"schema": 1, **receipt}, indent=2) if as_json else "\n".join(receipt_lines(receipt))
    sys.stdout.write(text + "\n")
    if png is not None:
        sys.stderr.write(f"wrote {png}\n")


def receipt_lines(receipt: dict[str, Any]) -> list[str]:
    """The receipt as lines for a shell."""
    z, y, x = receipt["shape_zyx"]
    modality = "unknown modality" if receipt["modality"] == "unknown" else receipt["modality"]
    unit = f"{receipt['unit']} units" if receipt["unit"] == "arbitrary" else receipt["unit"]
    spacing, grid = receipt["spacing_mm_zyx"], receipt["grid"]
    stored = receipt["stored_orientation"]
    facts = {key: value for key, value in receipt["source"].items() if key != "stored_orientation" and value != ""}
    crop = zip("zyx", receipt["crop_zyx"], strict=True)
    return [
        f"{modality} in {unit}, {x}×{y}×{z} voxels (x, y, z)",
        "spacing  " + ("unknown" if spacing is None else "×".join(f"{size:.3f}" for size in spacing[::-1]) + " mm"),
        f"plane    {receipt['plane']}, {receipt['num_source_slices']} slices, stored as {stored}",
        "place    " + ("LPS millimetres known" if receipt["has_positions"] else "unknown: positions are null"),
        "file     " + ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in facts.items()),
        *(
            f"window   {window['name']} {window['low']:g}…{window['high']:g} {window['unit']}"
            for window in receipt.get("windows", [receipt["window"]])
        ),
        "crop     " + ", ".join(f"{axis} {start}–{stop - 1}" for axis, (start, stop) in crop),
        f"grid     {grid['num_slices']}×{grid['height']}×{grid['width']}, {grid['plane']}, {receipt['resize']}",
        *(["synthetic: this scan is a phantom"] if receipt["is_synthetic"] else []),
        *(f"warning  {text}" for text in receipt["warnings"]),
    ]


def write_contact_sheet(volume: Volume, path: str | Path, *, window: str = "auto") -> None:
    """Write a PNG: 18 slices in the acquired plane, then the middle of each plane, in patient proportions."""
    from matplotlib.figure import Figure

    acquired = _grid(volume, volume.plane, window, num_slices=_COLUMNS * (_ROWS - 1))
    figure = Figure(figsize=(_COLUMNS * _TILE_INCHES, (_ROWS + 0.6) * _TILE_INCHES + 0.9), dpi=_DPI, facecolor="black")
    places = figure.add_gridspec(_ROWS, _COLUMNS, wspace=0.04, hspace=0.16, height_ratios=[1] * (_ROWS - 1) + [1.6])
    for place, piece in enumerate(acquired.slices):
        first, last = piece.source_slices[0], piece.source_slices[-1]
        where = f"slice {first}" if first == last else f"slice {first}–{last}"
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
    save_figure(figure, Path(path))


def _grid(volume: Volume, plane: Plane, window: str, *, num_slices: int) -> GridVolume:
    spec = GridSpec(num_slices=num_slices, height=_PIXELS, width=_PIXELS, plane=plane, window=window)
    return to_grid(volume, spec)


def _show(axes: Axes, volume: Volume, grid: GridVolume, index: int, *, title: str, with_sides: bool) -> None:
    axes.imshow(grid.voxels[index], cmap="gray", vmin=0, vmax=1, aspect=_aspect(volume, grid), interpolation="bilinear")
    axes.set_axis_off()
    axes.set_title(title, color="#bbbbbb", fontsize=6.5, pad=2)
    if with_sides:
        mark_sides(axes, grid.plane if volume.affine_lps is not None else None)


def _aspect(volume: Volume, grid: GridVolume) -> float:
    """Height of a grid pixel over its width, so that the patient keeps his proportions."""
    spacing = volume.spacing_mm or (1.0, 1.0, 1.0)
    rows, columns = [axis for axis in range(3) if PLANES[axis] != grid.plane]
    extent = [(stop - start) * size for (start, stop), size in zip(grid.box, spacing, strict=True)]
    return float(np.clip(extent[rows] / extent[columns], 0.1, 10.0))
