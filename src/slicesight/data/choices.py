"""Which choices does a closed question list, and when is an answer right?

M3D-VQA writes "Choices: A. … B. …". `is_right` is the one rule of the package: what `ask --truth`, `evaluate` and the
phantoms' scores call right is right by it; how an answer is read as a choice is in `choice_reading`. Beside it stands
the papers' own rule (`legacy_right`: the substring "B." anywhere in the output), which accepts an answer that lists
every choice.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol

from slicesight.data.answer_text import final_text
from slicesight.data.choice_reading import OUTCOMES as OUTCOMES
from slicesight.data.choice_reading import WAYS as WAYS
from slicesight.data.choice_reading import ChoiceReading, read_choice_of

LETTERS = "ABCDEFGHIJ"
"""What choices are called; there can be no more than these."""
FOUR_LETTERS = "ABCD"
"""Those of data sets whose questions have four choices."""
LIST_MARK = "Choices:"
SCAN_PLACE = "<image3d>"
"""Where a scan stands in a question's text, and the special token of tokenizers that are learnt here."""


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


def legacy_right(prediction: str, answer_choice: str) -> bool:
    """The papers' rule: the right letter with a full stop occurs anywhere in the output."""
    return f"{answer_choice}." in prediction


def read_choice(prediction: str, choices: Sequence[str] | None = None) -> ChoiceReading:
    """Read an answer as one of the choices, or of A to D where they are not known; see `choice_reading`."""
    return read_choice_of(prediction, tuple(choices or ()), LETTERS if choices else FOUR_LETTERS)


def is_right(said: str, asked: AskedWithAnswer) -> bool:
    """Closed: the answer names the right choice and no other. Open and report: the same text, as `same_text` has it.

    What was said is taken without its reasoning. A question whose true answer nobody wrote (`has_truth`) is never
    answered rightly, and is no failure either: count it apart.
    """
    if asked.task == "closed":
        return asked.answer_choice is not None and read_choice(said, asked.choices).letter == asked.answer_choice
    return has_truth(asked) and same_text(final_text(said).text, asked.answer)


def has_truth(asked: AskedWithAnswer) -> bool:
    """Whether the true answer is known: a letter for a closed question, else a text that is not empty."""
    return asked.answer_choice is not None if asked.task == "closed" else bool(asked.answer.strip())


def same_text(said: str, true: str) -> bool:
    """The same words, whatever the case, the spaces and a full stop at the end."""
    return plain(said) == plain(true)


def plain(text: str) -> str:
    """Lower case, single spaces, no full stop at the end."""
    return " ".join(text.lower().strip(" .").split())


def listed_choices(question: str) -> dict[str, str]:
    """Letter -> text of the choices in a question, without the place of a scan; empty for an open one."""
    _, mark, listed = question.replace(SCAN_PLACE, " ").partition(LIST_MARK)
    found: dict[str, str] = {}
    rest, letter = listed if mark else "", ""
    while match := _next_letter(rest, after=letter):
        if letter:
            found[letter] = rest[: match.start()].strip()
        letter, rest = match[1], rest[match.end() :]
    if letter:
        found[letter] = rest.strip()
    return found


def _next_letter(text: str, *, after: str) -> re.Match[str] | None:
    """Where the next choice begins: its letter follows the last one's, or, where one is left out, is a later one.

    A letter that a choice begins with is part of it: "A. E. coli".
    """
    later = LETTERS[LETTERS.index(after) + 1 :] if after else LETTERS
    for letters in (later[:1], later[1:]):
        match = re.search(rf"(?:^|\s)([{letters}])\.\s+", text) if letters else None
        if match and (not after or text[: match.start()].strip()):
            return match
    return None


def with_letter(question: str, answer: str) -> str:
    """Put the letter before an answer that is one of the choices word for word; any other answer stays as it is."""
    letters = [letter for letter, text in listed_choices(question).items() if plain(text) == plain(answer)]
    return f"{letters[0]}. {answer}" if len(letters) == 1 else answer
