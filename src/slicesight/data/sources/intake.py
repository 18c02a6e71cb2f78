"""How does a source's line become a question, and what happens to one that cannot?

Splits by any name, choices with gaps, reports, yes or no. Whatever is chosen (the wording of a report question, the
order of yes and no) is chosen by a digest of the case's id, so that every run chooses the same.

Two kinds of things are set aside. What is merely not a case (a mask without a text, an empty series) is always listed
and never fatal. What should have been one (a row that contradicts itself, a volume that is missing) stops the run
unless `on_bad_case` is "skip".
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from slicesight.data.choices import plain
from slicesight.data.manifest import LETTERS, SPLITS, Conversation, Split
from slicesight.errors import InputError

OnBadCase = Literal["stop", "skip"]
REPORT_QUESTIONS = (
    "Please write a report of this scan.",
    "Describe the findings.",
    "What does this scan show?",
    "Write a caption with the findings of this scan.",
)
M3D_TOPICS = {1: "plane", 2: "phase", 3: "organ", 4: "abnormality", 5: "location"}
_MISSING = ("", "na", "nan", "n/a")
_LETTERED = re.compile(rf"^\(?([{LETTERS}])[.):]\s*(.*)$", flags=re.DOTALL)


class UnusableError(ValueError):
    """What one line says cannot be made into a question; a reader that knows the `place` better says it instead."""

    def __init__(self, reason: str, place: SourceLocation | None = None) -> None:
        super().__init__(reason)
        self.place = place


@dataclass(frozen=True, kw_only=True)
class SourceRequest:
    """Where to look.

    source: what the user pointed at; volumes: where else scan files may lie; out: is never read as part of the source;
    only: the one split that is wanted, so that the scans of others need not be there.
    """

    source: Path
    out: Path
    volumes: Path | None = None
    only: Split | None = None

    def wants(self, split: Split | None) -> bool:
        """Whether cases of this split are wanted."""
        return self.only is None or split == self.only

    @property
    def base(self) -> Path:
        """The folder of the source, or in which it lies."""
        return self.source if self.source.is_dir() else self.source.parent

    def name_of(self, path: Path) -> str:
        """What messages call a file: its path from the source's folder, where it lies below that."""
        return path.relative_to(self.base).as_posix() if path.is_relative_to(self.base) else path.name


class SourceLocation(NamedTuple):
    """Where in the source something stands: a file's name, and the line in it where there are lines."""

    file: str
    line: int | None = None

    def __str__(self) -> str:
        return self.file if self.line is None else f"{self.file} line {self.line}"


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """Something of the source that is in no case, and why; `kind` is what the summary counts by."""

    kind: str
    reason: str
    place: SourceLocation | None = None
    case_id: str | None = None

    def __str__(self) -> str:
        return self.reason if self.place is None else f"{self.place}: {self.reason}"

    def to_dict(self) -> dict[str, Any]:
        file, line = self.place or (None, None)
        facts = {"kind": self.kind, "file": file, "line": line, "id": self.case_id, "reason": self.reason}
        return {key: value for key, value in facts.items() if value is not None}


@dataclass(kw_only=True)
class Intake:
    """What a reader reports beside its cases."""

    on_bad_case: OnBadCase = "stop"
    skipped: list[Skipped] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def leave_out(
        self, kind: str, reason: str, place: SourceLocation | None = None, *, case_id: str | None = None
    ) -> None:
        """List what was never meant to be a case."""
        self.skipped.append(Skipped(kind=kind, reason=reason, place=place, case_id=case_id))

    def refuse(
        self, kind: str, reason: str, place: SourceLocation | None = None, *, case_id: str | None = None
    ) -> None:
        """Stop at a bad case, or list it.

        Args:
            reason: what was found, what was expected and, after a semicolon, what to change.

        Raises:
            InputError: with `on_bad_case` "stop".
        """
        if self.on_bad_case == "stop":
            skipped = Skipped(kind=kind, reason=reason, place=place)
            raise InputError(f"{skipped} (--on-bad-case skip goes on without it)")
        self.leave_out(kind, reason, place, case_id=case_id)


def split_of(word: str) -> Split | None:
    """The split that a name such as "train", "validation", "test1k" or "M3D_VQA_val.csv" speaks of."""
    parts = re.split(r"[^a-z0-9]+", word.lower())
    found = {split for split in SPLITS if any(part.startswith(split) for part in parts)}
    return found.pop() if len(found) == 1 else None


def draw(options: int, *words: str) -> int:
    """A number from 0 to options - 1 that only the words decide."""
    digest = hashlib.sha256("\0".join(words).encode()).digest()
    return int.from_bytes(digest[:8], "big") % options


def report_conversation(case_id: str, text: str) -> Conversation:
    """The report of a case, asked for in one of `REPORT_QUESTIONS`."""
    question = REPORT_QUESTIONS[draw(len(REPORT_QUESTIONS), "report", case_id)]
    return Conversation(id=f"{case_id}#report", task="report", topic="report", question=question, answer=text)


def yes_no_conversation(case_id: str, finding: str, *, is_present: bool) -> Conversation:
    """Whether the scan shows a finding, as a closed question; which of yes and no comes first is drawn."""
    answer = "yes" if is_present else "no"
    choices = ("yes", "no") if draw(2, "choices", case_id, finding) == 0 else ("no", "yes")
    return Conversation(
        id=f"{case_id}#{finding}",
        task="closed",
        topic=finding,
        question=f"Does this scan show {finding}?",
        choices=choices,
        answer=answer,
        answer_choice=LETTERS[choices.index(answer)],
    )


def is_missing(text: str) -> bool:
    """Whether a cell says that there is nothing: NA, nan or empty."""
    return text.strip().lower() in _MISSING


def closed_conversation(
    name: str, *, topic: str, question: str, choices: Sequence[str], answer: str, letter: str
) -> Conversation:
    """A closed question; choices that are NA are left out, and the letters move up.

    Args:
        choices: as the source lists them, the first one A.
        answer: the right choice's words, with or without its letter before them.
        letter: of the right choice among `choices`.

    Raises:
        UnusableError: letter and answer do not name one choice, or fewer than two choices are left.
    """
    index = LETTERS.find(letter.strip().upper()) if len(letter.strip()) == 1 else -1
    if not 0 <= index < len(choices):
        known = ", ".join(LETTERS[: len(choices)])
        raise UnusableError(f"answer choice is {letter.strip()!r}, expected one of {known}")
    if is_missing(choices[index]):
        raise UnusableError(f"the answer is choice {LETTERS[index]}, which is missing ({choices[index].strip()!r})")
    if plain(choices[index]) not in (plain(answer), plain(without_letter(answer))):
        found = f"the answer {answer.strip()!r} is not choice {LETTERS[index]}"
        raise UnusableError(f"{found}, which is {choices[index].strip()!r}")
    kept = [position for position, choice in enumerate(choices) if not is_missing(choice)]
    if len(kept) < 2:
        raise UnusableError("a closed question needs two choices or more, found one")
    return Conversation(
        id=name,
        task="closed",
        topic=topic,
        question=question,
        choices=tuple(choices[position].strip() for position in kept),
        answer=choices[index].strip(),
        answer_choice=LETTERS[kept.index(index)],
    )


def without_letter(answer: str) -> str:
    """The words of "B. spleen"."""
    lettered = _LETTERED.match(answer.strip())
    return lettered.group(2) if lettered else answer


def letter_of(answer: str) -> str:
    """The letter of "B. spleen"; empty where no letter stands first."""
    lettered = _LETTERED.match(answer.strip())
    return lettered.group(1) if lettered else ""
