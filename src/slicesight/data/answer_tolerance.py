"""When is an answer of numbers near enough to the true one? By a rule that somebody chose for its topic.

"slices 5 to 12 of 32" for "slices 4 to 12 of 32" is not the same text, and for most readers not wrong. Two rules:
`overlap:0.5`, the first two numbers are a range and the two ranges' intersection over union reaches 0.5; `within:2`,
the first number lies within 2. All other words and numbers must be the same as the true answer's. Whatever has no rule
stays exact (`choices.is_right`), and so is a count of lesions, unless somebody says otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from slicesight.data.answer_text import final_text
from slicesight.data.choices import AskedWithAnswer, is_right, plain
from slicesight.errors import InputError

NUMBER = re.compile(r"(?<![\w.])\d+(?:\.\d+)?")
EXPECTED = "TOPIC=overlap:SHARE or TOPIC=within:NUMBER, such as slices=overlap:0.5"


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """One topic's rule. amount: the least overlap, above 0 and at most 1, or the largest distance, 0 or more."""

    kind: Literal["overlap", "within"]
    amount: float

    def __str__(self) -> str:
        return f"{self.kind}:{self.amount:g}"

    @property
    def words(self) -> str:
        """What counts as right, for people."""
        if self.kind == "within":
            return f"right means within {self.amount:g} of the true number"
        return f"right means a range that overlaps the true one by {self.amount:.0%} or more"

    def accepts(self, said: str, true: str) -> bool:
        """Whether an answer is near enough to the true one."""
        numbers, expected = ([float(one) for one in NUMBER.findall(text)] for text in (said, true))
        compared = 1 if self.kind == "within" else 2
        if NUMBER.sub("#", plain(said)) != NUMBER.sub("#", plain(true)) or len(expected) < compared:
            return plain(said) == plain(true)
        if numbers[compared:] != expected[compared:]:
            return False
        if self.kind == "within":
            return abs(numbers[0] - expected[0]) <= self.amount
        return overlap(numbers[:2], expected[:2]) >= self.amount


def overlap(one: list[float], other: list[float]) -> float:
    """Intersection over union of two ranges of whole numbers, ends included; 0 where one runs backwards."""
    if one[0] > one[1] or other[0] > other[1]:
        return 0.0
    shared = max(0.0, min(one[1], other[1]) - max(one[0], other[0]) + 1)
    return shared / ((one[1] - one[0] + 1) + (other[1] - other[0] + 1) - shared)


def is_near_enough(said: str, asked: AskedWithAnswer, tolerance: Tolerance | None) -> bool:
    """Right by the package's rule, or, of an open question with a rule of its own, near enough."""
    if is_right(said, asked):
        return True
    return tolerance is not None and asked.task == "open" and tolerance.accepts(final_text(said).text, asked.answer)


def read_tolerances(written: Iterable[str]) -> dict[str, Tolerance]:
    """{topic: rule} of `TOPIC=RULE`.

    Raises:
        InputError: not of that form, a number that cannot be, a topic twice.
    """
    found: dict[str, Tolerance] = {}
    for text in written:
        topic, mark, rule = text.partition("=")
        if not topic.strip() or not mark:
            raise InputError(f"the tolerance {text!r} names no topic; expected {EXPECTED}.")
        if topic.strip() in found:
            raise InputError(f"the topic {topic.strip()!r} has two tolerances; leave one of them.")
        found[topic.strip()] = read_rule(rule)
    return found


def read_rule(rule: str) -> Tolerance:
    """`overlap:0.5` or `within:2`.

    Raises:
        InputError: it is neither.
    """
    kind, _, amount = rule.strip().partition(":")
    try:
        number = float(amount)
    except ValueError:
        number = -1.0
    if kind == "overlap" and 0 < number <= 1:
        return Tolerance(kind="overlap", amount=number)
    if kind == "within" and 0 <= number < float("inf"):
        return Tolerance(kind="within", amount=number)
    raise InputError(f"the tolerance {rule!r} is no rule; expected {EXPECTED} (a share above 0 and at most 1).")
