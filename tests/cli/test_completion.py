"""The shell completes verbs, options, choices and the names of models; `man` has a page for every command."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main

from slicesight.cli import app

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def complete(run, monkeypatch):
    """What bash is offered for a line whose last word is begun."""

    def call(line):
        monkeypatch.setenv("_SLICESIGHT_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", line)
        monkeypatch.setenv("COMP_CWORD", str(len(line.split(" ")) - 1))
        code, out, err = run()
        assert (code, err) == (0, "")
        return out.split()

    return call


def test_verbs_options_choices_and_models_are_completed(complete):
    assert complete("slicesight mc") == ["mcp"]
    assert set(complete("slicesight ins")) == {"inspect", "insight"}
    assert complete("slicesight ask --evidence-p") == ["--evidence-passes"]
    assert complete("slicesight ask --plane sag") == ["sagittal"]
    assert complete("slicesight ask --model phan") == ["phantom-tiny"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_that_completes_can_be_shown_for_each_shell(run, monkeypatch, shell):
    monkeypatch.setenv("_SLICESIGHT_COMPLETE", f"source_{shell}")
    code, out, _ = run()
    assert code == 0
    assert "_SLICESIGHT_COMPLETE=complete" in out


@pytest.mark.slow  # each shell asks the program anew for every key
@pytest.mark.parametrize(
    ("shell", "start", "ready"),
    [
        ("bash", ["--norc", "--noprofile", "-i"], "source {script}"),
        ("zsh", ["-f", "-i"], "autoload -U compinit; compinit -u -D; source {script}"),
        ("fish", ["--no-config", "-i"], "source {script}"),
    ],
)
def test_a_real_shell_completes_what_is_typed(run, monkeypatch, tmp_path, shell, start, ready):
    """The script that `--show-completion` prints, in the shell itself, at the touch of the tabulator."""
    pexpect = pytest.importorskip("pexpect")
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    monkeypatch.setenv("_SLICESIGHT_COMPLETE", f"source_{shell}")
    script = tmp_path / "completion"
    script.write_text(run()[1])
    program = tmp_path / "bin" / "slicesight"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m slicesight "$@"\n')
    program.chmod(0o755)
    monkeypatch.delenv("_SLICESIGHT_COMPLETE")
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    typed = pexpect.spawn(shell, start, timeout=120, encoding="utf-8", dimensions=(40, 200), cwd=str(tmp_path))
    try:
        typed.sendline(ready.format(script=script))
        typed.sendline("echo rea''dy")
        typed.expect("ready")
        typed.send("slicesight ask --plane sag\t")
        typed.expect("sagittal")
    finally:
        typed.close(force=True)


def test_man_has_a_page_for_every_command_with_every_option(tmp_path):
    pytest.importorskip("click_man", reason="click-man is not installed: pip install 'slicesight[docs]'")
    found = importlib.util.spec_from_file_location("make_man", DOCS / "make_man.py")
    make_man = importlib.util.module_from_spec(found)
    found.loader.exec_module(make_man)
    pages = {path.stem: path.read_text(encoding="utf-8") for path in make_man.write_pages(tmp_path / "man")}

    def check(command, name):
        page = pages.pop(name).replace("\\-", "-")
        for one in command.params:
            assert all(option in page for option in one.opts if option.startswith("--")), (name, one.opts)
        assert not [line for line in page.splitlines() if line.startswith(".") and line.split()[0] not in ROFF]
        for verb, inner in getattr(command, "commands", {}).items():
            check(inner, f"{name}-{verb}")

    check(typer.main.get_command(app), "slicesight")
    assert not pages


ROFF = {".TH", ".SH", ".PP", ".B", ".TP"}


@pytest.mark.skipif(shutil.which("groff") is None, reason="groff is not installed")
def test_groff_sets_a_page_without_a_complaint(tmp_path):
    pytest.importorskip("click_man", reason="click-man is not installed: pip install 'slicesight[docs]'")
    subprocess.run([sys.executable, DOCS / "make_man.py", tmp_path], check=True, capture_output=True)
    command = ["groff", "-man", "-Tutf8", "-ww", "-K", "utf8", str(tmp_path / "slicesight-ask.1")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert "QUESTION" in done.stdout
    assert "slicesight ask scan.nii.gz" in done.stdout.replace("  ", " ")
