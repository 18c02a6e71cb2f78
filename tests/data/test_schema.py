"""Manifests: what is written is read back, and a bad line is named."""

import pytest

from slicesight.data.manifest import Case, Conversation, read_manifest, write_manifest
from slicesight.errors import ManifestError

CLOSED = Conversation(
    task="closed",
    topic="organ",
    question="Which organ?",
    choices=("liver", "spleen"),
    answer="spleen",
    answer_choice="B",
)


def test_closed_prompt_and_target_follow_m3d() -> None:
    assert CLOSED.prompt == "Which organ? Choices: A. liver B. spleen"
    assert CLOSED.target == "B. spleen"


def test_a_manifest_survives_writing_and_reading(tmp_path) -> None:
    cases = [
        Case(id="a", volume="a.nii.gz", conversations=(CLOSED,)),
        Case(id="b", volume="b.nii.gz", conversations=()),
    ]
    write_manifest(cases, tmp_path / "manifest.jsonl")
    assert read_manifest(tmp_path / "manifest.jsonl") == cases
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.jsonl"]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('{"id": "a"}', "volume"),
        ("{not json", "line 2"),
        ('{"id": "a", "volume": "a.nii", "conversations": [], "colour": 1}', "colour"),
        (
            (
                '{"id": "a", "volume": "v", "conversations": [{"task": "closed", "topic": "t", "question": "q", '
                '"choices": ["x", "y"], "answer": "y", "answer_choice": "A"}]}'
            ),
            "does not point at the answer",
        ),
    ],
)
def test_a_bad_line_is_named_with_its_number(tmp_path, line: str, expected: str) -> None:
    path = tmp_path / "manifest.jsonl"
    path.write_text('{"id": "ok", "volume": "v", "conversations": []}\n' + line + "\n")
    with pytest.raises(ManifestError, match="line 2") as error:
        read_manifest(path)
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


def test_split_patient_source_and_question_id_survive_writing_and_reading(tmp_path) -> None:
    asked = Conversation(id="q7", task="open", topic="phase", question="Which phase?", answer="arterial")
    case = Case(id="a/b", volume="v", split="val", patient="p1", source="m3d-cap", conversations=(asked,))
    write_manifest([case], tmp_path / "manifest.jsonl")
    assert read_manifest(tmp_path / "manifest.jsonl") == [case]


def test_a_text_may_hold_any_line_separator_of_unicode(tmp_path) -> None:
    report = Conversation(task="report", topic="report", question="?", answer="one\u2028two\x85three\x0bfour\nfive")
    case = Case(id="a", volume="v", conversations=(report,))
    write_manifest([case], tmp_path / "manifest.jsonl")
    assert read_manifest(tmp_path / "manifest.jsonl") == [case]


def test_a_case_id_that_comes_twice_is_refused_with_both_lines(tmp_path) -> None:
    cases = [Case(id=name, volume="v", conversations=()) for name in ("a", "b", "a")]
    with pytest.raises(ManifestError, match="two cases have the id 'a'"):
        write_manifest(cases, tmp_path / "manifest.jsonl")
    assert not list(tmp_path.iterdir()), "nothing is written that could not be read"
    (tmp_path / "manifest.jsonl").write_text("".join(f"{case.model_dump_json(exclude_none=True)}\n" for case in cases))
    with pytest.raises(ManifestError, match="line 3: id 'a' is on line 1"):
        read_manifest(tmp_path / "manifest.jsonl")


@pytest.mark.parametrize("split", ["valid", "Train", ""])
def test_a_split_is_train_val_or_test(tmp_path, split: str) -> None:
    path = tmp_path / "manifest.jsonl"
    path.write_text(f'{{"id": "a", "volume": "v", "split": "{split}", "conversations": []}}\n')
    with pytest.raises(ManifestError, match="line 1: split"):
        read_manifest(path)
