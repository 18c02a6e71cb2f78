"""The train verb: a wrong recipe is one line, exit code 2, and nothing is written."""

import json
import signal
import subprocess
import sys
from contextlib import contextmanager
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


@pytest.mark.skipif(sys.platform == "win32", reason="has no SIGINT to send")
@contextmanager
def as_in_a_terminal():
    """A child heeds Ctrl-C; one of a shell's background job would inherit that it is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_real_ctrl_c_ends_a_run_with_one_line_and_exit_130(tmp_path) -> None:
    out = tmp_path / "smoke"
    changes = ("--set", f"output_dir={out}", "--set", "data.count=1", "--set", "pretrain_language.steps=100000")
    command = [sys.executable, "-m", "slicesight.cli", "train", str(RECIPE.with_name("smoke.yaml")), *changes]
    with as_in_a_terminal(), subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as running:
        assert running.stderr is not None
        try:
            before = next(line for line in running.stderr if line.startswith("stage build"))
            running.send_signal(signal.SIGINT)
            after = running.stderr.read()
            assert running.wait(30) == 130, before + after
        finally:
            running.kill()
    assert "Traceback" not in after
    assert f"stopped before the first checkpoint of {out}; give the same command" in " ".join(after.split())
    assert not (out / "model").exists()


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
