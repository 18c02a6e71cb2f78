"""Which slices weigh most in an answer, said so that a person can find them again, and no more than is so?

Neighbouring grid slices that weigh more than twice an even spread become one range of source slices with its
millimetres. In a reformatted plane every grid slice cuts all source slices, so there the cut itself is named. Where
slices of several planes are scored together each name begins with its plane, and neighbours are of one plane.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from slicesight.evaluation.statistics import effective_number
from slicesight.inference.answers import Answer, SliceEvidence
from slicesight.volumes.grid import GridSlice, GridVolume

AXIS_NAMES = ("x", "y", "z")
WORTH_NAMING = 2.0
"""A slice is named where it weighs this many times an even spread."""
ALIKE = 1.1
NO_WEIGHTS = "This model does not weigh slices."
EVIDENCE_CAVEAT = (
    "A score says how much a slice weighs in what the language model is given, not that the answer is right, nor that "
    "the slice was needed for it."
)


OCCLUSION_CAVEAT = (
    "Measured by occlusion, no score: a share says how much less likely the answer is with the slice blanked, "
    "not that it is right."
)


Piece = GridSlice | SliceEvidence


@dataclass(frozen=True, kw_only=True)
class SliceRange:
    """Neighbouring grid slices that together hold `share` of the score.

    grid_slices: (first, last), both included. name: `slices 71–76` in the file's own 0-based numbers.
    place: `z -214…-202 mm`, from edge to edge along the patient axis they stack on; empty without geometry.
    """

    grid_slices: tuple[int, int]
    name: str
    place: str
    share: float

    @property
    def num_slices(self) -> int:
        return self.grid_slices[1] - self.grid_slices[0] + 1


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """The few ranges worth naming, heaviest first, and what is left over; nothing of a model that weighs no slices.

    heaviest: the heaviest slice alone, named or not. effective_slices: exp(entropy) of the scores, N where all weigh
    alike and 1 for a single slice (Hill's number of order 1). is_alike: no slice weighs a tenth more than another.
    """

    ranges: tuple[SliceRange, ...] = ()
    num_other_slices: int = 0
    other_share: float = 0.0
    even_share: float = 0.0
    heaviest: SliceRange | None = None
    effective_slices: float = 0.0
    is_alike: bool = False

    @property
    def is_spread(self) -> bool:
        """Whether more than half of the slices share the weight, in effect."""
        return self.effective_slices * self.even_share > 0.5

    @property
    def shown(self) -> tuple[SliceRange, ...]:
        """What to name: the ranges, else the heaviest slice, else, where all weigh alike, none."""
        return self.ranges or (() if self.heaviest is None or self.is_alike else (self.heaviest,))


@dataclass(frozen=True, kw_only=True)
class KnownTruth:
    """What is known to be right about a question.

    grid_slices: the slices that show it, empty where nobody knows. is_right: the answer says so too.
    """

    answer: str
    grid_slices: tuple[int, ...]
    is_right: bool


def summarise(answer: Answer, *, max_ranges: int = 3) -> Evidence:
    """Name the slices that weigh more than twice an even spread, neighbours joined into ranges.

    A model that does not weigh slices has no evidence: no ranges, nothing left over.
    """
    if not answer.slices:
        return Evidence()
    by_index = sorted(answer.slices, key=lambda found: found.grid_slice)
    even_share = 1.0 / len(by_index)

    def named(group: Sequence[SliceEvidence]) -> SliceRange:
        first, last = group[0].grid_slice, group[-1].grid_slice
        name, place = slice_name(by_index, first, last), place_name(by_index, first, last)
        return SliceRange(grid_slices=(first, last), name=name, place=place, share=sum(one.score for one in group))

    ranges = [named(group) for group in _neighbours([s for s in by_index if s.score > WORTH_NAMING * even_share])]
    ranges = sorted(ranges, key=lambda found: -found.share)[:max_ranges]
    return Evidence(
        ranges=tuple(ranges),
        num_other_slices=len(by_index) - sum(found.num_slices for found in ranges),
        other_share=max(0.0, sum(answer.scores) - sum(found.share for found in ranges)),
        even_share=even_share,
        heaviest=named(answer.slices[:1]),
        effective_slices=effective_number(np.asarray(answer.scores)),
        is_alike=answer.slices[0].score <= ALIKE * answer.slices[-1].score,
    )


def describe(evidence: Evidence) -> str:
    """What weighs most and how much is left, in one or two sentences."""
    if evidence.heaviest is None:
        return NO_WEIGHTS
    num_slices = round(1 / evidence.even_share)
    if not evidence.shown:
        return f"All {num_slices} slices weigh about alike ({evidence.even_share:.2f} each)."
    shown = ", ".join(f"{found.name} ({found.share:.2f})" for found in evidence.shown)
    if not evidence.ranges:
        shown += f", less than twice an even share ({evidence.even_share:.2f})"
    num_others, others_share = others_of(evidence)
    others = "the other slice weighs" if num_others == 1 else f"the other {num_others} slices share"
    line = f"Weighs most: {shown}; {others} {others_share:.2f}."
    note = spread_note(evidence)
    return f"{note} {line}" if evidence.is_spread else f"{line} {note}"


def describe_answer(answer: Answer) -> str:
    """What weighs most in an answer, and how that was measured; or why nothing is known."""
    if answer.evidence == "none":
        return _sentence(answer.evidence_note or NO_WEIGHTS)
    return " ".join(filter(None, (describe(summarise(answer)), _sentence(answer.evidence_note or ""))))


def caveats_of(answers: Iterable[Answer]) -> list[str]:
    """What the weights of these answers do not say, once for each way they came about."""
    known = {"scores": EVIDENCE_CAVEAT, "occlusion": OCCLUSION_CAVEAT}
    return list(dict.fromkeys(known[answer.evidence] for answer in answers if answer.slices))


def caveat_of_rows(kinds: Iterable[str | None]) -> str:
    """What the weights of a test set's answers do not say; kinds: where each one's came from."""
    return OCCLUSION_CAVEAT if "occlusion" in set(kinds) else EVIDENCE_CAVEAT


def caveat_of(answer: Answer) -> str:
    """What an answer's weights do not say."""
    return OCCLUSION_CAVEAT if answer.evidence == "occlusion" else EVIDENCE_CAVEAT


def share_name(answer: Answer) -> str:
    """What a slice's number is called."""
    return "share of the fall" if answer.evidence == "occlusion" else "score"


def spread_note(evidence: Evidence) -> str:
    """Over how many slices the weight is spread, in effect."""
    how = "Spread out over" if evidence.is_spread else "In effect"
    return f"{how} about {evidence.effective_slices:.0f} of {round(1 / evidence.even_share)} slices."


def cut_note(answer: Answer) -> str:
    """That the answer's end is missing, where it was cut."""
    return f"The answer was cut at {answer.cut_at} tokens; its end is missing." if answer.is_truncated else ""


def choice_note(answer: Answer) -> str:
    """That a closed question was answered with none of its choices, and what it is answered with where held to them."""
    if not answer.is_outside_choices:
        return ""
    held = f" Held to them, the model says {answer.choice}" if answer.choice else ""
    return f"The answer names none of the question's choices, or several.{held}"


ABSTAINED = {
    "strange_scan": "the scan is unlike those that the model was calibrated on",
    "unknown_question": "the question is none of those that the model was taught",
    "low_confidence": "the model is not sure enough",
}
"""Why an answer is held back, or should have been."""


def held_note(answer: Answer) -> str:
    """What a held-back answer would have said, or that an answer was given although it should not be believed."""
    if answer.would_say is not None:
        return f"Held back, not to be believed: it would have said “{answer.would_say}”."
    return "" if answer.abstained is None else f"Answered on request although {ABSTAINED[answer.abstained]}."


def confidence_line(answer: Answer, *, with_reason: bool = False) -> str:
    """`confidence 0.83`, with what counts as right where that is said; where there is none, why, if it is wanted."""
    if answer.confidence is not None:
        means = f" ({answer.confidence_note})" if answer.confidence_note else ""
        return f"confidence {answer.confidence:.2f}{means}"
    return f"no confidence: {answer.confidence_note}" if with_reason and answer.confidence_note else ""


def doubts_about(answer: Answer) -> list[str]:
    """What must be read with an answer: held back, told or begun by the one who asks, cut, none of the choices."""
    notes = (held_note(answer), told_note(answer), begun_note(answer), cut_note(answer), choice_note(answer))
    return list(filter(None, notes))


def told_note(answer: Answer) -> str:
    """That a message of the system stood before the conversation; empty where none did."""
    return f"asked behind a system message: {answer.system}" if answer.system else ""


def begun_note(answer: Answer) -> str:
    """That the first words are not the model's; empty where they are."""
    return f"begun by the question's author, who wrote: {answer.prefix}" if answer.prefix else ""


def others_of(evidence: Evidence) -> tuple[int, float]:
    """How many slices are not among those `shown`, and what they weigh together."""
    if evidence.ranges or not evidence.shown:
        return evidence.num_other_slices, evidence.other_share
    return evidence.num_other_slices - 1, evidence.other_share - evidence.shown[0].share


def peak_slice(answer: Answer) -> int | None:
    """The heaviest grid slice, where any is worth naming."""
    return answer.slices[0].grid_slice if summarise(answer).ranges else None


def slice_name(pieces: Sequence[Piece], first: int, last: int | None = None) -> str:
    """`slice 7`, `slices 71–76`, `cut 5 of 32` in a reformatted plane, `coronal cut 5 of 32` where there are several.

    Args:
        pieces: every scored slice, in the order of the scores; first, last: which of them, both included, of one plane.
    """
    last = first if last is None else last
    own, before = _same_plane(pieces, first)
    plane = f"{own[0].plane} " if own[0].plane else ""
    if _is_reformatted(own):
        first, last = first - before, last - before
        return f"{plane}cut {first} of {len(own)}" if first == last else f"{plane}cuts {first}–{last} of {len(own)}"
    numbers = [number for piece in pieces[first : last + 1] for number in piece.source_slices]
    low, high = min(numbers), max(numbers)
    return f"{plane}slice {low}" if low == high else f"{plane}slices {low}–{high}"


def place_name(pieces: Sequence[Piece], first: int, last: int | None = None) -> str:
    """Where they lie, `z -208 mm` for one grid slice's centre, `z -214…-202 mm` from edge to edge for a range."""
    own, before = _same_plane(pieces, first)
    axis = stacking_axis(own)
    if axis is None:
        return ""
    along = [piece.position_mm[axis] for piece in own if piece.position_mm is not None]
    if last is None:
        return f"{AXIS_NAMES[axis]} {along[first - before]:.0f} mm"
    half = abs(along[-1] - along[0]) / (len(along) - 1) / 2
    low, high = sorted((along[first - before], along[last - before]))
    return f"{AXIS_NAMES[axis]} {low - half:.0f}…{high + half:.0f} mm"


def named_place(pieces: Sequence[Piece], number: int, *, joint: str = " · ") -> str:
    """One slice's name and place."""
    return joint.join(filter(None, (slice_name(pieces, number), place_name(pieces, number))))


def stacking_axis(pieces: Sequence[Piece]) -> int | None:
    """The LPS axis (0, 1, 2) along which the slices of a plane differ most; None without geometry."""
    first, last = pieces[0].position_mm, pieces[-1].position_mm
    if first is None or last is None or len(pieces) == 1:
        return None
    return max(range(3), key=lambda axis: abs(last[axis] - first[axis]))


def reading_line(grid: GridVolume) -> str:
    """How the scan was put before the model: `window soft tissue -160…240 HU · read as 32×256×256, axial`."""
    window, size = grid.receipt["window"], "×".join(str(length) for length in grid.voxels.shape)
    name = str(window["name"]).replace("_", " ")
    bounds = f"{window['low']:g}…{window['high']:g}" + (" HU" if window["unit"] == "HU" else "")
    if "windows" in grid.receipt:
        colours = " / ".join(f"{one['low']:g}…{one['high']:g}" for one in grid.receipt["windows"])
        name, bounds = "red / green / blue", colours + (" HU" if window["unit"] == "HU" else "")
    planes = f"cut {listed(grid.planes)}" if grid.planes else grid.plane
    return f"window {name + ' ' if not name[-1].isdigit() else ''}{bounds} · read as {size}, {planes}"


def listed(names: Sequence[str]) -> str:
    """`axial, coronal and sagittal`."""
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def sides(plane: str) -> str:
    """The letters at a grid slice's left, right, top and bottom edge (radiological convention)."""
    return {"axial": "RLAP", "coronal": "RLSI", "sagittal": "APSI"}[plane]


def pick_over_volume(answer: Answer, *, num_slices: int, count: int, num_planes: int = 1) -> list[int]:
    """`count` slices spread over the volume: of each equal part its heaviest, so the peak is always there.

    Of several planes with `num_slices` together each gets as many, at least `count` in all.
    """
    scores = answer.scores or (1.0 / num_slices,) * num_slices
    in_plane = num_slices // num_planes
    count = min(-(-count // num_planes), in_plane)
    edges = [
        plane * in_plane + round(part * in_plane / count) for plane in range(num_planes) for part in range(count)
    ] + [num_slices]
    return [max(range(start, stop), key=lambda index: scores[index]) for start, stop in pairwise(edges)]


def _sentence(note: str) -> str:
    """A note as a sentence of its own."""
    return f"{note[:1].upper()}{note[1:].rstrip('.')}." if note else ""


def _same_plane(pieces: Sequence[Piece], number: int) -> tuple[Sequence[Piece], int]:
    """The slices of this one's plane, and how many of other planes stand before them."""
    places = [place for place, piece in enumerate(pieces) if piece.plane == pieces[number].plane]
    return pieces[places[0] : places[-1] + 1], places[0]


def _is_reformatted(pieces: Sequence[Piece]) -> bool:
    every = pieces[0].source_slices
    return len(every) > 1 and len(pieces) > 1 and all(piece.source_slices == every for piece in pieces)


def _neighbours(found: Sequence[SliceEvidence]) -> list[list[SliceEvidence]]:
    groups: list[list[SliceEvidence]] = []
    for one in found:
        last = groups[-1][-1] if groups else None
        if last is not None and (last.grid_slice + 1, last.plane) == (one.grid_slice, one.plane):
            groups[-1].append(one)
        else:
            groups.append([one])
    return groups
