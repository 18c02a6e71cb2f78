"""Everybody's result files are read for what they hold, and what they do not hold is named."""

from __future__ import annotations

import json

import pytest

from slicesight.errors import InputError
from slicesight.evaluation.external import read_predictions, read_systems, topic_name

from .conftest import prediction_line, write_csv


def test_m3d_captions_are_reports(peers):
    found = read_predictions(peers / "eval_caption.csv")
    assert found.format == "m3d-caption-csv"
    assert [(row.task, row.answer, row.prediction) for row in found.rows] == [
        ("report", "The liver is large.", "The liver is large."),
        ("report", "A cyst.", ""),
    ]
    assert "names no volume" in found.missing["volume"]


def test_m3d_closed_questions_bring_their_choices_from_the_questions_text(peers):
    rows = read_predictions(peers / "eval_close_vqa.csv").rows
    assert rows[0].choices == ("liver", "spleen", "left lung", "NA")
    assert [(row.topic, row.answer_choice, row.prediction) for row in rows] == [
        ("organ", "B", "B. spleen"), ("organ", "B", "spleen"), ("location", "A", ""),
    ]  # fmt: skip


def test_m3d_open_questions_have_topics_from_their_types(peers):
    assert [row.topic for row in read_predictions(peers / "eval_open_vqa.csv").rows] == ["plane", "phase"]
    assert [topic_name(kind) for kind in ("5", 5, 5.0, "lesion size")] == ["location"] * 3 + ["lesion size"]


def test_a_folder_of_the_three_tables_is_one_run(peers):
    for path in peers.glob("*.json"):
        path.unlink()
    found = read_predictions(peers)
    assert found.tasks == {"report", "open", "closed"}
    assert len(found.rows) == 7


def test_official_outputs_and_answers_go_by_position(peers):
    found = read_predictions(peers / "close.json", answers=peers / "close_answers.json")
    assert [(row.id, row.task, row.topic, row.prediction, row.answer_choice) for row in found.rows] == [
        ("7", "closed", "organ", " B. spleen", "B"), ("8", "closed", "location", "C", "A"),
    ]  # fmt: skip


def test_official_answers_without_letter_are_open_and_without_type_reports(peers, tmp_path):
    (tmp_path / "out.json").write_text(json.dumps([{"idx": 0, "outputs": "x"}, {"idx": 1, "outputs": "y"}]))
    answers = [{"id": "0", "answer": "axial", "question_type": "1"}, {"id": "1", "answer": "A long report."}]
    (tmp_path / "answers.json").write_text(json.dumps(answers))
    rows = read_predictions(tmp_path / "out.json", answers=tmp_path / "answers.json").rows
    assert [(row.task, row.topic) for row in rows] == [("open", "plane"), ("report", "report")]


def test_plain_jsonl_keeps_optional_fields_and_line_separators(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text(prediction_line(prediction="a\u2028b", volume="v", id=3) + "\n" + prediction_line())
    first, second = read_predictions(path).rows
    assert (first.prediction, first.volume, first.id) == ("a\u2028b", "v", "3")
    assert second.volume is None
    assert "1 of 2 lines have no field volume" in read_predictions(path).missing["volume"]


def test_files_of_different_kinds_are_one_system_and_of_the_same_kind_several(peers, predictions_file):
    names = [str(peers / name) for name in ("eval_caption.csv", "eval_close_vqa.csv", "eval_open_vqa.csv")]
    (runs,) = read_systems(names).values()
    assert len(runs) == 1
    a, b = predictions_file("a.jsonl", 0.9), predictions_file("b.jsonl", 0.5)
    assert list(read_systems([str(a), str(b)])) == ["a", "b"]
    assert {name: len(runs) for name, runs in read_systems([f"x={a}", f"x={b}", f"m3d={','.join(names)}"]).items()} == {
        "x": 2, "m3d": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "Foo,Bar\n1,2\n", "none of M3D's three tables"),
        ("a.json", "{", "not valid JSON"),
        ("a.json", '{"a": 1}', "expected a JSON list"),
        ("a.json", '[{"idx": 0}]', "no key outputs"),
        ("a.json", '[{"idx": 0, "outputs": "x"}]', "name their answers json with --answers"),
        ("a.jsonl", "{}\n", "a.jsonl line 1: id: field required"),
        ("a.jsonl", prediction_line(task="closed"), "a closed question needs answer_choice"),
        ("a.jsonl", prediction_line(task="song"), "task"),
        ("a.jsonl", "", "holds no predictions"),
        ("a.txt", "x", "unknown kind .txt"),
        ("missing.jsonl", None, "no such file"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_line_that_names_the_fault(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        read_predictions(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_answers_must_be_as_many_and_in_the_same_order(peers):
    (peers / "short.json").write_text(json.dumps([{"idx": 0, "outputs": "x"}]))
    with pytest.raises(InputError, match="1 outputs for 2 answers"):
        read_predictions(peers / "short.json", answers=peers / "close_answers.json")
    (peers / "mixed.json").write_text(json.dumps([{"idx": 1, "outputs": "x"}, {"idx": 0, "outputs": "y"}]))
    with pytest.raises(InputError, match="entry 0 has idx 1"):
        read_predictions(peers / "mixed.json", answers=peers / "close_answers.json")


def test_two_tables_of_the_same_kind_in_a_folder_are_refused(peers):
    write_csv(peers / "again.csv", ["Question Type", "Question", "Answer", "Pred"], [[1, "?", "a", "b"]])
    with pytest.raises(InputError, match="several csv's hold the same kind"):
        read_predictions(peers)
