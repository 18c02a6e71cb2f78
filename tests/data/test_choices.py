"""Closed answers: the letter follows from the words, and nothing is guessed."""

import pytest

from slicesight.data.choices import listed_choices, with_letter

QUESTION = "Where is the cyst? Choices: A. head of the pancreas B. spleen C. none of the organs D. left lung"


def test_choices_are_read_with_their_letters() -> None:
    assert listed_choices(QUESTION) == {
        "A": "head of the pancreas",
        "B": "spleen",
        "C": "none of the organs",
        "D": "left lung",
    }
    assert listed_choices("Where is the cyst?") == {}


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("spleen", "B. spleen"),
        ("Spleen.", "B. Spleen."),
        ("B. spleen", "B. spleen"),
        ("(B)", "(B)"),
        ("the spleen", "the spleen"),
        ("left", "left"),
        ("", ""),
    ],
)
def test_only_an_answer_that_is_a_choice_word_for_word_gets_its_letter(answer: str, expected: str) -> None:
    assert with_letter(QUESTION, answer) == expected


def test_an_open_question_leaves_the_answer_alone() -> None:
    assert with_letter("Where is the cyst?", "spleen") == "spleen"


def test_two_equal_choices_name_no_letter() -> None:
    assert with_letter("Q? Choices: A. spleen B. spleen", "spleen") == "spleen"
