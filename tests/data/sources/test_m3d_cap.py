"""M3D-Cap: raw and processed give the same cases, names match through accents, the text is cut as M3D cuts it."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from slicesight.data.sources.m3d import findings_of
from slicesight.errors import InputError
from slicesight.io.loading import read_volume


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Title: x\nstudy_findings:\nA cyst\nin the liver. \n", "A cyst in the liver."),
        ("study_findings: none\n discussion: A large mass.", "none  discussion: A large mass."),
        ("discussion: A large mass.\nstudy_findings: \n - \n", "A large mass. study_findings:   -"),
        ("presentation: pain\nstudy_findings: ok", "presentation: pain study_findings: ok"),
        ("discussion: this is not looked for", "discussion: this is not looked for"),
        ("a b\n", "a b"),
    ],
)
def test_the_text_is_what_m3ds_own_preparation_leaves_of_it(text: str, expected: str) -> None:
    assert findings_of(text) == expected


def test_raw_and_processed_forms_give_the_same_cases_but_for_the_volume(write_m3d_cap, read, tmp_path) -> None:
    cases, intake = read(write_m3d_cap("raw"), "m3d-cap")
    (tmp_path / "m3d").rename(tmp_path / "first")
    processed, _ = read(write_m3d_cap("npy"), "m3d-cap")
    assert [case.model_copy(update={"volume": ""}) for case in cases] == [
        case.model_copy(update={"volume": ""}) for case in processed
    ]
    assert intake.skipped == []
    assert [(case.id, case.split, case.patient) for case in cases] == [
        ("ct_case/000001/Axial_C+_Poschl", "train", "ct_case/000001"),
        ("ct_case/000001/Coronal_1.5mm", "train", "ct_case/000001"),
        ("ct_case/000002/Axial", "train", "ct_case/000002"),
        ("ct_case/000003/Axial", "val", "ct_case/000003"),
        ("ct_quizze/000009/Axial", "test", "ct_quizze/000009"),
    ]
    assert [case.conversations[0].answer for case in cases] == [
        "There is a cyst in the liver.",
        "There is a cyst in the liver.",
        "- \n\ndiscussion: A large mass, as discussed.".replace("\n", " "),
        "Only a title and a few words.",
        "What is this cyst in the liver?",
    ]


def test_a_listed_array_is_found_as_the_raw_picture_folder_with_its_accents_in_either_form(write_m3d_cap, read) -> None:
    root = write_m3d_cap("raw")
    series = root / "M3D_Cap" / "ct_case" / "000001"
    for name in (unicodedata.normalize("NFD", "Axial_C+_Pöschl"), "AXIAL_C+_Pöschl"):
        next(path for path in series.iterdir() if path.name.lower().startswith("axial")).rename(series / name)
        cases, intake = read(root, "m3d-cap", on_bad_case="stop")
        assert intake.skipped == []
        assert Path(cases[0].volume).name == name


def test_two_series_of_one_ascii_name_are_not_guessed_between(write_m3d_cap, read) -> None:
    root = write_m3d_cap("raw")
    series = root / "M3D_Cap" / "ct_case" / "000001"
    (series / "Axial_C+_Poeschl").mkdir()
    (series / "Axial_C++Pöschl").mkdir()
    cases, intake = read(root, "m3d-cap")
    assert "ct_case/000001/Axial_C+_Poschl" not in [case.id for case in cases]
    assert [(skipped.kind, skipped.case_id) for skipped in intake.skipped] == [
        ("missing volume", "ct_case/000001/Axial_C+_Poschl")
    ]


def test_a_nested_test_split_is_taken_once_and_noted(write_m3d_cap, read) -> None:
    cases, intake = read(write_m3d_cap("npy"), "m3d-cap")
    assert [case.id for case in cases if case.split == "test"] == ["ct_quizze/000009/Axial"]
    assert any("test100" in note for note in intake.notes)


def test_one_image_listed_in_two_splits_is_two_cases(write_m3d_cap, read) -> None:
    root = write_m3d_cap("npy")
    listed = json.loads((root / "M3D_Cap.json").read_text())
    listed["test"].append(listed["train"][0])
    (root / "M3D_Cap.json").write_text(json.dumps(listed))
    cases, _ = read(root, "m3d-cap")
    twins = [(case.id, case.split) for case in cases if "Poschl" in case.id]
    assert twins == [("ct_case/000001/Axial_C+_Poschl", "train"), ("ct_case/000001/Axial_C+_Poschl@test", "test")]


def test_without_a_list_the_whole_tree_is_read_and_has_no_splits(write_m3d_cap, read) -> None:
    root = write_m3d_cap("raw", listed=False)
    empty = root / "M3D_Cap" / "ct_case" / "000002" / "Scout"
    empty.mkdir()
    for source in (root, root / "M3D_Cap"):
        cases, intake = read(source, "m3d-cap", on_bad_case="stop")
        assert len(cases) == 5
        assert {case.split for case in cases} == {None}
        assert [skipped.kind for skipped in intake.skipped] == ["no pictures"]
    assert "ct_case/000001/Axial_C+_Pöschl" in [case.id for case in cases]


def test_processed_arrays_of_the_full_size_are_read_as_grey_values(write_m3d_cap, read) -> None:
    root = write_m3d_cap("npy")
    path = root / "M3D_Cap_npy" / "ct_case" / "000002" / "Axial.npy"
    np.save(path, np.random.default_rng(0).random((1, 32, 256, 256), dtype=np.float32))
    cases, _ = read(root, "m3d-cap")
    volume = read_volume(next(case.volume for case in cases if case.id == "ct_case/000002/Axial"))
    assert volume.shape == (32, 256, 256)
    assert volume.display_range == (0.0, 1.0)


def _with(root: Path, entry: object) -> Path:
    listed = json.loads((root / "M3D_Cap.json").read_text())
    listed["validation"].append(entry)
    (root / "M3D_Cap.json").write_text(json.dumps(listed, indent=1))
    return root


BAD = {
    "missing volume": {"image": "M3D_Cap_npy/ct_case/000777/Axial.npy", "text": "M3D_Cap_npy/ct_case/000777/text.txt"},
    "bad entry": {"image": "M3D_Cap_npy/ct_case/000002/Axial.npy"},
    "missing text": {"image": "M3D_Cap_npy/ct_case/000555/Axial.npy", "text": "M3D_Cap_npy/ct_case/000555/text.txt"},
    "empty text": {"image": "M3D_Cap_npy/ct_case/000556/Axial.npy", "text": "M3D_Cap_npy/ct_case/000556/text.txt"},
    "unreadable text": {"image": "M3D_Cap_npy/ct_case/000557/Axial.npy", "text": "M3D_Cap_npy/ct_case/000557/text.txt"},
}


@pytest.mark.parametrize("kind", list(BAD))
def test_a_bad_entry_stops_with_its_line_or_is_listed_with_it(write_m3d_cap, read, kind: str) -> None:
    root = _with(write_m3d_cap("npy"), BAD[kind])
    cases = root / "M3D_Cap_npy" / "ct_case"
    for number in ("000555", "000556", "000557"):
        (cases / number).mkdir()
        (cases / number / "Axial.npy").write_bytes((cases / "000002" / "Axial.npy").read_bytes())
    (cases / "000556" / "text.txt").write_text(" \n")
    (cases / "000557" / "text.txt").write_bytes(b"Gr\xfc\xdfe")
    found, intake = read(root, "m3d-cap")
    assert len(found) == 5
    assert [skipped.kind for skipped in intake.skipped] == [kind]
    with pytest.raises(InputError) as stopped:
        read(root, "m3d-cap", on_bad_case="stop")
    assert ";" in str(stopped.value)
    if kind in ("missing volume", "bad entry", "missing text"):
        lines = (root / "M3D_Cap.json").read_text().splitlines()
        line = next(i for i, text in enumerate(lines, 1) if BAD[kind]["image"] in text and i > 20) - 1
        assert intake.skipped[0].place == ("M3D_Cap.json", line)
        assert f"M3D_Cap.json line {line}: " in str(stopped.value)


def test_an_unknown_split_word_and_a_folder_of_something_else_are_refused(write_m3d_cap, read, tmp_path) -> None:
    root = write_m3d_cap("npy")
    (root / "M3D_Cap.json").write_text('{"train": [],\n "holdout": [{"image": "a", "text": "b"}]}')
    with pytest.raises(InputError, match="line 2: split 'holdout'"):
        read(root, "m3d-cap")
    (tmp_path / "other").mkdir()
    with pytest.raises(InputError, match=r"neither M3D_Cap\.json nor folders ct_case"):
        read(tmp_path / "other", "m3d-cap")
