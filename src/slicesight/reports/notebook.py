"""What does a notebook show of an answer, a scan or a score sheet that stands last in a cell?

Small pieces of HTML, escaped, with nothing from outside: the classes' `_repr_html_` find them here by name. Bars,
ranges, pictures and tables are those of the reports; `slicesight.reports.widget` is the interactive viewer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slicesight.evaluation.predictions import TASKS
from slicesight.inference.answers import Answer
from slicesight.reports.evaluation_html import block_tables, control_rows
from slicesight.reports.evidence import (
    caveat_of,
    confidence_line,
    describe_answer,
    doubts_about,
    named_place,
    share_name,
    sides,
)
from slicesight.reports.html import data_address, grey_image, range_rows, render_template, score_bars
from slicesight.volumes.foreground import foreground_threshold
from slicesight.volumes.receipt import scan_line, scan_receipt
from slicesight.volumes.volume import PLANES, Plane, Volume
from slicesight.volumes.windows import window_bounds

BARS_HEIGHT = 48
PICTURE_SIDE = 150
"""Longest side of a picture, in pixels."""
FEW_SCANS = 10
"""Below so many a bootstrap's intervals are much too narrow, and said to be."""
MAX_QUESTION = 2000
"""Characters of a text that are shown; a report's page has all of it."""


def answer_html(answer: Answer) -> str:
    """Question, answer, how sure, and the slices that weigh most, with a bar per slice."""
    by_index = sorted(answer.slices, key=lambda found: found.grid_slice)
    chart = None
    if answer.scores and by_index:
        even_y, bars = score_bars(answer.scores, height=BARS_HEIGHT)
        peak = answer.slices[0].grid_slice
        titles = [
            f"{named_place(by_index, index)} · {share_name(answer)} {score:.3f}"
            for index, score in enumerate(answer.scores)
        ]
        chart = {
            "even_y": even_y,
            "bars": [
                {**bar, "is_peak": index == peak, "title": title}
                for index, (bar, title) in enumerate(zip(bars, titles, strict=True))
            ],
        }
    return render_template(
        "notebook.html.j2",
        kind="answer",
        question=_shortened(answer.question),
        text=_shortened(answer.text),
        sure=confidence_line(answer, with_reason=True),
        is_held_back=answer.would_say is not None,
        doubts=doubts_about(answer),
        ranges=list(range_rows(answer)),
        evidence=describe_answer(answer),
        caveat=caveat_of(answer) if answer.slices else "",
        height=BARS_HEIGHT,
        chart=chart,
    )


def volume_html(volume: Volume) -> str:
    """The middle slice of each plane in the patient's proportions, what the scan is, and what is doubtful about it."""
    facts = scan_receipt(volume)
    window = window_bounds(volume, "auto", threshold=foreground_threshold(volume))
    has_sides = volume.affine_lps is not None
    return render_template(
        "notebook.html.j2",
        kind="volume",
        title=scan_line(volume),
        facts=[
            ("values", f"{volume.unit}, shown {window.low:g}…{window.high:g} ({window.name.replace('_', ' ')})"),
            ("stored", f"{volume.num_source_slices} {volume.plane} slices, {facts['stored_orientation']}"),
            ("place", "LPS millimetres known" if has_sides else "unknown: positions are null, sides may be swapped"),
            *([("kind", "synthetic: this scan is a phantom")] if volume.is_synthetic else []),
        ],
        warnings=volume.warnings,
        pictures=[
            {
                "plane": plane,
                "address": data_address(_picture(volume, plane, window.to_grey(middle_slice(volume, plane)))),
                "sides": sides(plane)[:2] if has_sides else "??",
            }
            for plane in PLANES
        ],
    )


def middle_slice(volume: Volume, plane: Plane) -> NDArray[np.float32]:
    """The middle slice of a plane as an upright radiological picture (rows, columns)."""
    axis = PLANES.index(plane)
    slice_RC: NDArray[np.float32] = np.take(volume.voxels, volume.shape[axis] // 2, axis=axis)
    return slice_RC if plane == "axial" else slice_RC[::-1]


def sheet_html(sheet: Mapping[str, Any]) -> str:
    """A system's figures with their intervals, the controls beside it, and what is missing."""
    counted = {task: sheet[task]["num_pairs"] for task in TASKS if sheet[task] is not None}
    return render_template(
        "notebook.html.j2",
        kind="sheet",
        system=sheet["system"],
        counted=[f"{number} {task}" for task, number in counted.items()],
        num_volumes=sheet["num_volumes"],
        few_scans=_few_scans(sheet["num_volumes"]),
        tables=block_tables(sheet),
        controls=control_rows(sheet),
        missing=sorted(sheet["missing"].items()),
    )


def _picture(volume: Volume, plane: Plane, grey_RC: NDArray[np.float32]) -> Any:
    rows, columns = [axis for axis in range(3) if PLANES[axis] != plane]
    spacing = volume.spacing_mm or (1.0, 1.0, 1.0)
    height, width = volume.shape[rows] * spacing[rows], volume.shape[columns] * spacing[columns]
    scale = PICTURE_SIDE / max(height, width)
    return grey_image(grey_RC, width=max(1, round(width * scale)), height=max(1, round(height * scale)))


def _few_scans(count: int | None) -> str:
    """What must be read with intervals that a bootstrap draws from a handful of scans; empty where there are enough."""
    if count is None or count >= FEW_SCANS:
        return ""
    said = "one scan has no interval" if count == 1 else f"drawn from {count} scans, intervals are too narrow"
    return f"Too few scans: {said}."


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_QUESTION else f"{text[:MAX_QUESTION]} … ({len(text)} characters)"
