"""What does a text that lies beside a scan say about it: a report, questions, its split and patient?"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from slicesight.data.manifest import LETTERS, Conversation, Split
from slicesight.data.sources.intake import Intake, SourceLocation, UnusableError
from slicesight.data.sources.tables import csv_rows, json_items, read_text
from slicesight.data.sources.wording import closed_conversation, letter_of
from slicesight.errors import InputError

_CSV_CHOICES = "|"


class SideQuestion(BaseModel):
    """One question; with choices it is closed, and the answer is one of them, or its letter."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    question: str
    answer: str
    choices: tuple[str, ...] | None = None
    topic: str = "other"
    source_slices: tuple[int, ...] | None = None


class SideRecord(BaseModel):
    """The whole of a .json beside a scan."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    report: str = ""
    questions: tuple[SideQuestion, ...] = ()
    split: Split | None = None
    patient: str | None = None


class ListedQuestion(SideQuestion):
    """A line of questions.csv or questions.jsonl."""

    scan: str
    split: Split | None = None
    patient: str | None = None


@dataclass(frozen=True, kw_only=True)
class SideText:
    """What one text says, and where it stands."""

    place: SourceLocation
    report: str = ""
    questions: tuple[SideQuestion, ...] = ()
    split: Split | None = None
    patient: str | None = None

    def conversations(self, name: str, *, first: int) -> list[Conversation]:
        """Its questions as conversations; `first` is how many the case has already.

        Raises:
            UnusableError: a closed question's answer is none of its choices.
        """
        return [_conversation(f"{name}#{first + n}", entry) for n, entry in enumerate(self.questions)]


def read_side_text(path: Path) -> SideText:
    """A .txt (a report) or a .json.

    Raises:
        InputError: the file cannot be read or does not hold what it should.
    """
    text = read_text(path)
    if path.suffix.lower() == ".txt":
        return SideText(place=SourceLocation(path.name), report=text.strip())
    try:
        record = SideRecord.model_validate(json.loads(text))
    except json.JSONDecodeError as error:
        raise InputError(f"{path.name} line {error.lineno}: {error.msg}; the JSON is damaged") from None
    except ValidationError as error:
        raise InputError(f"{path.name}: {_first(error)}") from None
    return SideText(
        place=SourceLocation(path.name),
        report=record.report.strip(),
        questions=record.questions,
        split=record.split,
        patient=record.patient,
    )


def read_question_lists(paths: list[Path], intake: Intake) -> dict[str, list[SideText]]:
    """Questions by the scan's path, from the lists that exist."""
    found: dict[str, list[SideText]] = {}
    for path in paths:
        if not path.is_file():
            continue
        for line, cells in _lines(path):
            if cells is None:
                reason = "more or fewer cells than the header; quote the text"
                intake.refuse("bad row", reason, SourceLocation(path.name, line))
                continue
            try:
                listed = ListedQuestion.model_validate(cells)
            except ValidationError as error:
                intake.refuse("bad row", f"{_first(error)}; correct the line", SourceLocation(path.name, line))
                continue
            entry = SideQuestion(**listed.model_dump(include=set(SideQuestion.model_fields)))
            text = SideText(
                place=SourceLocation(path.name, line), questions=(entry,), split=listed.split, patient=listed.patient
            )
            found.setdefault(listed.scan.replace("\\", "/").removeprefix("./"), []).append(text)
    return found


def _lines(path: Path) -> list[tuple[int, Any]]:
    if path.suffix == ".jsonl":
        return list(json_items(path))
    rows: list[tuple[int, Any]] = []
    for line, row in csv_rows(path, needed=("scan", "question", "answer")):
        if row is None:
            rows.append((line, None))
            continue
        cells: dict[str, Any] = {key: value for key, value in row.items() if value.strip()}
        if "choices" in cells:
            cells["choices"] = [choice.strip() for choice in cells["choices"].split(_CSV_CHOICES)]
        rows.append((line, cells))
    return rows


def _conversation(name: str, entry: SideQuestion) -> Conversation:
    if not entry.question.strip() or not entry.answer.strip():
        raise UnusableError(f"question {entry.question[:40]!r} with answer {entry.answer[:40]!r}")
    if not entry.choices:
        return Conversation(
            id=name,
            task="open",
            topic=entry.topic,
            question=entry.question.strip(),
            answer=entry.answer.strip(),
            source_slices=entry.source_slices,
        )
    if len(entry.choices) > len(LETTERS):
        raise UnusableError(f"{len(entry.choices)} choices, expected at most {len(LETTERS)}")
    answer = entry.answer.strip()
    plain = [choice.strip().lower() for choice in entry.choices]
    if answer.lower() in plain:
        letter = LETTERS[plain.index(answer.lower())]
    else:
        letter = letter_of(answer) or answer
        answer = (
            entry.choices[LETTERS.index(letter)] if letter in LETTERS[: len(plain)] and len(answer) == 1 else answer
        )
    closed = closed_conversation(
        name, topic=entry.topic, question=entry.question.strip(), choices=entry.choices, answer=answer, letter=letter
    )
    return closed.model_copy(update={"source_slices": entry.source_slices})


def _first(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where}: {first['msg']}" if where else str(first["msg"])
