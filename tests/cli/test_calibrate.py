"""`slicesight calibrate` writes into the model's folder, and `ask` then says how sure it is, on every way out."""

from __future__ import annotations

import json
import shutil
from functools import partial

import pytest

from slicesight.inference.calibration import fitting


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    """Twenty small phantoms with their manifest."""
    from slicesight.data.manifest import write_manifest
    from slicesight.io.writers import write_nifti
    from slicesight.phantoms.folder import phantom_case
    from slicesight.phantoms.rendering import make_phantom

    folder = tmp_path_factory.mktemp("phantoms")
    cases = []
    for index in range(20):
        found = make_phantom(3, index, pixel_mm=(8.0, 8.0))
        write_nifti(found.volume, folder / f"{index}.nii")
        case = phantom_case(found, seed=3, index=index, volume=f"{index}.nii")
        asked = tuple(one for one in case.conversations if one.topic in ("plane", "report"))
        cases.append(case.model_copy(update={"conversations": asked}))
    write_manifest(cases, folder / "manifest.jsonl")
    return folder


def test_calibrate_then_ask(run, phantoms, tiny_model_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(fitting, "calibrate", partial(fitting.calibrate, max_new_tokens=2))
    model = tmp_path / "model"
    shutil.copytree(tiny_model_folder, model)
    code, out, err = run("calibrate", "--model", model, "--data", phantoms)
    assert code == 0, err
    assert "closed/plane" in out
    assert "wrote" in err
    asked = ("ask", phantoms / "0.nii", "Is there pneumonia?", "--model", model)
    code, out, err = run(*asked, "--json", "a.json", "--html", "a.html", "--png", "a.png")
    assert code == 0, err
    assert "I do not know" in out
    assert "it would have said" in out
    (answer,) = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))["answers"]
    assert answer["abstained"] == "unknown_question"
    assert answer["confidence"] is None
    assert answer["would_say"] in (tmp_path / "a.html").read_text(encoding="utf-8").replace("&#34;", '"')
    code, out, _ = run(*asked, "--answer-anyway")
    assert "I do not know" not in out
    assert "Answered on request although the question is none of those" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--model", "phantom-tiny"), "no model folder here"),
        (("--model", ".", "--min-confidence", "2"), "--min-confidence is 2; expected a number from 0 to 1"),
        (("--model", ".", "--refuse", "0.7"), "--refuse is 0.7"),
    ],
)
def test_calibrate_refuses_in_one_line(run, arguments, message):
    code, out, err = run("calibrate", "--data", "phantoms:1:2", *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_ask_refuses_a_min_confidence_that_is_no_share(run, phantoms):
    code, _, err = run("ask", phantoms / "0.nii", "--min-confidence", "1.5")
    assert code == 2
    assert "--min-confidence is 1.5; expected a number from 0 to 1" in err
