"""Small copies of the public benchmarks' folders: their layouts by code, their scans phantoms, none of their data."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from slicesight.data.sources.ct_rate import FINDINGS
from slicesight.data.sources.three_d_rad import COLUMNS
from slicesight.io.writers import write_nifti
from slicesight.phantoms.rendering import make_phantom
from slicesight.volumes.volume import Volume

TEMPORAL = (
    "Refractory Lesion (Persistent or recurrent, now present)",
    "Resolved Lesion (Previously present or recurrent, now absent)",
    "New Lesion (Absent previously, now present)",
    "No Abnormality (Always absent)",
)


@cache
def coarse(number: int) -> Volume:
    """Phantom `number` as a scan that calls itself real, some 60 x 30 x 40 voxels."""
    return replace(make_phantom(78, number, pixel_mm=(9.0, 10.0)).volume, is_synthetic=False)


def write_csv(path: Path, rows: Sequence[Mapping[str, str]], *, encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding=encoding) as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def rad_row(task: int, volume: str, question: str, answer: str, choices: Sequence[str] = ()) -> dict[str, str]:
    """A row of 3D-RAD's tables; with choices it is closed."""
    listed = [*choices, *["-"] * 4][:4]
    letter = "ABCD"[list(choices).index(answer)] if choices else "-"
    kind = "Close" if choices else "Open"
    cells = (str(task), "1", f"{volume}.nii.gz", question, answer, kind, letter, *listed)
    return dict(zip(COLUMNS, cells, strict=True))


def write_3d_rad(root: Path, *, scans: Sequence[str] = ("valid_1_a_1", "valid_2_b_1")) -> Path:
    """3DRAD/test with a table of each task about two scans, under CT-RATE's own names; returns 3DRAD."""
    for number, name in enumerate(scans):
        split, patient, part, _ = name.split("_")
        place = root / "scans" / f"{split}_fixed" / f"{split}_{patient}" / f"{split}_{patient}_{part}"
        place.mkdir(parents=True, exist_ok=True)
        write_nifti(coarse(number), place / f"{name}.nii.gz")
    test = root / "3DRAD" / "test"
    one, two = ("test_1_a_1", "test_2_b_1")
    tables = {
        "Task1_Image_Observation/Anatomical_observation": [
            rad_row(1, one, "Where is the largest lymph node observed?", "Right hilar region.")
        ],
        "Task2_Anomaly_Detection/Diagnosis": [
            rad_row(2, one, "Where is the mass located?", "Left upper lobe"),
            rad_row(2, two, "Where is the effusion?", "Right side."),
        ],
        "Task3_Medical_Computation/Size": [
            rad_row(3, two, "What is the size of the lesion?", "30x13 mm"),
            rad_row(3, two, "What is the size of the lesion?", "30x13 mm"),
        ],
        "Task4_Existence_Detection/Atelectasis": [
            rad_row(4, name, "Does the CT scan exhibit atelectasis?", answer, ("Yes", "No"))
            for name, answer in ((one, "No"), (two, "Yes"))
        ],
        "Task5_Static_Temporal_Diagnosis/b": [
            rad_row(5, two, "How would you classify the lung nodule?", TEMPORAL[0], TEMPORAL)
        ],
        "Task6_Longitudinal_Temporal_Diagnosis/b": [
            rad_row(6, two, "Old sequences for lung nodule: [0, 1]. How has it changed?", TEMPORAL[1], TEMPORAL)
        ],
    }
    for place, rows in tables.items():
        write_csv(test / f"{place}.csv", rows)
    return root / "3DRAD"


def tumor_question(number: int, image: str, **changes: Any) -> dict[str, Any]:
    """A question of DeepTumorVQA v2 about a scan."""
    kinds = (
        ("recognition", "liver lesion existence", "Is there a liver lesion?", "Yes", ("Yes", "No"), "A"),
        ("measurement", "organ volume measurement", "How large is the spleen?", "212.5", ("90", "212.5", "400"), "B"),
        ("medical reasoning", "splenomegaly grading", "How large is the spleen?", "Normal (no splenomegaly)",
         ("Normal", "Moderate", "Severe", "Mild"), "A"),
    )  # fmt: skip
    kind, subtype, question, answer, choices, letter = kinds[number % len(kinds)]
    listed = " ".join(f"{name}: {text}" for name, text in zip("ABCD", choices, strict=False))
    found = {
        "qid": f"bench_{number:05d}",
        "image_id": image,
        "spacing": "[0.83 0.83 5.0]",
        "shape": "(512, 512, 116)",
        "sex": None,
        "age": None,
        "question": question,
        "answer": answer,
        "mc_question": f"{question} {listed}",
        "correct_option": letter,
        "organ": "spleen",
        "lesion": False,
        "question_type": kind,
        "question_subtype": subtype,
        "requires_tools": ["segment_organ"],
    }
    return {**found, **changes}


