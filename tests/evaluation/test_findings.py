"""The rules take from a report's sentences what a person takes from them, and a flipped negation never goes unseen."""

from __future__ import annotations

import pytest
from corpus_findings import CODES, FLIPS, HELD_OUT, LAST, PLACED, SENTENCES

from slicesight.data.sources.ct_rate import FINDINGS
from slicesight.evaluation.metrics.findings import label_texts, read_report

CODE_OF = {name: code for code, name in CODES.items()}
EVERYTHING = (*SENTENCES, *HELD_OUT, *LAST)


def said(text: str) -> set[str]:
    marks = {"present": "", "uncertain": "?"}
    return {
        CODE_OF[name] + marks[finding.status]
        for name, finding in read_report(text).items()
        if finding.status != "absent"
    }


def test_the_corpus_names_every_finding_often_enough():
    assert len({sentence for sentence, _ in EVERYTHING}) == len(EVERYTHING) >= 400
    assert tuple(CODES.values()) == FINDINGS
    told = [code.strip("?") for _, codes in EVERYTHING for code in codes.split()]
    assert min(told.count(code) for code in CODES) >= 4
    assert told.count("-") >= 150


@pytest.mark.parametrize("part", [SENTENCES, HELD_OUT, LAST], ids=["before the rules", "after", "last"])
def test_every_sentence_says_what_a_person_takes_from_it(part):
    misread = [
        (sentence, codes, found)
        for sentence, codes in part
        if (found := said(sentence)) != (set() if codes == "-" else set(codes.split()))
    ]
    assert misread == []


@pytest.mark.parametrize(("there", "denied", "code"), FLIPS)
def test_a_flipped_negation_changes_the_label(there, denied, code):
    assert code in said(there)
    assert code not in said(denied)
    assert CODES[code] in read_report(denied), "it is named, and denied"


@pytest.mark.parametrize(("sentence", "code", "side", "location"), PLACED)
def test_side_and_location_belong_to_their_finding(sentence, code, side, location):
    place = read_report(sentence)[CODES[code]].place
    assert (";".join(sorted(place.side)), ";".join(sorted(place.location))) == (side, location)


def test_one_sentence_that_says_it_is_there_outweighs_what_denies_or_doubts_it():
    report = "No pleural effusion on the left. Possible pleural effusion. A pleural effusion on the right."
    assert read_report(report)["Pleural effusion"].status == "present"
    assert read_report(report)["Pleural effusion"].place.side == {"right"}
    assert read_report("No effusion. Possible pleural effusion.")["Pleural effusion"].status == "uncertain"


def test_what_is_uncertain_counts_as_the_user_says():
    texts = ["Possible consolidation.", "Consolidation.", "No consolidation."]
    place = FINDINGS.index("Consolidation")
    as_present, as_absent = (label_texts("abc", texts, uncertain=value) for value in ("present", "absent"))
    assert as_present.present[:, place].tolist() == [1, 1, 0]
    assert as_absent.present[:, place].tolist() == [0, 1, 0]
    assert as_present.about["num_uncertain"] == 1


def test_a_long_report_is_read_quickly_and_an_empty_one_says_nothing():
    assert read_report("") == {}
    assert set(read_report("No pleural effusion is seen. " * 2000)) == {"Pleural effusion"}
    assert set(read_report("No pleural effusion is seen, " * 250)) == {"Pleural effusion"}
