"""Which choice an answer names: every form that models write, each with what it counts as."""

from __future__ import annotations

import pytest

from slicesight.data.choices import is_right, legacy_right, read_choice
from slicesight.data.manifest import Conversation
from slicesight.evaluation.predictions import Prediction, PredictionFile
from slicesight.evaluation.sheet import count_outcomes, score_file
from slicesight.reports.truth import agrees

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
        ("A or B", "ambiguous", None),
        ("D liver", "ambiguous", None),
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
    assert not is_right(listing, closed(listing))
    assert not legacy_right("(B) left kidney", "B")
    assert is_right("(B) left kidney", closed("(B) left kidney"))


def test_every_answer_is_counted_once_and_only_two_outcomes_can_be_right():
    rows = [closed(said) for said in ("B", "left kidney", "A. B.", "I cannot say", "", "spleen", "A")]
    counted = count_outcomes(rows)
    assert counted == {"letter": 2, "text": 1, "refusal": 1, "ambiguous": 1, "empty": 1, "unparsed": 1}
    assert sum(is_right(row.prediction, row) for row in rows) == 2


SAID = (
    "B", "b", "B.", "(B)", "B. left kidney", "B: left kidney", "**B.** left kidney", "The answer is B.", "left kidney",
    "Left kidney.", " left  kidney ", "It is in the left kidney", "A. left kidney", "B. kidney", "kidney", "the kidney",
    "A", "A. liver", "Both are possible", "A or B", "A. B.", "left kidney or liver", "not the left kidney", "", " ",
    "I cannot tell", "no abnormality", "A cyst", "LEFT KIDNEY", "B. left kidney.", "B, left kidney", "Answer: (b)",
)  # fmt: skip


@pytest.mark.parametrize("task", ["closed", "open"])
def test_ask_and_evaluate_call_the_same_answers_right(task):
    """What `ask --truth` marks is what `evaluate` counts, answer by answer."""
    known = {"choices": CHOICES, "answer_choice": "B"} if task == "closed" else {}
    pair = Conversation(task=task, topic="organ", question="Where?", answer="left kidney", **known)
    rows = tuple(
        Prediction(
            id=str(number), task=task, topic="organ", question="Where?", prediction=said, answer="left kidney", **known
        )
        for number, said in enumerate(SAID)
    )
    counted = score_file(PredictionFile(rows=rows, format="jsonl")).values["accuracy" if task == "closed" else "exact"]
    marked = [agrees(said, pair) for said in SAID]
    assert marked == [value == 1 for value in counted]
    assert 3 < sum(marked) < len(SAID) - 3
