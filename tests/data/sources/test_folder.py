"""Any tree: which text belongs to which scan, where splits and patients come from, what is left out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from slicesight.errors import InputError
from slicesight.io.writers import write_dicom, write_nifti
from slicesight.volumes.volume import Volume

QUESTION = {"question": "Which organ?", "answer": "spleen", "choices": ["liver", "spleen"], "topic": "organ"}


@pytest.fixture
def tree(tmp_path: Path, scan_number: Callable[[int], Volume]) -> Callable[..., Path]:
    """Write {path: text, dict or None}: a scan by its ending (folders end with /), else a text -> the tree."""
    root = tmp_path / "scans"

    def write(entries: dict[str, Any]) -> Path:
        for number, (name, content) in enumerate(entries.items()):
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if name.endswith((".nii.gz", ".nii")):
                write_nifti(scan_number(0), path)
            elif name.endswith("/"):
                write_dicom(scan_number(number % 2), path)
            elif name.endswith(".npy"):
                np.save(path, np.random.default_rng(number).random((4, 8, 8), dtype=np.float32))
            else:
                path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return root

    return write


def told(cases: list[Any]) -> dict[str, list[str]]:
    return {case.id: [asked.answer for asked in case.conversations] for case in cases}


def test_a_text_of_the_scans_own_name_beside_it_is_its_report(tree, read) -> None:
    root = tree({"a.nii.gz": None, "a.txt": "A cyst.\n", "b.nii": None, "b.json": {"report": "None."}, "c.npy": None})
    cases, intake = read(root, "folder", on_bad_case="stop")
    assert told(cases) == {"a.nii.gz": ["A cyst."], "b.nii": ["None."]}
    assert {asked.task for case in cases for asked in case.conversations} == {"report"}
    assert [(skipped.kind, skipped.case_id) for skipped in intake.skipped] == [("no text", "c.npy")]


def test_a_folder_of_slices_is_one_scan_with_the_text_in_it_or_beside_it(tree, read) -> None:
    root = tree(
        {"p1/s1/": None, "p1/s1/notes.txt": "In it.", "p2/s1/": None, "p2/s1.txt": "Beside it.", "p3/s1/": None}
    )
    pictures = root / "p4"
    pictures.mkdir()
    for number in (1, 2, 10):
        Image.fromarray(np.full((8, 8), 20 * number, np.uint8)).save(pictures / f"{number}.png")
    (pictures / "text.txt").write_text("Pictures.")
    cases, intake = read(root, "folder", on_bad_case="stop")
    assert told(cases) == {"p1/s1": ["In it."], "p2/s1": ["Beside it."], "p4": ["Pictures."]}
    assert [skipped.case_id for skipped in intake.skipped] == ["p3/s1"]
    assert [case.patient for case in cases] == ["p1", "p2", "p4"]


def test_report_txt_speaks_for_every_scan_of_its_folder_without_a_text_of_its_own(tree, read) -> None:
    root = tree(
        {
            "p1/a.npy": None,
            "p1/b.npy": None,
            "p1/report.txt": "Both.",
            "p1/b.txt": "Only b.",
            "p2/ct/": None,
            "p2/report.txt": "The study.",
        }
    )
    cases, intake = read(root, "folder", on_bad_case="stop")
    assert told(cases) == {"p1/a.npy": ["Both."], "p1/b.npy": ["Only b."], "p2/ct": ["The study."]}
    assert intake.skipped == []


def test_the_only_text_of_the_only_scan_belongs_to_it_and_no_other_guess_is_made(tree, read) -> None:
    root = tree(
        {
            "p1/ct.npy": None,
            "p1/findings.txt": "Alone.",
            "p2/ct.npy": None,
            "p2/pet.npy": None,
            "p2/findings.txt": "Whose?",
        }
    )
    cases, intake = read(root, "folder", on_bad_case="stop")
    assert told(cases) == {"p1/ct.npy": ["Alone."]}
    assert [(skipped.kind, skipped.place.file) for skipped in intake.skipped] == [
        ("no text", "p2/ct.npy"),
        ("no text", "p2/pet.npy"),
        ("text alone", "p2/findings.txt"),
    ]


def test_a_json_holds_report_questions_split_and_patient(tree, read) -> None:
    record = {
        "report": "A cyst.",
        "split": "test",
        "patient": "anna",
        "questions": [
            QUESTION,
            {"question": "Which phase?", "answer": "arterial"},
            {**QUESTION, "question": "By letter?", "answer": "B"},
            {**QUESTION, "question": "Both?", "answer": "B. spleen", "source_slices": [3, 4]},
        ],
    }
    (case,), _ = read(tree({"a.npy": None, "a.json": record}), "folder", on_bad_case="stop")
    assert (case.split, case.patient) == ("test", "anna")
    assert [(asked.task, asked.topic, asked.target) for asked in case.conversations] == [
        ("report", "report", "A cyst."),
        ("closed", "organ", "B. spleen"),
        ("open", "other", "arterial"),
        ("closed", "organ", "B. spleen"),
        ("closed", "organ", "B. spleen"),
    ]
    assert case.conversations[4].source_slices == (3, 4)
    assert len({asked.id for asked in case.conversations}) == 5


def test_a_list_of_questions_on_top_adds_to_what_lies_beside(tree, read) -> None:
    root = tree({"p1/a.npy": None, "p1/a.txt": "A cyst.", "p2/b.npy": None})
    (root / "questions.csv").write_text(
        "scan,question,answer,choices,topic,split\n"
        "p1/a.npy,Which organ?,spleen,liver | spleen | lung,organ,train\n"
        "./p2/b.npy,Which phase?,arterial,,,\n"
    )
    line = {"scan": "p2/b.npy", "question": "Which plane?", "answer": "A", "choices": ["axial", "coronal"]}
    (root / "questions.jsonl").write_text(json.dumps(line) + "\n")
    cases, intake = read(root, "folder", on_bad_case="stop")
    assert told(cases) == {"p1/a.npy": ["A cyst.", "spleen"], "p2/b.npy": ["arterial", "axial"]}
    assert cases[0].conversations[1].prompt == "Which organ? Choices: A. liver B. spleen C. lung"
    assert (cases[0].split, cases[1].split) == ("train", None)
    assert intake.skipped == []


def test_first_folders_give_split_and_patient(tree, read) -> None:
    names = ["train/p1/a", "train/p1/b", "Validation/p2/a", "test/c"]
    root = tree({f"{name}{ending}": "Text." for name in names for ending in (".npy", ".txt")})
    cases, _ = read(root, "folder", on_bad_case="stop")
    assert {case.id: (case.split, case.patient) for case in cases} == {
        "train/p1/a.npy": ("train", "p1"),
        "train/p1/b.npy": ("train", "p1"),
        "Validation/p2/a.npy": ("val", "p2"),
        "test/c.npy": ("test", "c"),
    }


def test_a_folder_that_holds_every_scan_is_nobodys_patient(tree, read) -> None:
    root = tree({f"data/images/{name}{ending}": "Text." for name in "ab" for ending in (".npy", ".txt")})
    cases, _ = read(root, "folder", on_bad_case="stop")
    assert [case.patient for case in cases] == ["a", "b"]


def test_hidden_files_the_output_and_single_pictures_are_no_scans(tree, read, tmp_path) -> None:
    root = tree({"a.npy": None, "a.txt": "Text.", ".trash/b.npy": None, "out/volumes/c.npy": None, "d/e.npy": None})
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(root / "screenshot.png")
    from slicesight.data.sources.folder import read_folder
    from slicesight.data.sources.intake import Intake, SourceRequest

    intake = Intake(on_bad_case="skip")
    cases = read_folder(SourceRequest(source=root, out=root / "out"), intake)
    assert told(cases) == {"a.npy": ["Text."]}
    assert [skipped.case_id for skipped in intake.skipped] == ["d/e.npy"]


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"report": "x", "colour": 1}, "colour: Extra inputs"),
        ({"questions": [{"question": "?"}]}, "questions.0.answer: Field required"),
        ({"questions": [{**QUESTION, "answer": "lung"}]}, "answer choice is 'lung'"),
        ({"questions": [{**QUESTION, "choices": list("abcdefghijk")}]}, "11 choices"),
        ({"questions": [{"question": " ", "answer": "x"}]}, "question ' '"),
        ({"split": "holdout"}, "split: Input should be"),
        ('{"report": \n "x"', "line 2"),
        ("[]", "should be"),
    ],
)
def test_a_bad_json_is_named_with_what_is_wrong(tree, read, record, said: str) -> None:
    root = tree({"a.npy": None, "a.json": record, "b.npy": None, "b.txt": "Text."})
    cases, intake = read(root, "folder")
    assert told(cases) == {"b.npy": ["Text."]}
    assert intake.skipped[0].place.file == "a.json"
    assert said in str(intake.skipped[0])
    with pytest.raises(InputError, match=r"a\.json"):
        read(root, "folder", on_bad_case="stop")


def test_a_message_names_the_file_at_fault_by_its_path_from_the_source(tree, read) -> None:
    root = tree({"p1/a.npy": None, "p1/a.txt": "Text.", "p2/b.npy": None, "p2/b.json": {"report": 3}})
    (root / "questions.csv").write_text("scan,question,answer,choices,topic\np1/a.npy,Which?,lung,liver|spleen,organ\n")
    _, intake = read(root, "folder")
    assert [str(skipped.place) for skipped in intake.skipped] == ["questions.csv line 2", "p2/b.json"]
    with pytest.raises(InputError, match=r"^questions\.csv line 2: answer choice is 'lung'"):
        read(root, "folder", on_bad_case="stop")


def test_two_texts_that_contradict_each_other_are_refused(tree, read) -> None:
    root = tree({"a.npy": None, "a.txt": "A cyst.", "a.json": {"report": "No cyst."}})
    with pytest.raises(InputError, match="2 different reports for one scan"):
        read(root, "folder", on_bad_case="stop")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("nowhere.npy,Which?,x,,", "names 'nowhere.npy'"),
        ("a.npy,,x,,", "question: Field required"),
        ("a.npy,Which?", "more or fewer cells"),
    ],
)
def test_a_bad_line_of_the_question_list_is_named(tree, read, row: str, said: str) -> None:
    root = tree({"a.npy": None, "a.txt": "Text."})
    (root / "questions.csv").write_text(f"scan,question,answer,choices,topic\na.npy,Which?,x,,\n{row}\n")
    cases, intake = read(root, "folder")
    assert len(cases[0].conversations) == 2
    assert intake.skipped[0].place == ("questions.csv", 3)
    assert said in intake.skipped[0].reason
    with pytest.raises(InputError, match=r"questions\.csv line 3"):
        read(root, "folder", on_bad_case="stop")


def test_a_file_or_a_tree_without_scans_is_refused(tree, read, tmp_path) -> None:
    root = tree({"a.txt": "Text."})
    with pytest.raises(InputError, match="no scan in it; expected NIfTI"):
        read(root, "folder")
    with pytest.raises(InputError, match="expected a folder of scans"):
        read(root / "a.txt", "folder")


def test_a_json_says_how_a_scan_is_read_that_leaves_it_open(tmp_path, read) -> None:
    from slicesight.data.dataset import ManifestDataset
    from slicesight.data.manifest import write_manifest
    from slicesight.data.preprocess import prepare_volumes
    from slicesight.data.store import open_prepared
    from slicesight.volumes.grid import GridSpec

    root = tmp_path / "scans"
    root.mkdir()
    series = np.random.default_rng(0).integers(0, 900, (16, 14, 10, 3)).astype("i2")
    nib.save(nib.Nifti1Image(series, np.diag([2.0, 2, 3, 1])), root / "a.nii")
    said = {"report": "Text.", "time_point": 2, "unit": "arbitrary", "spacing_mm": [4, 2, 2]}
    (root / "a.json").write_text(json.dumps(said))
    (case,), _ = read(root, "folder", on_bad_case="stop")
    assert case.read_options == {"time_point": 2, "unit": "arbitrary", "spacing_mm": (4.0, 2.0, 2.0)}
    manifest, spec = tmp_path / "manifest.jsonl", GridSpec(num_slices=4, height=16, width=12)

    def prepared_with(**changes: object) -> np.ndarray:
        write_manifest([case.model_copy(update={"reading": case.reading.model_copy(update=changes)})], manifest)
        report = prepare_volumes(manifest, tmp_path / "ready", spec=spec)
        assert report.num_prepared == 1, "another time is another scan"
        held = open_prepared(tmp_path / "ready")
        assert held.receipt(case.id)["spacing_mm_zyx"] == [4.0, 2.0, 2.0]
        return held.voxels(case.id)

    third, second = prepared_with(), prepared_with(time_point=1)
    assert not np.array_equal(third, second)
    dataset = ManifestDataset(manifest, grid=spec)
    one, other = dataset.cases[0], case
    assert np.array_equal(np.rint(dataset.voxels(one) * 255), second)
    assert np.array_equal(np.rint(dataset.voxels(other) * 255), third)
    assert dataset.content(one) != dataset.content(other)
    assert dataset.stamp(one) != dataset.stamp(other)


@pytest.mark.parametrize(
    "wrong", [{"time_point": -1}, {"unit": "SUV"}, {"spacing_mm": [0, 1, 1]}, {"spacing_mm": [1, 1]}]
)
def test_a_way_of_reading_that_cannot_be_is_named(tree, read, wrong) -> None:
    root = tree({"a.npy": None, "a.json": {"report": "Text.", **wrong}})
    with pytest.raises(InputError, match=rf"^a\.json: {next(iter(wrong))}"):
        read(root, "folder", on_bad_case="stop")


@pytest.mark.parametrize(("said", "kept"), [("lowest", "LOWEST"), (-1000, -1000.0), ("-7.5", -7.5), (0, 0.0)])
def test_a_json_says_what_takes_the_place_of_nan(tree, read, said, kept) -> None:
    root = tree({"a.npy": None, "a.json": {"report": "Text.", "fill": said}})
    (case,), _ = read(root, "folder", on_bad_case="stop")
    assert case.read_options == {"fill": kept}


@pytest.mark.parametrize("wrong", ["highest", True, [1], 1e31, "nan"])
def test_a_filling_that_cannot_be_is_named(tree, read, wrong) -> None:
    root = tree({"a.npy": None, "a.json": {"report": "Text.", "fill": wrong}})
    with pytest.raises(InputError, match=r"^a\.json: fill: .*expected LOWEST or a number") as refused:
        read(root, "folder", on_bad_case="stop")
    assert "\n" not in str(refused.value)
