"""Does what the last version left on disk still work? Models, prepared scans, stopped runs, evaluations, recipes.

tests/fixtures/version_0_1 was written by version 0.1.0 (make_version_0_1.py says how); its numbers stand beside it.
Everything goes through the command line, or the public names, as a user's own files would.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import yaml

import slicesight
from slicesight import cli

FIXTURES = Path(__file__).with_name("fixtures") / "version_0_1"
INSIGHT_ANSWERS = ("insight_segment.json", "insight_classify.json")


def read(path: str) -> dict:
    return json.loads((FIXTURES / path).read_text(encoding="utf-8"))


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def without_clock(lines: list[dict]) -> list[dict]:
    return [{key: value for key, value in line.items() if key not in ("seconds", "minutes_left")} for line in lines]


def assert_same(found: object, wanted: object, *, rel: float = 1e-4, place: str = "") -> None:
    """Equal, but for rounding; what is new beside an old key does not count."""
    if isinstance(wanted, dict):
        for key in wanted:
            assert key in found, f"{place}: {key} is gone"
            assert_same(found[key], wanted[key], rel=rel, place=f"{place}.{key}")
    elif isinstance(wanted, list):
        assert len(found) == len(wanted), place
        for index, (one, other) in enumerate(zip(found, wanted, strict=True)):
            assert_same(one, other, rel=rel, place=f"{place}.{index}")
    elif isinstance(wanted, float):
        assert found == pytest.approx(wanted, rel=rel, abs=1e-6), place
    else:
        assert found == wanted, place


@pytest.fixture
def desk(tmp_path, monkeypatch) -> Path:
    """A copy of the user's folder, and the place where commands run."""
    folder = tmp_path / "desk"
    shutil.copytree(FIXTURES, folder)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs a command line that must succeed -> what it said on stderr."""

    def call(line: str) -> str:
        monkeypatch.setattr(sys, "argv", ["slicesight", *line.split()])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        captured = capsys.readouterr()
        assert not stopped.value.code, captured.err
        return captured.err

    return call


def test_its_model_gives_the_same_texts_and_scores():
    predictor = slicesight.load(FIXTURES / "model", dtype="float32")
    told_apart = set()
    for scan, wanted in read("answers.json").items():
        answers = predictor.ask(
            slicesight.read_volume(FIXTURES / scan), ["Describe the findings.", "Which plane is this?"]
        )
        assert [answer.text for answer in answers] == [one["text"] for one in wanted], scan
        for answer, one in zip(answers, wanted, strict=True):
            assert np.allclose(answer.scores, one["scores"], atol=1e-5), scan
            told_apart.add(tuple(np.round(one["scores"], 4)))
    assert len(told_apart) == 2 * len(read("answers.json"))  # another scan, other scores: the comparison says something


def test_its_bfloat16_weights_can_stay_bfloat16():
    predictor = slicesight.load(FIXTURES / "model", dtype="bfloat16")
    assert {str(weight.dtype) for weight in predictor.model.parameters()} == {"torch.bfloat16"}
    assert predictor.card.name == "last-version"
    scan, wanted = next(iter(read("answers.json").items()))
    (answer,) = predictor.ask(slicesight.read_volume(FIXTURES / scan), ["Describe the findings."])
    assert np.allclose(answer.scores, wanted[0]["scores"], atol=0.03)


def test_reader_is_the_predictor_under_its_old_name_and_says_so():
    with pytest.warns(DeprecationWarning, match=r"slicesight\.Reader is called slicesight\.Predictor now"):
        from slicesight import Reader
    assert Reader is slicesight.Predictor
    assert isinstance(slicesight.load(FIXTURES / "model"), Reader)


def test_its_prepared_scans_are_taken_as_they_are(desk, run):
    before = {path.name: path.read_bytes() for path in (desk / "prepared" / "volumes").glob("shard-*.parquet")}
    index = (desk / "prepared" / "volumes" / "index.json").read_bytes()
    assert before
    run("prepare scans --format folder --out prepared --size 8,16,16")
    after = {path.name: path.read_bytes() for path in (desk / "prepared" / "volumes").glob("shard-*.parquet")}
    assert after == before
    assert (desk / "prepared" / "volumes" / "index.json").read_bytes() == index


def test_its_evaluation_goes_on_where_it_stopped(desk, run):
    wanted = read_lines(FIXTURES / "prepared_evaluation" / "predictions.jsonl")
    (desk / "prepared_evaluation" / "predictions.jsonl").write_text("")
    run("evaluate --data prepared --split test --model model --out prepared_evaluation --no-controls")
    found = read_lines(desk / "prepared_evaluation" / "predictions.jsonl")
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        drawn = {"scores": None, "prediction": None, "choice": None}
        drawn |= {"patient": None, "slice_places_mm": None}  # not said then
        assert {**one, **drawn} == {**other, **drawn}
        assert np.allclose(one["scores"], other["scores"], atol=0.02)  # bfloat16, as processors round it
    identity = json.loads((desk / "prepared_evaluation" / "run.json").read_text())
    wanted_identity = read("prepared_evaluation/run.json")
    assert {key: identity[key] for key in ("model", "questions")} == {
        key: wanted_identity[key] for key in ("model", "questions")
    }


def without_meteor(sheet):
    """The sheet without the metric that is null unless WordNet happens to be on the machine."""
    if isinstance(sheet, dict):
        return {key: without_meteor(value) for key, value in sheet.items() if key != "meteor"}
    return sheet


def test_its_evaluation_has_the_same_score_sheet(desk, run):
    run("score evaluation --json again.json")
    found, wanted = json.loads((desk / "again.json").read_text()), read("evaluation/sheet.json")
    found, wanted = without_meteor(found), without_meteor(wanted)
    for key in ("report", "open", "closed", "evidence", "num_pairs", "num_volumes", "metrics"):
        assert_same(found[key], wanted[key], rel=1e-9, place=key)


def test_its_stopped_run_ends_where_the_undisturbed_one_did(desk, run):
    from safetensors.torch import load_file

    said = run("train run.yaml --set output_dir=stopped --set save_every=2 --resume")
    assert "resuming at instruct, step" in said
    found = without_clock(read_lines(desk / "stopped" / "log.jsonl"))
    wanted = without_clock(read_lines(FIXTURES / "whole_log.jsonl"))
    assert_same(found, wanted)
    weights = load_file(desk / "stopped" / "model" / "model.safetensors")
    assert_same({name: float(tensor.double().sum()) for name, tensor in weights.items()}, read("whole_sums.json"))


def test_its_phantoms_are_opened_and_not_made_again(desk, run, monkeypatch):
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a phantom was painted although the folder holds it")

    monkeypatch.setattr("slicesight.phantoms.dataset.make_phantom", refuse)
    run("train run.yaml --set output_dir=anew --set stages.1.steps=1")
    found = [line["loss"] for line in read_lines(desk / "anew" / "log.jsonl") if line["stage"] == "align"]
    wanted = [line["loss"] for line in read_lines(FIXTURES / "whole_log.jsonl") if line["stage"] == "align"]
    assert found == pytest.approx(wanted, rel=1e-4)


def test_its_segmenter_and_its_classifier_give_the_same(desk, run):
    run("insight predict scans/test/c/ct.nii.gz --model insight_segment --out mask.nii.gz --json insight_segment.json")
    run("insight predict scans/test/c/ct.nii.gz --model insight_classify --json insight_classify.json")
    found, wanted = (np.asarray(nib.load(path).dataobj) for path in ("mask.nii.gz", "insight_mask.nii.gz"))
    assert 0 < wanted.mean() < 1
    assert np.mean(found != wanted) < 1e-3
    for name in INSIGHT_ANSWERS:
        assert_same(json.loads((desk / name).read_text()), read(name), rel=1e-3, place=name)


def test_its_triplets_and_its_backbone_go_on_to_the_next_step(desk, run):
    for verb in ("pretrain", "segment"):
        init = () if verb == "pretrain" else ("--set", "init=insight_pretrain")
        run(" ".join(("insight", verb, f"{verb}.yaml", "--set", f"output_dir=new_{verb}", *init)))
        found, wanted = (
            [line["loss"] for line in read_lines(folder / "log.jsonl") if "loss" in line]
            for folder in (desk / f"new_{verb}", FIXTURES / f"insight_{verb}")
        )
        assert wanted
        assert found == pytest.approx(wanted, rel=1e-3), verb


@pytest.mark.parametrize("name", sorted(read("recipes.json")))
def test_its_recipe_is_still_one(name, tmp_path, monkeypatch, capsys):
    """Those of other verbs are read by their command, which then misses the scans and not a key."""
    settings = read("recipes.json")[name]
    recipe = tmp_path / name
    recipe.write_text(yaml.safe_dump(settings))
    if "verb" not in settings:
        from slicesight.training.recipe import read_recipe

        assert read_recipe(recipe).name == settings["name"]
        return
    places = [
        f"data={tmp_path}/nowhere.jsonl",
        f"output_dir={tmp_path}/run",
        *(["init=null"] if "init" in settings else []),
    ]
    arguments = [part for place in places for part in ("--set", place)]
    monkeypatch.setattr(sys, "argv", ["slicesight", *settings["verb"].split(), str(recipe), *arguments])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2
    assert f"{tmp_path}/nowhere.jsonl" in capsys.readouterr().err


def test_the_fixtures_stay_small():
    size = sum(path.stat().st_size for path in FIXTURES.rglob("*") if path.is_file())
    assert size < 450_000
    assert not [path for path in FIXTURES.rglob("*") if os.access(path, os.X_OK) and path.is_file()]
