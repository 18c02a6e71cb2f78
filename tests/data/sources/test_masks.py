"""Scans with label maps: what is known of a part, what is asked, how it is balanced, and what is refused."""

from __future__ import annotations

import csv
import re
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from slicesight.data.sources.mask_texts_held_back import HELD_BACK
from slicesight.data.sources.mask_truth import ScanTruth, Structure, View, truth_of
from slicesight.data.sources.masks import SETTINGS_FILE
from slicesight.errors import InputError
from slicesight.io.writers import write_nifti
from slicesight.volumes.volume import Volume

STRUCTURES: dict[str, dict[str, Any]] = {
    "skull": {"label": 1, "unknown": ["above"]},
    "right lobe": {"label": 3, "side": "right", "pair": "lobe", "words": ["lobe on the right"]},
    "left lobe": {"label": 4, "side": "left", "pair": "lobe"},
    "tube": {"label": 6, "unknown": ["below"]},
    "bone": {"label": 9},
    "cord": {"label": 2, "ask": False},
}
SIZE = 48


def scan_and_labels(number: int, *, without: tuple[str, ...] = ()) -> tuple[Volume, np.ndarray]:
    """A body with structures at drawn heights; (z, y, x) grows to superior, posterior, left."""
    rng = np.random.default_rng(number)
    voxels = np.full((SIZE, 16, 24), -1000, dtype=np.float32)
    voxels[:, 1:15, 1:23] = rng.normal(40, 5, (SIZE, 14, 22))
    labels = np.zeros(voxels.shape, dtype=np.uint8)

    def draw(name: str, low: int, high: int, rows: slice, columns: slice) -> None:
        if name not in without:
            labels[low:high, rows, columns] = STRUCTURES[name]["label"]

    shift = int(rng.integers(-3, 4))
    draw("cord", 0, SIZE, slice(12, 14), slice(11, 13))
    draw("skull", 36 + shift, 45, slice(3, 6), slice(9, 15))
    size = int(rng.integers(2, 5))
    draw("right lobe", 26 + shift, 33 + shift, slice(6, 6 + size), slice(2, 6))
    draw("left lobe", 26 + shift, 33 + shift, slice(6, 9), slice(18, 22))
    draw("bone", 23 + 2 * shift, 30 + 2 * shift, slice(2, 4), slice(9, 15))
    draw("tube", 3, 13 + shift, slice(9, 11), slice(10, 14))
    affine = np.array([[0, 0, 4, 0], [0, 4, 0, 0], [3, 0, 0, 0], [0, 0, 0, 1]], dtype=float)
    return Volume(voxels=voxels, affine_lps=affine, spacing_mm=(3, 4, 4), unit="HU", modality="CT"), labels


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    """Write COUNT patients and masks.yaml, changed by `edit` -> the folder."""

    def write(count: int = 6, edit: Callable[[dict[str, Any]], None] = lambda settings: None) -> Path:
        root = tmp_path / "scans"
        rows = [("patient", "split", "leave_out")]
        for number in range(count):
            volume, labels = scan_and_labels(number, without=("bone",) if number == 1 else ())
            (root / f"p{number}").mkdir(parents=True)
            write_nifti(volume, root / f"p{number}" / "ct.nii.gz")
            write_nifti(volume, root / f"p{number}" / "labels.nii.gz", labels=labels)
            split = "val" if number == 7 else "test" if number % 3 == 2 else "train"
            rows.append((f"p{number}", split, "tube; skull" if number == 3 else ""))
        with (root / "patients.csv").open("w", newline="") as file:
            csv.writer(file).writerows(rows)
        one: dict[str, Any] = {
            "scan": "{patient}/ct.nii.gz", "labels": "{patient}/labels.nii.gz", "patients": "patients.csv",
            "facts": {"modality": "CT", "region": "model"}, "structures": STRUCTURES,
        }  # fmt: skip
        settings = {"sets": [one], "ranges": 12, "halves": 4}
        edit(settings)
        (root / SETTINGS_FILE).write_text(yaml.safe_dump(settings, sort_keys=False))
        return root

    return write


def truth(number: int = 0, **options: Any) -> ScanTruth:
    volume, labels = scan_and_labels(number)
    structures = {name: Structure(**{**facts, "unknown": tuple(facts.get("unknown", ()))}) for name, facts in
                  STRUCTURES.items()}  # fmt: skip
    return truth_of(volume, labels, structures, **options)


def test_a_view_shows_what_lies_in_it_and_says_which_slices() -> None:
    known = truth()
    held = np.flatnonzero(scan_and_labels(0)[1] == 3) // (16 * 24)
    seen = known.look("right lobe", View(first=20, last=40))
    assert seen.state == "present"
    assert seen.is_whole
    assert (seen.slices[0], seen.slices[-1]) == (held.min(), held.max())
    assert sum(seen.voxels) == len(held)


