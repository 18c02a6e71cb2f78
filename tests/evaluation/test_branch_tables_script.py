"""Tables by kind of finding: a cell is compared with the full model on the questions of each kind alone."""

import importlib.util
import json
from pathlib import Path

import pytest

from slicesight.phantoms.branches import GROUPS

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "branch_tables.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("branch_tables", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_cell(out: Path, cell: str, *, seed: int, able: set[str]) -> None:
    """A finished cell that is right on some kinds of findings and on every second question of the others."""
    folder = out / "cells" / cell / f"seed{seed}"
    folder.mkdir(parents=True)
    with (folder / "predictions.jsonl").open("w", encoding="utf-8") as file:
        for volume in range(24):
            for kind, topics in GROUPS.items():
                is_right = kind in able or (volume + seed) % 2
                row = {
                    "id": f"{volume}{kind}",
                    "task": "closed",
                    "topic": topics[0],
                    "question": "?",
                    "volume": str(volume),
                    "choices": ["single", "double"],
                    "answer": "single",
                    "answer_choice": "A",
                    "choice": "single",
                    "prediction": "single" if is_right else "double",
                }
                file.write(json.dumps(row) + "\n")
    (folder / "sheet.json").write_text("{}")


def test_each_kind_has_its_own_column_and_p_and_unfinished_cells_are_left_out(script, tmp_path, monkeypatch, capsys):
    across, within, level = GROUPS
    for cell, able in (("full", {across, within, level}), ("fusion-3d", {across}), ("fusion-2d", {within, level})):
        write_cell(tmp_path, cell, seed=0, able=able)
    write_cell(tmp_path, "aggregate-max", seed=0, able=set())
    (tmp_path / "cells" / "aggregate-max" / "seed0" / "sheet.json").unlink()
    monkeypatch.setattr("sys.argv", ["branch_tables.py", str(tmp_path)])
    script.main()
    said = capsys.readouterr().out
    lines = {line.split("|")[1].strip(): [c.strip() for c in line.split("|")[2:-1]] for line in said.splitlines()
             if line.startswith("|")}  # fmt: skip
    assert lines[""] == ["seeds", *GROUPS, "all", "printed"]
    assert lines["3D + 2D"][1:4] == ["100.0 (100.0–100.0)"] * 3
    assert lines["3D"][1] == "100.0 (100.0–100.0) p = 1.0000"
    for kind in (2, 3):
        assert lines["3D"][kind].startswith("50.0")
        assert float(lines["3D"][kind].split("p = ")[1]) < 0.05
    assert float(lines["2D"][1].split("p = ")[1]) < 0.05
    assert "Table 4: how the slices become one set of tokens: the full model or every other cell" in said
