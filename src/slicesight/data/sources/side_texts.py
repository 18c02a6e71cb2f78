"""What does a text that lies beside a scan say about it: a report, questions, its split and patient?"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from slicesight.data.manifest import LETTERS, Conversation, Reading, Split
from slicesight.data.sources.intake import Intake, SourceLocation, UnusableError, closed_conversation, letter_of
from slicesight.data.sources.tables import csv_rows, json_items, read_text

_CSV_CHOICES = "|"


class SideQuestion(BaseModel):
    """One question; with choices it is closed, and the answer is one of them, or its letter."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    question: str
    answer: str
    choices: tuple[str, ...] | None = None
    topic: str = "other"
    source_slices: tuple[int, ...] | None = None


class SideRecord(Reading):
    """The whole of a .json beside a scan."""

    report: str = ""
    questions: tuple[SideQuestion, ...] = ()
    split: Split | None = None
    patient: str | None = None


class ListedQuestion(SideQuestion):
    """A line of questions.csv or questions.jsonl."""

    scan: str
    split: Split | None = None
    patient: str | None = None


class SideText(NamedTuple):
    """What one text says, and where it stands."""

    place: SourceLocation
    record: SideRecord

    def conversations(self, name: str, *, first: int) -> list[Conversation]:
        """Its questions as conversations; `first` is how many the case has already.

        Raises:
            UnusableError: a closed question's answer is none of its choices.
        """
        try:
            return [_conversation(f"{name}#{first + n}", entry) for n, entry in enumerate(self.record.questions)]
        except UnusableError as error:
            raise UnusableError(str(error), self.place) from None


def read_side_text(path: Path, name: str) -> SideText:
    """A .txt (a report) or a .json, called `name` in messages.

    Raises:
        InputError: it cannot be read. UnusableError: it does not hold what it should, with the line where one is known.
    """
    text, place = read_text(path, name=name), SourceLocation(name)
    if path.suffix.lower() == ".txt":
        return SideText(place, SideRecord(report=text.strip()))
    try:
        return SideText(place, SideRecord.model_validate(json.loads(text)))
    except json.JSONDecodeError as error:
        raise UnusableError(f"{error.msg}; the JSON is damaged", SourceLocation(name, error.lineno)) from None
    except ValidationError as error:
        raise UnusableError(_first(error), place) from None


def read_question_lists(paths: list[Path], intake: Intake) -> dict[str, list[SideText]]:
    """Questions by the scan's path, from the lists that exist."""
    found: dict[str, list[SideText]] = {}
    for path in paths:
        for line, cells in _lines(path) if path.is_file() else ():
            place = SourceLocation(path.name, line)
            if cells is None:
                intake.refuse("bad row", "more or fewer cells than the header; quote the text", place)
                continue
            try:
                listed = ListedQuestion.model_validate(cells)
            except ValidationError as error:
                intake.refuse("bad row", f"{_first(error)}; correct the line", place)
                continue
            record = SideRecord(questions=(listed,), split=listed.split, patient=listed.patient)
            name = listed.scan.replace("\\", "/").removeprefix("./")
            found.setdefault(name, []).append(SideText(place, record))
    return found


def _lines(path: Path) -> Iterator[tuple[int, Any]]:
    if path.suffix == ".jsonl":
        yield from json_items(path)
        return
    for line, row in csv_rows(path, needed=("scan", "question", "answer")):
        cells: dict[str, Any] = {key: value for key, value in (row or {}).items() if value.strip()}
        if "choices" in cells:
            cells["choices"] = [choice.strip() for choice in cells["choices"].split(_CSV_CHOICES)]
        yield line, cells if row is not None else None


def _conversation(name: str, entry: SideQuestion) -> Conversation:
    question, answer = entry.question.strip(), entry.answer.strip()
    if not question or not answer:
        raise UnusableError(f"question {entry.question[:40]!r} with answer {entry.answer[:40]!r}")
    if not entry.choices:
        shown = entry.source_slices
        return Conversation(
            id=name, task="open", topic=entry.topic, question=question, answer=answer, source_slices=shown
        )
    if len(entry.choices) > len(LETTERS):
        raise UnusableError(f"{len(entry.choices)} choices, expected at most {len(LETTERS)}")
    known = [choice.strip().lower() for choice in entry.choices]
    if answer.lower() in known:
        letter = LETTERS[known.index(answer.lower())]
    else:
        letter = letter_of(answer) or answer
        if answer in LETTERS[: len(known)]:
            answer = entry.choices[LETTERS.index(answer)]
    closed = closed_conversation(
        name, topic=entry.topic, question=question, choices=entry.choices, answer=answer, letter=letter
    )
    return closed.model_copy(update={"source_slices": entry.source_slices})


def _first(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where}: {first['msg']}" if where else str(first["msg"])
