"""Manifests: what is written is read back, and a bad line is named."""

import pytest

from slicesight.conversations.schema import Case, Conversation, read_manifest, write_manifest
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