@pytest.mark.parametrize(
    ("name", "first", "last", "state"),
    [
        ("right lobe", 0, 12, "absent"),
        ("skull", 0, 20, "absent"),
        ("skull", 45, 47, "unknown"),  # above its upper end nobody drew on
        ("skull", 25, 47, "present"),
        ("tube", 0, 2, "unknown"),
        ("tube", 20, 40, "absent"),
    ],
)
def test_beyond_a_cut_contour_the_truth_is_unknown(name: str, first: int, last: int, state: str) -> None:
    assert truth().look(name, View(first=first, last=last)).state == state


def test_near_a_structures_end_and_with_few_of_its_slices_the_truth_is_unknown() -> None:
    known = truth()
    low = int(np.flatnonzero(known.counts["right lobe"].sum(axis=1))[0])
    states = {gap: known.look("right lobe", View(first=0, last=low - gap)).state for gap in (4, 3, 2, 1, 0, -1, -2)}
    assert states == {4: "absent", 3: "absent", 2: "unknown", 1: "unknown", 0: "unknown", -1: "unknown", -2: "present"}


def test_a_half_shows_the_structures_of_its_side() -> None:
    known = truth()
    for side, here, there in (("right", "right lobe", "left lobe"), ("left", "left lobe", "right lobe")):
        view = View(first=20, last=40, side=side)
        assert known.look(here, view).state == "present"
        assert known.look(there, view).state == "absent"
        assert known.look("skull", View(first=20, last=47, side=side)).state in ("unknown", "present")


def test_every_answer_is_true_of_the_labels_and_balanced_within_patient_and_structure(folder, read) -> None:
    cases, _ = read(folder(), "masks")
    counts: dict[tuple[str, str, str], Counter[str]] = defaultdict(Counter)
    topics = Counter(asked.topic for case in cases for asked in case.conversations)
    wanted = {"presence", "third", "slices", "side", "most", "count", "near", "report", "larger"}
    assert wanted <= topics.keys()
    for case in cases:
        number = int(case.patient[1:])
        _, labels = scan_and_labels(number, without=("bone",) if number == 1 else ())
        first, last = case.reading.slices
        part = labels[first : last + 1]
        if case.reading.side is not None:
            part = part[:, :, 12:] if case.reading.side == "left" else part[:, :, :12]
        for asked in case.conversations:
            named = asked.id.split(":")[3].replace("_", " ") if asked.topic != "report" else ""
            assert "cord" not in asked.question
            assert "cord" not in asked.answer
            if asked.topic in ("presence", "third", "near"):
                key = asked.answer if asked.topic != "near" else ["lower", "upper"][asked.choices.index(asked.answer)]
                counts[case.patient, asked.topic, named][key] += 1
            if asked.topic == "presence":
                assert (asked.answer == "yes") == bool((part == STRUCTURES[named]["label"]).any())
            if asked.topic == "slices":
                held = np.flatnonzero((part == STRUCTURES[named]["label"]).any(axis=(1, 2)))
                words = asked.answer.split()
                low, high = (int(words[1]), int(words[3])) if words[0] == "slices" else (int(words[1]), int(words[1]))
                scale = 32 / len(part)
                assert low == 1 + int((held[0] + 0.5) * scale)
                assert high == 1 + int((held[-1] + 0.5) * scale)
                assert asked.source_slices == tuple((held + first).tolist())
    for key, by_answer in counts.items():
        assert len(set(by_answer.values())) == 1, (key, by_answer)
        assert len(by_answer) > 1, (key, by_answer)


def test_what_nobody_drew_or_trusts_is_never_asked(folder, read) -> None:
    cases, _ = read(folder(), "masks")
    for patient, name in (("p1", "bone"), ("p3", "tube"), ("p3", "skull")):
        mine = [case for case in cases if case.patient == patient]
        assert mine
        assert all(name not in case.truth["structures"] for case in mine)
        said = " ".join(f"{asked.prompt} {asked.answer}" for case in mine for asked in case.conversations)
        assert name not in said


def test_the_truth_of_a_case_names_labels_unknown_slices_and_facts(folder, read) -> None:
    cases, _ = read(folder(), "masks")
    known = cases[0].truth
    assert known["structures"]["left lobe"] == 4
    held = np.flatnonzero((scan_and_labels(0)[1] == 1).any(axis=(1, 2)))
    assert known["unknown"]["skull"] == [[held[-1] + 1, SIZE - 1]]
    assert known["facts"] == {"modality": "CT", "region": "model", "plane": "axial"}
    assert Path(cases[0].labels).name == "labels.nii.gz"


