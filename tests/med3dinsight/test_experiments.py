"""The parts of the experiments' scripts that a wrong number could come from."""

import argparse
import importlib
import json
from pathlib import Path

import numpy as np
import pytest

from slicesight.data.manifest import Conversation
from slicesight.io.loading import read_volume
from slicesight.training.fitting import digest_of
from slicesight.training.pretraining_recipe import read_pretrain_recipe, read_triplet_settings
from slicesight.training.scan_list import read_cases
from slicesight.training.segmentation import read_segment_recipe

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


def test_the_sts_list_has_both_modalities_and_splits_by_patient(script, tmp_path):
    for patient, kinds in (("STS_002", ("CT", "MR_T1")), ("STS_026", ("CT",)), ("STS_027", ("MR_T1",))):
        (tmp_path / "sts" / patient).mkdir(parents=True)
        for kind in kinds:
            for part in ("image", "mask"):
                (tmp_path / "sts" / patient / f"{kind}_{part}.nii.gz").touch()
    path = script("insight_lists").list_sts(tmp_path / "sts", tmp_path / "out")
    cases = read_cases(path, needs="mask")
    assert [(case.patient, case.split, case.image.name) for case in cases] == [
        ("STS_002", "train", "CT_image.nii.gz"),
        ("STS_026", "train", "CT_image.nii.gz"),
        ("STS_002", "train", "MR_T1_image.nii.gz"),
        ("STS_027", "test", "MR_T1_image.nii.gz"),
    ]
    assert len(read_cases(tmp_path / "out" / "sts-ct.jsonl")) == 2
    with pytest.raises(SystemExit, match="name the folder of STS_001"):
        script("insight_lists").list_sts(tmp_path, tmp_path / "out")


def test_adrenal_shapes_are_written_as_the_distance_to_their_surface(script, tmp_path):
    shapes = np.zeros((2, 12, 12, 12), np.uint8)
    shapes[:, 3:9, 2:9, 4:9] = 255
    data = {f"{split}_images": shapes for split in ("train", "val", "test")}
    labels = {f"{split}_labels": np.array([[0], [1]]) for split in ("train", "val", "test")}
    np.savez(tmp_path / "a.npz", **data, **labels)
    path = script("insight_lists").list_adrenal(tmp_path / "a.npz", tmp_path, distance=True)
    cases = read_cases(path, needs="label")
    assert [case.label for case in cases[:2]] == ["normal", "hyperplasia"]
    assert len({case.patient for case in cases}) == 6
    volume = read_volume(cases[0].image)
    assert volume.spacing_mm == (1.0, 1.0, 1.0)
    assert np.array_equal(volume.voxels > 0, shapes[0] > 0)
    assert volume.voxels[6, 5, 6] == pytest.approx(3.0, abs=0.06)
    assert volume.voxels[6, 0, 6] == pytest.approx(-2.0, abs=0.06)
    plain = script("insight_lists").list_adrenal(tmp_path / "a.npz", tmp_path, distance=False, most={"train": 1})
    assert np.array_equal(read_volume(read_cases(plain)[0].image).voxels, shapes[0])


def test_measurements_tell_a_thick_shape_from_a_thin_one(script):
    lists, adrenal = script("insight_lists"), script("insight_adrenal")
    thin, thick = np.zeros((20, 20, 20), bool), np.zeros((20, 20, 20), bool)
    thin[5:7, 3:17, 3:17] = True
    thick[5:12, 6:13, 6:14] = True
    first, second = (adrenal.measurements(lists.signed_distance(shape)) for shape in (thin, thick))
    assert len(first) == len(second) == 12
    assert first[0] == pytest.approx(np.log(thin.sum()))
    assert (first[1], second[1]) == (1.0, 4.0)
    assert first[6] > second[6]


def test_the_exchange_test_finds_a_real_difference_and_none_between_equals(script):
    adrenal = script("insight_adrenal")
    rng = np.random.default_rng(0)
    truth = (rng.random(120) < 0.3).astype(int)
    good, poor = truth + rng.normal(0, 0.5, 120), truth + rng.normal(0, 4, 120)
    difference, p = adrenal.exchange_test(good, poor, truth)
    assert difference == pytest.approx(adrenal.area(good, truth) - adrenal.area(poor, truth))
    assert p < 0.01
    assert adrenal.exchange_test(good, good, truth) == (0.0, 1.0)
    pairs = [(a > b) + 0.5 * (a == b) for a in good[truth == 1] for b in good[truth == 0]]
    assert adrenal.area(good, truth) == pytest.approx(np.mean(pairs))


