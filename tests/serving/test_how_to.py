"""Every command of docs/how-to/serve.md runs in its order against a server that really listens."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from slicesight import cli

REPOSITORY = Path(__file__).parents[2]
PAGE = (REPOSITORY / "docs" / "how-to" / "serve.md").read_text(encoding="utf-8")
ADDRESS = "http://127.0.0.1:8000"


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture
def desk(tmp_path, monkeypatch, phantom_file):
    shutil.copy(phantom_file, tmp_path / "scan.nii.gz")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def phantom_tiny_address(tiny_reader, options):
    """A server that calls the tiny random model phantom-tiny."""
    from serving_address import listening
    from slicesight.inference.predictor import Predictor

    card = replace(tiny_reader.card, name="phantom-tiny")
    predictor = Predictor(
        model=tiny_reader.model, processor=tiny_reader.processor, card=card, scheduler=tiny_reader.scheduler
    )
    with listening(predictor, replace(options, port=0)) as (address, _):
        yield address


def test_every_way_to_start_is_understood(desk, monkeypatch, capsys):
    started = []
    monkeypatch.setattr("slicesight.serving.running.run_server", started.append)
    (desk / "token.txt").write_text("0123456789abcdef0123456789abcdef\n")
    commands = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("slicesight ")]
    assert len(commands) == 5
    for command in commands:
        monkeypatch.setattr(sys, "argv", shlex.split(command))
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        assert not stopped.value.code, capsys.readouterr().err
    assert started[0].port == 8000
    assert (started[2].max_upload_bytes, started[2].keep_minutes, started[2].max_waiting) == (500_000_000, 15, 64)
    assert started[3].archives == ("https://archive.hospital/dicom-web",)
    assert started[4].token == "0123456789abcdef0123456789abcdef"


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_commands_of_curl_run_one_after_the_other(desk, phantom_tiny_address):
    (desk / "token.txt").write_text("any\n")
    lines = [
        line
        for block in blocks("sh")
        for line in block.splitlines()
        if not line.startswith(("slicesight ", "openssl "))
    ]
    assert sum(line.startswith("curl ") for line in lines) == 6
    script = "set -e\n" + "\n".join(lines).replace("curl -s", "curl -sS --fail").replace(ADDRESS, phantom_tiny_address)
    found = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60)
    assert found.returncode == 0, found.stderr
    assert json.loads((desk / "answer.json").read_text())["choices"][0]["message"]["slices"]
    assert "Which phase is this?" in (desk / "report.html").read_text()
    assert (desk / "image.nii.gz").read_bytes()[:2] == b"\x1f\x8b"


def test_the_python_of_the_page_runs(desk, phantom_tiny_address, capsys):
    (block,) = blocks("python")
    exec(compile(block.replace(ADDRESS, phantom_tiny_address), "serve.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "'rank': 1" in printed
    assert "an even spread: 0.125" in printed


def test_the_refusals_of_the_page_are_those_of_the_description(client):
    named = {int(code) for row in re.findall(r"^\| ([\d, ]+) \|", PAGE, flags=re.MULTILINE) for code in row.split(",")}
    described = client.get("/openapi.json").json()["paths"]
    possible = {int(code) for path in described.values() for method in path.values() for code in method["responses"]}
    assert named <= possible


def test_the_figures_of_the_page_are_those_of_metrics(client):
    text = client.get("/metrics").text
    named = set(re.findall(r"`(slicesight_\w+)", PAGE)) - {"slicesight_replicas"}  # told by servers that share scans
    assert len(named) >= 9
    for name in named:
        assert re.search(rf"^# TYPE {name.removesuffix('_total')}(_total)? ", text, flags=re.MULTILINE), name
