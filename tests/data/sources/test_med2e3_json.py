"""Med-2E3's JSON: every turn a sample, every spelling of the scan's key and token, answers in a file beside."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slicesight.errors import InputError

AXIAL = "ct_case/000002/Axial.npy"
CLOSED = "Which organ? Choices: A. liver B. spleen C. lung D. NA"


def item(said: list[str], name: str = "0", **more: Any) -> dict[str, Any]:
    speakers = ("human", "gpt") * len(said)
    turns = [{"from": who, "value": value} for who, value in zip(speakers, said, strict=False)]
    return {"id": name, "conversations": turns, "vision3d": [AXIAL], **more}


@pytest.fixture
def write(write_m3d_cap) -> Callable[..., Path]:
    """Write lists of items beside processed arrays -> their folder."""

    def call(**files: Any) -> Path:
        folder = write_m3d_cap("npy", listed=False) / "M3D_Cap_npy"
        for name, items in files.items():
            (folder / f"{name}.json").write_text(json.dumps(items, indent=1), encoding="utf-8")
        return folder

    return call


def test_several_turns_are_one_sample_each_without_the_image_token(write, read) -> None:
    turns = ["<image3d>\nWhich plane?", "axial", "And which phase?", "arterial", CLOSED, "B. spleen"]
    (case,), intake = read(write(train=[item(turns, question="ignored")]), "med2e3-json", on_bad_case="stop")
    assert intake.skipped == []
    assert (case.id, case.split, case.patient) == ("ct_case/000002/Axial", "train", "ct_case/000002")
    assert [(asked.id, asked.prompt, asked.target) for asked in case.conversations] == [
        ("0/0", "Which plane?", "axial"),
        ("0/1", "And which phase?", "arterial"),
        ("0/2", "Which organ? Choices: A. liver B. spleen C. lung", "B. spleen"),
    ]


@pytest.mark.parametrize("key", ["vision3d", "image3d", "image", "vision2d"])
@pytest.mark.parametrize("token", ["<image3d>\n", "<image>\n", "", "Look: <image3d> "])
@pytest.mark.parametrize("is_list", [True, False])
def test_every_key_and_token_that_names_the_scan_is_understood(write, read, key, token, is_list) -> None:
    asked = item([f"{token}Which plane?", "axial"])
    del asked["vision3d"]
    asked[key] = [AXIAL] if is_list else AXIAL
    (case,), _ = read(write(test=[asked]), "med2e3-json", on_bad_case="stop")
    assert case.conversations[0].question == ("Look: Which plane?" if "Look" in token else "Which plane?")
    assert case.conversations[0].id == "0"
    assert Path(case.volume).name == "Axial.npy"


@pytest.mark.parametrize(
    ("kind", "question", "task", "topic"),
    [
        (0, "Describe it.", "report", "report"),
        ("0", "Describe it.", "report", "report"),
        (3, "Which organ?", "open", "organ"),
        ("5", CLOSED, "closed", "location"),
        (8, CLOSED, "closed", "organ"),
        (11, "Which organ?", "open", "type 11"),
        ("Phase", "Which phase?", "open", "phase"),
        (None, "Please caption this scan with findings.", "report", "report"),
        (None, "Which organ?", "open", "other"),
        (None, f"What findings? {CLOSED}", "closed", "other"),
    ],
)
def test_question_types_and_their_absence(write, read, kind, question, task, topic) -> None:
    more = {} if kind is None else {"question_type": kind}
    answer = "B. spleen" if "Choices" in question else "spleen"
    (case,), _ = read(write(test=[item([question, answer], **more)]), "med2e3-json", on_bad_case="stop")
    assert (case.conversations[0].task, case.conversations[0].topic) == (task, topic)


def test_questions_without_answers_take_them_from_the_file_beside_that_bears_their_name(write, read) -> None:
    questions = [item([f"<image3d>\n{CLOSED}"], "7"), item(["<image3d>\nWhich phase?"], "8")]
    folder = write(
        vqa_test=questions,
        vqa_test_answers=[
            {"id": "7", "answer": "spleen", "answer_choice": "B", "question_type": "3"},
            {"id": 8, "answer": "arterial", "answer_choice": None, "question_type": "2"},
        ],
        cap_answers=[{"id": "7", "answer": "of another file", "answer_choice": "A", "question_type": "3"}],
    )
    for source in (folder, folder / "vqa_test.json"):
        (case,), intake = read(source, "med2e3-json", on_bad_case="stop")
        assert case.split == "test"
        assert [asked.target for asked in case.conversations] == ["B. spleen", "arterial"]
        assert intake.skipped == []
    (folder / "vqa_test_answers.json").unlink()
    _, intake = read(folder, "med2e3-json")
    assert [skipped.case_id for skipped in intake.skipped] == ["7", "8"]
    (folder / "cap_answers.json").unlink()
    with pytest.raises(InputError, match=r"vqa_test\.json line \d+: a question without an answer"):
        read(folder, "med2e3-json", on_bad_case="stop")


def test_pairs_about_2d_pictures_or_two_scans_are_left_out_even_when_bad_cases_stop(write, read) -> None:
    flat = item(["<image>\nRender it.", "a bus"], "flat")
    del flat["vision3d"]
    two = item(["<image3d> and <image3d>: which grew?", "the first"], "two")
    two["vision3d"] = [AXIAL, "ct_case/000003/Axial.npy"]
    items = [{**flat, "vision2d": ["00453/1.jpg"]}, two, item(["Which plane?", "axial"], "good")]
    cases, intake = read(write(train=items), "med2e3-json", on_bad_case="stop")
    assert [asked.id for case in cases for asked in case.conversations] == ["good"]
    assert [(skipped.kind, skipped.case_id) for skipped in intake.skipped] == [
        ("no scan", "flat"),
        ("several scans", "two"),
    ]


def test_a_3d_scan_beside_a_2d_picture_is_the_scan(write, read) -> None:
    both = item(["<image3d>\nWhich plane?", "axial"], vision2d=["slice.png"])
    (case,), _ = read(write(train=[both]), "med2e3-json", on_bad_case="stop")
    assert Path(case.volume).name == "Axial.npy"


BAD: dict[str, Any] = {
    "out of turn": item(["Which plane?", "axial"], "bad")
    | {"conversations": [{"from": "gpt", "value": "axial"}, {"from": "human", "value": "?"}]},
    "is not": item(["Which plane?", "axial"], "bad") | {"conversations": [{"from": "system", "value": "Be kind."}]},
    "no turns": item([], "bad"),
    "no choices A.": item(["Which? Choices: liver, spleen", "liver"], "bad"),
    "is not choice": item([CLOSED, "B. liver"], "bad"),
    "question ''": item(["<image3d>", "axial"], "bad"),
    "expected {": {"id": "bad", "vision3d": [AXIAL]},
}


@pytest.mark.parametrize("said", list(BAD))
def test_a_bad_item_is_named_by_file_and_line(write, read, said: str) -> None:
    folder = write(train=[item(["Which plane?", "axial"]), BAD[said]])
    cases, intake = read(folder, "med2e3-json")
    assert len(cases) == 1
    (skipped,) = intake.skipped
    line = [n for n, text in enumerate((folder / "train.json").read_text().splitlines(), 1) if text == " {"][1]
    assert skipped.place == ("train.json", line)
    assert said in skipped.reason
    with pytest.raises(InputError, match=rf"train\.json line {line}: "):
        read(folder, "med2e3-json", on_bad_case="stop")


def test_equal_ids_in_two_files_become_different_questions(write, read) -> None:
    folder = write(train=[item(["Which plane?", "axial"])], test=[item(["Which phase?", "arterial"])])
    cases, _ = read(folder, "med2e3-json")
    assert sorted((case.id, case.split) for case in cases) == [
        ("ct_case/000002/Axial", "test"),
        ("ct_case/000002/Axial@train", "train"),
    ]
    assert len({asked.id for case in cases for asked in case.conversations}) == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[{"id": "1",\n "conversations": [}]', "line 2"),
        ('[{"id": "1"},\n\n{"id": "2"}', "line 3"),
        ('{"id": "1"}', "expected a JSON list"),
        ("", "expected a JSON list"),
    ],
)
def test_damaged_json_is_one_line_with_its_place(write, read, text: str, said: str) -> None:
    folder = write()
    (folder / "train.json").write_text(text)
    with pytest.raises(InputError, match=said) as stopped:
        read(folder, "med2e3-json")
    assert "train.json" in str(stopped.value)
