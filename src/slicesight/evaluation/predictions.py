"""What is one answered question on its way to the scorer? A line of predictions.jsonl, ours or anyone's.

{"id", "task": report | open | closed, "topic", "question", "prediction", "answer", "answer_choice",
 optional "volume", "patient", "choices", "choice" (said when held to them), "scores" (one per grid slice), "evidence"
 (what made them), "true_slices" (grid slices that show what is asked), "slice_places_mm" (where each lies along the
 stack), "confidence" (0 to 1), "abstained" (why nothing was said), "would_say" (what is held back then)}.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from slicesight.data.manifest import Task
from slicesight.errors import InputError

TASKS: tuple[Task, ...] = ("report", "open", "closed")


class Prediction(BaseModel):
    """One question with its true answer and what a system said.

    volume: whatever names the scan; without it nothing can be said by volume. answer_choice: the right letter. choice:
    what the system said to a closed question when held to its choices. patient: any name that the scans of one patient
    share; `evaluate` writes a digest. evidence: whether scores are the model's own or measured by occlusion.
    """

    model_config = ConfigDict(extra="ignore", frozen=True, coerce_numbers_to_str=True)

    id: str
    task: Task
    topic: str
    question: str
    prediction: str
    answer: str
    answer_choice: str | None = None
    choice: str | None = None
    volume: str | None = None
    patient: str | None = None
    choices: tuple[str, ...] | None = None
    scores: tuple[float, ...] | None = None
    evidence: Literal["scores", "occlusion", "none"] | None = None
    true_slices: tuple[int, ...] | None = None
    slice_places_mm: tuple[float, ...] | None = None
    confidence: float | None = Field(default=None, ge=0, le=1)
    abstained: str | None = None
    would_say: str | None = None

    @model_validator(mode="after")
    def _closed_questions_have_a_letter(self) -> Prediction:
        if self.task == "closed" and self.answer_choice is None:
            raise ValueError("a closed question needs answer_choice, the right letter")
        return self

    @model_validator(mode="after")
    def _places_are_those_of_the_scores(self) -> Prediction:
        if self.slice_places_mm is not None and len(self.slice_places_mm) != len(self.scores or ()):
            raise ValueError("slice_places_mm needs one number for each of the scores")
        return self

    @property
    def meant(self) -> str:
        """What the system takes for right, said or held back: its confidence is about this."""
        return self.prediction if self.would_say is None else self.would_say

    @property
    def drawn_with(self) -> str | None:
        """By what intervals are drawn: the patient, else the scan."""
        return self.patient or self.volume


@dataclass(frozen=True, kw_only=True)
class PredictionFile:
    """What was read from one file or several that belong together.

    missing: what the format cannot give -> why, for instance {"volume": "M3D's csv names no volume"}. places: where
    each row stands, for messages; empty where nobody kept it.
    """

    rows: tuple[Prediction, ...]
    format: str
    missing: dict[str, str] = field(default_factory=dict)
    places: tuple[str, ...] = ()

    @property
    def tasks(self) -> frozenset[str]:
        """Which of report, open and closed it holds."""
        return frozenset(row.task for row in self.rows)


def read_jsonl(path: Path) -> list[Prediction]:
    """Read plain JSONL.

    Raises:
        InputError: names the first line that is not a prediction.
    """
    return [row for row, _ in read_placed_lines(path)]


def read_placed_lines(path: Path) -> list[tuple[Prediction, str]]:
    """(prediction, "file line n") of plain JSONL; InputError as `read_jsonl`."""
    lines = enumerate(path.read_text(encoding="utf-8").split("\n"), start=1)
    placed = ((line, f"{path.name} line {number}") for number, line in lines if line.strip())
    return [(prediction(line, where=place), place) for line, place in placed]


def own_file(path: Path) -> PredictionFile:
    """A file of `evaluate`."""
    return PredictionFile(rows=tuple(read_jsonl(path)), format="slicesight-jsonl")


def prediction(fields: dict[str, Any] | str, *, where: str) -> Prediction:
    """One prediction from a mapping or a line of JSON; `where` names the place in the file for the error."""
    try:
        return Prediction.model_validate_json(fields) if isinstance(fields, str) else Prediction.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "the line"
        raise InputError(f"{where}: {field}: {first['msg'].lower()}; see docs/scoring.md.") from None


def to_lines(rows: Iterable[Prediction]) -> str:
    """JSON lines, fields that nobody knows left out."""
    return "".join(json.dumps(row.model_dump(exclude_none=True), ensure_ascii=False) + "\n" for row in rows)
