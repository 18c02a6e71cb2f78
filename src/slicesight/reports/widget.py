"""How does one leaf through a scan beside an answer's scores, in a notebook? Slices, a slider, bars to click.

    >>> from slicesight.reports.widget import SliceViewer
    >>> SliceViewer(predictor.grid(scan), predictor.ask(scan, ["Which phase is this?"]), card=predictor.card)

An anywidget (https://anywidget.dev): its traits are the whole contract between Python and the page, which draws from
them and writes back `index` and `answer_number` only. Nothing is fetched from anywhere. Needs `slicesight[notebook]`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from slicesight.errors import InputError, check_type
from slicesight.inference.answers import Answer
from slicesight.models.card import RESEARCH_NOTICE, ModelCard
from slicesight.reports.evidence import (
    caveats_of,
    confidence_line,
    describe_answer,
    doubts_about,
    named_place,
    share_name,
    sides,
    stacking_axis,
)
from slicesight.volumes.grid import GridVolume, height_over_width

try:
    import anywidget
    import traitlets
except ImportError as error:
    raise InputError(
        "the slice viewer needs anywidget, which is not installed; pip install 'slicesight[notebook]', or write a page "
        "with slicesight ask --html"
    ) from error

_SOURCES = Path(__file__).parent / "templates"
MAX_BYTES = 64 << 20
"""Of the pictures that are sent to the page; 32 slices of 256 × 256 are 2 MiB."""


class SliceViewer(anywidget.AnyWidget):
    """The grid's slices with the scores of one or more answers.

    Traits:
        pixels: N·H·W bytes, the scored slices in the order of the scores, 0 black and 255 white.
        shape: [N, H, W]; proportions: height over width of each slice as the patient has it.
        names, sides: what each slice is called, and the letters at its left, right, top and bottom edge.
        answers: {question, text, scores, ceiling, confidence, doubts, evidence, share_name} of each.
        index: the slice shown, from 0; answer_number: the answer shown. Both may be set and observed.
    """

    _esm = (_SOURCES / "viewer.js").read_text(encoding="utf-8")
    _css = (_SOURCES / "viewer.css").read_text(encoding="utf-8")
    pixels = traitlets.Bytes().tag(sync=True)
    shape = traitlets.List(traitlets.Int()).tag(sync=True)
    proportions = traitlets.List(traitlets.Float()).tag(sync=True)
    names = traitlets.List(traitlets.Unicode()).tag(sync=True)
    sides = traitlets.List(traitlets.Unicode()).tag(sync=True)
    answers = traitlets.List(traitlets.Dict()).tag(sync=True)
    notices = traitlets.List(traitlets.Unicode()).tag(sync=True)
    index = traitlets.Int(0).tag(sync=True)
    answer_number = traitlets.Int(0).tag(sync=True)

    def __init__(
        self,
        grid: GridVolume,
        answers: Answer | Sequence[Answer] = (),
        *,
        card: ModelCard | None = None,
        **traits: Any,
    ) -> None:
        """The first answer's heaviest slice is shown first, else the middle one.

        Args:
            grid: the scan as the model saw it, `Predictor.grid(scan)`.
            answers: what `Predictor.ask` said about it; without any, the slices alone.
            card: of the model, `predictor.card`; what must be read about it then stands below.

        Raises:
            InputError: an answer has another number of scores than the grid has slices: it is about another grid.
        """
        check_type(grid, GridVolume, name="grid", expected="a GridVolume, as Predictor.grid(scan) gives it")
        given = [answers] if isinstance(answers, Answer) else list(answers)
        pieces = grid.scored_slices
        for answer in given:
            check_type(answer, Answer, name="answers", expected="what Predictor.ask gives")
            if answer.scores and len(answer.scores) != len(pieces):
                raise InputError(
                    f"answers: {answer.question[:60]!r} has {len(answer.scores)} scores, the grid {len(pieces)} "
                    "slices; take the grid of the predictor that answered: predictor.grid(scan)"
                )
        pixels = np.concatenate([np.rint(stack.voxels * 255).astype(np.uint8) for stack in grid.stacks])
        if pixels.nbytes > MAX_BYTES:
            raise InputError(
                f"grid: {pixels.shape} is {pixels.nbytes >> 20} MiB of pictures, more than {MAX_BYTES >> 20}; "
                "take a smaller GridSpec"
            )
        heaviest = next((answer.slices[0].grid_slice for answer in given if answer.slices), len(pieces) // 2)
        super().__init__(
            pixels=pixels.tobytes(),
            shape=list(pixels.shape),
            proportions=[height_over_width(stack) for stack in grid.stacks for _ in stack.slices],
            names=[named_place(pieces, number) for number in range(len(pieces))],
            sides=[
                sides(stack.plane) if stacking_axis(stack.slices) is not None else ""
                for stack in grid.stacks
                for _ in stack.slices
            ],
            answers=[_as_plain(answer) for answer in given],
            notices=[*_warnings(card, grid), *caveats_of(given), RESEARCH_NOTICE],
            **{"index": heaviest, **traits},
        )

    @traitlets.validate("index")
    def _valid_index(self, proposal: dict[str, Any]) -> int:
        number = int(proposal["value"])
        return min(max(number, 0), len(self.names) - 1) if self.names else number

    @traitlets.validate("answer_number")
    def _valid_answer(self, proposal: dict[str, Any]) -> int:
        return min(max(int(proposal["value"]), 0), max(0, len(self.answers) - 1))


def _warnings(card: ModelCard | None, grid: GridVolume) -> tuple[str, ...]:
    if card is None:
        return ()
    return card.notices if grid.receipt["is_synthetic"] else card.warnings


def _as_plain(answer: Answer) -> dict[str, Any]:
    scores = list(answer.scores)
    return {
        "question": answer.question,
        "text": answer.text,
        "scores": scores,
        "ceiling": max([*scores, 2 / len(scores)]) if scores else 1.0,
        "confidence": confidence_line(answer, with_reason=True),
        "doubts": doubts_about(answer),
        "evidence": describe_answer(answer),
        "share_name": share_name(answer),
    }
