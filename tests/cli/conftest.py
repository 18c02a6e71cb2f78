"""The command line as a user types it."""

from __future__ import annotations

import sys

import pytest

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
