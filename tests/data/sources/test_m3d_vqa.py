"""M3D-VQA: every row closed and open, NA choices, rows over several lines, nested test tables, contradictions named."""

from __future__ import annotations

from pathlib import Path

import pytest

from slicesight.errors import InputError

AXIAL = "ct_case/000002/Axial"


def test_a_row_is_asked_open_and_closed_in_m3ds_own_words(write_m3d_vqa, vqa_row, read) -> None:
    cases, intake = read(write_m3d_vqa({"M3D_VQA_test.csv": [vqa_row(AXIAL)]}), "m3d-vqa")
    assert intake.skipped == []
    (case,) = cases
    assert (case.id, case.split, case.patient, case.source) == (AXIAL, "test", "ct_case/000002", "m3d-vqa")
    opened, closed = case.conversations
    assert (opened.task, opened.topic, opened.prompt, opened.target) == (
        "open",
        "organ",
        "Which organ shows a cyst?",
        "spleen",
    )
    assert closed.prompt == "Which organ shows a cyst? Choices: A. liver B. spleen C. left kidney D. pancreas"
    assert closed.target == "B. spleen"
    assert [opened.id, closed.id] == ["M3D_VQA_test:2/open", "M3D_VQA_test:2/closed"]


@pytest.mark.parametrize(
    ("choices", "letter", "prompt", "target"),
    [
        (("liver", "spleen", "lung", "NA"), "B", "Choices: A. liver B. spleen C. lung", "B. spleen"),
        (("liver", "spleen", "NA", "NA"), "B", "Choices: A. liver B. spleen", "B. spleen"),
        (("liver", "spleen", "", "nan"), "B", "Choices: A. liver B. spleen", "B. spleen"),
        (("liver", "NA", "lung", "spleen"), "D", "Choices: A. liver B. lung C. spleen", "C. spleen"),
        (("None of these", "spleen", "None", "lung"), "B", "A. None of these B. spleen C. None D. lung", "B. spleen"),
    ],
)
def test_missing_choices_are_left_out_and_the_letters_follow(
    write_m3d_vqa, vqa_row, read, choices, letter: str, prompt: str, target: str
) -> None:
    words = {f"Choice_{name}": choice for name, choice in zip("ABCD", choices, strict=True)}
    row = vqa_row(AXIAL, **words, Answer_Choice=letter)
    cases, intake = read(write_m3d_vqa({"M3D_VQA_train.csv": [row]}), "m3d-vqa", on_bad_case="stop")
    closed = cases[0].conversations[1]
    assert closed.prompt.endswith(prompt)
    assert closed.target == target
    assert intake.skipped == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"Answer_Choice": "C"}, "the answer 'spleen' is not choice C, which is 'left kidney'"),
        ({"Answer_Choice": "E"}, "answer choice is 'E'"),
        ({"Answer_Choice": ""}, "answer choice is ''"),
        ({"Choice_B": "NA"}, "which is missing"),
        ({"Choice_A": "NA", "Choice_C": "NA", "Choice_D": "NA"}, "two choices or more"),
        ({"Question_Type": "organ"}, "Question Type is 'organ'"),
        ({"Question": " "}, "question ''"),
        ({"Answer": "NA"}, "answer 'NA'"),
    ],
)
def test_a_row_that_contradicts_itself_is_named_by_its_line(write_m3d_vqa, vqa_row, read, changes, said: str) -> None:
    rows = [vqa_row(AXIAL), vqa_row(AXIAL, **changes), vqa_row(AXIAL, Question="Which organ is large?")]
    folder = write_m3d_vqa({"M3D_VQA_val.csv": rows})
    cases, intake = read(folder, "m3d-vqa")
    assert len(cases[0].conversations) == 4
    (skipped,) = intake.skipped
    # each row holds a text of two lines, so that the second row begins on line 4
    assert (skipped.kind, skipped.place) == ("bad row", ("M3D_VQA_val.csv", 4))
    assert said in skipped.reason
    with pytest.raises(InputError, match=r"M3D_VQA_val\.csv line 4: .*; correct the row"):
        read(folder, "m3d-vqa", on_bad_case="stop")


