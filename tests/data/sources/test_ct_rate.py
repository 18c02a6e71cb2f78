"""CT-RATE: fixed volumes stay HU, raw ones are refused, reports and labels become questions, its own splits hold."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from slicesight.data.sources.ct_rate import FINDINGS
from slicesight.errors import InputError
from slicesight.io.loading import read_volume
from slicesight.io.writers import write_nifti
from slicesight.volumes.volume import Volume

REPORT = {"ClinicalInformation_EN": "cough", "Technique_EN": "Non-contrast."}
METADATA = {"RescaleSlope": "1", "RescaleIntercept": "-1024", "XYSpacing": "[0.75, 0.75]", "ZSpacing": "1.5"}


def _write_csv(path: Path, rows: Sequence[dict[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture
def write(tmp_path: Path, scan_number: Callable[[int], Volume]) -> Callable[..., Path]:
    """CT-RATE's tree: two reconstructions of one training scan, one validation scan; tables as it ships them."""

    def call(*, release: str = "fixed") -> Path:
        root = tmp_path / "CT-RATE" / "dataset"
        names = ("train_1_a_1", "train_1_a_2", "valid_7_b_1")
        for number, name in enumerate(names):
            split, patient, scan, _ = name.split("_")
            top = f"{split}_fixed" if release == "fixed" else split
            place = root / top / f"{split}_{patient}" / f"{split}_{patient}_{scan}"
            place.mkdir(parents=True, exist_ok=True)
            volume = replace(scan_number(number), is_synthetic=False)
            if release == "fixed":
                write_nifti(volume, place / f"{name}.nii.gz")
            else:  # as first released: stored values without the rescale, a header that knows nothing
                raw = (volume.voxels + 1024).transpose(2, 1, 0).astype(np.float64)
                nib.Nifti1Image(raw, np.eye(4)).to_filename(place / f"{name}.nii.gz")
        files = [f"{name}.nii.gz" for name in names]
        reports = [
            {"Findings_EN": "Trachea is open.\nNo nodule.", "Impressions_EN": "Normal thorax."},
            {"Findings_EN": "Trachea is open.\nNo nodule.", "Impressions_EN": "Not given."},
            {"Findings_EN": "Not given.", "Impressions_EN": "Emphysema."},
        ]
        told = [{"VolumeName": file, **REPORT, **report} for file, report in zip(files, reports, strict=True)]
        _write_csv(root / "radiology_text_reports" / "train_reports.csv", told[:2])
        _write_csv(root / "radiology_text_reports" / "validation_reports.csv", told[2:])
        _write_csv(root / "metadata" / "train_metadata.csv", [{"VolumeName": file, **METADATA} for file in files])
        labels = [
            {"VolumeName": file, **{finding: str(int((i + j) % 4 == 0)) for j, finding in enumerate(FINDINGS)}}
            for i, file in enumerate(files)
        ]
        _write_csv(root / "multi_abnormality_labels" / "train_predicted_labels.csv", labels)
        return root.parent

    return call


def test_fixed_volumes_are_read_as_the_hu_they_are_and_not_rescaled_again(write, read, scan_number) -> None:
    cases, intake = read(write(), "ct-rate", on_bad_case="stop")
    for number, case in enumerate(cases):
        volume = read_volume(case.volume)
        assert volume.unit == "HU"
        np.testing.assert_allclose(volume.voxels, scan_number(number).voxels, atol=0.5)
        assert volume.voxels.min() > -1025
    assert any("HU already" in note for note in intake.notes)
    assert any("CC BY-NC-SA" in note for note in intake.notes)


def test_first_release_volumes_are_refused_with_where_to_take_better_ones(write, read) -> None:
    root = write(release="raw")
    cases, intake = read(root, "ct-rate")
    assert cases == []
    assert [skipped.kind for skipped in intake.skipped] == ["raw volume"] * 3
    with pytest.raises(InputError, match=r"metadata 0\.75×0\.75×1\.5 mm.*; take it from train_fixed"):
        read(root, "ct-rate", on_bad_case="stop")
    (root / "dataset" / "metadata" / "train_metadata.csv").unlink()
    with pytest.raises(InputError, match="no metadata say"):
        read(root, "ct-rate", on_bad_case="stop")


def test_where_both_releases_lie_side_by_side_the_fixed_one_is_taken(write, read) -> None:
    write(release="raw")
    cases, intake = read(write(), "ct-rate", on_bad_case="stop")
    assert intake.skipped == []
    assert all("_fixed" in case.volume for case in cases)


