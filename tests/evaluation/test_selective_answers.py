"""From predictions with a confidence to sheet, page and pictures; from those without, nothing but the reason."""

from __future__ import annotations

import json

import numpy as np
import pytest

from slicesight.errors import InputError
from slicesight.evaluation.metrics.selective import measure_selective
from slicesight.evaluation.predictions import Prediction, own_file
from slicesight.evaluation.selective_answers import is_meant_right, score_selective
from slicesight.evaluation.sheet import average_sheets, make_sheet, score_file
from slicesight.reports.evaluation_html import render_report, write_selective_figures
from slicesight.reports.selective_tables import abstention_line

from .conftest import prediction_line


def row(**fields) -> Prediction:
    return Prediction.model_validate_json(prediction_line(**fields))


def test_the_sheet_has_every_number_for_open_and_closed_answers(sure_file):
    scored = score_file(own_file(sure_file()))
    sheet = make_sheet(scored, system="sure")
    closed = [one for one in scored.rows if one.task == "closed"]
    right = [float(is_meant_right(one)) for one in closed]
    expected = measure_selective([one.confidence for one in closed], right, [one.volume for one in closed])
    assert {name: sheet["selective"]["closed"][name] for name in expected} == expected
    assert sheet["selective"]["closed"]["drawn_by"] == "scan"
    assert sheet["selective"]["closed"]["accuracy"]["value"] == sheet["closed"]["micro"]["accuracy"]
    assert sheet["selective"]["open"]["accuracy"]["value"] == sheet["open"]["micro"]["exact"]
    assert "selective" not in sheet["missing"]
    json.dumps(sheet, allow_nan=False)


def test_without_confidences_the_sheet_says_so(predictions_file):
    sheet = make_sheet(score_file(own_file(predictions_file("plain.jsonl", 0.5))), system="plain")
    assert sheet["selective"] is None
    assert sheet["missing"]["selective"] == "no prediction has a confidence"


def test_intervals_draw_patients_where_they_are_named(sure_file):
    by_scan = score_selective(own_file(sure_file("a.jsonl")).rows)["closed"]
    by_patient = score_selective(own_file(sure_file("b.jsonl", patients=5)).rows)["closed"]
    assert (by_scan["num_patients"], by_patient["num_patients"]) == (40, 5)
    assert by_patient["drawn_by"] == "patient"
    assert by_patient["aurc"]["value"] == by_scan["aurc"]["value"]
    assert by_patient["aurc"]["ci95"] != by_scan["aurc"]["ci95"]


def test_answers_that_name_no_scan_have_numbers_without_intervals():
    found = score_selective([row(id=str(n), confidence=0.5 + n / 10) for n in range(4)])["open"]
    assert found["drawn_by"] is None
    assert found["aurc"]["ci95"] is None
    assert found["accuracy"]["value"] == 1.0


def test_an_answer_held_back_counts_with_what_is_held_back_and_is_told_apart():
    rows = [
        row(id="0", confidence=0.9, volume="a"),
        row(id="1", prediction="I cannot tell.", would_say="spleen", abstained="low_confidence", confidence=0.2,
            volume="b"),
        row(id="2", prediction="I cannot tell.", would_say="liver", abstained="strange_scan", confidence=0.1,
            volume="c"),
        row(id="3", volume="d"),
    ]  # fmt: skip
    found = score_selective(rows)["open"]
    assert (found["num_answers"], found["num_without_confidence"]) == (3, 1)
    assert found["accuracy"]["value"] == pytest.approx(2 / 3)
    assert found["abstained"] == {"low_confidence": 1, "strange_scan": 1}
    assert found["answered"] == {"coverage": pytest.approx(1 / 3), "accuracy": 1.0}
    said = (
        "Abstains from 1 for low confidence, 1 for strange scan; the other answers are 33.3 % of all, 100.0 % of them"
    )
    assert abstention_line(found).startswith(said)


@pytest.mark.parametrize("confidence", [-0.1, 1.2, "sure"])
def test_a_confidence_that_is_no_probability_is_refused_with_file_and_line(confidence, tmp_path):
    path = tmp_path / "said.jsonl"
    path.write_text(prediction_line() + prediction_line(confidence=confidence))
    with pytest.raises(InputError, match=r"^said\.jsonl line 2: confidence: "):
        own_file(path)


def test_places_of_another_number_of_slices_are_refused(tmp_path):
    path = tmp_path / "said.jsonl"
    path.write_text(prediction_line(scores=[0.5, 0.5], slice_places_mm=[0.0]))
    with pytest.raises(InputError, match=r"line 1: .*one number for each of the scores"):
        own_file(path)


def test_seeds_are_averaged_without_one_seeds_intervals_and_curve(sure_file):
    sheets = [
        make_sheet(score_file(own_file(sure_file(f"{power}.jsonl", power=power))), system="s") for power in (1, 2)
    ]
    found = average_sheets(sheets)
    parts = [sheet["selective"]["closed"]["ece"]["value"] for sheet in sheets]
    assert found["selective"]["closed"]["ece"] == {"value": np.mean(parts), "ci95": None}
    assert found["selective"]["closed"]["curve"] is None
    assert found["evidence"]["excess_ci95"] is None


def test_the_page_and_its_two_pictures_show_the_confidence(sure_file, tmp_path):
    scored = score_file(own_file(sure_file()))
    sheet = {
        **make_sheet(scored, system="sure"),
        "comparisons": [],
        "skipped_cases": {},
        "data": {"source": "x", "split": None},
        "model": {"summary": "", "trained_on": "unknown"},
    }
    figures = write_selective_figures(tmp_path, sheet)
    for name in ("reliability.png", "risk-coverage.png"):
        assert (tmp_path / name).read_bytes()[:4] == b"\x89PNG"
    page = render_report(sheet, scored, [], figures=figures)
    assert page.count("data:image/png;base64,") == 2
    assert 'id="confidence"' in page
    assert f"{sheet['selective']['closed']['aurc']['value']:.3f}" in page
    assert "IoU of the run with half of the weight" in page
    without = render_report({**sheet, "selective": None}, scored, [])
    assert 'id="confidence"' not in without


def test_score_prints_both_tables(sure_file, capsys, monkeypatch):
    import sys

    from slicesight import cli

    monkeypatch.setattr(sys, "argv", ["slicesight", "score", str(sure_file())])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert not stopped.value.code
    out = capsys.readouterr().out
    for text in ("AURC", "ECE", "Brier", "surest 80 %", "chance"):
        assert text in out, text
