"""The train verb: a wrong recipe is one line, exit code 2, and nothing is written."""

import subprocess
import sys
from pathlib import Path

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
