"""The model that ships for real scans says the same in vLLM, and is as sure of it (make test-vllm)."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace

import pytest
from two_engines import assert_same

pytestmark = pytest.mark.vllm
if importlib.util.find_spec("vllm") is None:
    pytest.skip("vLLM is not installed here: make test-vllm makes an environment for it", allow_module_level=True)

QUESTIONS = [
    "Which third of the scan shows the larynx? Choices: A. upper third B. middle third C. lower third",
    "Which structure is in view? Choices: A. the mandible B. the bladder C. the left kidney D. the spleen E. the liver",
    "Was the oesophagus captured in the scan?",
    "In which image is the left parotid gland widest?",
    "What modality is this?",
    "Is there pneumonia?",
    "Describe the findings of this scan.",
]
LOOSE = 2e-3
"""Between confidences: they stand on log-probabilities that were summed in another order."""


@pytest.fixture(scope="module")
def both(in_both_engines) -> Iterator[SimpleNamespace]:
    with in_both_engines("anatomy-small") as found:
        yield found


@pytest.fixture
def lenient(both, monkeypatch):
    """Both without the gauge of scans, to which every synthetic one is strange."""
    for predictor in (both.own, both.vllm):
        changed = replace(predictor.calibration, scans=None, scans_of_topics=())
        monkeypatch.setattr(predictor, "calibration", changed)
    return both


def assert_as_sure(found, wanted):
    assert_same(found, wanted)
    for one, other in zip(found, wanted, strict=True):
        assert one.confidence == pytest.approx(other.confidence, abs=LOOSE), one.question
        assert (one.confidence_note, one.abstained, one.would_say) == (
            other.confidence_note,
            other.abstained,
            other.would_say,
        )


def test_answers_are_as_sure_as_those_of_the_package(lenient, phantom):
    found, wanted = (one.ask(phantom.volume, QUESTIONS) for one in (lenient.vllm, lenient.own))
    assert_as_sure(found, wanted)
    assert len({one.confidence for one in found} - {None}) > 3
    assert {one.abstained for one in found} == {None, "unknown_question"}


def test_an_answer_that_is_not_sure_enough_is_held_back_alike(lenient, phantom):
    found, wanted = (one.ask(phantom.volume, QUESTIONS, min_confidence=0.9) for one in (lenient.vllm, lenient.own))
    assert_as_sure(found, wanted)
    assert "low_confidence" in {one.abstained for one in found}


@pytest.mark.parametrize("answer_anyway", [False, True])
def test_a_strange_scan_is_refused_for_the_same_reason(both, phantom, answer_anyway):
    found, wanted = (
        one.ask(phantom.volume, QUESTIONS[:3], answer_anyway=answer_anyway) for one in (both.vllm, both.own)
    )
    assert_as_sure(found, wanted)
    assert {one.abstained for one in found} == {"strange_scan"}


def test_what_the_encoders_see_is_judged_and_a_scan_is_still_encoded_once(both, phantom):
    from slicesight.phantoms.rendering import make_phantom

    volume = make_phantom(11, 8, pixel_mm=(3.5, 4.0)).volume
    before = both.vllm.count_encoded()
    scan = both.vllm.encode(volume)
    found = both.vllm.calibration.scans.distances(measured(scan))
    wanted = both.own.calibration.scans.distances(measured(both.own.encode(volume)))
    assert {"encoders", "slices"} <= found.keys()
    assert found == pytest.approx(wanted, rel=1e-4)
    both.vllm.ask(scan, QUESTIONS[:2])
    assert both.vllm.count_encoded() == before + 1


def measured(scan):
    from slicesight.inference.calibration.scan_features import measure_scan

    return measure_scan(scan)


def test_an_answer_that_may_be_held_back_is_not_streamed_before_it_is_whole(both, phantom):
    pieces = list(both.vllm.ask_stream(phantom.volume, QUESTIONS[2]))
    assert len(pieces) == 1
    assert pieces[0].text == pieces[0].answer.text
    assert pieces[0].answer.text.startswith("I do not know")


@pytest.mark.parametrize("choices", ["only", "both"])
def test_held_to_their_choices_answers_are_as_sure_too(lenient, phantom, choices):
    found, wanted = (one.ask(phantom.volume, QUESTIONS[:3], choices=choices) for one in (lenient.vllm, lenient.own))
    assert_as_sure(found, wanted)
    assert [one.choice for one in found] == [one.choice for one in wanted]


def test_choices_of_more_tokens_than_vllm_tells_of_have_no_confidence_rather_than_a_wrong_one(
    lenient, phantom, monkeypatch
):
    monkeypatch.setattr("slicesight_vllm.predictor.MAX_LOGPROB_TOKEN_IDS", 5)
    (found,) = lenient.vllm.ask(phantom.volume, QUESTIONS[0])
    assert found.confidence is None
    assert "no likelihood" in found.confidence_note
