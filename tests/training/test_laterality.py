"""Mirrored sentences: left and right change places, and where more would have to change nobody guesses."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slicesight.data.manifest import Conversation
from slicesight.training.augmentation import swap_conversation, swap_sides


@pytest.mark.parametrize(
    ("text", "mirrored"),
    [
        ("A cyst in the upper pole of the right kidney.", "A cyst in the upper pole of the left kidney."),
        ("Left and RIGHT, right-sided, leftwards", "Right and LEFT, left-sided, rightwards"),
        ("The upright patient is bright; a copyright notice.", "The upright patient is bright; a copyright notice."),
        ("Both kidneys are normal.", "Both kidneys are normal."),
        ("L4 and T12 are intact; left > right.", "L4 and T12 are intact; right > left."),
    ],
)
def test_sides_are_swapped_in_their_own_case_and_nothing_else(text: str, mirrored: str) -> None:
    assert swap_sides(text) == mirrored


@pytest.mark.parametrize(
    "text",
    [
        "The left ventricle is dilated.",
        "Stenosis of the left anterior descending artery.",
        "A nodule in the RUL.",
        "R kidney normal",
        "A drain was left in place.",
        "The catheter has been left in the bladder.",
        "Dextroscoliosis of the lumbar spine",
        "The right middle lobe is collapsed.",
        "Is that right?",
        "Zyste der linken Niere",
        "右肾囊肿",
        "situs inversus",
        "rotated clockwise",
        "the Lt. lung",
    ],
)
def test_where_swapping_may_not_be_enough_there_is_no_mirrored_sentence(text: str) -> None:
    assert swap_sides(text) is None


@settings(max_examples=50)
@given(st.text(alphabet="lefrightLEFRIGHT ,.-", max_size=60))
def test_swapping_twice_gives_the_sentence_back(text: str) -> None:
    once = swap_sides(text)
    if once is not None and (twice := swap_sides(once)) is not None:
        assert twice == text or text != text.lower()  # only odd case such as lEFT is made regular


def test_question_choices_and_answer_are_swapped_together() -> None:
    asked = Conversation(
        task="closed",
        topic="location",
        question="Which kidney, left or right?",
        choices=("left kidney", "right kidney"),
        answer="right kidney",
        answer_choice="B",
    )
    mirrored = swap_conversation(asked)
    assert mirrored is not None
    assert mirrored.prompt == "Which kidney, right or left? Choices: A. right kidney B. left kidney"
    assert mirrored.target == "B. left kidney"
    doubtful = asked.model_copy(update={"choices": ("left kidney", "right atrium")})
    assert swap_conversation(doubtful) is None, "one choice that cannot be swapped forbids the whole"
