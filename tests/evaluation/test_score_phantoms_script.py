"""The script behind the model card's table: each system writes its numbers, the table shows them."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "score_phantoms.py"


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run the script in this process -> what it printed."""
    spec = importlib.util.spec_from_file_location("score_phantoms", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    monkeypatch.setattr(script, "TRAINING_COUNT", 4)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["score_phantoms.py", *map(str, arguments), "--out", str(tmp_path)])
        script.main()
        return capsys.readouterr().out

    return call


def test_the_majority_and_a_model_stand_in_one_table(run, tiny_model_folder, tmp_path):
    run("majority", "--count", 2)
    run("model", "--model", tiny_model_folder, "--count", 1)
    majority, model = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("majority", "model"))
    assert (majority["num_phantoms"], model["num_phantoms"]) == (2, 1)
    assert majority["evidence"] is None
    assert model["closed"] == 0.0, "random bytes name no letter"
    rows = run("--table").splitlines()[2:]
    assert [row.split("(")[0] for row in rows] == ["| model ", "| majority "]
    assert f"{majority['closed']:.3f}" in rows[1]
    assert rows[1].split("|")[-2].strip() == "–", "what has no scores has no excess"
