"""A run that was killed goes on from its last complete checkpoint as if nothing had happened, bit by bit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

DRIVER = Path(__file__).with_name("resume_driver.py")
SOURCE = Path(__file__).parents[2] / "src"
KILLED = -9

FEW = (  # one run: before a rename in stage 0, then with half a file written and damage before it
    "checkpoints.os.replace:4+half-checkpointing.write_weights:4+damage",
)
MANY = (
    "checkpoints.os.replace:8+trainer.StageTrainer.compute_loss:4+half-checkpointing.write_weights:4+damage",
    "checkpoints.os.replace:5",
    "trainer.StageTrainer.compute_loss:9",
    "half-checkpointing.write_weights:9+damage",
    "checkpointing.write_weights:2",
    "half-checkpointing.write_weights:4",
    "checkpointing.CheckpointPolicy.write_loop:5",
    "checkpointing.CheckpointPolicy.write_loop:9",
    "checkpoints.sync:20",
    "checkpoints.CheckpointFolder.prune:3",
    "checkpoints.shutil.rmtree:12",
    "run.Training.write_model:1",
    "run_folder.RunFolder.write_line:5",
    "run_folder.RunFolder.write_line:7",
    "checkpointing.torch.save:13",
    "half-checkpointing.write_weights:11",
    "checkpoints.os.replace:16",
    "trainer.StageTrainer.compute_loss:2",
    "run.draw_losses:1",
    "run.Training.write_model:2",
    "run_folder.RunFolder.finish:1",
    "checkpointing.write_weights:3+checkpointing.write_weights:2+checkpoints.sync:40",
)


def drive(recipe: Path, folder: Path, *names: str) -> dict[str, list[int]]:
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(DRIVER), str(recipe), str(folder), *names]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def read_log(folder: Path) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    differs = ("seconds", "minutes_left", "volumes_encoded")  # a cache on disk may have been filled by a run before
    return [{key: value for key, value in line.items() if key not in differs} for line in lines]


def assert_same_run(folder: Path, reference: Path) -> None:
    assert read_log(folder) == read_log(reference)
    found, expected = (load_file(place / "model" / "model.safetensors") for place in (folder, reference))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert not (folder / "checkpoints").exists()
    assert not list(folder.glob("*.partial"))


def check_points(recipe: Path, folder: Path, points: tuple[str, ...]) -> None:
    statuses = drive(recipe, folder, "none", *points)
    assert statuses.pop("none") == [0]
    steps = [(line["stage"], line["step"], "val_loss" in line) for line in read_log(folder / "none")]
    assert len(set(steps)) == len(steps)
    for point, found in statuses.items():
        said = (folder / f"{point}.txt").read_text()
        assert found == [KILLED] * (len(found) - 1) + [0], f"{point}: {found}\n{said}"
        assert_same_run(folder / point, folder / "none")
        if "damage" in point:
            assert "going back to the one before" in said


def test_a_killed_run_goes_on_as_if_nothing_had_happened(tiny_recipe, tmp_path) -> None:
    settings = yaml.safe_load(tiny_recipe.read_text())
    settings |= {"pretrain_slices": None, "pretrain_volumes": None, "validation": {"every": 1, "max_cases": 1}}
    settings["stages"] = settings["stages"][1:]
    (tmp_path / "short.yaml").write_text(yaml.safe_dump(settings))
    check_points(tmp_path / "short.yaml", tmp_path, FEW)


@pytest.mark.slow
def test_a_run_killed_anywhere_goes_on_as_if_nothing_had_happened(tiny_recipe, tmp_path) -> None:
    check_points(tiny_recipe, tmp_path, MANY)


@pytest.mark.slow
def test_adapters_accumulation_packing_and_cached_features_go_on_too(tiny_recipe, tmp_path) -> None:
    settings = yaml.safe_load(tiny_recipe.read_text())
    settings = {key: value for key, value in settings.items() if not key.startswith("pretrain")}
    settings |= {"packing": True, "loader_workers": 1, "feature_cache": str(tmp_path / "features")}
    settings["stages"] = [
        {"name": "lora", "trainable": ["projector_2d"], "lora": {"rank": 2, "dropout": 0.1}, "epochs": 2.0},
        {"name": "whole", "trainable": ["projector_2d", "language_model"], "steps": 4},
    ]
    for stage in settings["stages"]:
        stage |= {"learning_rate": 1e-3, "volumes_per_step": 2, "questions_per_volume": 3, "accumulation": 2}
    (tmp_path / "rich.yaml").write_text(yaml.safe_dump(settings))
    points = ("trainer.StageTrainer.compute_loss:7", "trainer.StageTrainer.compute_loss:13", "run.merge_adapters:1")
    check_points(
        tmp_path / "rich.yaml", tmp_path, (*points, "half-checkpointing.write_weights:2", "run.Training.write_model:1")
    )


@pytest.mark.slow
def test_a_disk_that_is_full_ends_in_one_line_and_the_run_goes_on_when_there_is_room(tiny_recipe, tmp_path) -> None:
    points = ("limit:50000", "limit:220000")  # no room for the weights; none for the optimizer of the last stage
    statuses = drive(tiny_recipe, tmp_path, "none", *points)
    assert statuses[points[0]] == [2, 2]  # no checkpoint was ever complete
    assert statuses[points[1]] == [2, 0]
    assert_same_run(tmp_path / points[1], tmp_path / "none")
    for point in points:
        lines = [
            line for line in (tmp_path / f"{point}.txt").read_text().splitlines() if line.startswith("slicesight:")
        ]
        assert "make room or rights there" in lines[0]
        assert not list((tmp_path / point).glob("checkpoints/.*"))
    assert "there is no complete checkpoint" in (tmp_path / f"{points[0]}.txt").read_text()
