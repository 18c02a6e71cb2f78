"""`slicesight ask --int8 --cache`: the options reach the predictor, and mistakes are found before the scan is read."""

from __future__ import annotations

import json
import sys

import pytest

from slicesight import cli
from slicesight.cli.scans import AskOptions
from slicesight.errors import InputError
from slicesight.inference.cpu.int8 import has_operator


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["slicesight", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    return stopped.value.code


def test_a_cache_serves_the_second_run(phantom_file, tiny_model_folder, tmp_path, monkeypatch, capsys):
    answers = []
    for _ in range(2):
        common = ["ask", phantom_file, "Which phase?", "--model", tiny_model_folder, "--cache", tmp_path, "--json", "-"]
        assert not run(monkeypatch, *common)
        answers.append(json.loads(capsys.readouterr().out)["answers"])
        assert len(list(tmp_path.iterdir())) == 1
    assert answers[0] == answers[1]


@pytest.mark.skipif(not has_operator(), reason="no 8-bit product on this processor")
def test_int8_is_a_word_of_the_command_line(phantom_file, tiny_model_folder, monkeypatch, capsys):
    assert not run(monkeypatch, "ask", phantom_file, "Which phase?", "--model", tiny_model_folder, "--int8")
    assert "Which phase?" in capsys.readouterr().out


def test_a_cache_that_is_a_file_is_refused_at_once(phantom_file):
    with pytest.raises(InputError, match="is a file; name a folder"):
        AskOptions(scan=phantom_file, questions=None, cache=phantom_file)


def test_where_the_truth_is_known_the_choice_is_asked_for_beside_the_free_answer(phantom_file):
    assert AskOptions(scan=phantom_file).choices_mode == "free"
    assert AskOptions(scan=phantom_file, truth=phantom_file).choices_mode == "both"
    assert AskOptions(scan=phantom_file, truth=phantom_file, choices="free").choices_mode == "free"


def test_verbose_says_how_the_processor_is_used(phantom_file, tiny_model_folder, monkeypatch, capsys):
    assert not run(monkeypatch, "ask", phantom_file, "Which phase?", "--model", tiny_model_folder, "-v")
    said = capsys.readouterr().err
    assert "float32 on cpu" in said
    assert "threads" in said
    assert "small: nothing is measured" in said


def test_plan_shows_what_was_measured_on_this_machine(monkeypatch, capsys):
    from slicesight.inference.cpu import tuning

    found = tuning.Tuning(machine={"processor": "X"}, rates={"float32": {1: 7e9, 11: 2e10, 128: 7e10}}, seconds=0.5)
    monkeypatch.setattr(tuning, "read_tuning", lambda: found)
    assert not run(monkeypatch, "plan", "--machine")
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "processor X"
    assert out[2].split() == ["float32", "7", "20", "70"]
    assert out[3].startswith("so: dtype fastest is float32")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("plan",), "plan needs a model"),
        (("plan", "med2e3-phi3", "--machine"), "--machine is about this processor alone"),
    ],
)
def test_plan_is_about_a_model_or_the_machine(arguments, message, monkeypatch, capsys):
    assert run(monkeypatch, *arguments) == 2
    assert message in capsys.readouterr().err