def test_the_blind_guess_is_the_mean_mask_at_its_best_threshold(script, balls):
    sts = script("insight_sts")
    cases = [case for case in read_cases(balls) if case.split == "train"]
    mean, threshold = sts.mean_mask(cases)
    assert mean.shape == sts.BLIND_SIZE
    assert mean[24, 24, 24] == 1.0
    assert mean[0, 0, 0] == 0.0
    assert 0.05 <= threshold <= 0.95


def test_the_adrenal_arms_are_tested_against_scratch_and_reconstruction_by_mode(script):
    adrenal = script("insight_adrenal")
    truth = np.array([0, 0, 0, 1, 1, 1])
    right, wrong = ({"test": scores} for scores in (truth + 0.0, 1.0 - truth))
    found = {("scratch", "probe"): [wrong], ("image_text", "probe"): [right], ("reconstruction", "probe"): [wrong]}
    found["image_text", "finetune"] = [right]
    rows = {(row["first"], row["second"]): row for row in adrenal.tested(found, truth)}
    assert set(rows) == {
        ("image_text, probe", "scratch, probe"),
        ("image_text, probe", "reconstruction, probe"),
        ("reconstruction, probe", "scratch, probe"),
    }
    assert [row["difference"] for row in rows.values()] == [1.0, 1.0, 0.0]
    assert all(row["p_holm"] >= row["p"] for row in rows.values())


def test_the_joint_table_counts_closed_questions_but_the_plane_by_phantom_then_seed(script, capsys):
    joint = script("joint_phantoms")

    def asked(case, topic, right, task="closed"):
        choices = ("one", "two") if task == "closed" else None
        pair = Conversation(
            task=task, topic=topic, question="Which?", answer="two", choices=choices, answer_choice=choices and "B"
        )
        return joint.AskedQuestion(case=case, conversation=pair, prediction="B. two" if right else "A. one")

    first = [asked(0, "organ", True), asked(0, "phase", True), asked(1, "organ", False), asked(1, "phase", True)]
    ignored = [asked(0, "plane", False), asked(1, "organ", False, task="open")]
    second = [asked(case, topic, False) for case in (0, 1) for topic in ("organ", "phase")]
    runs = [joint.by_topic(first + ignored), joint.by_topic(second)]
    assert joint.by_phantom(runs[0]["all"]) == {"0": 1.0, "1": 0.5}
    numbers = joint.table("3d", {"insight": runs}, argparse.Namespace(count=2, seeds=[1, 2]))
    assert numbers == {"organ": {"insight": [0.5, 0]}, "phase": {"insight": [1, 0]}, "all": {"insight": [0.75, 0]}}
    assert "| all | 0.375 ± 0.530 |" in capsys.readouterr().out


def test_the_sts_tables_average_scans_then_patients_then_seeds(script, tmp_path):
    sts = script("insight_sts")
    values = {"scratch": 0.5, "image_text": 0.7, "blind": 0.4}
    scores = {}
    for arm, base in values.items():
        for seed in (0, 1):
            scans = [
                {"case": f"1-{kind}", "patient": f"p{n}", "dice": base + 0.01 * n + 0.1 * seed, "hd95_mm": 1.0}
                for n in range(6)
                for kind in ("CT_image", "MR_T1_image")
            ]
            scores[arm, 1.0, seed] = scans
    options = argparse.Namespace(shares=[1.0], seeds=[0, 1])
    table = sts.table(scores, ["scratch", "image_text"], options, "dice", "Dice", 3)
    assert "| image + text | 0.775 ± 0.071 | 0.775 ± 0.071 |" in table
    rows = sts.tested(scores, ["blind", "scratch", "image_text"], options)
    assert [(row["first"], row["second"]) for row in rows] == [
        ("scratch", "blind"),
        ("image_text", "blind"),
        ("image_text", "scratch"),
    ]
    assert rows[2]["difference"] == pytest.approx(0.2)
    assert rows[2]["p"] == pytest.approx(2 / 64, abs=1e-4)
    assert rows[2]["p_holm"] == pytest.approx(3 * 2 / 64, abs=1e-3)
    assert "0.031" in sts.least_p(rows)


def test_the_clock_leaves_out_an_arm_that_would_not_fit(script, tmp_path):
    clock = script("insight_arms").Clock(tmp_path / "minutes.jsonl", budget=10.0)
    assert clock.has_time_for("scratch")
    lines = [{"arm": "scratch", "cpu_minutes": 3.0, "what": "x"}, {"arm": "image", "cpu_minutes": 5.0, "what": "x"}]
    clock.file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert clock.has_time_for("image")
    assert not clock.has_time_for("shuffled")
    assert clock.total() == 8.0


