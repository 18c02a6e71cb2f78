"""`slicesight doctor`: a block for a bug report that is there even where something is broken, and that names nobody."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from json_checks import documented
from slicesight.cli import diagnosis
from slicesight.cli.diagnosis import without_names


@pytest.fixture
def quick(monkeypatch):
    """Without what takes a process of its own."""
    monkeypatch.setattr(diagnosis, "_sandbox", lambda: {"shut": ["files"]})


def test_the_report_says_what_a_bug_report_needs(run, quick, monkeypatch):
    import torch

    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("SLICESIGHT_MODELS", str(Path.home() / "models"))
    code, out, err = run("doctor", "--json")
    found = documented("doctor", out)
    assert (code, err, found["problems"]) == (0, "", [])
    assert found["torch"]["version"] == torch.__version__
    assert found["torch"]["threads"] == torch.get_num_threads()
    assert found["processor"]["cores"] == os.cpu_count()
    assert "phantom-tiny" in [one["name"] for one in found["models"]]
    assert found["caches"]["pulled models"]["folder"] == "~/models"
    assert isinstance(found["page"]["built"], bool)
    syntaxes = {one["uid"]: one for one in found["codecs"]}
    assert syntaxes["1.2.840.10008.1.2.4.90"]["decodes"]
    assert "pylibjpeg" in syntaxes["1.2.840.10008.1.2.4.90"]["by"]
    assert found["variables"]["HF_TOKEN"] == "set"
    assert "hf_secret" not in out
    assert str(Path.home()) not in out.replace("\\/", "/") or str(Path.home()) == "/"


def test_the_text_is_one_block_to_paste(run, quick):
    code, out, _ = run("doctor")
    lines = out.splitlines()
    assert (code, lines[0], lines[-1]) == (0, "```", "```")
    assert lines[-2] == "problems: none found"
    for topic in ("versions", "processor", "torch", "gpu", "libraries", "extras", "models", "caches", "page", "codecs"):
        assert sum(line.startswith(f"{topic}:") for line in lines) == 1
    assert any("1.2.840.10008.1.2.5 RLE Lossless: pydicom" in line for line in lines)


def test_a_broken_part_is_told_and_makes_the_exit_code_1(run, quick, monkeypatch):
    def broken():
        raise OSError("libtorch.so: cannot open shared object file")

    monkeypatch.setattr(diagnosis, "_torch", broken)
    monkeypatch.setattr(diagnosis, "_models", list)
    code, out, err = run("doctor")
    assert (code, err) == (1, "")
    assert "torch: cannot be told (OSError: libtorch.so: cannot open shared object file)" in out
    assert "no shipped model" in out


def test_a_library_that_is_missing_or_too_old_is_a_problem(monkeypatch):
    from packaging.requirements import Requirement

    monkeypatch.setattr(diagnosis, "_needed", lambda: [Requirement("numpy>=999"), Requirement("no-such-library>=1")])
    found = diagnosis._problems({"libraries": {}, "models": [{"state": "shipped"}], "codecs": []})
    assert len(found) == 2
    assert "slicesight needs numpy>=999" in found[0]
    assert "no-such-library is missing" in found[1]


def test_a_syntax_that_nothing_decodes_is_a_problem():
    row = {"uid": "1.2.840.10008.1.2.4.80", "name": "JPEG-LS", "decodes": False, "by": []}
    found = diagnosis._problems({"libraries": None, "models": None, "codecs": [row]})
    assert found == ["DICOM JPEG-LS: nothing here decodes it; run: pip install -U slicesight"]


def test_home_and_the_users_name_are_hidden_and_other_text_is_left():
    home = Path("/srv/people/jane")
    told = {
        "a": "/srv/people/jane/models",
        "b": ["/scratch/jane/x", "/srv/people/janet", "jane"],
        "c": 5,
        "d": "see '/srv/people/jane'",
    }
    assert without_names(told, home=home, user="jane") == {
        "a": "~/models",
        "b": ["/scratch/USER/x", "/srv/people/janet", "jane"],
        "c": 5,
        "d": "see '~'",
    }
