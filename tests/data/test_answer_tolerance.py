"""An answer of numbers is near enough by the rule of its topic, and by no other."""

from dataclasses import dataclass

import pytest

from slicesight.data.answer_tolerance import Tolerance, is_near_enough, read_tolerances
from slicesight.errors import InputError

OVERLAP, WITHIN = Tolerance(kind="overlap", amount=0.5), Tolerance(kind="within", amount=2)


@dataclass(frozen=True)
class Asked:
    answer: str
    task: str = "open"
    answer_choice: str | None = None
    choices: tuple[str, ...] | None = None


@pytest.mark.parametrize(
    ("said", "true", "is_near"),
    [
        ("slices 3 to 8 of 32", "slices 1 to 6 of 32", True),  # 4 of 8 slices: .5
        ("slices 4 to 9 of 32", "slices 1 to 6 of 32", False),  # 3 of 9
        ("Slices 3 to 8 of 32.", "slices 1 to 6 of 32", True),
        ("slices 8 to 3 of 32", "slices 3 to 8 of 32", False),  # backwards
        ("slices 3 to 8 of 40", "slices 3 to 8 of 32", False),  # of another number of slices
        ("slice 3 of 32", "slices 3 to 8 of 32", False),
        ("slices 3, 8 of 32", "slices 3 to 8 of 32", False),
        ("between 3 and 8", "slices 3 to 8 of 32", False),
        ("head and neck", "slices 3 to 8 of 32", False),
    ],
)
def test_two_ranges_overlap_by_half_or_more(said: str, true: str, is_near: bool) -> None:
    assert is_near_enough(said, Asked(true), OVERLAP) is is_near


@pytest.mark.parametrize(
    ("said", "is_near"),
    [("7 of 32 slices", True), ("11 of 32 slices", True), ("6 of 32 slices", False), ("12 of 32 slices", False),
     ("9 of 31 slices", False), ("9 slices", False), ("slices 9 of 32", False)],
)  # fmt: skip
def test_a_number_lies_within_two(said: str, is_near: bool) -> None:
    assert is_near_enough(said, Asked("9 of 32 slices"), WITHIN) is is_near


def test_a_negative_or_decimal_number_is_one_number() -> None:
    assert is_near_enough("12.5 mm", Asked("13.5 mm"), WITHIN)
    assert not is_near_enough("12.5 mm", Asked("16 mm"), WITHIN)
    assert not is_near_enough("T2", Asked("T1"), WITHIN)  # the digit of a word is no number


def test_without_a_rule_and_for_closed_questions_only_the_same_answer_is_right() -> None:
    assert not is_near_enough("9 of 32 slices", Asked("10 of 32 slices"), None)
    closed = Asked("slices 3 to 8", task="closed", answer_choice="A", choices=("slices 3 to 8", "slices 4 to 8"))
    assert not is_near_enough("B. slices 4 to 8", closed, OVERLAP)
    assert is_near_enough("A. slices 3 to 8", closed, OVERLAP)


def test_rules_are_read_and_written_alike() -> None:
    found = read_tolerances(["slices=overlap:0.5", "count = within:2"])
    assert found == {"slices": OVERLAP, "count": WITHIN}
    assert [str(rule) for rule in found.values()] == ["overlap:0.5", "within:2"]


@pytest.mark.parametrize(
    ("written", "message"),
    [
        (["slices"], "names no topic"),
        (["=within:2"], "names no topic"),
        (["slices=near:2"], "is no rule"),
        (["slices=overlap:0"], "is no rule"),
        (["slices=overlap:1.5"], "is no rule"),
        (["slices=within:-1"], "is no rule"),
        (["slices=within:nan"], "is no rule"),
        (["slices=within:inf"], "is no rule"),
        (["slices=within"], "is no rule"),
        (["a=within:1", "a=within:2"], "two tolerances"),
    ],
)
def test_what_is_no_rule_is_refused_in_one_line(written: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message) as refused:
        read_tolerances(written)
    assert "\n" not in str(refused.value)
