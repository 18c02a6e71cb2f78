"""What would a model be shown of this file, and what about it is doubtful? (`slicesight inspect`)"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from slicesight.io.assemble import Unit, checked_unit
from slicesight.io.loading import read_volume
from slicesight.reports.contact_sheet import write_contact_sheet
from slicesight.volumes.grid import GridSpec, to_grid


def inspect(
    path: str | Path,
    *,
    spec: GridSpec | None = None,
    png: str | Path | None = None,
    series_uid: str | None = None,
    spacing_mm: tuple[float, float, float] | None = None,
    time_point: int | None = None,
    unit: Unit | None = None,
) -> dict[str, Any]:
    """Read a scan and return its receipt; nothing is written unless `png` names a contact sheet.

    Args:
        spec: the grid to describe; the default one when None.
        series_uid, spacing_mm, time_point, unit: as in `read_volume`.

    Raises:
        VolumeError: one line, when the scan cannot be read.
    """
    volume = read_volume(path, series_uid=series_uid, spacing_mm=spacing_mm, time_point=time_point, unit=unit)
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
    )
    text = json.dumps(receipt, indent=2, ensure_ascii=False) if as_json else "\n".join(receipt_lines(receipt))
    sys.stdout.write(text + "\n")
    if png is not None:
        sys.stderr.write(f"wrote {png}\n")


def receipt_lines(receipt: dict[str, Any]) -> list[str]:
    """The receipt as lines for a shell."""
    z, y, x = receipt["shape_zyx"]
    modality = "unknown modality" if receipt["modality"] == "unknown" else receipt["modality"]
    unit = f"{receipt['unit']} units" if receipt["unit"] == "arbitrary" else receipt["unit"]
    lines = [f"{modality} in {unit}, {x}×{y}×{z} voxels (x, y, z)"]
    spacing = receipt["spacing_mm_zyx"]
    lines.append(
        "spacing  " + ("unknown" if spacing is None else "×".join(f"{size:.3f}" for size in spacing[::-1]) + " mm")
    )
    stored = receipt["stored_orientation"]
    lines.append(f"plane    {receipt['plane']}, {receipt['num_source_slices']} slices, stored as {stored}")
    lines.append("place    " + ("LPS millimetres known" if receipt["has_positions"] else "unknown: positions are null"))
    facts = {key: value for key, value in receipt["source"].items() if key != "stored_orientation" and value != ""}
    lines.append("file     " + ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in facts.items()))
    for window in receipt.get("windows", [receipt["window"]]):
        lines.append(f"window   {window['name']} {window['low']:g}…{window['high']:g} {window['unit']}")
    (z0, z1), (y0, y1), (x0, x1) = receipt["crop_zyx"]
    lines.append(f"crop     z {z0}–{z1 - 1}, y {y0}–{y1 - 1}, x {x0}–{x1 - 1}")
    grid = receipt["grid"]
    lines.append(
        f"grid     {grid['num_slices']}×{grid['height']}×{grid['width']}, {grid['plane']}, {receipt['resize']}"
    )
    if receipt["is_synthetic"]:
        lines.append("synthetic: this scan is a phantom")
    lines.extend(f"warning  {text}" for text in receipt["warnings"])
    return lines
