"""Who computes where nobody says, and what an engine that is not here is called."""

from __future__ import annotations

import shutil
import sys
from types import SimpleNamespace

import pytest

from slicesight.errors import InputError
from slicesight.inference import engines
from slicesight.inference.engines import check_engine, choose_engine, load_with
from slicesight.serving.options import ServeOptions


@pytest.fixture
def with_vllm(monkeypatch):
    """As if the plug-in were installed: its engine says what it was asked to load."""
    module = SimpleNamespace(load=lambda model: f"vLLM has {model}")
    monkeypatch.setitem(sys.modules, "pretended_plug_in", module)
    known = {**engines.ENGINES, "vllm": "pretended_plug_in:load"}
    monkeypatch.setattr(engines, "known_names", lambda *_: known)


@pytest.fixture
def without_vllm(monkeypatch):
    monkeypatch.setattr(engines, "known_names", lambda *_: engines.ENGINES)


def test_the_packages_own_engine_computes_where_no_other_is_here(without_vllm):
    assert choose_engine("auto", "phantom-tiny") == "own"


def test_another_engine_that_is_here_computes_unless_somebody_says_otherwise(with_vllm):
    assert choose_engine("auto", "phantom-tiny") == "vllm"
    assert choose_engine("own", "phantom-tiny") == "own"
    assert load_with("vllm", "phantom-tiny") == "vLLM has phantom-tiny"


def test_what_only_the_own_engine_does_is_done_by_it(with_vllm, tiny_model_folder, tmp_path):
    calibrated = tmp_path / "calibrated"
    shutil.copytree(tiny_model_folder, calibrated)
    (calibrated / "calibration.json").write_text("{}")
    assert choose_engine("auto", calibrated) == "vllm"  # the plug-in follows calibrations
    assert choose_engine("auto", "hf:owner/model") == "own"
    assert choose_engine("auto", "phantom-tiny", is_plain=False) == "own"


@pytest.mark.parametrize("changed", [{"int8": True}, {"preset": "pictures"}])
def test_a_setting_of_the_own_engine_and_another_engine_do_not_go_together(changed):
    assert not ServeOptions(**changed).is_plain
    with pytest.raises(InputError, match="--engine vllm takes neither"):
        ServeOptions(engine="vllm", **changed)


def test_a_confidence_may_be_asked_of_another_engine_too():
    assert ServeOptions(engine="vllm", min_confidence=0.5).is_plain


def test_an_engine_that_is_not_here_is_refused_with_how_to_get_it(without_vllm):
    with pytest.raises(InputError, match=r"expected auto, or one that is installed here: own; install plugins/vllm"):
        check_engine("vllm")
    with pytest.raises(InputError, match="'quick'"):
        choose_engine("quick", "phantom-tiny")


def test_an_engine_that_cannot_be_imported_is_said_to_be_in_one_line(monkeypatch):
    monkeypatch.setattr(engines, "known_names", lambda *_: {"broken": "no_such_module:load"})
    with pytest.raises(InputError, match="cannot be imported") as caught:
        load_with("broken", "phantom-tiny")
    assert "\n" not in str(caught.value)
