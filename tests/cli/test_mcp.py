"""`slicesight mcp` refuses what cannot be before it listens, in one line."""

from __future__ import annotations

import pytest

pytest.importorskip("mcp", reason="the SDK is not installed: pip install 'slicesight[mcp]'")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--root", "nowhere"], "--root nowhere: there is no such folder"),
        (["--root", "file.txt"], "--root file.txt: is a file"),
        (["--model", "phantom-tyni"], "did you mean 'phantom-tiny'?"),
        (["--timeout", "0"], "--timeout is 0"),
        (["--max-scan", "many"], "--max-scan is 'many'"),
        (["--max-calls", "0"], "--max-calls is 0"),
        (["--min-confidence", "2"], "--min-confidence is 2"),
        (["--http", "--host", "0.0.0.0"], "there is no token"),
        (["--token-file", "file.txt"], "are for --http"),
        (["--http", "--token-file", "missing"], "--token-file missing"),
    ],
)
def test_a_wrong_option_is_one_line(run, tmp_path, arguments, said):
    (tmp_path / "file.txt").write_text("x")
    code, out, err = run("mcp", *arguments)
    assert (code, out) == (2, "")
    assert said in err
    assert err.startswith("slicesight: ")
    assert err.count("\n") == 1


def test_the_home_folder_is_not_opened_by_accident(run, tmp_path, monkeypatch):
    monkeypatch.setattr("pathlib.Path.home", lambda: tmp_path)
    code, _, err = run("mcp")
    assert code == 2
    assert "name the folder of your scans with --root DIR" in err


def test_without_the_sdk_it_says_what_to_install(run, monkeypatch):
    monkeypatch.setattr("slicesight.cli.agents.find_spec", lambda name: None)
    code, _, err = run("mcp")
    assert code == 2
    assert "pip install 'slicesight[mcp]'" in err
