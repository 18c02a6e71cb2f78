"""The record of a run: its recipe can be read again, what it ran with is there, loggers are checked first."""

import json
import subprocess
from dataclasses import replace

import pytest

from slicesight.errors import InputError
from slicesight.training.provenance import describe_run, find_commit, write_recipe
from slicesight.training.recipe import read_recipe
from slicesight.training.run import run_recipe
from slicesight.training.trainer import check_loggers


def test_the_resolved_recipe_reads_as_the_same_recipe(tiny_recipe, tmp_path) -> None:
    changes = (
        "seed=9",
        "stages.0.augment={noise: 0.05}",
        "stages.1.lora={rank: 2, parts: [vision2d]}",
        "stages.1.trainable=[projector_2d]",
        "stages.1.subset={open: 3}",
    )
    recipe = read_recipe(tiny_recipe, changes)
    write_recipe(recipe, tmp_path / "recipe.yaml")
    assert read_recipe(tmp_path / "recipe.yaml") == recipe


def test_a_run_says_what_it_ran_with(tiny_recipe) -> None:
    found = describe_run(read_recipe(tiny_recipe), num_processes=2, engine="ddp")
    assert found["seed"] == 3
    assert set(found["libraries"]) >= {"torch", "transformers", "accelerate", "peft"}
    assert (found["processes"], found["engine"]) == (2, "ddp")
    assert json.loads(json.dumps(found)) == found


def test_a_commit_is_named_with_whether_the_code_was_changed_and_none_outside_git(tmp_path) -> None:
    assert find_commit(tmp_path) is None
    settings = ["-c", "user.name=n", "-c", "user.email=e@x"]
    (tmp_path / "code.py").write_text("a = 1\n")
    for command in (["init", "-q"], ["add", "."], [*settings, "commit", "-q", "-m", "m"]):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)
    found = find_commit(tmp_path)
    assert found is not None
    assert len(found["commit"]) == 40
    assert found["changed"] is False
    (tmp_path / "code.py").write_text("a = 2\n")
    assert find_commit(tmp_path)["changed"] is True


def test_an_unknown_or_missing_logger_stops_the_run_before_anything_is_written(tiny_recipe, tmp_path) -> None:
    recipe = replace(read_recipe(tiny_recipe), output_dir=str(tmp_path / "run"), report_to=("tensorbord",))
    with pytest.raises(InputError, match=r"report_to: 'tensorbord' is unknown; expected some of .*tensorboard"):
        run_recipe(recipe)
    assert not (tmp_path / "run").exists()
    with pytest.raises(InputError, match="wandb is not installed"):
        check_loggers(("wandb",))


def test_a_run_of_adapters_with_augmentation_and_tensorboard_leaves_its_record_beside_the_weights(
    tiny_recipe, tmp_path
) -> None:
    pytest.importorskip("tensorboard")
    stage = (
        "{name: tune, trainable: [projector_2d], lora: {rank: 2}, epochs: 1, learning_rate: 1e-3, "
        "tokens_per_step: 2000, accumulation: 2, augment: {flip_sides: 0.5, noise: 0.01}}"
    )
    changes = (
        f"output_dir={tmp_path / 'run'}",
        "report_to=[tensorboard]",
        "save_every=null",
        "packing=true",
        f"stages=[{stage}]",
        *(f"pretrain_{part}=null" for part in ("slices", "volumes", "language")),
    )
    bars: list[tuple[int, int]] = []
    model = run_recipe(read_recipe(tiny_recipe, changes), progress=lambda done, total: bars.append((done, total)))
    for folder in (tmp_path / "run", model):
        assert read_recipe(folder / "recipe.yaml").name == "tiny"
        assert json.loads((folder / "run.json").read_text())["seed"] == 3
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    trained = [line for line in lines if line["stage"] == "tune"]
    assert trained[-1]["step"] == trained[-1]["of"] == bars[-1][0] == bars[-1][1]
    assert all(line["loss"] > 0 and line["minutes_left"] >= 0 for line in trained)
    assert list((tmp_path / "run" / "tensorboard" / "tune").glob("events.*"))
