"""The questions about soft-tissue sarcoma: what is asked is true, and nothing but the pixels tells the answer."""

import importlib
import json
import re
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
import torch
from torch import nn

from slicesight.data.choices import is_right
from slicesight.data.manifest import read_manifest
from slicesight.io.loading import read_volume
from slicesight.io.writers import write_nifti
from slicesight.training.recipe import read_recipe

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
PATIENTS = {"STS_001": 12.0, "STS_002": 24.0, "STS_026": 40.0, "STS_027": 12.0, "STS_031": 24.0, "STS_034": 40.0}
"""Radius of the tumour in mm."""
FILES = {"CT": (0.98, -1000.0, 40.0), "MR_T1": (0.98, 0.0, 300.0), "PET": (4.69, 0.0, 6.0)}
"""In-plane spacing in mm, air, tumour."""


@pytest.fixture(scope="session")
def questions():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        return importlib.import_module("sts_questions")


@pytest.fixture(scope="session")
def experiment(questions):
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        return importlib.import_module("sts_vqa")


@pytest.fixture(scope="session")
def start(questions):
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        return importlib.import_module("sts_start")


@pytest.fixture(scope="session")
def sts_folder(tmp_path_factory) -> Path:
    """Balls of tumour in air, cut 5 cm round them, as the real scans are."""
    folder = tmp_path_factory.mktemp("sts")
    for patient, radius in PATIENTS.items():
        (folder / patient).mkdir()
        for name, (in_plane, air, tumour) in FILES.items():
            spacing = np.array([3.27, in_plane, in_plane])
            shape = np.ceil((2 * radius + 100) / spacing).astype(int)
            middle = (shape - 1) / 2 * spacing
            places = [np.arange(n) * mm - at for n, mm, at in zip(shape, spacing, middle, strict=True)]
            mask = sum(
                np.square(p).reshape([-1 if i == axis else 1 for i in range(3)]) for axis, p in enumerate(places)
            )
            mask = mask <= radius**2
            for part, voxels in (
                ("image", np.where(mask, tumour, air).astype(np.float32)),
                ("mask", mask.astype(np.uint8)),
            ):
                image = SimpleITK.GetImageFromArray(voxels)
                image.SetSpacing(spacing[::-1].tolist())
                SimpleITK.WriteImage(image, str(folder / patient / f"{name}_{part}.nii.gz"))
    return folder


