"""Predictions are held against their test set: another case, question or label is one line with file and row."""

from __future__ import annotations

import json
import sys

import pytest

from benchmark_layouts import write_deeptumorvqa
from slicesight import cli
from slicesight.data.manifest import read_manifest
from slicesight.errors import InputError
from slicesight.evaluation.controls import majority
from slicesight.evaluation.external import read_predictions
from slicesight.evaluation.predictions import to_lines
from slicesight.evaluation.truths import checked_against


@pytest.fixture
def answered(scans, tmp_path):
    """(cases, a file of predictions of them)."""
    cases = read_manifest(scans / "manifest.jsonl")
    path = tmp_path / "said.jsonl"
    path.write_text(to_lines(majority(cases, None)))
    return cases, path


def changed(path, number, **fields):
    """The file with fields of one line changed."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[number] |= fields
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_predictions_of_the_test_set_keep_its_topics_and_what_is_missing_is_counted(answered):
    cases, path = answered
    changed(path, 0, topic="other")
    whole, unanswered = checked_against(read_predictions(path), cases, data="d")
    assert (len(whole.rows), unanswered) == (sum(len(case.conversations) for case in cases), 0)
    assert whole.rows[0].topic == cases[0].conversations[0].topic
    path.write_text("".join(path.read_text().splitlines(keepends=True)[2:]))
    assert checked_against(read_predictions(path), cases, data="d")[1] == 2


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"volume": "nobody"}, r"said\.jsonl line 3: no case 'nobody' in d"),
        ({"id": "nothing"}, r"said\.jsonl line 3: no question 'nothing' in d"),
        ({"answer": "a kite", "answer_choice": "D"}, r"said\.jsonl line 3: the answer of .* in d it is"),
        ({"task": "report"}, r"said\.jsonl line 3: .* is a report question, in d a closed one"),
    ],
)
def test_a_prediction_that_is_of_no_case_or_another_truth_is_refused_with_its_line(answered, fields, message):
    cases, path = answered
    changed(path, 2, **fields)
    with pytest.raises(InputError, match=message) as caught:
        checked_against(read_predictions(path), cases, data="d")
    assert "\n" not in str(caught.value)


def test_a_question_answered_twice_is_refused_with_both_lines(answered):
    _, path = answered
    first = json.loads(path.read_text().splitlines()[0])["id"]
    changed(path, 3, id=first)
    with pytest.raises(InputError, match=r"said\.jsonl line 4: id .* is in said\.jsonl line 1 already"):
        read_predictions(path)


def test_score_refuses_a_result_of_no_question_with_exit_code_2(tmp_path, monkeypatch, capsys):
    base = write_deeptumorvqa(tmp_path, num_scans=1)
    result = {"qid": "bench_00099", "image_id": "BDMAP_00000000", "raw_output": "A", "correct_option": "A",
              "question_type": "recognition", "question_subtype": "liver lesion existence"}  # fmt: skip
    (tmp_path / "r.json").write_text(json.dumps({"results": [result]}))
    arguments = ["score", str(tmp_path / "r.json"), "--benchmark", "deeptumorvqa", "--data", str(base)]
    monkeypatch.setattr(sys, "argv", ["slicesight", *arguments])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert "r.json result 0: no question 'bench_00099/mc' in" in " ".join(error.split())


def test_score_says_how_many_questions_of_the_benchmark_are_not_answered(tmp_path, monkeypatch, capsys):
    base = write_deeptumorvqa(tmp_path, num_scans=1)
    result = {"qid": "bench_00000", "image_id": "BDMAP_00000000", "raw_output": "A", "correct_option": "A",
              "question_type": "recognition", "question_subtype": "liver lesion existence"}  # fmt: skip
    (tmp_path / "r.json").write_text(json.dumps({"results": [result]}))
    arguments = ["score", f"x={tmp_path / 'r.json'}", "--benchmark", "deeptumorvqa", "--data", str(base)]
    monkeypatch.setattr(sys, "argv", ["slicesight", *arguments])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 0
    assert "x: 5 questions of" in capsys.readouterr().out
