"""Every command and line of Python of docs/tutorial.md, in its order, with the shipped model replaced by a tiny one."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path

import pytest

import slicesight
from slicesight import cli
from slicesight.phantoms.rendering import make_phantom

PAGE = (Path(__file__).parents[1] / "docs" / "tutorial.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(sh|python)\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture
def desk(tmp_path, monkeypatch, tiny_model_folder):
    """An empty folder; phantoms are coarse, so that it is quick."""
    (tmp_path / "weights").mkdir()
    for name in ("phantom-tiny", "anatomy-small"):
        (tmp_path / "weights" / name).symlink_to(tiny_model_folder)
    monkeypatch.setattr("slicesight.models.shipped.SHIPPED_FOLDER", tmp_path / "weights")
    monkeypatch.setattr(
        "slicesight.phantoms.folder.make_phantom", lambda seed, index: make_phantom(seed, index, pixel_mm=(5.0, 6.0))
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(line, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", shlex.split(line))
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert not stopped.value.code, f"{line}: {capsys.readouterr().err}"
    return capsys.readouterr().out


def test_the_tutorial_runs_from_top_to_bottom(desk, monkeypatch, capsys):
    printed = {}
    for language, text in BLOCKS:
        if language == "python":
            exec(compile(text, "tutorial.md", "exec"), {})
            printed["python"] = capsys.readouterr().out
        else:
            for line in text.splitlines():
                printed[line.split()[1]] = run(line, monkeypatch, capsys)
    assert list(printed) == ["--version", "phantom", "inspect", "ask", "python", "evaluate"]
    assert slicesight.__version__ in printed["--version"]
    assert "HU" in printed["inspect"]
    assert len(printed["python"].splitlines()) >= 2
    for written in ("sheet.png", "answer.html", "truth.html", "results/first/report.html"):
        assert (desk / written).stat().st_size > 0, written
    assert len((desk / "phantoms" / "manifest.jsonl").read_text().splitlines()) == 3
    sheet = json.loads((desk / "results" / "first" / "sheet.json").read_text())
    assert sheet["controls"]["blank"] is not None, "the page speaks of controls"


def test_the_page_speaks_of_as_many_slices_and_choices_as_there_are():
    from slicesight.models.shipped import find_folder

    size = json.loads((find_folder("phantom-tiny") / "config.json").read_text())["image_size"]
    assert f"one for each of the {size[0]} slices" in PAGE
    for phase in ("non-contrast", "arterial phase", "portal venous phase", "delayed phase"):
        assert phase in PAGE
