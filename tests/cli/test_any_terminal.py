"""Whatever reads or shows the output: no traceback, no half line, and JSON in ASCII that its schema describes."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from json_checks import documented

CLOSED = "Which phase is this? Choices: A. arterial phase B. venous phase"


def start(*arguments, stdout=subprocess.PIPE, **environment):
    """Run the command line in a process of its own: for what only the start and the end of one can show."""
    command = [sys.executable, "-m", "slicesight", *arguments]
    return subprocess.run(
        command, stdout=stdout, stderr=subprocess.PIPE, env={**os.environ, **environment}, check=False, timeout=120
    )


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_an_answer_is_shown_in_every_encoding(encoding, tiny_model_folder, phantom_file, run, monkeypatch):
    shown = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, encoding=encoding))
    code, _, complaint = run("ask", phantom_file, "Größe der Zyste 肝?", "--model", tiny_model_folder)
    assert (code, "Traceback" in complaint) == (0, False)
    text = shown.getvalue().decode(encoding)
    assert "\\u809d?" in text
    assert ("Größe" in text) is (encoding != "ascii")
    assert "read as 8x32x32" in text if encoding == "ascii" else "read as 8×32×32" in text


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is full")
@pytest.mark.parametrize("arguments", [("--help",), ("models",)])
def test_a_full_disk_is_one_line_and_exit_2(arguments):
    with open("/dev/full", "wb") as full:
        refused = start(*arguments, stdout=full)
    assert refused.returncode == 2
    assert refused.stderr.decode() == (
        "slicesight: the output cannot be written (No space left on device); make room, or send it elsewhere\n"
    )


def test_a_reader_that_has_gone_is_no_traceback():
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as closed:
        ended = start("--help", stdout=closed)
    assert (ended.returncode, ended.stderr) == (1, b"")


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_bytes_that_are_no_text_are_one_line(locale, tmp_path):
    missing = start("ask", os.fsencode(tmp_path) + b"/Gr\xf6sse.nii", LC_ALL=locale)
    assert missing.returncode == 2
    assert missing.stderr.count(b"\n") == 1
    assert b"no such file" in missing.stderr


def test_a_question_of_bytes_that_are_no_text_is_one_line(tiny_model_folder, phantom_file, run):
    question = os.fsdecode(b"Gr\xf6sse?")
    code, shown, complaint = run("ask", phantom_file, question, "--model", tiny_model_folder)
    assert (code, shown, complaint.count("\n")) == (2, "", 1)
    assert "question 1 holds bytes that are no UTF-8 text" in complaint


@pytest.mark.skipif(sys.platform != "linux", reason="other file systems refuse such names")
def test_a_file_name_that_is_no_text_is_read_and_reported(tmp_path, tiny_model_folder, phantom_file, run):
    scan = Path(os.fsdecode(os.fsencode(tmp_path) + b"/Gr\xf6sse.nii.gz"))
    scan.write_bytes(phantom_file.read_bytes())
    page = tmp_path / "a.html"
    code, shown, complaint = run(
        "ask", scan, "Which phase?", "--model", tiny_model_folder, "--html", page, "--json", "-"
    )
    assert code == 0, complaint
    assert shown.isascii()
    assert json.loads(shown)["schema"] == 1
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_json_is_ascii_and_follows_its_schema(tiny_model_folder, phantom_file, run):
    arguments = ("ask", phantom_file, "Größe der Zyste?", CLOSED, "--model", tiny_model_folder, "--choices", "both")
    code, shown, _ = run(*arguments, "--json", "-")
    assert (code, shown.isascii()) == (0, True)
    document = documented("ask", shown)
    assert document["answers"][0]["within_choices"] is None
    assert document["answers"][1]["choice"] in ("A. arterial phase", "B. venous phase")
    with pytest.raises(jsonschema.ValidationError, match="1 was expected"):
        documented("ask", json.dumps({**document, "schema": 2}))


def test_an_answer_of_the_shipped_model_needs_no_library_for_training_or_compiling(phantom_file):
    code = (
        f"import sys; sys.argv = ['slicesight', 'ask', {str(phantom_file)!r}, 'Which phase?']\n"
        "from slicesight.cli import main\n"
        "try:\n    main()\nexcept SystemExit as stopped:\n    assert not stopped.code\n"
        "print([name for name in sys.modules], file=sys.stderr)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    unneeded = (
        "torch._dynamo",
        "torch.distributed.tensor",
        "scipy.optimize",
        "scipy.ndimage",
        "accelerate",
        "matplotlib",
    )
    assert "'transformers.modeling_utils'" in shown.stderr
    assert [name for name in unneeded if f"'{name}'" in shown.stderr] == []
