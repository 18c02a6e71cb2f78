"""What one line of a manifest holds: a volume, where its labels are, and its question-answer pairs.

A manifest is JSONL (one `Case` a line). M3D's convention is followed: 1 report, 5 open and 5 closed questions, closed
prompts `{question} Choices: A. {} B. {} C. {} D. {}`, closed targets `{letter}. {answer}` (M3D-VQA).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from slicesight.errors import ManifestError

LETTERS = "ABCD"
Task = Literal["report", "open", "closed"]


class Conversation(BaseModel):
    """One question about a volume and its true answer."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    task: Task
    topic: str
    question: str
    choices: tuple[str, ...] | None = None
    answer: str
    answer_choice: str | None = None
    source_slices: tuple[int, ...] | None = None
    """Slices of the file that show what is asked; None where nobody knows."""

    @model_validator(mode="after")
    def _closed_answers_are_among_the_choices(self) -> Conversation:
        if self.task != "closed":
            return self
        if not self.choices or not self.answer_choice:
            raise ValueError("a closed question needs `choices` and `answer_choice`")
        index = LETTERS.find(self.answer_choice)
        if index < 0 or index >= len(self.choices) or self.choices[index] != self.answer:
            raise ValueError(f"answer_choice {self.answer_choice!r} does not point at the answer {self.answer!r}")
        return self

    @property
    def prompt(self) -> str:
        """The question as the model reads it."""
        if not self.choices:
            return self.question
        listed = " ".join(f"{letter}. {choice}" for letter, choice in zip(LETTERS, self.choices, strict=False))
        return f"{self.question} Choices: {listed}"

    @property
    def target(self) -> str:
        """The answer as the model should write it."""
        return f"{self.answer_choice}. {self.answer}" if self.answer_choice else self.answer


class Case(BaseModel):
    """One volume with its conversations; `volume` and `labels` are relative to the manifest's folder."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    volume: str
    labels: str | None = None
    conversations: tuple[Conversation, ...]
    truth: dict[str, Any] | None = None


def read_manifest(path: str | Path) -> list[Case]:
    """Read a manifest; raises `ManifestError` naming the first bad line."""
    path = Path(path)
    if not path.is_file():
        raise ManifestError(f"{path.name}: no such manifest; expected a JSONL file with one volume a line")
    cases = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            cases.append(Case.model_validate_json(line))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "line"
            raise ManifestError(f"{path.name} line {number}: {where}: {first['msg']}") from None
    if not cases:
        raise ManifestError(f"{path.name}: no cases found; expected one JSON object a line")
    return cases


def write_manifest(cases: Iterable[Case], path: str | Path) -> None:
    """Write a manifest under a temporary name, then rename."""
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8") as file:
        for line in _lines(cases):
            file.write(line)
    os.replace(partial, path)


def _lines(cases: Iterable[Case]) -> Iterator[str]:
    for case in cases:
        yield case.model_dump_json(exclude_none=True) + "\n"
