"""The eleven pairs: true, balanced, and readable back into findings."""

from collections import Counter

import numpy as np
import pytest

from slicesight.data.manifest import Conversation
from slicesight.phantoms.anatomy import ABNORMALITIES, HOSTS, PHASES, Finding, PhantomTruth
from slicesight.phantoms.rendering import NUM_FINDINGS_PROBABILITY
from slicesight.phantoms.texts import (
    KINDS,
    LOCATIONS,
    NO_ABNORMALITY,
    TOPICS,
    conversation_rng,
    phantom_conversations,
    read_findings,
)
from slicesight.volumes.volume import PLANES

PLACES = list(LOCATIONS.values())


def draw_truth(rng: np.random.Generator) -> PhantomTruth:
    """A truth without the voxels: the texts follow from it alone."""
    organs = rng.permutation(len(HOSTS))[: rng.choice(4, p=NUM_FINDINGS_PROBABILITY)]
    kinds = rng.permutation(len(KINDS))
    findings = []
    for organ_index, kind_index in zip(organs, kinds, strict=False):
        if HOSTS[organ_index] not in ABNORMALITIES[kind_index].hosts:
            continue
        parts = [part for organ, part in PLACES if organ == HOSTS[organ_index]]
        start = int(rng.integers(30))
        findings.append(
            Finding(
                abnormality=KINDS[kind_index],
                organ=HOSTS[organ_index],
                part=str(rng.choice(parts)),
                diameter_mm=float(rng.uniform(12, 50)),
                centre_mm=(0.0, 0.0, 0.0),
                source_slices=tuple(range(start, start + 4)),
            )
        )
    return PhantomTruth(
        plane=PLANES[rng.integers(3)],
        phase=PHASES[rng.integers(4)],
        findings=tuple(findings),
        organ_slices=dict.fromkeys((*HOSTS, "aorta"), (3, 4)),
    )


@pytest.fixture(scope="module")
def drawn() -> list[tuple[PhantomTruth, tuple[Conversation, ...]]]:
    rng = np.random.default_rng(0)
    truths = [draw_truth(rng) for _ in range(600)]
    return [(t, phantom_conversations(t, conversation_rng(1, i), num_slices=40)) for i, t in enumerate(truths)]


def test_eleven_pairs_one_report_five_open_five_closed(drawn) -> None:
    for _, pairs in drawn:
        assert [pair.task for pair in pairs] == ["report"] + ["open"] * 5 + ["closed"] * 5
        assert tuple(pair.topic for pair in pairs[1:6]) == tuple(pair.topic for pair in pairs[6:]) == TOPICS


def test_reports_name_exactly_the_true_findings(drawn) -> None:
    for truth, pairs in drawn:
        expected = {(f.organ, f.abnormality, f.part) for f in truth.findings}
        assert read_findings(pairs[0].answer) == expected


def test_closed_answers_are_true(drawn) -> None:
    for truth, pairs in drawn:
        by_topic = {pair.topic: pair for pair in pairs[6:]}
        assert by_topic["plane"].answer == truth.plane
        assert by_topic["phase"].answer == truth.phase
        kinds_by_organ = {f.organ: f.abnormality for f in truth.findings}
        asked = next(host for host in HOSTS if host in by_topic["abnormality"].question)
        assert by_topic["abnormality"].answer == kinds_by_organ.get(asked, NO_ABNORMALITY)
        organ = by_topic["organ"]
        subject = next(kind for kind in KINDS if kind in organ.question)
        wanted = next((f.organ for f in truth.findings if f.abnormality == subject), "none of the organs")
        assert organ.answer == wanted
        place = by_topic["location"]
        subject = next(kind for kind in KINDS if kind in place.question)
        wanted = next((f"{f.part} of the {f.organ}" for f in truth.findings if f.abnormality == subject), None)
        assert place.answer == (wanted or "nowhere in this scan")


def test_choices_are_four_different_ones_and_letters_are_balanced(drawn) -> None:
    letters: Counter[str] = Counter()
    for _, pairs in drawn:
        for pair in pairs[6:]:
            assert pair.choices is not None
            assert len(set(pair.choices)) == 4
            letters[pair.answer_choice] += 1
    shares = np.array([letters[letter] for letter in "ABCD"]) / sum(letters.values())
    assert np.abs(shares - 0.25).max() < 0.04


def test_the_presence_of_a_none_choice_says_little_about_the_answer(drawn) -> None:
    for topic, none in (
        ("organ", "none of the organs"),
        ("abnormality", NO_ABNORMALITY),
        ("location", "nowhere in this scan"),
    ):
        offered = [p for _, pairs in drawn for p in pairs[6:] if p.topic == topic and none in p.choices]
        right = sum(p.answer == none for p in offered) / len(offered)
        assert right < 0.45, (topic, right)


def test_evidence_slices_of_a_finding_are_the_findings_own(drawn) -> None:
    for truth, pairs in drawn:
        slices = {f.source_slices for f in truth.findings}
        for pair in pairs[1:]:
            if pair.topic == "location" and pair.answer in LOCATIONS:
                assert pair.source_slices in slices


def test_open_and_closed_form_ask_for_the_same_fact(drawn) -> None:
    for _, pairs in drawn:
        for opened, closed in zip(pairs[1:6], pairs[6:], strict=True):
            if opened.topic in ("plane", "phase", "organ", "location"):
                assert opened.answer == closed.answer


def test_another_epoch_asks_in_other_words(drawn) -> None:
    truth = drawn[0][0]
    first, second = (phantom_conversations(truth, conversation_rng(1, 0, epoch), num_slices=40) for epoch in (0, 1))
    assert first != second


def test_a_sentence_with_two_kinds_or_no_place_claims_nothing() -> None:
    assert read_findings("A cyst and an abscess in the tail of the pancreas.") == set()
    assert read_findings("There is a cyst in the liver.") == set()
    assert read_findings("A large cyst is seen in the tail of the pancreas.") == {("pancreas", "cyst", "tail")}
