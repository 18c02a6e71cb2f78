"""What does an answer consist of, and how do tokens become one while they are still being generated?

N slices of the grid. A piece of text is passed on once nothing that follows can change it: a closed question's answer
waits for its end, because only then is known which choice, and so which letter, it names.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from slicesight.data.choices import listed_choices, read_choice, with_letter
from slicesight.volumes.grid import GridVolume
from slicesight.volumes.volume import Plane

if TYPE_CHECKING:
    from slicesight.inference.calibration.likelihood import AnswerLikelihood

EvidenceKind = Literal["scores", "occlusion", "none"]
Progress = Callable[[int, int], None]
"""Called with (answers done, answers wanted); the second grows as further scans are read."""
Abstained = Literal["strange_scan", "unknown_question", "low_confidence"]
"""Why a model should not answer: the scan is unlike those it was calibrated on, the question is of no kind that it was
taught, or it is not sure enough."""
NO_WORDS = "(the model gave no words)"
INCOMPLETE_CHARACTER = "\ufffd"
"""What a decoder shows for bytes that are not yet a whole character."""


@dataclass(frozen=True, kw_only=True)
class SliceEvidence:
    """One slice of the model's grid and how much it weighs in the answer.

    rank: 1 is the heaviest. grid_slice: its place in the answer's scores.
    source_slices: 0-based on the file's third stored axis (DICOM: geometric order).
    position_mm: (x, y, z) LPS of the slice's centre; None where the file holds no geometry.
    plane: of the slice, for a model that scores slices of several planes together; None otherwise.
    """

    rank: int
    grid_slice: int
    score: float
    source_slices: tuple[int, ...]
    position_mm: tuple[float, float, float] | None
    sop_instance_uids: tuple[str, ...] = ()
    plane: Plane | None = None


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A text and how much every slice weighs in it.

    scores: one per grid slice, in grid order (plane after plane for a model of several), summing to 1; empty for a
    model that does not weigh slices. slices: all of them, heaviest first. cut_at: after so many tokens the answer was
    cut; None where it ended of itself. choice: where it was asked for, what a closed question is answered with when
    nothing but its choices may be said. confidence: the probability that the answer is right, of a calibrated model;
    confidence_note: why there is none, or what counts as right where not only the same text does. abstained: why the
    model should not answer; would_say: the text that is held back for it, None where nothing is. prefix: how the one
    who asked began the text, which the model went on with. system: the message that stood before the conversation.
    """

    question: str
    text: str
    scores: tuple[float, ...]
    slices: tuple[SliceEvidence, ...]
    cut_at: int | None = None
    choice: str | None = None
    confidence: float | None = None
    confidence_note: str | None = None
    abstained: Abstained | None = None
    would_say: str | None = None
    prefix: str = ""
    system: str | None = None
    evidence: EvidenceKind = "scores"
    """Where `scores` come from: the model's own, or measured by blanking slices; none for a guest without either."""
    evidence_note: str | None = None
    """How they were measured, or why there are none."""

    @property
    def is_truncated(self) -> bool:
        """Whether its end is missing, because an answer may have no more tokens."""
        return self.cut_at is not None

    @property
    def finish_reason(self) -> str:
        """As OpenAI's API has it: "length" for a cut answer, else "stop"."""
        return "length" if self.is_truncated else "stop"

    @property
    def is_outside_choices(self) -> bool:
        """Whether the question lists choices and the text names none of them, or several."""
        choices = tuple(listed_choices(self.question).values())
        return bool(choices) and read_choice(self.own_text, choices).letter is None

    @property
    def own_text(self) -> str:
        """What the model says to the question, held back or not."""
        return self.text if self.would_say is None else self.would_say

    @property
    def generated_text(self) -> str:
        """What the model itself wrote: nothing where `text` says so in words."""
        return "" if self.own_text == NO_WORDS else self.own_text

    def _repr_html_(self) -> str:
        """What a notebook shows; the room of reports stands above this one, so it is found by name."""
        return str(pkgutil.resolve_name("slicesight.reports.notebook:answer_html")(self))


@dataclass(frozen=True, kw_only=True)
class AnswerPiece:
    """The next text of one of several answers.

    number: which question, from 0. answer: the whole answer with its last piece, None before. All pieces of a question
    joined are its answer's text. is_truncated: the answer has as many tokens as it may, and did not end of itself; this
    and the numbers of tokens are known with the last piece. likelihood: of the whole answer, where it was asked for.
    """

    number: int
    text: str
    answer: Answer | None = None
    num_prompt_tokens: int = 0
    num_answer_tokens: int = 0
    is_truncated: bool = False
    likelihood: AnswerLikelihood | None = None


class AnswerDecoder:
    """Turns the growing tokens of one answer into pieces of text.

    decode: token ids to text, special tokens left out and the ends stripped. may_be_held_back: nothing is passed on
    before the answer is whole.
    """

    def __init__(
        self, question: str, decode: Callable[[Sequence[int]], str], *, may_be_held_back: bool = False
    ) -> None:
        self.question = question
        self.decode = decode
        self.sent = ""
        self.waits = may_be_held_back or bool(listed_choices(question))

    def next_piece(self, token_ids: Sequence[int]) -> str:
        """What can be passed on of the tokens so far."""
        if self.waits:
            return ""
        settled = printable(self.decode(token_ids).rstrip(INCOMPLETE_CHARACTER))
        if not settled.startswith(self.sent):
            return ""
        piece = settled[len(self.sent) :]
        self.sent = settled
        return piece

    def finish(self, token_ids: Sequence[int]) -> tuple[str, str]:
        """(the last piece, the whole text)."""
        text = with_letter(self.question, printable(self.decode(token_ids))) or NO_WORDS
        return text.removeprefix(self.sent), text


def make_answer(
    question: str,
    text: str,
    scores: Sequence[float],
    *,
    grid: GridVolume | None,
    cut_at: int | None = None,
    prefix: str = "",
    **certainty: Any,
) -> Answer:
    """An answer with its slices ranked; no slice weighs where no scan was given. certainty: fields of `Answer`."""
    return Answer(
        question=question,
        text=text,
        scores=tuple(scores),
        slices=() if grid is None else rank_slices(scores, grid=grid),
        cut_at=cut_at,
        prefix=prefix.strip(),
        **certainty,
    )


def rank_slices(scores: Sequence[float], *, grid: GridVolume) -> tuple[SliceEvidence, ...]:
    """Every grid slice with its score and its place in the file, heaviest first; equal ones in grid order."""
    pieces = grid.scored_slices
    order = sorted(range(len(scores)), key=lambda number: (-scores[number], number))
    return tuple(
        SliceEvidence(
            rank=rank,
            grid_slice=number,
            score=scores[number],
            source_slices=pieces[number].source_slices,
            position_mm=pieces[number].position_mm,
            sop_instance_uids=pieces[number].sop_instance_uids,
            plane=pieces[number].plane,
        )
        for rank, number in enumerate(order, start=1)
    )


def printable(text: str) -> str:
    """Without control characters, which a terminal would obey and a font cannot draw."""
    return "".join(letter if letter.isprintable() or letter == "\n" else " " for letter in text).strip()