def test_answers_may_differ_from_their_choice_in_case_and_stop_or_carry_the_letter(
    write_m3d_vqa, vqa_row, read
) -> None:
    rows = [vqa_row(AXIAL, Answer="Spleen."), vqa_row(AXIAL, Answer="B. spleen", Question="Where is the cyst?")]
    cases, _ = read(write_m3d_vqa({"M3D_VQA_test.csv": rows}), "m3d-vqa", on_bad_case="stop")
    assert [asked.target for asked in cases[0].conversations] == ["Spleen.", "B. spleen", "spleen", "B. spleen"]


def test_question_types_become_topics(write_m3d_vqa, vqa_row, read) -> None:
    rows = [vqa_row(AXIAL, Question_Type=kind, Question=f"{kind}?") for kind in ("1", "2", "3", "4.0", "5", "6")]
    cases, intake = read(write_m3d_vqa({"M3D_VQA_test.csv": rows}), "m3d-vqa")
    topics = [asked.topic for asked in cases[0].conversations if asked.task == "closed"]
    assert topics == ["plane", "phase", "organ", "abnormality", "location", "type 6"]
    assert any("'type 6'" in note for note in intake.notes)


def test_the_5k_table_is_part_of_the_test_table_and_counted_once(write_m3d_vqa, vqa_row, read) -> None:
    rows = [vqa_row(AXIAL, Question=f"{number}?") for number in range(3)]
    folder = write_m3d_vqa({"M3D_VQA_test.csv": rows, "M3D_VQA_test5k.csv": rows[:2]})
    cases, intake = read(folder, "m3d-vqa", on_bad_case="stop")
    assert len(cases[0].conversations) == 6
    assert [note for note in intake.notes if "test5k.csv: 2 rows" in note]


def test_the_yes_or_no_table_without_choices_gives_open_questions(write_m3d_vqa, vqa_row, read) -> None:
    row = {"Image Path": f"M3D_Cap_npy/{AXIAL}.npy", "Question Type": "4", "Question": "A cyst?", "Answer": "Yes"}
    folder = write_m3d_vqa({"M3D_VQA_yn_train.csv": [row]})
    (case,), _ = read(folder, "m3d-vqa", on_bad_case="stop")
    assert (case.split, [asked.task for asked in case.conversations]) == ("train", ["open"])


def test_an_image_asked_about_in_two_splits_is_two_cases(write_m3d_vqa, vqa_row, read) -> None:
    folder = write_m3d_vqa({"M3D_VQA_test.csv": [vqa_row(AXIAL)], "M3D_VQA_train.csv": [vqa_row(AXIAL)]})
    cases, _ = read(folder, "m3d-vqa")
    assert [(case.id, case.split) for case in cases] == [(AXIAL, "test"), (f"{AXIAL}@train", "train")]


def test_a_table_alone_finds_its_volumes_beside_or_where_it_is_told(write_m3d_vqa, vqa_row, read, tmp_path) -> None:
    folder = write_m3d_vqa({"M3D_VQA_test.csv": [vqa_row(AXIAL)]})
    assert len(read(folder / "M3D_VQA_test.csv", "m3d-vqa", on_bad_case="stop")[0]) == 1
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (folder.parent / "M3D_Cap_npy" / "ct_case").rename(elsewhere / "ct_case")
    with pytest.raises(InputError, match=r"line 2: .*not found; name its folder with --volumes"):
        read(folder, "m3d-vqa", on_bad_case="stop")
    cases, _ = read(folder, "m3d-vqa", on_bad_case="stop", volumes=elsewhere)
    assert Path(cases[0].volume) == elsewhere / f"{AXIAL}.npy"


def test_a_table_of_other_columns_or_a_torn_row_is_named(write_m3d_vqa, vqa_row, read) -> None:
    folder = write_m3d_vqa({"M3D_VQA_test.csv": [vqa_row(AXIAL)]})
    table = folder / "M3D_VQA_test.csv"
    whole = table.read_text()
    table.write_text(whole + "M3D_Cap_npy/x.npy,text,3\n")
    assert read(folder, "m3d-vqa")[1].skipped[0].place == ("M3D_VQA_test.csv", 4)
    table.write_text(whole + '"M3D_Cap_npy/x.npy,text,3\n')
    with pytest.raises(InputError, match=r"M3D_VQA_test\.csv line 4: unexpected end of data"):
        read(folder, "m3d-vqa")
    table.write_text(whole.replace("Answer,", "Reply,", 1))
    with pytest.raises(InputError, match="line 1: no column 'Answer'"):
        read(folder, "m3d-vqa")
    table.write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="no CSV with a column 'Image Path'"):
        read(folder, "m3d-vqa")
