"""Which choice an answer names: every form that models write, each with what it counts as."""

from __future__ import annotations

import pytest

from slicesight.evaluation.metrics.choice import count_outcomes, is_right, legacy_right, read_choice
from slicesight.evaluation.predictions import Prediction

CHOICES = ("liver", "left kidney", "kidney", "no abnormality")


@pytest.mark.parametrize(
    ("said", "outcome", "letter"),
    [
        ("B", "letter", "B"),
        ("b", "letter", "B"),
        (" B. left kidney", "letter", "B"),
        ("B: left kidney", "letter", "B"),
        ("(B) left kidney", "letter", "B"),
        ("B)", "letter", "B"),
        ("**B.** left kidney", "letter", "B"),
        ("The answer is B.", "letter", "B"),
        ("Answer: (b)", "letter", "B"),
        ("the correct option is C", "letter", "C"),
        ("I think it is (C), the kidney", "letter", "C"),
        ("left kidney", "text", "B"),
        ("Left kidney.", "text", "B"),
        ("It is in the left kidney, I believe", "text", "B"),
        ("kidney", "text", "C"),
        ("There is no abnormality in it", "text", "D"),
        ("A cyst is seen in the liver", "text", "A"),
        ("A cyst", "unparsed", None),
        ("the spleen", "unparsed", None),
        ("A or B", "unparsed", None),
        ("A. liver or B. left kidney", "ambiguous", None),
        ("A. B.", "ambiguous", None),
        ("A. kidney", "ambiguous", None),
        ("liver or kidney", "ambiguous", None),
        ("not the liver", "unparsed", None),
        ("I cannot tell from this image.", "refusal", None),
        ("I'm sorry, I am unable to say whether it is the liver", "refusal", None),
        ("", "empty", None),
        (" \n", "empty", None),
    ],
)
def test_an_answer_is_read_as(said, outcome, letter):
    found = read_choice(said, CHOICES)
    assert (found.outcome, found.letter) == (outcome, letter)


def test_without_choices_only_letters_are_read():
    assert read_choice("C. something").letter == "C"
    assert read_choice("liver").outcome == "unparsed"


def test_a_letter_beyond_the_choices_is_none():
    assert read_choice("D. something", ("liver", "spleen")).letter is None


def closed(said: str) -> Prediction:
    return Prediction(
        id="0", task="closed", topic="organ", question="?", prediction=said, answer="left kidney", answer_choice="B",
        choices=CHOICES,
    )  # fmt: skip


def test_the_legacy_rule_is_a_substring_and_the_parser_is_not_fooled_by_it():
    listing = "A. liver B. left kidney C. kidney D. no abnormality"
    assert legacy_right(listing, "B")
    assert not is_right(closed(listing))
    assert not legacy_right("(B) left kidney", "B")
    assert is_right(closed("(B) left kidney"))


def test_every_answer_is_counted_once_and_only_two_outcomes_can_be_right():
    rows = [closed(said) for said in ("B", "left kidney", "A. B.", "I cannot say", "", "spleen", "A")]
    counted = count_outcomes(rows)
    assert counted == {"letter": 2, "text": 1, "refusal": 1, "ambiguous": 1, "empty": 1, "unparsed": 1}
    assert sum(is_right(row) for row in rows) == 2
