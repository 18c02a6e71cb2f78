"""What is asked of every scan of a folder? A table with a line per question, checked before any scan is read.

Columns: `question` is needed. `id` names the question in the answers (else q1, q2, ... by line); `choices` are the only
answers that are wanted, "liver|spleen|kidney", at most ten; `scan` limits the question to scans whose path or series
matches a pattern, such as "patient_a/*".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from slicesight.data.choices import LETTERS, LIST_MARK, listed_choices
from slicesight.data.sources.tables import csv_columns, csv_rows
from slicesight.errors import InputError

COLUMNS = ("id", "question", "choices", "scan")
SEPARATOR = "|"


@dataclass(frozen=True, kw_only=True)
class ScanQuestion:
    """One question; `pattern` says of which scans it is asked, "" of all."""

    id: str
    question: str
    choices: tuple[str, ...] = ()
    pattern: str = ""

    @property
    def prompt(self) -> str:
        """The question as a model reads it."""
        if not self.choices:
            return self.question
        listed = " ".join(f"{letter}. {choice}" for letter, choice in zip(LETTERS, self.choices, strict=False))
        return f"{self.question} {LIST_MARK} {listed}"

    def is_for(self, name: str, series: str) -> bool:
        """Whether it is asked of the scan with this path and series."""
        return not self.pattern or any(fnmatchcase(text, self.pattern) for text in (name, series) if text)


def read_questions(path: Path) -> tuple[list[ScanQuestion], list[str]]:
    """The questions of a CSV file, and its columns that mean nothing here.

    Raises:
        InputError: with the line: no column `question`, none asked, an empty one, an id twice, a choice alone or twice.
    """
    if not path.is_file():
        raise InputError(
            f"{path}: no such file; expected a CSV with a column question, and if wanted id, choices, scan"
        )
    found: list[ScanQuestion] = []
    line_of: dict[str, int] = {}
    for line, row in csv_rows(path, needed=("question",)):
        where = f"{path.name} line {line}"
        if row is None:
            raise InputError(f"{where}: more or fewer cells than the header; quote a text that holds a comma")
        cells = {name: " ".join(text.split()) for name, text in row.items()}
        if not any(cells.values()):
            continue
        if not cells["question"]:
            raise InputError(f"{where}: the question is empty; write one, or remove the line")
        name = cells.get("id") or f"q{len(found) + 1}"
        if name in line_of:
            raise InputError(f"{where}: id {name!r} is on line {line_of[name]} already; give each question its own")
        line_of[name] = line
        asked = ScanQuestion(
            id=name,
            question=cells["question"],
            choices=_choices(cells.get("choices", ""), cells["question"], where),
            pattern=cells.get("scan", "").replace("\\", "/").removeprefix("./"),
        )
        if asked.choices and tuple(listed_choices(asked.prompt).values()) != asked.choices:
            raise InputError(f"{where}: a choice holds a letter with a full stop, as a list's 'B. ' has; word it anew")
        found.append(asked)
    if not found:
        raise InputError(f"{path.name}: no question in it; expected a line per question below the header")
    return found, [name for name in csv_columns(path) if name and name not in COLUMNS]


def listed_questions(texts: Sequence[str]) -> list[ScanQuestion]:
    """Questions that were typed, called q1, q2, ...

    Raises:
        InputError: one is empty.
    """
    for number, text in enumerate(texts, start=1):
        if not text.strip():
            raise InputError(f"question {number} is empty; write one, or leave it out")
    return [ScanQuestion(id=f"q{number}", question=text.strip()) for number, text in enumerate(texts, start=1)]


def _choices(cell: str, question: str, where: str) -> tuple[str, ...]:
    if not cell:
        return ()
    choices = tuple(choice.strip() for choice in cell.split(SEPARATOR))
    expected = f"expected 2 to {len(LETTERS)} that differ, as in liver{SEPARATOR}spleen"
    if not all(choices) or len({choice.lower() for choice in choices}) < len(choices):
        raise InputError(f"{where}: choices {cell[:60]!r} has an empty one, or one twice; {expected}")
    if not 2 <= len(choices) <= len(LETTERS):
        raise InputError(f"{where}: {len(choices)} choices ({cell[:60]!r}); {expected}")
    if LIST_MARK in question:
        raise InputError(f"{where}: the question lists choices and the column choices does too; keep one of them")
    return choices
