"""The command line as a user types it."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from answer_folders import QUESTIONS, ThisProcess
from slicesight import cli


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    """Run the command line in this process -> (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["slicesight", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        captured = capsys.readouterr()
        return stopped.value.code or 0, captured.out, captured.err

    return call


@pytest.fixture
def here(monkeypatch, tiny_reader) -> ThisProcess:
    """Answers in this process, by the tiny model."""
    from slicesight.cli import ask_folder, watch
    from slicesight.reports.answer_table import asking

    processes = ThisProcess()
    for module in (ask_folder, watch):
        monkeypatch.setattr(module, "make_processes", lambda workers, **_: processes)
    monkeypatch.setattr(asking, "_predictor_of", lambda settings: tiny_reader)
    return processes


@pytest.fixture
def folder_of_scans(tmp_path, phantom_file, dicom_folder) -> Path:
    """Two scans, a DICOM series and a NIfTI file, and the questions beside their folder."""
    folder = tmp_path / "scans"
    folder.mkdir()
    shutil.move(dicom_folder(name="dicom"), folder / "series")
    shutil.copy(phantom_file, folder / "a.nii.gz")
    (tmp_path / "q.csv").write_text(QUESTIONS)
    return folder
