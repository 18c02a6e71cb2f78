"""The train verb: a wrong recipe is one line, exit code 2, and nothing is written."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

RECIPE = Path(__file__).parents[2] / "recipes" / "phantom-tiny.yaml"


def train(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "slicesight.cli", "train", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)


def test_a_wrong_recipe_is_one_line_and_writes_nothing(tmp_path) -> None:
    for arguments, expected in (
        (("missing.yaml",), "no such recipe"),
        ((str(RECIPE), "--set", "sede=1"), "did you mean 'seed'"),
        ((str(RECIPE), "--set", "init=nowhere"), "no folder"),
    ):
        done = train(*arguments, "--set", "output_dir=out", "--set", "data.count=1", folder=tmp_path)
        assert done.returncode == 2, done.stderr
        assert expected in done.stderr
        assert done.stderr.strip().count("\n") == 0, done.stderr
        assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_smoke_recipe_runs_from_nothing_and_its_loss_falls(tmp_path) -> None:
    smoke = RECIPE.with_name("smoke.yaml")
    done = train(str(smoke), "--set", f"output_dir={tmp_path / 'smoke'}", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "slicesight ask SCAN --model" in done.stderr
    assert done.stdout == ""
    lines = [json.loads(line) for line in (tmp_path / "smoke" / "log.jsonl").read_text().splitlines()]
    assert [list(line)[:2] for line in lines if "loss" in line] == [["stage", "step"]] * sum(
        "loss" in line for line in lines
    )
    losses = [line["loss"] for line in lines if line["stage"] in ("align", "instruct")]
    assert len(losses) >= 6
    assert losses[-1] < 0.9 * losses[0]
    assert [path.name for path in tmp_path.iterdir()] == ["smoke"], "everything is inside the run's folder"
