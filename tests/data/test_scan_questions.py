"""A table of questions is taken as it is meant, or refused in one line that names the line."""

from __future__ import annotations

import pytest

from slicesight.data.choices import listed_choices
from slicesight.data.scan_questions import listed_questions, read_questions
from slicesight.errors import InputError


@pytest.fixture
def table(tmp_path):
    def write(text, encoding="utf-8"):
        path = tmp_path / "questions.csv"
        path.write_bytes(text.encode(encoding))
        return path

    return write


def test_only_the_question_is_needed_and_the_rest_has_a_rule(table):
    text = (
        '\ufeffquestion,choices,scan,topic\n"Which organ, exactly?",liver | spleen,patient_a/*,x\n\nIs it large?,,,\n'
    )
    found, ignored = read_questions(table(text))
    assert [(one.id, one.question, one.choices) for one in found] == [
        ("q1", "Which organ, exactly?", ("liver", "spleen")),
        ("q2", "Is it large?", ()),
    ]
    assert found[0].prompt == "Which organ, exactly? Choices: A. liver B. spleen"
    assert listed_choices(found[0].prompt) == {"A": "liver", "B": "spleen"}
    assert ignored == ["topic"]
    assert found[0].is_for("patient_a/ct.nii.gz", "")
    assert not found[0].is_for("patient_b/ct.nii.gz", "1.2.3")
    assert found[1].is_for("patient_b/ct.nii.gz", "")


def test_a_pattern_may_name_the_series(table):
    (asked,), _ = read_questions(table("question,scan\nWhy?,1.2.*\n"))
    assert asked.is_for("x", "1.2.3")
    assert not asked.is_for("x", "")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("id,text\n1,Why?\n", "line 1: no column 'question' among id, text"),
        ("question\n", "no question in it"),
        ("id,question\n1,Why?\n1,What?\n", "line 3: id '1' is on line 2 already"),
        ("id,question\n1,\n", "line 2: the question is empty"),
        ("question,id\nWhy, then?,1\n", "line 2: more or fewer cells than the header"),
        ("question,choices\nWhy?,a|\n", "line 2: choices 'a|' has an empty one"),
        ("question,choices\nWhy?,a|A\n", "or one twice"),
        ("question,choices\nWhy?,a\n", "line 2: 1 choices"),
        ("question,choices\nWhy?,a|b|c|d|e|f|g|h|i|j|k\n", "line 2: 11 choices"),
        ("question,choices\nWhy?,type B. 1|b\n", "line 2: a choice holds a letter with a full stop"),
        ("question,choices\nWhy? Choices: A. x B. y,a|b\n", "lists choices and the column choices does too"),
        ('question\n"Why?\n', "save the table as CSV again"),
    ],
)
def test_a_bad_table_is_one_line(table, text, said):
    with pytest.raises(InputError) as refused:
        read_questions(table(text))
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_another_encoding_and_no_file_are_refused(table, tmp_path):
    with pytest.raises(InputError, match="UTF-8"):
        read_questions(table("question\nWo ist die Läsion?\n", encoding="latin-1"))
    with pytest.raises(InputError, match="no such file; expected a CSV with a column question"):
        read_questions(tmp_path / "none.csv")


def test_typed_questions_are_numbered_and_none_is_empty():
    assert [(one.id, one.prompt) for one in listed_questions(["Why?", " What? "])] == [("q1", "Why?"), ("q2", "What?")]
    with pytest.raises(InputError, match="question 2 is empty"):
        listed_questions(["Why?", " "])
