"""Whatever way an answer goes out, its confidence goes along, and what is held back is marked as such."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from json_checks import documented
from slicesight.inference.answers import Answer, make_answer
from slicesight.models.card import ModelCard
from slicesight.reports.ask import AnswerReport, print_report
from slicesight.reports.evidence import confidence_line, doubts_about
from slicesight.reports.figure import _lines
from slicesight.reports.json_schemas import schema_of
from slicesight.volumes.grid import GridSpec, to_grid

QUESTION = "Which phase is this? Choices: A. arterial phase B. venous phase"


@pytest.fixture(scope="module")
def report(phantom) -> AnswerReport:
    grid = to_grid(phantom.volume, GridSpec(num_slices=8, height=16, width=16))
    sure = make_answer(QUESTION, "B. venous phase", np.full(8, 1 / 8).tolist(), grid=grid, confidence=0.83)
    held = replace(
        sure, text="I do not know: strange.", would_say="A. arterial phase", abstained="strange_scan", confidence=None,
        confidence_note="it should not be answered",
    )  # fmt: skip
    anyway = replace(held, text="A. arterial phase", would_say=None)
    return AnswerReport(volume=phantom.volume, grid=grid, card=ModelCard(name="tiny"), answers=[sure, held, anyway])


def test_json_holds_all_four_fields_and_fits_its_schema(report):
    document = documented("ask", report.json_text())
    sure, held, anyway = document["answers"]
    assert (sure["confidence"], sure["abstained"], sure["would_say"]) == (0.83, None, None)
    assert (held["answer"], held["would_say"], held["abstained"]) == (
        "I do not know: strange.", "A. arterial phase", "strange_scan",
    )  # fmt: skip
    assert (anyway["answer"], anyway["abstained"]) == ("A. arterial phase", "strange_scan")
    assert held["within_choices"] is True  # of what it would have said
    one = schema_of("ask")["$defs"]["AnswerFacts"]
    assert set(one["required"]) == set(sure) == set(one["properties"])
    assert set(one["properties"]["abstained"]["enum"]) == {
        None, "strange_scan", "unknown_question", "low_confidence",
    }  # fmt: skip


def test_terminal_and_page_show_confidence_and_mark_what_is_held_back(report, tmp_path):
    console = Console(record=True, width=200, file=io.StringIO())
    print_report(console, report)
    report.write_html(tmp_path / "report.html")
    for text in (console.export_text(), (tmp_path / "report.html").read_text(encoding="utf-8")):
        assert "confidence 0.83" in text
        assert "Held back, not to be believed: it would have said “A. arterial phase”" in text
        assert "Answered on request although the scan is unlike those that the model was calibrated on" in text


def test_the_picture_shows_confidence_and_what_is_held_back(report):
    sure, held, _ = ([text for text, *_ in _lines(answer, None)] for answer in report.answers)
    assert "confidence 0.83" in sure
    assert any("not to be believed" in text for text in held)


def test_an_answer_without_a_confidence_shows_none():
    assert confidence_line(Answer(question="q", text="a", scores=(), slices=(), confidence_note="why")) == ""
    assert doubts_about(Answer(question="q", text="a", scores=(), slices=())) == []


def test_the_dicom_report_carries_confidence_and_what_is_held_back(report, dicom_folder, tmp_path):
    pydicom = pytest.importorskip("pydicom")
    pytest.importorskip("highdicom")
    from slicesight.io.dicom.source import read_source
    from slicesight.io.loading import read_volume

    folder = dicom_folder()
    volume = read_volume(folder)
    grid = to_grid(volume, GridSpec(num_slices=4, height=8, width=8))
    scores = [0.25] * 4
    answers = [
        make_answer(one.question, one.text, scores, grid=grid, confidence=one.confidence, abstained=one.abstained,
                    would_say=one.would_say)
        for one in report.answers
    ]  # fmt: skip
    own = replace(report, volume=volume, grid=grid, answers=answers)
    own.write_sr(tmp_path / "report.dcm", source=read_source(folder, volume))
    document = pydicom.dcmread(tmp_path / "report.dcm")
    entries = [item for item in document.ContentSequence if item.ConceptNameCodeSequence[0].CodeValue == "ENTRY"]
    found = [{part.ConceptNameCodeSequence[0].CodeValue: part for part in entry.ContentSequence} for entry in entries]
    assert float(found[0]["CONFIDENCE"].MeasuredValueSequence[0].NumericValue) == 0.83
    assert "CONFIDENCE" not in found[1]
    assert found[1]["WOULD_SAY"].TextValue == "A. arterial phase"
    assert "unlike" in found[1]["ABSTAINED"].TextValue
