"""Which choices does a closed question list, which of them does an answer name, and when is an answer right?

M3D-VQA writes "Choices: A. … B. …". `is_right` is the one rule of the package: what `ask --truth`, `evaluate` and the
phantoms' scores call right is right by it. Beside it stands the papers' own rule (`legacy_right`: the substring "B."
anywhere in the output), which accepts an answer that lists every choice.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

LETTERS = "ABCD"
LIST_MARK = "Choices:"
SCAN_PLACE = "<image3d>"
OUTCOMES = ("letter", "text", "refusal", "ambiguous", "empty", "unparsed")
"""How a closed answer was read; only the first two can be right."""

_CHOICE = re.compile(r"(?:^|\s)([A-D])\.\s+")
_LETTERED = re.compile(r"\(?[A-D](?:[.):]|\)?$)")
_REFUSAL = re.compile(
    r"\b(?:can(?:not|'t|’t| not)|could ?n(?:o|'|’)t|unable|not able|don'?t know|do not know|impossible|not possible|"
    r"insufficient|not enough information|no answer|sorry|as an ai|uncertain|unclear|undetermined)\b",
    re.IGNORECASE,
)
_NEGATED = re.compile(r"\b(?:no|not|without|never|neither|nor|excludes?)(?:\s+(?:a|an|the|any|in))?\s*$")


class AskedWithAnswer(Protocol):
    """A question whose right answer is known: a conversation of a manifest, a line of predictions."""

    @property
    def task(self) -> str: ...
    @property
    def answer(self) -> str: ...
    @property
    def answer_choice(self) -> str | None: ...
    @property
    def choices(self) -> Sequence[str] | None: ...


@dataclass(frozen=True, kw_only=True)
class ChoiceReading:
    """What an answer was taken to say: outcome is one of OUTCOMES, letter the choice it names, if any."""

    outcome: str
    letter: str | None = None


def legacy_right(prediction: str, answer_choice: str) -> bool:
    """The papers' rule: the right letter with a full stop occurs anywhere in the output."""
    return f"{answer_choice}." in prediction


def read_choice(prediction: str, choices: Sequence[str] | None = None) -> ChoiceReading:
    """Read an answer as one of the choices.

    A letter counts where it stands as one: alone, with a stop, colon or bracket, or after "answer", "option", "choice".
    "A cyst" is words. Words name a choice when exactly one choice occurs in them and is not negated. A letter whose
    words are another choice's is ambiguous.
    """
    text = prediction.strip()
    if not text:
        return ChoiceReading(outcome="empty")
    known = LETTERS[: len(choices)] if choices else LETTERS
    letters = _letters(text, known)
    named = _named_choices(text, choices or ())
    if len(letters) > 1:
        return ChoiceReading(outcome="ambiguous")
    if letters:
        (letter,) = letters
        if named and letter not in named:
            return ChoiceReading(outcome="ambiguous")
        return ChoiceReading(outcome="letter", letter=letter)
    whole = [letter for letter, choice in zip(known, choices or (), strict=False) if _tokens(choice) == _tokens(text)]
    if len(whole) == 1:
        return ChoiceReading(outcome="text", letter=whole[0])
    if _REFUSAL.search(text):
        return ChoiceReading(outcome="refusal")
    if len(named) > 1 or len(whole) > 1:
        return ChoiceReading(outcome="ambiguous")
    return ChoiceReading(outcome="text", letter=named[0]) if named else ChoiceReading(outcome="unparsed")


def is_right(said: str, asked: AskedWithAnswer) -> bool:
    """Closed: the answer names the right choice and no other. Open and report: the same text, as `same_text` has it."""
    if asked.task == "closed":
        return asked.answer_choice is not None and read_choice(said, asked.choices).letter == asked.answer_choice
    return same_text(said, asked.answer)


def same_text(said: str, true: str) -> bool:
    """The same words, whatever the case, the spaces and a full stop at the end."""
    return plain(said) == plain(true)


def plain(text: str) -> str:
    """Lower case, single spaces, no full stop at the end."""
    return " ".join(text.lower().strip(" .").split())


def listed_choices(question: str) -> dict[str, str]:
    """Letter -> text of the choices in a question, without the place of a scan; empty for an open one."""
    _, mark, listed = question.replace(SCAN_PLACE, " ").partition(LIST_MARK)
    pieces = _CHOICE.split(listed) if mark else [""]
    return {letter: text.strip() for letter, text in zip(pieces[1::2], pieces[2::2], strict=True)}


def with_letter(question: str, answer: str) -> str:
    """Put the letter before an answer that is one of the choices word for word; any other answer stays as it is."""
    if _LETTERED.match(answer):
        return answer
    letters = [letter for letter, text in listed_choices(question).items() if plain(text) == plain(answer)]
    return f"{letters[0]}. {answer}" if len(letters) == 1 else answer


def _letters(text: str, known: str) -> set[str]:
    both = known + known.lower()
    alone = re.fullmatch(rf"\W*([{both}])\W*", text)
    if alone:
        return {alone.group(1).upper()}
    marked = [
        rf"\(\s*([{both}])\s*\)",
        rf"(?:^|[\s\"'*:])([{known}])\s?[.):](?=\s|$|\*)",
        rf"^\W*([{both}])\s?[.):](?=\s|$)",
        rf"(?i:\b(?:answer|option|choice)\b(?:\s+(?:is|would be|should be))?\s*:?\s*)\W*([{known}])\b(?!\s+[a-z])",
    ]
    return {found.upper() for pattern in marked for found in re.findall(pattern, text)}


def _named_choices(text: str, choices: Sequence[str]) -> list[str]:
    """Letters of the choices whose words occur in the text, whole and not negated; the longest first."""
    left = f" {_tokens(text)} "
    found = []
    for letter, choice in sorted(zip(LETTERS, choices, strict=False), key=lambda pair: -len(pair[1])):
        if not _tokens(choice):
            continue
        whole = re.compile(rf"(?<=\s){re.escape(_tokens(choice))}(?=\s)")
        if any(not _NEGATED.search(left[: match.start()].rstrip() + " ") for match in whole.finditer(left)):
            found.append(letter)
        left = whole.sub("·", left)
    return sorted(found)


def _tokens(text: str) -> str:
    return " ".join(re.sub(r"[^\w\s/+-]", " ", text.lower()).split())
