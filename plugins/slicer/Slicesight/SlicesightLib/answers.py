"""What does an answer hold for a viewer, and how is it shown there?

The API's own fields (docs/how-to/serve.md), and their text for a Qt box. The standard library, Python 3.9 or newer.
N slices are scored; places are LPS millimetres.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Any

HELD_BACK = {
    "strange_scan": "the scan is unlike those that the model was calibrated on",
    "unknown_question": "the question is none of those that the model was taught",
    "low_confidence": "the model is not sure enough",
}
"""Why an answer is held back, or should have been."""
WORTH_NAMING = 2.0
"""A bar stands out where its slice weighs this many times an even share."""


@dataclass(frozen=True)
class ScoredSlice:
    """One slice that the model weighs.

    number: its place among the answer's scores. position_mm: (x, y, z) LPS of its centre, None without geometry.
    """

    number: int
    score: float
    plane: str
    source_slices: tuple[int, ...]
    position_mm: tuple[float, float, float] | None
    place: str
    """For a person: `axial, slices 71–76, z -208 mm`."""
    tick: str = ""
    """The same below a bar, as short as can be: `z -208`, or the slice's own number."""


@dataclass(frozen=True)
class ScanAnswer:
    """An answer with all that must be shown beside it, in the API's own words (its reference names each)."""

    question: str
    text: str
    slices: tuple[ScoredSlice, ...]
    """In the order of the scores."""
    confidence: float | None = None
    confidence_note: str | None = None
    abstained: str | None = None
    would_say: str | None = None
    evidence: str = "none"
    summary: str = ""
    caveat: str = ""
    is_cut: bool = False
    notices: tuple[str, ...] = ()

    @classmethod
    def from_message(
        cls, question: str, message: dict[str, Any], *, finish_reason: str, notices: list[str]
    ) -> ScanAnswer:
        """Of an assistant's message of the API."""
        by_number = sorted(message["slices"], key=lambda one: one["grid_slice"])
        return cls(
            question=question,
            text=message["content"],
            slices=tuple(_scored(one, by_number) for one in by_number),
            evidence=message["evidence"],
            summary=message["evidence_summary"],
            caveat=message["evidence_caveat"],
            is_cut=finish_reason == "length",
            notices=tuple(notices),
            **{name: message[name] for name in ("confidence", "confidence_note", "abstained", "would_say")},
        )

    @property
    def scores(self) -> list[float]:
        """One per slice, in the order of `slices`."""
        return [one.score for one in self.slices]

    @property
    def heaviest(self) -> list[ScoredSlice]:
        """All slices, the heaviest first."""
        return sorted(self.slices, key=lambda one: (-one.score, one.number))

    def stands_out(self, number: int) -> bool:
        """Whether this slice weighs more than twice an even share."""
        return self.slices[number].score * len(self.slices) > WORTH_NAMING


def answer_html(answer: ScanAnswer) -> str:
    """An answer for a Qt text box: text, how sure, what it rests on, what must be read with it."""
    held = answer.would_say is not None
    parts = [f"<p><b>{escape(answer.question) or 'Findings'}</b></p>"]
    parts.append(f"<p>{escape(answer.text)}{' …' if answer.is_cut else ''}</p>")
    if answer.confidence is not None:
        means = f" ({escape(answer.confidence_note)})" if answer.confidence_note else ""
        parts.append(f"<p>Confidence {answer.confidence:.2f}{means}</p>")
    elif answer.confidence_note:
        parts.append(f"<p>No confidence: {escape(answer.confidence_note)}</p>")
    if answer.abstained is not None:
        why = HELD_BACK.get(answer.abstained, answer.abstained)
        said = f"Held back: {why}. It would have said: {answer.would_say}" if held else f"Answered although {why}."
        parts.append(f"<p><i>{escape(said)}</i></p>")
    if answer.is_cut:
        parts.append("<p><i>The answer was cut; its end is missing.</i></p>")
    parts.append(f"<p>{escape(answer.summary)}</p>")
    small = [answer.caveat] if answer.slices else []
    parts += [f"<p><small>{escape(line)}</small></p>" for line in (*small, *answer.notices)]
    return "".join(parts)


def _scored(found: dict[str, Any], every: list[dict[str, Any]]) -> ScoredSlice:
    position = found["position_mm"]
    own = [one for one in every if one["plane"] == found["plane"]]
    source = tuple(found["source_slices"])
    is_cut = len(own) > 1 and len(source) > 1 and all(tuple(one["source_slices"]) == source for one in own)
    if is_cut or not source:
        name = f"cut {own.index(found)} of {len(own)}"
    else:
        name = f"slice {source[0]}" if len(source) == 1 else f"slices {min(source)}–{max(source)}"
    place, tick = [found["plane"], name], str(source[0] if source and not is_cut else own.index(found))
    ends = own[0]["position_mm"], own[-1]["position_mm"]
    if position is not None and None not in ends and len(own) > 1:
        axis = max(range(3), key=lambda at: abs(ends[1][at] - ends[0][at]))
        tick = f"{'xyz'[axis]} {position[axis]:.0f}"
        place.append(f"{tick} mm")
    return ScoredSlice(
        number=found["grid_slice"],
        score=found["score"],
        plane=found["plane"],
        source_slices=source,
        position_mm=None if position is None else (position[0], position[1], position[2]),
        place=", ".join(place),
        tick=tick,
    )
