"""What does an answer consist of, and how do words become one while they are still being said?

N slices of the grid. A piece of text is passed on once nothing that follows can change it: a closed question's answer
waits for its end, because only then is known which choice, and so which letter, it names.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from slicesight.data.choices import listed_choices, with_letter
from slicesight.volumes.grid import GridVolume
from slicesight.volumes.volume import Plane

NO_WORDS = "(the model gave no words)"
HALF_A_LETTER = "\ufffd"
"""What a decoder shows for bytes that are not yet a whole letter."""


@dataclass(frozen=True, kw_only=True)
class SliceEvidence:
    """One slice of the model's grid and how much the answer rests on it.

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
    """A text and the slices it rests on.

    scores: one per grid slice, in grid order (plane after plane for a model of several), summing to 1; empty for a
    model that does not weigh slices. slices: all of them, heaviest first.
    """

    question: str
    text: str
    scores: tuple[float, ...]
    slices: tuple[SliceEvidence, ...]


@dataclass(frozen=True, kw_only=True)
class AnswerPiece:
    """The next words of one of several answers.

    number: which question, from 0. answer: the whole answer with its last piece, None before. All pieces of a question
    joined are its answer's text.
    """

    number: int
    text: str
    answer: Answer | None = None


class Wording:
    """Turns the growing tokens of one answer into pieces of text.

    decode: token ids to text, special tokens left out and the ends stripped.
    """

    def __init__(self, question: str, decode: Callable[[Sequence[int]], str]) -> None:
        self.question = question
        self.decode = decode
        self.said = ""
        self.is_closed = bool(listed_choices(question))

    def next_piece(self, token_ids: Sequence[int]) -> str:
        """What can be passed on of the tokens so far."""
        if self.is_closed:
            return ""
        sure = printable(self.decode(token_ids).rstrip(HALF_A_LETTER))
        if not sure.startswith(self.said):
            return ""
        piece = sure[len(self.said) :]
        self.said = sure
        return piece

    def finish(self, token_ids: Sequence[int]) -> tuple[str, str]:
        """(the last piece, the whole text)."""
        text = with_letter(self.question, printable(self.decode(token_ids))) or NO_WORDS
        return text.removeprefix(self.said), text


def make_answer(question: str, text: str, scores: Sequence[float], *, grid: GridVolume) -> Answer:
    """An answer with its slices ranked."""
    return Answer(question=question, text=text, scores=tuple(scores), slices=rank_slices(scores, grid=grid))


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
