"""A question about what was never taught is told from another wording of one that was."""

from __future__ import annotations

import pytest

from slicesight.inference.calibration.questions import TaughtQuestion, fit_questions, stem_of, words_of

TEMPLATES = {
    "open/organ": ("Which organ contains the {}?", "In which organ is the {}?"),
    "open/location": ("Where is the {}?", "What is the location of the {}?"),
    "closed/phase": ("Which contrast phase is this?", "Which phase does the scan show?"),
}
FINDINGS = ("cyst", "abscess", "lipoma")


@pytest.fixture(scope="module")
def gauge():
    questions = [
        TaughtQuestion(text=text.format(finding), kind=kind)
        for kind, texts in TEMPLATES.items()
        for text in texts
        for finding in (FINDINGS if "{}" in text else ("",))
    ]
    taught = {
        "open/organ": ["liver", "left kidney"],
        "open/location": ["upper pole of the left kidney"],
        "closed/phase": ["arterial phase", "venous phase"],
    }
    return fit_questions(questions, taught=taught)


@pytest.mark.parametrize(
    "question",
    [
        "Which organ contains the cyst?",
        "Please tell me which organ contains the abscess.",
        "The lipoma is in which organ?",
        "Where do you see the cyst?",
        "Name the contrast phase.",
        "Is this the arterial phase?",
        "Is this the arterial phase? Choices: A. arterial phase B. venous phase",
        "Does the left kidney contain the cysts?",
    ],
)
def test_another_wording_of_what_was_taught_is_known(gauge, question):
    assert not gauge.judge(question).is_unknown


@pytest.mark.parametrize(
    ("question", "term"),
    [
        ("Is there pneumonia?", "pneumonia"),
        ("Which organ contains the haemorrhage?", "haemorrhage"),
        ("How old is the patient?", "old"),
        ("Which organ contains the cyst? Choices: A. thyroid B. liver", "thyroid"),
    ],
)
def test_a_term_that_was_never_taught_is_named(gauge, question, term):
    found = gauge.judge(question)
    assert found.is_unknown
    assert repr(term) in found.reason


def test_taught_terms_that_do_not_belong_together_make_an_unknown_question(gauge):
    found = gauge.judge("Was the arterial cyst contrast?")
    assert found.is_unknown
    assert "none of the kinds" in found.reason


def test_a_question_of_general_words_alone_is_unknown_unless_it_is_near_a_taught_one(gauge):
    assert gauge.judge("What should be done next?").is_unknown
    assert not gauge.judge("What should be done next?", is_follow_up=True).is_unknown


def test_a_follow_up_with_an_untaught_term_is_still_unknown(gauge):
    assert gauge.judge("And the pneumonia?", is_follow_up=True).is_unknown


def test_the_kind_is_that_of_the_nearest_question_of_the_same_form(gauge):
    assert gauge.judge("Where exactly is the cyst?").kind == "open/location"
    assert gauge.judge("Which phase is it? Choices: A. arterial phase B. venous phase").kind == "closed/phase"


def test_choices_and_numbers_are_no_part_of_a_questions_text():
    assert stem_of("<image3d> Is it in slices 3 to 17? Choices: A. yes B. no") == "Is it in slices # to #?"


def test_plurals_count_as_their_singular_and_small_words_are_left_alone():
    assert words_of("Does the kidney's cysts, ladies") == ["does", "the", "kidney", "cyst", "lady"]


def test_a_question_is_of_a_kind_that_knows_its_terms_however_alike_another_sounds():
    questions = [
        TaughtQuestion(text="Which area is shown?", kind="open/region"),
        TaughtQuestion(text="Which body area is it?", kind="open/region"),
        TaughtQuestion(text="Which slice is best for the larynx?", kind="open/most"),
    ]
    gauge = fit_questions(questions * 2, taught={"open/region": ["neck"], "open/most": ["slice 3 of 32"]}, answers={})
    judged = gauge.judge("Which body area is it best for the larynx?")
    assert judged.kind == "open/most"
    assert not gauge.may_say("neck", kind="open/most"), "a word of another kind"
    assert gauge.may_say("slice 9 of 32", kind="open/most")
    assert gauge.may_say("cartilage", kind="open/most"), "a word that no kind was taught tells nothing"


def test_an_answer_in_the_form_of_another_kind_is_of_that_kind():
    asked = [
        TaughtQuestion(text="Which slices show the liver?", kind="open/slices"),
        TaughtQuestion(text="Which slice shows most of the liver?", kind="open/most"),
        TaughtQuestion(text="Which organ is it?", kind="open/organ"),
    ]
    answers = {
        "open/slices": ["slices 3 to 9 of 32", "slice 4 of 32"],
        "open/most": ["slice 5 of 32", "slice 11 of 32"],
        "open/organ": ["liver"],
    }
    gauge = fit_questions(asked, taught=answers, answers=answers)
    assert gauge.kind_of_answer("Slices 13 to 26 of 32.", kind="open/most") == "open/slices"
    assert gauge.kind_of_answer("slice 7 of 32", kind="open/most") == "open/most"
    assert gauge.kind_of_answer("slice 7 of 32", kind="open/organ") == "open/organ", "two kinds are answered like this"
    assert gauge.kind_of_answer("7 to 9", kind="open/most") == "open/most", "no kind is"
    assert gauge.kind_of_answer("liver", kind="open/most") == "open/most"
    assert gauge.kind_of_answer("slices 1 to 2 of 32", kind="closed/most") == "closed/most"
    assert set(gauge.shapes) == {"open/slices", "open/most"}
