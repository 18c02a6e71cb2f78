"""Closed answers: the letter follows from the words, and nothing is guessed."""

import pytest

from slicesight.data.choices import is_right, listed_choices, with_letter
from slicesight.data.manifest import Conversation

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


def test_a_question_may_have_more_than_four_choices_and_none_is_lost() -> None:
    names = ("cyst", "stone", "abscess", "tumour", "clot", "scar")
    asked = Conversation(
        task="closed", topic="finding", question="What is it?", choices=names, answer="clot", answer_choice="E"
    )
    assert listed_choices(asked.prompt) == dict(zip("ABCDEF", names, strict=True))
    assert is_right("E. clot", asked)
    assert is_right("clot", asked)
    assert not is_right("D", asked)


def test_more_choices_than_letters_are_refused() -> None:
    names = tuple(f"finding {number}" for number in range(11))
    with pytest.raises(ValueError, match="11 choices; at most 10"):
        Conversation(task="closed", topic="f", question="?", choices=names, answer=names[0], answer_choice="A")


@pytest.mark.parametrize(
    ("listed", "expected"),
    [
        ("A. E. coli B. H. pylori C. none", {"A": "E. coli", "B": "H. pylori", "C": "none"}),
        ("A. cyst C. stone", {"A": "cyst", "C": "stone"}),
        ("A. infection by E. coli B. none", {"A": "infection by E. coli", "B": "none"}),
    ],
)
def test_a_letter_inside_a_choice_begins_no_other(listed: str, expected: dict[str, str]) -> None:
    assert listed_choices(f"Which? Choices: {listed}") == expected
