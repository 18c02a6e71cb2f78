"""Public benchmarks become cases with their own splits, topics and truths; what contradicts itself is one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from benchmark_layouts import (
    amos_question,
    coarse,
    rad_row,
    tumor_question,
    write_3d_rad,
    write_amos_mm,
    write_csv,
    write_deeptumorvqa,
    write_rexgroundingct,
)
from slicesight.data.sources.deeptumorvqa import split_choices
from slicesight.data.sources.intake import Intake, SourceRequest, UnusableError
from slicesight.data.sources.three_d_rad import COLUMNS, read_3d_rad
from slicesight.errors import InputError
from slicesight.io.loading import read_volume
from slicesight.io.writers import write_nifti


def refused(read: Any, source: Path, layout: str, **places: Path) -> str:
    """The one line with which a source is refused."""
    with pytest.raises(InputError) as caught:
        read(source, layout, on_bad_case="stop", **places)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_3d_rad_questions_gather_under_ct_rates_scan_with_the_folders_task_names(tmp_path, read):
    base = write_3d_rad(tmp_path)
    cases, intake = read(base, "3d-rad", on_bad_case="stop", volumes=tmp_path / "scans")
    assert [(case.id, case.split, case.patient, case.source) for case in cases] == [
        ("test_1_a_1", "test", "valid_1", "ct-rate"),
        ("test_2_b_1", "test", "valid_2", "ct-rate"),
    ]
    assert Path(cases[0].volume).name == "valid_1_a_1.nii.gz"
    one, two = ({asked.topic for asked in case.conversations} for case in cases)
    assert "image observation: anatomical observation" in one
    assert "anomaly detection: diagnosis" in one & two
    assert "static temporal diagnosis: b" in two
    (closed,) = [asked for asked in cases[0].conversations if asked.task == "closed"]
    assert (closed.choices, closed.answer_choice, closed.answer) == (("Yes", "No"), "B", "No")
    assert sum(asked.answer == "30x13 mm" for asked in cases[1].conversations) == 2, "a repeated row is kept"
    assert any("1 rows ask what another row asks" in note for note in intake.notes)
    assert len({asked.id for case in cases for asked in case.conversations}) == 9


def test_3d_rad_takes_a_scan_under_its_own_name_and_its_release_as_npy(tmp_path, read):
    base = write_3d_rad(tmp_path, scans=("valid_1_a_1",))
    np.save(base / "test_2_b_1.npy", np.zeros((1, 4, 8, 8), dtype=np.float32))
    cases, _ = read(base, "3d-rad", on_bad_case="stop", volumes=tmp_path / "scans")
    assert [Path(case.volume).name for case in cases] == ["valid_1_a_1.nii.gz", "test_2_b_1.npy"]


def test_3d_rad_reads_only_the_split_that_is_wanted(tmp_path):
    base = write_3d_rad(tmp_path)
    write_csv(base / "train" / "Task2_x" / "y.csv", [rad_row(2, "train_7_a_1", "Where?", "Left.")])
    request = SourceRequest(source=base, out=tmp_path / "out", volumes=tmp_path / "scans", only="test")
    assert {case.split for case in read_3d_rad(request, Intake())} == {"test"}


def _drop_column(row: dict[str, str], column: str) -> dict[str, str]:
    return {key: value for key, value in row.items() if key != column}


ROW = rad_row(4, "test_1_a_1", "Does the CT scan exhibit emphysema?", "No", ("Yes", "No"))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (_drop_column(ROW, "AnswerChoice"), "x.csv line 1: no column 'AnswerChoice'"),
        ({**ROW, "AnswerChoice": "A"}, "x.csv line 2: the answer 'No' is not choice A, which is 'Yes'"),
        ({**ROW, "QuestionType": "Closed"}, "QuestionType is 'Closed', expected Open or Close"),
        ({**ROW, "Answer": "-"}, "with answer '-'"),
        ({**ROW, "Task": "7"}, "Task is '7', expected 1 to 6"),
        ({**ROW, "VolumeName": "scan.nii.gz"}, "VolumeName is 'scan.nii.gz', expected test_"),
        ({**ROW, "VolumeName": "test_404_a_1.nii.gz"}, "neither test_404_a_1 nor CT-RATE's valid_404_a_1 found"),
        (
            {**ROW, "Question": "Does the CT scan exhibit atelectasis?", "Answer": "Yes", "AnswerChoice": "A"},
            "has the answer 'Yes', in test/Task4_Existence_Detection/Atelectasis.csv line 2 it is 'No'",
        ),
    ],
)
def test_a_bad_row_of_3d_rad_is_one_line_with_file_and_row(tmp_path, read, row, message):
    base = write_3d_rad(tmp_path)
    write_csv(base / "test" / "Task4_Existence_Detection" / "x.csv", [row])
    assert message in refused(read, base, "3d-rad", volumes=tmp_path / "scans")


def test_a_table_in_another_encoding_is_named(tmp_path, read):
    base = write_3d_rad(tmp_path)
    row = {**ROW, "Question": "Größe?"}
    write_csv(base / "test" / "Task4_Existence_Detection" / "x.csv", [row], encoding="latin-1")
    assert "a byte is not UTF-8" in refused(read, base, "3d-rad", volumes=tmp_path / "scans")


def test_columns_are_those_of_the_public_tables():
    public = "Task,Subtask,VolumeName,Question,Answer,QuestionType,AnswerChoice,Choice A,Choice B,Choice C,Choice D"
    assert ",".join(COLUMNS) == public


def test_deeptumorvqa_asks_every_question_with_its_choices_and_without(tmp_path, read):
    cases, _ = read(write_deeptumorvqa(tmp_path), "deeptumorvqa", on_bad_case="stop")
    assert [case.id for case in cases] == ["BDMAP_00000000", "BDMAP_00000001"]
    assert all(case.split == "test" for case in cases)
    assert [(asked.id, asked.task) for asked in cases[0].conversations[:2]] == [
        ("bench_00000/mc", "closed"),
        ("bench_00000/freeform", "open"),
    ]
    graded, free = cases[0].conversations[4:6]
    assert graded.choices == ("Normal", "Moderate", "Severe", "Mild")
    assert (graded.question, graded.answer_choice) == ("How large is the spleen?", "A")
    assert free.answer == "Normal (no splenomegaly)"
    assert graded.topic == "medical reasoning: splenomegaly grading"


@pytest.mark.parametrize(
    ("text", "question", "choices"),
    [
        ("Which? A: one B: two C: three D: four", "Which?", ("one", "two", "three", "four")),
        ("Which?\nA. one\nB. two", "Which?", ("one", "two")),
        ("Which? Choices: (A) one (B) two (C) three", "Which?", ("one", "two", "three")),
        ("Which? B: two C: three", None, None),
        ("Vitamin D or B: which? A: D, really B: none", "Vitamin D or B: which?", ("D, really", "none")),
    ],
)
def test_choices_are_found_behind_the_question(text, question, choices):
    if question is None:
        with pytest.raises(UnusableError):
            split_choices(text)
    else:
        assert split_choices(text) == (question, choices)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"qid": "bench_00000"}, "question 'bench_00000/mc' is already in benchmark/test_qa.json"),
        ({"correct_option": "E"}, "correct_option is 'E', expected one of A, B"),
        ({"mc_question": "Is there?"}, "lists no choices"),
        ({"answer": None}, "no 'answer' in the question 'bench_00001'"),
        ({"question_type": "guessing"}, "question_type is 'guessing'"),
        ({"image_id": "BDMAP_404"}, "ct/BDMAP_404/ct.nii.gz: not found"),
    ],
)
def test_a_bad_question_of_deeptumorvqa_is_one_line_with_its_place(tmp_path, read, changes, message):
    questions = [
        tumor_question(0, "BDMAP_00000000"),
        {**tumor_question(0, "BDMAP_00000000", qid="bench_00001"), **changes},
    ]
    base = write_deeptumorvqa(tmp_path, num_scans=1, questions=questions)
    found = refused(read, base, "deeptumorvqa")
    assert message in found
    assert "benchmark/test_qa.json line " in found


def test_amos_mm_has_a_report_per_region_and_takes_the_scan_the_entry_names(tmp_path, read):
    cases, intake = read(write_amos_mm(tmp_path), "amos-mm", on_bad_case="stop")
    assert [(case.id, case.split) for case in cases] == [
        ("amos_0001", "train"),
        ("amos_7008", "val"),
        ("amos_0008", "val"),
    ]
    assert Path(cases[1].volume).parent.name == "imagesVa"
    regions = [asked.topic for asked in cases[0].conversations if asked.task == "report"]
    assert regions == ["abdomen", "pelvis"], "a region without findings is not asked about"
    (closed,) = [asked for asked in cases[0].conversations if asked.task == "closed"]
    assert (closed.answer, closed.answer_choice, closed.topic) == ("spleen", "B", "organ")
    assert any("CC BY-ND" in note for note in intake.notes)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"qa": [amos_question("Which?", "E")]}, "the answer of question 0 is 'E', which is no option"),
        ({"qa": [{"question": "Which?"}]}, "question 0 has not a question with options A, B"),
        ({"report": {"findings": {"head": "x"}}}, "findings name the region 'head'"),
        ({"report": "all normal"}, "labels.report has no findings by region"),
    ],
)
def test_a_bad_entry_of_amos_mm_is_one_line_with_its_place(tmp_path, read, labels, message):
    base = write_amos_mm(tmp_path)
    (base / "vqa_train_val.json").write_text(
        json.dumps({"validation": [{"image": "imagesVa/amos_0008.nii.gz", "labels": labels}]})
    )
    found = refused(read, base, "amos-mm")
    assert message in found
    assert "vqa_train_val.json line 1" in found


def test_rexgroundingct_asks_for_the_slices_on_which_the_mask_lies(tmp_path, read):
    base = write_rexgroundingct(tmp_path)
    cases, intake = read(base, "rexgroundingct", on_bad_case="stop", volumes=tmp_path / "ct")
    (case,) = cases
    assert (case.id, case.split, case.patient, case.source) == ("train_9_a_1", "val", "train_9", "ct-rate")
    first, second = case.conversations
    assert (first.source_slices, first.answer) == ((3, 4, 5), "slices 3 to 5")
    assert first.question == "Which slices show this finding: Consolidation in the right lower lobe?"
    assert (first.topic, second.topic) == ("atelectasis, consolidation", "nodule, mass")
    depth = nib.load(case.volume).shape[2]
    assert second.source_slices == (depth - 2,)
    assert [skipped.kind for skipped in intake.skipped] == ["no mask"], "the hidden test has none"
    assert len(read_volume(case.volume).voxels.shape) == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pixels": {"0": 35, "1": 1}}, "the mask of finding 0 has 36 voxels, the list says 35"),
        ({"shape": [1, 2, 3]}, "the list says (1, 2, 3)"),
        ({"findings": {"0": "a", "2": "b"}}, "holds 2 masks, the list names finding 2"),
        ({"findings": ["a"]}, "findings are \"['a']\""),
    ],
)
def test_a_mask_that_disagrees_with_the_list_is_refused(tmp_path, read, changes, message):
    base = write_rexgroundingct(tmp_path, **changes)
    assert message in refused(read, base, "rexgroundingct", volumes=tmp_path / "ct")


def test_a_folder_of_another_kind_is_refused_by_every_benchmark(tmp_path, read):
    (tmp_path / "note.txt").write_text("nothing")
    write_nifti(coarse(0), tmp_path / "scan.nii.gz")
    for layout in ("3d-rad", "deeptumorvqa", "amos-mm", "rexgroundingct"):
        assert "point at" in refused(read, tmp_path, layout)