def write_deeptumorvqa(root: Path, *, num_scans: int = 2, questions: Sequence[Any] | None = None) -> Path:
    """DeepTumorVQA_2.0 with benchmark/test_qa.json and ct/, three questions a scan; returns it."""
    base = root / "DeepTumorVQA_2.0"
    images = [f"BDMAP_{number:08d}" for number in range(num_scans)]
    for number, image in enumerate(images):
        place = base / "benchmark" / "ct" / image
        place.mkdir(parents=True, exist_ok=True)
        write_nifti(coarse(number), place / "ct.nii.gz")
    if questions is None:
        questions = [tumor_question(3 * n + k, image) for n, image in enumerate(images) for k in range(3)]
    document = {"version": "2.0", "num_questions": len(questions), "questions": questions}
    (base / "benchmark" / "test_qa.json").write_text(json.dumps(document, indent=1), encoding="utf-8")
    return base


def amos_question(question: str, answer: str = "B", **changes: Any) -> dict[str, Any]:
    """A question of AMOS-MM with four options."""
    options = {"A": "liver", "B": "spleen", "C": "left kidney", "D": "pancreas"}
    return {"question": question, "options": options, "answer": answer, "type": "Organ", **changes}


def write_amos_mm(root: Path) -> Path:
    """AMOS-MM's two lists with a training scan and two validation ones; one of them lies in both image folders."""
    base = root / "amos_mm"
    for number, (folder, name) in enumerate((("imagesTr", "amos_0001"), ("imagesTr", "amos_7008"),
                                             ("imagesVa", "amos_7008"), ("imagesVa", "amos_0008"))):  # fmt: skip
        (base / folder).mkdir(parents=True, exist_ok=True)
        write_nifti(coarse(number), base / folder / f"{name}.nii.gz")
    report = {"findings": {"chest": "", "abdomen": "The liver is normal.\nA cyst.", "pelvis": "No mass."}}
    images = {"training": ["imagesTr/amos_0001"], "validation": ["imagesVa/amos_7008", "imagesVa/amos_0008"]}
    reports = {
        split: [
            {"image": f"./{name}.nii.gz", "meta": {"spacing": [1, 1, 5]}, "labels": {"report": report}} for name in of
        ]
        for split, of in images.items()
    }
    asked = {
        split: [
            {"image": f"./{name}.nii.gz", "labels": {"qa": [amos_question("Which organ shows a cyst?")]}} for name in of
        ]
        for split, of in images.items()
    }
    (base / "report_generation_train_val.json").write_text(json.dumps({"licence": "CC BY-ND 4.0", **reports}, indent=1))
    (base / "vqa_train_val.json").write_text(json.dumps(asked, indent=1))
    return base


def write_rexgroundingct(root: Path, **changes: Any) -> Path:
    """ReXGroundingCT's list with a validation scan of two findings, one of them on slices 3 to 5, and a hidden test."""
    base = root / "ReXGroundingCT"
    volume = coarse(0)
    place = root / "ct" / "train_fixed" / "train_9" / "train_9_a"
    place.mkdir(parents=True, exist_ok=True)
    path = write_nifti(volume, place / "train_9_a_1.nii.gz") or place / "train_9_a_1.nii.gz"
    shape = nib.load(path).shape
    masks = np.zeros((2, *shape), dtype=np.uint8)
    masks[0, 5:8, 5:9, 3:6] = 1
    masks[1, 2, 2, shape[2] - 2] = 2
    (base / "segmentations").mkdir(parents=True, exist_ok=True)
    nib.Nifti1Image(masks, np.eye(4)).to_filename(base / "segmentations" / "train_9_a_1.nii.gz")
    entry = {
        "name": "train_9_a_1.nii.gz",
        "findings": {"0": "Consolidation in the right lower lobe.", "1": "A nodule in the left upper lobe"},
        "entity_counts": {"0": 1, "1": 1},
        "shape": list(shape),
        "pixels": {"0": 36, "1": 1},
        "categories": {"0": "2b", "1": "2d"},
        "protocol": "protocol1",
        **changes,
    }
    hidden = {"name": "valid_3_a_1.nii.gz", "findings": {"0": "Emphysema"}, "shape": [512, 512, 200]}
    (base / "dataset.json").write_text(json.dumps({"train": [], "val": [entry], "test": [hidden]}, indent=1))
    return base


def write_ct_rate(root: Path) -> Path:
    """CT-RATE's tree with one scan of training, whose volume is not there, and one of validation; returns it."""
    base = root / "CT-RATE" / "dataset"
    names = ("valid_1_a_1",)
    for number, name in enumerate(names):
        split, patient, part, _ = name.split("_")
        place = base / f"{split}_fixed" / f"{split}_{patient}" / f"{split}_{patient}_{part}"
        place.mkdir(parents=True, exist_ok=True)
        write_nifti(coarse(number), place / f"{name}.nii.gz")
    for part, listed in (("train", ("train_5_a_1",)), ("validation", names)):
        reports = [
            {"VolumeName": f"{name}.nii.gz", "Findings_EN": "Trachea is open.", "Impressions_EN": "Normal thorax."}
            for name in listed
        ]
        labels = [
            {"VolumeName": f"{name}.nii.gz", **{finding: str((i + j) % 2) for j, finding in enumerate(FINDINGS)}}
            for i, name in enumerate(listed)
        ]
        write_csv(base / "radiology_text_reports" / f"{part}_reports.csv", reports)
        write_csv(base / "multi_abnormality_labels" / f"{part}_predicted_labels.csv", labels)
    return root / "CT-RATE"