def test_splits_patients_and_reports_are_ct_rates_own(write, read) -> None:
    cases, _ = read(write(), "ct-rate", on_bad_case="stop")
    assert [(case.id, case.split, case.patient) for case in cases] == [
        ("train_1_a_1", "train", "train_1"),
        ("train_1_a_2", "train", "train_1"),
        ("valid_7_b_1", "val", "valid_7"),
    ]
    reports = [[asked.answer for asked in case.conversations if asked.task == "report"] for case in cases]
    assert reports == [
        ["Trachea is open. No nodule. Normal thorax."],
        ["Trachea is open. No nodule."],
        ["Emphysema."],
    ]


def test_each_of_the_18_labels_is_a_closed_question_whose_letter_says_nothing(write, read) -> None:
    cases, _ = read(write(), "ct-rate", on_bad_case="stop")
    for number, case in enumerate(cases):
        closed = [asked for asked in case.conversations if asked.task == "closed"]
        assert [asked.topic for asked in closed] == [finding.lower() for finding in FINDINGS]
        expected = ["yes" if (number + j) % 4 == 0 else "no" for j in range(18)]
        assert [asked.answer for asked in closed] == expected
        assert closed[9].question == "Does this scan show lung nodule?"
    letters = Counter(asked.answer_choice for case in cases for asked in case.conversations if asked.answer == "no")
    assert min(letters["A"], letters["B"]) > 8


def test_an_empty_label_is_not_asked_and_a_wrong_one_is_named(write, read) -> None:
    root = write()
    table = root / "dataset" / "multi_abnormality_labels" / "train_predicted_labels.csv"
    rows = table.read_text().splitlines()
    rows[1] = rows[1].replace(",1,", ",,", 1)
    rows[2] = rows[2].replace(",1,", ",maybe,", 1)
    rows[3] = rows[3].replace(",1,", ",1.0,", 1)
    table.write_text("\n".join(rows) + "\n")
    cases, intake = read(root, "ct-rate")
    assert [sum(asked.task == "closed" for asked in case.conversations) for case in cases] == [17, 17, 18]
    assert [(skipped.kind, skipped.place) for skipped in intake.skipped] == [
        ("no label", (table.relative_to(root).as_posix(), 2)),
        ("bad row", (table.relative_to(root).as_posix(), 3)),
    ]
    with pytest.raises(InputError, match=r"train_predicted_labels\.csv line 3: .* is 'maybe', expected 0 or 1"):
        read(root, "ct-rate", on_bad_case="stop")


def test_labels_alone_are_enough_and_tables_are_known_by_their_columns(write, read) -> None:
    root = write()
    for table in (root / "dataset" / "radiology_text_reports").iterdir():
        table.unlink()
    labels = root / "dataset" / "multi_abnormality_labels" / "train_predicted_labels.csv"
    labels.rename(root / "renamed.csv")
    cases, _ = read(root, "ct-rate", on_bad_case="stop")
    assert [len(case.conversations) for case in cases] == [18, 18, 18]


def test_what_is_not_usable_is_listed(write, read) -> None:
    root = write()
    dataset = root / "dataset"
    (dataset / "metadata" / "no_chest_train.txt").write_text("train_1_a_2.nii.gz\n")
    extra: list[Any] = [
        {"VolumeName": "train_9_a_1.nii.gz", **REPORT, "Findings_EN": "Seen.", "Impressions_EN": ""},
        {"VolumeName": "scan9.nii.gz", **REPORT, "Findings_EN": "Seen.", "Impressions_EN": ""},
        {"VolumeName": "train_8_a_1.nii.gz", **REPORT, "Findings_EN": "Not given.", "Impressions_EN": "nan"},
        {"VolumeName": "train_8_a_1.nii.gz", **REPORT, "Findings_EN": "Again.", "Impressions_EN": ""},
    ]
    _write_csv(dataset / "radiology_text_reports" / "z_more.csv", extra)
    place = dataset / "valid_fixed" / "valid_7" / "valid_7_b"
    (place / "valid_7_b_2.nii.gz").write_bytes((place / "valid_7_b_1.nii.gz").read_bytes())
    cases, intake = read(root, "ct-rate")
    assert [case.id for case in cases] == ["train_1_a_1", "valid_7_b_1"]
    assert sorted((skipped.kind, skipped.case_id) for skipped in intake.skipped) == [
        ("bad row", "scan9"),
        ("bad row", "train_8_a_1"),
        ("missing volume", "train_9_a_1"),
        ("no text", "train_8_a_1"),
        ("no text", "valid_7_b_2"),
        ("not a chest", "train_1_a_2"),
    ]
    with pytest.raises(InputError, match=r"z_more\.csv line 5: train_8_a_1\.nii\.gz has a report already"):
        read(root, "ct-rate", on_bad_case="stop")


def test_a_folder_without_tables_is_refused(tmp_path, read) -> None:
    with pytest.raises(InputError, match="no table with VolumeName"):
        read(tmp_path, "ct-rate")
