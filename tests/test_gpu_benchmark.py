"""Every item of the GPU benchmark runs on the CPU at tiny size, so that nothing in it is new on a GPU.

All of them take a minute and are marked slow; what they claim of answers, scheduler, server and official vectors, the
tests of those rooms hold in seconds.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
SCRIPT = REPOSITORY / "benchmarks" / "gpu.py"
PARTS = {"encoding", "prefix", "suffixes", "decoding"}


def run_benchmark(*words: str) -> dict[str, dict]:
    """The lines by their items."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SCRIPT), "--device", "cpu", "--size", "tiny", "--budget", "900", *words]
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=900)
    assert result.returncode == 0, result.stderr
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    return {line["item"]: line for line in lines}


@pytest.fixture(scope="module")
def few_lines(tmp_path_factory):
    """One item of each kind that takes a second, the first of which fails; and the file of lines."""
    folder = tmp_path_factory.mktemp("no-golden")
    (folder / "golden.npz").write_bytes(b"no golden vectors")
    items = ("parity", "environment", "attention", "train tiny, stage 1, fsdp2")
    chosen = [word for item in items for word in ("--only", item)]
    return run_benchmark("--golden", str(folder), *chosen, "--out", str(folder / "out.jsonl")), folder / "out.jsonl"


@pytest.fixture(scope="module")
def lines():
    return run_benchmark()


def test_a_failing_item_is_one_line_and_the_next_items_run(few_lines):
    lines, out = few_lines
    assert "Error" in lines["parity"]["error"]
    assert [name for name, line in lines.items() if "error" in line] == ["parity"]
    assert [json.loads(line)["item"] for line in out.read_text().splitlines()] == list(lines)


def test_attention_kernels_agree_with_the_formula_under_every_mask(few_lines):
    found = [line for name, line in few_lines[0].items() if name.startswith("attention")]
    assert {line["mask"] for line in found} == {"none", "causal", "prefix", "packed"}
    assert all(line["all_equal"] for line in found)
    assert "difference" in few_lines[0]["attention packed"]["float32"]["flex"]


def test_a_training_step_has_a_time_and_a_plan(few_lines):
    assert few_lines[0]["environment"]["tflops"]["float32"] > 0
    [trained] = [line for name, line in few_lines[0].items() if name.startswith("train")]
    assert min(trained["seconds"], trained["tokens_per_s"], trained["tflop_a_step"]) > 0


@pytest.mark.slow
def test_no_item_fails_and_each_skipped_one_says_what_it_needs(lines):
    assert {name: line["error"] for name, line in lines.items() if "error" in line} == {}
    skipped = {name: line["skipped"] for name, line in lines.items() if "skipped" in line}
    assert skipped.pop("parity").startswith("needs --golden")
    assert all("zero" in name and reason.startswith("needs ") for name, reason in skipped.items())


@pytest.mark.slow
def test_limits_come_from_the_rates_of_the_same_run(lines):
    rate = lines["environment"]["tflops"]["float32"]
    found = lines["ask_many tiny"]
    assert set(found["spent_over_limit"]["batched"]) == PARTS
    assert found["limit_s"]["encoding"] == pytest.approx(found["tflop"]["encoding"] / rate, rel=0.01)
    assert found["limit_s"]["together"] == pytest.approx(sum(found["limit_s"][part] for part in PARTS), rel=0.01)


@pytest.mark.slow
def test_all_ways_and_compiled_encoders_say_the_same_in_float32(lines):
    same = lines["ask_many tiny"]["same_answers"]
    assert {"official", "encode once", "shared prefix", "batched", "batched, compiled encoders"} == set(same)
    assert set(same.values()) == {1.0}


@pytest.mark.slow
def test_the_shipped_model_answers_the_same_here_as_on_the_cpu(lines):
    assert lines["answers"]["float32"]["same"] == lines["answers"]["questions"] == 11
    assert lines["answers"]["float32"]["parting"] == []


@pytest.mark.slow
def test_the_server_answers_everyone(lines):
    assert lines["serve"]["errors"] == {}
    assert lines["serve"]["answers"] == lines["serve"]["askers"] * lines["serve"]["questions_each"]


@pytest.mark.slow
def test_training_steps_of_both_stages_have_times_and_a_plan(lines):
    trained = [line for name, line in lines.items() if name.startswith("train") and "seconds" in line]
    assert {("stage 1" in line["item"], "fsdp2" in line["item"]) for line in trained} >= {(True, True), (False, True)}
    assert all(line["tokens_per_s"] > 0 and line["tflop_a_step"] > 0 for line in trained)


@pytest.mark.slow
@pytest.mark.shared_data
def test_parity_with_the_official_code_is_the_same_on_cpu_and_device(shared_folder):
    golden = shared_folder / "golden" / "official-A"
    if not golden.is_dir():
        pytest.skip("no golden vectors here")
    found = run_benchmark("--only", "parity", "--golden", str(golden))["parity"]
    assert found["within_1e-4"] is True
    assert max(found["cpu_against_device"]["float32"].values()) == 0.0
    assert 0 < found["bfloat16"]["largest_relative"] < 0.05
