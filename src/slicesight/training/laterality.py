"""What is true of the mirror image? The same sentence with left and right swapped, if that is all its sides are.

Where a side is a name (left ventricle), an abbreviation (RUL), a word of another language or no side at all (left in
place), nobody is asked to guess: the answer is None, and the volume is not mirrored.
"""

from __future__ import annotations

import re

from slicesight.data.manifest import Conversation

SIDE = re.compile(r"\b(left|right)(?=(?:wards?|most|hand|sided)?\b)", re.IGNORECASE)
OTHER = {"left": "right", "right": "left"}
DOUBTFUL = re.compile(
    r"""
      \b(?:left|right)[\s-]+(?:atri|ventric|heart|bundle|coronary|main\b|anterior\sdescending|auric|circumflex|dominan)
    | \b(?:left|right)[\s-]*handed
    | \bmiddle\s+lobe | \blingula | \binvers | \btransposition | clockwise
    | \b(?:dextr|laev|levo|sinist)\w*
    | \bright\s+(?:now|away|angle|answer|choice|option|after|before|at)\b | \b(?:all|that|this|it)\s+(?:is\s+)?right\b
    | \b(?:been|be|being|was|were|is|are|has|have|had)\s+left\s+(?:in|out|over|behind|alone|open|to|as|for|un\w*)\b
    | \bleft(?:\s+|-)?(?:over|behind|in\s+place|in\s+situ)\b
    | \b(?:links|rechts|linke\w*|rechte\w*|gauche\w*|droit\w*|izquierd\w*|derech\w*|destr[aoie]|esquerd\w*|direit\w*)\b
    | (?-i:\b(?:R|L|Rt|Lt|RT|LT|[RL][UML]L|[RL][UL]Q|[RL][VA]|RCA|LCA|LAD|LCX|LMCA|[RL]MB|RVOT|LVOT)\b)
    | \b[rl]t\.
    """,
    re.IGNORECASE | re.VERBOSE,
)
LATIN = re.compile(r"[^\W\d_]")


def swap_sides(text: str) -> str | None:
    """The text with every left a right and every right a left, in its own case; None where that may not be enough."""
    if DOUBTFUL.search(text) or any(ord(letter) > 0x24F for letter in LATIN.findall(text)):
        return None
    return SIDE.sub(lambda found: _in_case_of(found[0], OTHER[found[0].lower()]), text)


def swap_conversation(conversation: Conversation) -> Conversation | None:
    """Question, choices and answer for the mirror image; None where one of them cannot be swapped."""
    question, answer = swap_sides(conversation.question), swap_sides(conversation.answer)
    choices = None if conversation.choices is None else [swap_sides(choice) for choice in conversation.choices]
    if question is None or answer is None or (choices is not None and None in choices):
        return None
    return conversation.model_copy(
        update={"question": question, "answer": answer, "choices": None if choices is None else tuple(choices)}
    )


def _in_case_of(pattern: str, word: str) -> str:
    if pattern.isupper():
        return word.upper()
    return word.capitalize() if pattern[0].isupper() else word
