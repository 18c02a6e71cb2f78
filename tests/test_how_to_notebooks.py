"""The Python of docs/how-to/notebooks.md; and the notebooks: stored whole, small, without errors, and they run."""

from __future__ import annotations

import ast
import json
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
import typer.main

from slicesight import cli

REPOSITORY = Path(__file__).parents[1]
FOLDER = REPOSITORY / "docs" / "notebooks"
PAGE = (REPOSITORY / "docs" / "how-to" / "notebooks.md").read_text(encoding="utf-8")
NOTEBOOKS = sorted(path.name for path in FOLDER.glob("*.ipynb"))
TINY = {
    "ask-and-see.ipynb": {"SEED": 4},
    "own-scans.ipynb": {"NUM_PATIENTS": 10, "EPOCHS": 1},
    "evaluate-honestly.ipynb": {"NUM_SCANS": 2},
    "pretrain-and-segment.ipynb": {"NUM_SCANS": 4, "PRETRAIN_STEPS": 2, "SEGMENT_STEPS": 2},
    "guests-and-evidence.ipynb": {"PASSES": 4},
}


def cells(name, kind="code"):
    found = json.loads((FOLDER / name).read_text(encoding="utf-8"))["cells"]
    return [{**cell, "source": "".join(cell["source"])} for cell in found if cell["cell_type"] == kind]


def each_notebook(test):
    return pytest.mark.parametrize("name", NOTEBOOKS)(test)


def test_the_python_of_the_page_runs(phantom_file, tiny_model_folder, tmp_path, monkeypatch, capsys):
    pytest.importorskip("anywidget", reason="slicesight[notebook] is not installed")
    sheet, viewer = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    shutil.copy(phantom_file, "scan.nii.gz")
    (tmp_path / "results" / "first").mkdir(parents=True)
    found = {"sheet": 1, "system": "x", "closed": {"micro": {"accuracy": 0.5}}}
    (tmp_path / "results" / "first" / "sheet.json").write_text(json.dumps(found))
    names: dict[str, object] = {}
    exec(sheet, names)
    assert names["accuracy"] == 0.5
    exec(viewer.replace('"phantom-tiny"', repr(str(tiny_model_folder))), names)
    assert names["viewer"].index == names["answers"][0].slices[0].grid_slice
    assert len(names["viewer"].answers) == 2


def test_all_notebooks_are_named_on_the_page_and_small_together():
    assert set(NOTEBOOKS) == set(TINY)
    assert all(f"notebooks/{name}" in PAGE for name in NOTEBOOKS)
    assert sum((FOLDER / name).stat().st_size for name in NOTEBOOKS) < 1_500_000


@each_notebook
def test_every_cell_was_run_and_none_failed(name):
    for cell in cells(name):
        assert cell["execution_count"], cell["source"]
        assert not [one for one in cell["outputs"] if one["output_type"] == "error"]
        assert not [one for one in cell["outputs"] if one.get("name") == "stderr"]
    assert any("image/png" in one.get("data", {}) or "text/html" in one.get("data", {}) for cell in cells(name) for one in cell["outputs"])  # fmt: skip  # noqa: E501


@each_notebook
def test_what_is_stored_says_nothing_of_the_machine_that_ran_it(name):
    text = (FOLDER / name).read_text(encoding="utf-8")
    plain = re.sub(r'"image/(?:png|jpeg)": "[^"]*"|base64,[A-Za-z0-9+/=]*', "", text)
    assert not re.search(r"/(?:home|root|Users|work|tmp)/\w", plain)


@each_notebook
def test_the_settings_are_plain_and_the_commands_are_ones(name):
    (settings,) = [cell for cell in cells(name) if "parameters" in cell["metadata"].get("tags", ())]
    known = {node.targets[0].id for node in ast.parse(settings["source"]).body}
    assert set(TINY[name]) <= known
    verbs = typer.main.get_command(cli.app).commands
    for cell in cells(name):
        if cell["source"].startswith("%%bash"):
            for line in cell["source"].splitlines()[1:]:
                program, verb, *words = shlex.split(line.partition(" > ")[0])
                assert program == "slicesight"
                verbs[verb].make_context(verb, words)
        else:
            ast.parse(cell["source"])
    assert any("research use only" in cell["source"] for cell in cells(name, "markdown"))


@pytest.mark.slow  # a kernel for each notebook, each loading PyTorch: a minute and more
@each_notebook
def test_the_notebook_runs_from_top_to_bottom_at_a_tiny_size(name, tmp_path, monkeypatch):
    pytest.importorskip("nbclient")
    pytest.importorskip("anywidget")
    monkeypatch.syspath_prepend(FOLDER)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{__import__('os').environ['PATH']}")
    from run import executed

    done = executed(FOLDER / name, tmp_path, settings=TINY[name])
    kinds = [[one["output_type"] for one in cell.outputs] for cell in done.cells if cell.cell_type == "code"]
    stored = [[one["output_type"] for one in cell["outputs"]] for cell in cells(name)]
    assert len(kinds) == len(stored)
    assert not any("error" in of_cell for of_cell in kinds)