@pytest.fixture(scope="session")
def made(questions, sts_folder, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("made")
    return questions.make(sts_folder, out, train=2, test=1, synthetic=1)


@pytest.fixture(scope="session")
def cases(made):
    return [case for case in read_manifest(made) if case.source == "sts"]


def test_every_answer_is_counted_again_in_the_written_mask(questions, made, cases):
    low, high = json.loads((made.parent / "facts.json").read_text())["size_cuts_ml"]
    for case in cases[::7]:
        volume = read_volume(made.parent / case.volume, unit="arbitrary")
        labels = read_volume(made.parent / case.labels, unit="arbitrary", may_be_blank=True)
        assert volume.shape == labels.shape == (24, 24, 24)
        counts = np.moveaxis(labels.voxels > 0, labels.acquisition_axis, 0).sum(axis=(1, 2))
        said = {asked.topic: asked for asked in case.conversations}
        assert said["plane"].answer == volume.plane
        assert (
            said["third"].answer
            == questions.THIRDS[int(np.argmax([counts[:8].sum(), counts[8:16].sum(), counts[16:].sum()]))]
        )
        ml = counts.sum() * 3.27**3 / 1000
        assert said["size"].answer == ("small" if ml < low else "medium" if ml < high else "large")
        assert said["third"].source_slices == tuple(np.flatnonzero(counts))
        for asked in case.conversations:
            if asked.topic == "slab":
                first, last = (int(n) for n in re.findall(r"\d+", asked.question))
                assert (counts[first - 1 : last].sum() > 0) == (asked.answer == "yes")


def test_all_corners_count_what_a_cut_would(questions):
    tumour = np.random.default_rng(1).random((27, 25, 26)) < 0.1
    for axis, plane in enumerate(("axial", "coronal", "sagittal")):
        thirds = questions.tumour_by_third(tumour, axis)
        assert thirds.shape == (3, 4, 2, 3)
        cube = questions.Cube(questions.Scan("STS_001", "CT", tumour.astype(np.float32), tumour), plane, (3, 1, 2))
        assert thirds[:, 3, 1, 2].tolist() == cube.tumour_by_slice.reshape(3, 8).sum(axis=1).tolist()


def test_answers_are_equally_frequent_wherever_they_could_be_guessed_from(cases):
    for split in ("train", "test"):
        tally = defaultdict(Counter)
        for case in cases:
            if case.split != split:
                continue
            said = {asked.topic: asked.answer for asked in case.conversations}
            for kind in ("modality", "plane", "third", "size"):
                tally[kind][said[kind]] += 1
            for known in ("modality", "plane", "size"):
                tally["third", said[known]][said["third"]] += 1
            tally["third", case.patient][said["third"]] += 1
            tally["size", said["modality"], said["plane"]][said["size"]] += 1
            for asked in case.conversations:
                if asked.topic == "slab":
                    tally["slab", asked.question][asked.answer] += 1
                    tally["slab", case.patient][asked.answer] += 1
        assert tally["slab", "Is there tumour in slices 1 to 8?"]
        for place, counts in tally.items():
            assert len(counts) == (2 if place[0] == "slab" else 3), place
            assert len(set(counts.values())) == 1, (place, counts)


def test_no_patient_is_in_both_splits_and_phantoms_only_train(cases, made):
    patients = {split: {case.patient for case in cases if case.split == split} for split in ("train", "test")}
    assert patients["train"] <= {"STS_001", "STS_002", "STS_026"}
    assert patients["test"] <= {"STS_027", "STS_031", "STS_034"}
    others = [case for case in read_manifest(made) if case.source != "sts"]
    assert [case.split for case in others] == ["train"]
    assert read_volume(made.parent / others[0].volume).voxels.max() <= 255


def test_position_alone_is_no_better_than_the_majority(experiment, made, cases):
    training, test = ([case for case in cases if case.split == split] for split in ("train", "test"))
    rows = experiment.answers_by_position(training, test, made.parent)
    for kind in ("modality", "plane", "third", "slab", "size"):
        of_kind = [row for row in rows if row.topic == kind]
        chance = 1 / len(of_kind[0].choices)
        assert np.mean([is_right(row.prediction, row) for row in of_kind]) == pytest.approx(chance)


def test_of_whole_scans_position_alone_knows_the_third(questions, sts_folder):
    """Why the cubes are cut at all."""
    found = questions.guessed_from_whole_scans(list(questions.read_scans(sts_folder)))
    assert found["third"] == 1.0
    assert found["slab"] > 0.8


def test_position_alone_finds_a_leak_that_is_there(experiment, made, cases, tmp_path):
    """Files of another length for every third: the same baseline then knows the third."""
    (tmp_path / "volumes").mkdir()
    leaking = []
    for case in cases[:60]:
        volume = read_volume(made.parent / case.volume, unit="arbitrary")
        third = ("first", "middle", "last").index(case.conversations[2].answer)
        shorter = np.moveaxis(
            np.moveaxis(volume.voxels, volume.acquisition_axis, 0)[: 20 + third], 0, volume.acquisition_axis
        )
        write_nifti(replace(volume, voxels=np.ascontiguousarray(shorter)), tmp_path / case.volume)
        leaking.append(case)
    rows = experiment.answers_by_position(leaking[::2], leaking[1::2], tmp_path)
    assert all(is_right(row.prediction, row) for row in rows if row.topic == "third")


def test_the_table_draws_patients_and_holds_every_kind(experiment, cases):
    test = [case for case in cases if case.split == "test"]
    truth = [row for case in test for row in experiment.rows_of(case, [a.target for a in case.conversations])]
    wrong = [row.model_copy(update={"prediction": ""}) for row in truth]
    systems = {"majority": [wrong], "position": [wrong], "model": [truth, wrong], "blind": [wrong, wrong]}
    table = experiment.make_table(systems, {case.id: case.patient for case in test})
    assert table["kinds"]["third"]["model"]["value"] == 0.5
    assert table["kinds"]["third"]["model"]["seeds"] == [1.0, 0.0]
    assert table["tests"]["blind"]["all"]["num_volumes"] == table["num_patients"] == 3
    lines = experiment.table_lines(table)
    assert [line.split("|")[1].strip().split(" ")[0] for line in lines[2:]] == [*experiment.KINDS, "all"]
    assert "50.0 (50.0 to 50.0)" in lines[4]


def test_the_blind_twin_learns_the_same_questions_without_a_scan(experiment):
    options = experiment.parse(["STS", "--out", "somewhere", "--set", "stages.1.steps=7"])
    assert options.runs == ["model-1", "blind-1", "model-2", "blind-2", "model-3", "blind-3"]
    model, blind = (experiment.plan(options, arm, 2) for arm in ("model", "blind"))
    assert (model.see_volume, blind.see_volume) == (True, False)
    assert (model.seed, blind.seed) == (2, 2)
    (only,) = blind.stages
    assert replace(model.stages[-1], trainable=(), steps=only.steps) == only
    assert (model.stages[-1].steps, only.steps) == (7, 3)
    assert read_recipe(experiment.RECIPE).grid.num_slices == importlib.import_module("sts_questions").NUM_SLICES


def test_a_standardised_layer_reads_as_if_its_inputs_had_been(start):
    torch.manual_seed(0)
    layer, features = nn.Linear(5, 3), 7 + torch.randn(200, 5) * torch.tensor([0.1, 1, 2, 3, 4])
    with torch.no_grad():
        wanted = layer((features - features.mean(0)) / features.std(0))
        start.standardise(layer, features)
        assert torch.allclose(layer(features), wanted, atol=1e-3)


def test_stage_0_wants_tokens_that_are_the_true_words(start):
    torch.manual_seed(0)
    words = {kind: torch.randn(len(names), 64) for kind, names in start.WORDS.items()}
    truth, chosen = {"modality": torch.tensor([2, 0]), "plane": torch.tensor([1, 1])}, torch.tensor([0, 1])
    tumour_VT = torch.tensor([[0, 1, 1], [0, 0, 1]])
    said = words["modality"][truth["modality"]] + words["plane"][truth["plane"]]
    right = said[:, None] + words["tumour"][tumour_VT]
    wrong = said[:, None] + words["tumour"][1 - tumour_VT]
    elsewhere = right.flip(0)
    losses = [start.say_loss(tokens, tumour_VT, truth, chosen, words) for tokens in (right, wrong, elsewhere)]
    assert losses[0] < min(losses[1:])


@pytest.mark.shared_data
def test_real_scans_are_balanced_too(questions, experiment, shared_folder, tmp_path):
    path = questions.make(shared_folder / "data" / "sts", tmp_path, train=1, test=1, synthetic=0)
    cases = read_manifest(path)
    training, test = ([case for case in cases if case.split == split] for split in ("train", "test"))
    assert {case.patient for case in test} <= {f"STS_{number:03d}" for number in range(27, 35)}
    assert not {case.patient for case in training} & {case.patient for case in test}
    rows = experiment.answers_by_position(training, test, tmp_path)
    for kind in questions.KINDS:
        of_kind = [row for row in rows if row.topic == kind]
        assert np.mean([is_right(row.prediction, row) for row in of_kind]) == pytest.approx(
            1 / len(of_kind[0].choices), abs=0.05
        )