@pytest.fixture
def grid(script, tmp_path):
    """Scores of two arms, two shares and two seeds for nine patients; the second arm is better by .05 at 10 %."""
    openkbp = script("insight_openkbp")
    rng = np.random.default_rng(0)
    level = {f"p{number}": rng.uniform(0.5, 0.8) for number in range(9)}
    for arm, gain in (("scratch", 0.0), ("dense", 0.05)):
        for share in (0.1, 1.0):
            for seed in (0, 1):
                scans = [
                    {"patient": patient, "structure": structure, "hd95_mm": 9.0 - gain,
                     "dice": dice + (gain if share < 1 else 0.0) + (0.1 if structure == "mandible" else 0.0)}
                    for patient, dice in level.items()
                    for structure in ("brainstem", "mandible")
                    if structure == "mandible" or patient != "p3"
                ]  # fmt: skip
                file = openkbp.Cell(arm, share, seed).scores(tmp_path, "val")
                file.parent.mkdir(parents=True)
                file.write_text(json.dumps({"scans": scans}))
    return openkbp, tmp_path, level


def test_the_grid_is_reported_by_patient_and_only_the_real_difference_is_found(grid, capsys):
    openkbp, out, level = grid
    options = argparse.Namespace(split="val")
    openkbp.report(out, options, openkbp.Clock(out / "minutes.jsonl", budget=None))
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    wanted = np.mean([dice + (0.1 if patient == "p3" else 0.05) for patient, dice in level.items()])
    assert summary["dice"]["scratch/1"] == pytest.approx(wanted, abs=1e-4)
    low, high = summary["tests"]
    assert (low["share"], low["first"], low["second"], low["seeds"], low["patients"]) == (0.1, "dense", "scratch", 2, 9)
    assert low["difference"] == pytest.approx(0.05)
    assert low["p_holm"] < 0.05
    assert high["difference"] == pytest.approx(0, abs=1e-9)
    assert high["p_holm"] == 1
    text = (out / "results-val.md").read_text()
    assert "| brainstem | 8 |" in text
    assert "| mandible | 9 |" in text
    assert (out / "curves-val.png").stat().st_size > 1000
    assert openkbp.by_patient([], "dice") == {}


def test_a_learning_rate_is_chosen_on_validation_patients_and_every_try_counts(grid, capsys):
    openkbp, out, _ = grid
    for rate, dice in ((2e-3, 0.5), (4e-3, 0.6), (8e-3, 0.4)):
        file = openkbp.Cell("dense", 0.1, openkbp.TRIAL_SEED, rate).scores(out, "val")
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps({"scans": [{"patient": "p", "structure": "s", "dice": dice, "hd95_mm": 1.0}]}))
    openkbp.choose_rates(out)
    assert json.loads((out / "rates.json").read_text()) == {"dense": 4e-3}
    openkbp.report(out, argparse.Namespace(split="val"), openkbp.Clock(out / "minutes.jsonl", budget=None))
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert summary["trials"] == 3
    assert "dense/0.1" in summary["dice"]  # trials are no cells
    with pytest.raises(SystemExit):
        openkbp.parse(["scans", "--rates", "1e-3", "--split", "test"])
    with pytest.raises(SystemExit):
        openkbp.parse(["scans", "--arms", "densest"])


def test_every_arm_of_the_grid_is_a_recipe_and_changes_what_its_name_says(script):
    openkbp, recipes = script("insight_openkbp"), BENCHMARKS.parent / "recipes"
    found = {}
    for arm, changes in openkbp.ARMS.items():
        if changes is None:
            continue
        own = tuple(change for change in changes if not change.startswith("triplets."))
        recipe = read_pretrain_recipe(recipes / "openkbp-pretrain.yaml", own)
        settings = read_triplet_settings(
            recipes / "openkbp-pretrain.yaml", tuple(c.removeprefix("triplets.") for c in changes if c not in own)
        )
        found[arm] = digest_of(recipe.to_dict(), settings.to_dict())
        assert recipe.aligns == (arm in ("released", "corrected", "dense", "shuffled", "near", "queue"))
        assert bool(recipe.dense_weight) == (arm.startswith("dense") or arm in ("shuffled", "self-taught"))
        assert settings.text == "position"
    assert len(set(found.values())) == len(found)
    segment = read_segment_recipe(recipes / "openkbp-segment.yaml")
    pretrain = read_pretrain_recipe(recipes / "openkbp-pretrain.yaml")
    assert segment.backbone.image_size == pretrain.triplets.size
    assert segment.preparation.spacing_mm == pretrain.triplets.spacing_mm
    assert segment.preparation.window == pretrain.triplets.window
    assert segment.backbone.settings == pretrain.backbone.settings
