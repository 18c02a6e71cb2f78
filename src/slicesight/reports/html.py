"""How is the report read on a phone, kept in a folder or sent to a colleague? One HTML file that needs nothing else.

Every grid slice is inside it once, as a picture; answers point at it. No address outside the file is ever asked.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from slicesight import __version__
from slicesight.inference.answers import Answer
from slicesight.models.card import RESEARCH_NOTICE
from slicesight.reports.evidence import (
    KnownTruth,
    caveat_of,
    confidence_line,
    describe_answer,
    doubts_about,
    listed,
    named_place,
    others_of,
    peak_slice,
    place_name,
    share_name,
    sides,
    slice_name,
    stacking_axis,
    summarise,
)
from slicesight.reports.figure import height_over_width, pick_pictures
from slicesight.volumes.grid import GridVolume

if TYPE_CHECKING:
    from PIL.Image import Image

    from slicesight.reports.ask import AnswerReport

PICTURE_WIDTH = 240
BARS_HEIGHT, TRUTH_HEIGHT = 60, 5
STACK_ENDS = {"axial": ("feet", "head"), "coronal": ("front", "back"), "sagittal": ("right", "left")}


def render_page(report: AnswerReport) -> str:
    """The report as HTML text."""
    grid = report.grid
    has_positions = stacking_axis(grid.slices) is not None
    pieces = grid.scored_slices
    return render_template(
        "report.html.j2",
        title=report.title,
        reading=report.reading,
        notes=report.volume.warnings,
        warnings=report.warnings,
        model=report.card,
        width=PICTURE_WIDTH,
        stacks=[
            {
                "height": (height := round(PICTURE_WIDTH * height_over_width(stack))),
                "sides": sides(stack.plane) if has_positions else None,
                "ends": STACK_ENDS[stack.plane] if has_positions else ("first", "last"),
                "plane": stack.plane if grid.planes else "",
                "first": number * len(stack.slices),
                "pictures": [
                    data_address(grey_image(voxels_HW, width=2 * PICTURE_WIDTH, height=2 * height))
                    for voxels_HW in stack.voxels
                ],
            }
            for number, stack in enumerate(grid.stacks)
        ],
        captions=[named_place(pieces, index) for index in range(len(pieces))],
        blocks=[_block(grid, answer, truth) for answer, truth in report.judged],
        receipt=list(_rows(grid.receipt)),
    )


def render_template(name: str, **facts: Any) -> str:
    """A page of `templates/` with the notice and the version that each of them shows."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(loader=PackageLoader("slicesight.reports"), autoescape=True, undefined=StrictUndefined)
    return environment.get_template(name).render(notice=RESEARCH_NOTICE, version=__version__, **facts)


def grey_image(voxels_HW: NDArray[np.float32], *, width: int, height: int) -> Image:
    """A grid slice in the size of its picture."""
    from PIL import Image

    grey = Image.fromarray(np.rint(voxels_HW * 255).astype(np.uint8))
    return grey.resize((width, height), Image.Resampling.BICUBIC)


def data_address(image: Image) -> str:
    """The image as a JPEG inside the page."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def png_address(path: Path) -> str:
    """A PNG file inside the page."""
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii")


def _block(grid: GridVolume, answer: Answer, truth: KnownTruth | None) -> dict[str, Any]:
    pictured = pick_pictures(answer, grid=grid)
    peak, pieces = peak_slice(answer), grid.scored_slices
    shows_truth = truth.grid_slices if truth else ()
    return {
        "question": answer.question,
        "text": answer.text,
        "sure": confidence_line(answer),
        "is_held_back": answer.would_say is not None,
        "doubts": doubts_about(answer),
        "truth": truth,
        "marks_truth": bool(shows_truth),
        "truth_planes": listed(list(dict.fromkeys(pieces[index].plane or "" for index in shows_truth) or [""])),
        "ranges": list(range_rows(answer)),
        "evidence": describe_answer(answer),
        "caveat": caveat_of(answer),
        "share_name": share_name(answer),
        "tiles": [
            {
                "index": index,
                "stack": index // len(grid.slices),
                "label": slice_name(pieces, index),
                "place": place_name(pieces, index),
                "score": f"{answer.scores[index]:.2f}" if answer.scores else "",
                "is_peak": index == peak,
            }
            for index in pictured
        ],
        "chart": _chart(grid, answer, pictured, truth) if answer.scores else None,
    }


def range_rows(answer: Answer) -> Iterator[dict[str, Any]]:
    """Rows of the evidence table, the last one for all slices that are not named."""
    evidence = summarise(answer)
    num_others, others_share = others_of(evidence)
    rows = [(found.name, found.place, found.share, False) for found in evidence.shown]
    if num_others:
        others = f"the other {num_others}" if rows else f"all {num_others} about alike"
        rows.append((others, "", others_share, True))
    widest = max([share for *_, share, _ in rows], default=1.0) or 1.0
    for name, place, share, is_rest in rows:
        percent = round(100 * share / widest, 1)
        yield {"name": name, "place": place, "percent": percent, "share": f"{share:.2f}", "is_rest": is_rest}


def _chart(grid: GridVolume, answer: Answer, pictured: Sequence[int], truth: KnownTruth | None) -> dict[str, Any]:
    """Bars in a box of BARS_HEIGHT, the truth's marks along its bottom."""
    shows_truth = truth.grid_slices if truth else ()
    even_y, bars = score_bars(answer.scores, height=BARS_HEIGHT - (TRUTH_HEIGHT + 1 if shows_truth else 0))
    return {
        "even_y": even_y,
        "bars": [
            {
                **bar,
                "is_pictured": index in pictured,
                "shows_truth": index in shows_truth,
                "title": f"{named_place(grid.scored_slices, index)} · {share_name(answer)} {answer.scores[index]:.3f}",
            }
            for index, bar in enumerate(bars)
        ],
    }


def score_bars(scores: Sequence[float], *, height: int) -> tuple[float, list[dict[str, float]]]:
    """Where the line of an even spread lies, and every score's bar, in a box of this height."""
    ceiling = max(*scores, 2 / len(scores))
    bars = [
        {"y": round(height * (1 - score / ceiling), 2), "height": round(height * score / ceiling, 2)}
        for score in scores
    ]
    return round(height * (1 - 1 / len(scores) / ceiling), 2), bars


def _rows(facts: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """The receipt as rows of plain text, nested facts flattened to `window low`."""
    for key, value in facts.items():
        name = f"{prefix} {key}".strip().replace("_", " ")
        if isinstance(value, Mapping):
            yield from _rows(value, name)
        elif isinstance(value, list | tuple):
            yield name, ", ".join(str(part) for part in value) or "none"
        else:
            yield name, {None: "unknown", True: "yes", False: "no"}.get(value, str(value))