def test_some_wordings_are_kept_for_validation_and_test(folder, read) -> None:
    cases, _ = read(folder(9), "masks")
    endings = {split: {asked.id.endswith(":held-back") for case in cases if case.split == split
                       for asked in case.conversations} for split in ("train", "val", "test")}  # fmt: skip
    assert endings == {"train": {False}, "val": {True, False}, "test": {True, False}}
    texts = [re.escape(text) for texts in HELD_BACK["test"].values() for text in texts]
    kept = re.compile("|".join(re.sub(r"\\{\d\\}", ".+", text) for text in texts))
    held = [asked for case in cases if case.split == "test" for asked in case.conversations if "held-back" in asked.id]
    assert all(kept.fullmatch(asked.question) for asked in held)
    others = [asked for case in cases if case.split != "test" for asked in case.conversations]
    assert not [asked for asked in others if kept.fullmatch(asked.question)]


def test_the_same_source_gives_the_same_questions(folder, read) -> None:
    root = folder()
    assert read(root, "masks")[0] == read(root, "masks")[0]


def test_scans_without_label_maps_are_asked_for_what_is_true_of_all(folder, read) -> None:
    def two_sets(settings: dict[str, Any]) -> None:
        settings["sets"].append({"scan": "{patient}/labels.nii.gz", "facts": {"modality": "MR", "region": "model"}})

    cases, _ = read(folder(3, two_sets), "masks")
    plain = [case for case in cases if case.labels is None]
    assert plain
    assert {asked.answer for case in plain for asked in case.conversations if asked.topic == "modality"} == {"MR"}
    assert {asked.topic for case in plain for asked in case.conversations} == {"report", "modality"}


def spoil(name: str, **changes: Any) -> Callable[[dict[str, Any]], None]:
    def edit(settings: dict[str, Any]) -> None:
        structures = settings["sets"][0]["structures"] = {key: dict(facts) for key, facts in STRUCTURES.items()}
        structures[name] = {**structures.get(name, {}), **changes}

    return edit


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (spoil("bone", label=4), "left lobe and bone both have the label 4"),
        (spoil("bone", words=["TUBE"]), "tube and bone are both called 'TUBE'"),
        (spoil("cord", ask=True), "no view of any scan is known to lack the cord"),
        (spoil("bone", label=8), r"label 9 has no name; the names are of 1, 2, 3, 4, 6, 8"),
        (lambda settings: settings["sets"][0].update(scan="scan.nii.gz"), "does not say where the patient stands"),
        (lambda settings: settings["sets"][0].update(scan="{patient}/pet.nii.gz"), "no scan lies at"),
        (lambda settings: settings["sets"][0].update(labels="{patient}/seg.nii.gz"), "label map .* is missing"),
        (lambda settings: settings["sets"][0].pop("structures"), "labels and structures belong together"),
        (lambda settings: settings.update(rangs=3), "unknown key 'rangs'; did you mean 'ranges'"),
    ],
)
def test_settings_that_cannot_be_are_refused_in_one_line(folder, read, edit, message: str) -> None:
    with pytest.raises(InputError, match=message) as refused:
        read(folder(3, edit), "masks", on_bad_case="stop")
    assert "\n" not in str(refused.value)


def test_an_empty_label_map_and_one_on_another_grid_are_refused_or_listed(folder, read) -> None:
    root = folder(6)
    volume, labels = scan_and_labels(0)
    write_nifti(volume, root / "p0" / "labels.nii.gz", labels=np.zeros_like(labels))
    small = Volume(voxels=volume.voxels[:40], affine_lps=volume.affine_lps, spacing_mm=(3, 4, 4))
    write_nifti(small, root / "p4" / "labels.nii.gz", labels=labels[:40])
    with pytest.raises(InputError, match=r"p0/ct\.nii\.gz: the label map is empty"):
        read(root, "masks", on_bad_case="stop")
    cases, intake = read(root, "masks", on_bad_case="skip")
    assert {case.patient for case in cases} == {"p1", "p2", "p3", "p5"}
    reasons = {skipped.case_id: skipped.reason for skipped in intake.skipped}
    assert "expected one grid" in reasons["p4/ct.nii.gz"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("p0,exam,", "line 2: split 'exam' is unknown"),
        ("p0,train,nose", "line 2: leave_out names 'nose'"),
        ("p0,train,\np0,train,", "line 3: patient 'p0' is listed twice"),
    ],
)
def test_a_wrong_line_of_the_patients_list_is_named(folder, read, line: str, message: str) -> None:
    root = folder(2)
    (root / "patients.csv").write_text(f"patient,split,leave_out\n{line}\n")
    with pytest.raises(InputError, match=message):
        read(root, "masks", on_bad_case="stop")
