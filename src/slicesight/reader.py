"""Given a scan and questions, what does the model answer, and from which slices?

The only inference path: the command line, the evaluation and the server all come through `Reader`. A scan is put on the
model's grid and encoded once; every question is a suffix to it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class SliceEvidence:
    """One slice of the model's grid and how much the answer rests on it.

    rank: 1 is the heaviest. source_slices: 0-based on the file's third stored axis (DICOM: geometric order).
    position_mm: (x, y, z) LPS of the slice's centre; None where the file holds no geometry.
    """

    rank: int
    grid_slice: int
    score: float
    source_slices: tuple[int, ...]
    position_mm: tuple[float, float, float] | None
    sop_instance_uids: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A text and the slices it rests on.

    scores: one per grid slice, in grid order, summing to 1. slices: all of them, heaviest first.
    """

    question: str
    text: str
    scores: tuple[float, ...]
    slices: tuple[SliceEvidence, ...]
