"""An answer says whether it was cut, and whether a closed question was answered with one of its choices."""

from __future__ import annotations

import pytest

from slicesight.inference.answers import Answer


@pytest.mark.parametrize("options", [{}, {"num_beams": 2}])
def test_an_answer_that_was_cut_says_so_and_how_long_it_is(make_predictor, make_grid, options):
    predictor = make_predictor()
    grid = make_grid(predictor)
    (cut,) = predictor.ask(grid, "Describe the findings.", max_new_tokens=3, **options)
    assert (cut.is_truncated, cut.finish_reason, cut.cut_at) == (True, "length", 3)


def test_an_answer_that_ended_of_itself_says_so(make_predictor, make_grid):
    predictor = make_predictor()
    predictor.model.generation_config.eos_token_id = list(range(320))
    (whole,) = predictor.ask(make_grid(predictor), "Describe the findings.", max_new_tokens=3)
    assert (whole.is_truncated, whole.finish_reason, whole.cut_at) == (False, "stop", None)


CLOSED = "Which phase is this? Choices: A. arterial phase B. venous phase"


@pytest.mark.parametrize(
    ("question", "text", "is_outside"),
    [
        (CLOSED, "B. venous phase", False),
        (CLOSED, "venous phase", False),
        (CLOSED, "a cyst", True),
        (CLOSED, "A. or B.", True),
        ("Which phase is this?", "a cyst", False),
    ],
)
def test_an_answer_outside_the_choices_of_its_question_is_seen(question, text, is_outside):
    assert Answer(question=question, text=text, scores=(), slices=()).is_outside_choices is is_outside
