"""Which choice does an answer name, and is it the right one?

Two rules side by side: the legacy one of the papers' scorer (the substring "B." anywhere in the output), and a parser
that reads a letter, "(B)" or the answer's own words, and takes refusals and ambiguous answers as wrong, each counted.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from slicesight.data.manifest import LETTERS
from slicesight.evaluation.predictions import Prediction

OUTCOMES = ("letter", "text", "refusal", "ambiguous", "empty", "unparsed")
"""How an answer was read; only the first two can be right."""

_REFUSAL = re.compile(
    r"\b(?:can(?:not|'t|’t| not)|could ?n(?:o|'|’)t|unable|not able|don'?t know|do not know|impossible|not possible|"
    r"insufficient|not enough information|no answer|sorry|as an ai|uncertain|unclear|undetermined)\b",
    re.IGNORECASE,
)
_NEGATED = re.compile(r"\b(?:no|not|without|never|neither|nor|excludes?)(?:\s+(?:a|an|the|any|in))?\s*$")


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
    whole = [letter for letter, choice in zip(known, choices or (), strict=False) if _plain(choice) == _plain(text)]
    if len(whole) == 1:
        return ChoiceReading(outcome="text", letter=whole[0])
    if _REFUSAL.search(text):
        return ChoiceReading(outcome="refusal")
    if len(named) > 1 or len(whole) > 1:
        return ChoiceReading(outcome="ambiguous")
    if named:
        return ChoiceReading(outcome="text", letter=named[0])
    return ChoiceReading(outcome="unparsed")


def count_outcomes(rows: Iterable[Prediction]) -> dict[str, int]:
    """How many closed answers were read in which way, every outcome named."""
    counted = Counter(read_choice(row.prediction, row.choices).outcome for row in rows)
    return {outcome: counted[outcome] for outcome in OUTCOMES}


def is_right(row: Prediction) -> bool:
    """By the parser: the answer names the right choice and no other."""
    return read_choice(row.prediction, row.choices).letter == row.answer_choice and row.answer_choice is not None


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
    left = f" {_plain(text)} "
    found = []
    for letter, choice in sorted(zip(LETTERS, choices, strict=False), key=lambda pair: -len(pair[1])):
        words = _plain(choice)
        if not words:
            continue
        places = [match.start() for match in re.finditer(rf"(?<=\s){re.escape(words)}(?=\s)", left)]
        if any(not _NEGATED.search(left[:place].rstrip() + " ") for place in places):
            found.append(letter)
        if places:
            left = re.sub(rf"(?<=\s){re.escape(words)}(?=\s)", "·", left)
    return sorted(found)


def _plain(text: str) -> str:
    return " ".join(re.sub(r"[^\w\s/+-]", " ", text.lower()).split())
