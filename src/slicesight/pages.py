"""How is the report read on a phone, kept in a folder or sent to a colleague? One HTML file that needs nothing else.

Every grid slice is inside it once, as a picture; answers point at it. No address outside the file is ever asked.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slicesight import __version__
from slicesight.evidence import Truth, pick_over_volume, place_name, sides, slice_name, stacking_axis, summarise
from slicesight.figures import NUM_PICTURES, height_over_width
from slicesight.model_card import RESEARCH_NOTICE, ModelCard
from slicesight.reader import Answer
from slicesight.volumes.grid import GridVolume

PICTURE_WIDTH = 240
BARS_HEIGHT, TRUTH_HEIGHT = 60, 5
STACK_ENDS = {"axial": ("feet", "head"), "coronal": ("front", "back"), "sagittal": ("right", "left")}


def render_page(
    grid: GridVolume,
    answers: Sequence[Answer],
    *,
    card: ModelCard,
    title: str,
    reading: str,
    warnings: Sequence[str] = (),
    truths: Sequence[Truth | None] = (),
) -> str:
    """The report as HTML text.

    Args:
        title: the scan in one line; reading: how it was put on the model's grid, in one line.
        truths: what is known to be right, one per answer.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    known = list(truths) or [None] * len(answers)
    height = round(PICTURE_WIDTH * height_over_width(grid))
    has_positions = stacking_axis(grid.slices) is not None
    environment = Environment(
        loader=PackageLoader("slicesight"), autoescape=True, undefined=StrictUndefined, trim_blocks=False
    )
    return environment.get_template("report.html.j2").render(
        title=title,
        reading=reading,
        notice=RESEARCH_NOTICE,
        warnings=warnings,
        model=card,
        version=__version__,
        width=PICTURE_WIDTH,
        height=height,
        sides=sides(grid.plane) if has_positions else None,
        stack_ends=STACK_ENDS[grid.plane] if has_positions else ("first", "last"),
        pictures=[_picture(voxels, height=height) for voxels in grid.voxels],
        captions=[_caption(grid, index) for index in range(len(grid.slices))],
        blocks=[_block(grid, answer, truth) for answer, truth in zip(answers, known, strict=True)],
        receipt=list(_rows(grid.receipt)),
    )


def _caption(grid: GridVolume, index: int) -> str:
    return " · ".join(filter(None, (slice_name(grid.slices, index), place_name(grid.slices, index))))


def _block(grid: GridVolume, answer: Answer, truth: Truth | None) -> dict[str, Any]:
    evidence = summarise(answer)
    pictured = pick_over_volume(answer.scores, count=NUM_PICTURES)
    peak = max(pictured, key=lambda index: answer.scores[index])
    widest = max([*(found.share for found in evidence.ranges), evidence.other_share])
    shows_truth = set(truth.grid_slices) if truth else set()
    drawable = BARS_HEIGHT - (TRUTH_HEIGHT + 1 if shows_truth else 0)
    ceiling = max(*answer.scores, 2 / len(answer.scores))
    return {
        "question": answer.question,
        "text": answer.text,
        "truth": truth,
        "marks_truth": bool(shows_truth),
        "ranges": [
            {
                "slices": found.name,
                "place": found.place,
                "percent": round(100 * found.share / widest, 1),
                "share": f"{found.share:.2f}",
            }
            for found in evidence.ranges
        ],
        "rest": evidence.num_other_slices
        and {
            "label": f"the other {evidence.num_other_slices} of {len(answer.scores)} grid slices",
            "percent": round(100 * evidence.other_share / widest, 1),
            "share": f"{evidence.other_share:.2f}",
        },
        "tiles": [
            {
                "index": index,
                "label": slice_name(grid.slices, index),
                "place": place_name(grid.slices, index),
                "score": f"{answer.scores[index]:.2f}",
                "is_peak": index == peak,
            }
            for index in pictured
        ],
        "bars": [
            {
                "x": index * 10 + 1,
                "y": round(drawable * (1 - score / ceiling), 2),
                "height": round(drawable * score / ceiling, 2),
                "is_pictured": index in pictured,
                "shows_truth": index in shows_truth,
                "title": f"{_caption(grid, index)} · score {score:.3f}",
            }
            for index, score in enumerate(answer.scores)
        ],
        "even_y": round(drawable * (1 - 1 / len(answer.scores) / ceiling), 2),
    }


def _picture(voxels_HW: NDArray[np.float32], *, height: int) -> str:
    from PIL import Image

    grey = Image.fromarray(np.rint(voxels_HW * 255).astype(np.uint8))
    file = io.BytesIO()
    grey.resize((PICTURE_WIDTH * 2, height * 2), Image.Resampling.BICUBIC).save(file, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode("ascii")


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
