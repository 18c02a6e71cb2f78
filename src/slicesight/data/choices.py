"""Which choices does a closed question list, and which of them does an answer name? (M3D-VQA's "Choices: A. … B. …")"""

from __future__ import annotations

import re

LIST_MARK = "Choices:"
_CHOICE = re.compile(r"(?:^|\s)([A-D])\.\s+")
_LETTERED = re.compile(r"\(?[A-D](?:[.):]|\)?$)")


def listed_choices(question: str) -> dict[str, str]:
    """Letter -> text of the choices in a question; empty for an open one."""
    _, mark, listed = question.partition(LIST_MARK)
    pieces = _CHOICE.split(listed) if mark else [""]
    return {letter: text.strip() for letter, text in zip(pieces[1::2], pieces[2::2], strict=True)}


def with_letter(question: str, answer: str) -> str:
    """Put the letter before an answer that is one of the choices word for word; any other answer stays as it is."""
    if _LETTERED.match(answer):
        return answer
    letters = [letter for letter, text in listed_choices(question).items() if _plain(text) == _plain(answer)]
    return f"{letters[0]}. {answer}" if len(letters) == 1 else answer


def _plain(text: str) -> str:
    return " ".join(text.lower().strip(" .").split())
