"""Clinical figures are those of scikit-learn and of the papers' formulas; what has no value is null."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from slicesight.evaluation.metrics.clinical import clinical_part, compare_clinical, count, crg, missing_of
from slicesight.evaluation.metrics.labels import Labels, Place

from .make_parity_table import label_tables

TABLE = json.loads(Path(__file__).with_name("parity_table.json").read_text())
TOLERANCE = 1e-6


def labels(present, *, probability=None, places=None) -> Labels:
    present = np.asarray(present, dtype=np.float64)
    names = tuple(f"v{row}" for row in range(len(present)))
    findings = tuple(f"finding {column}" for column in range(present.shape[1]))
    return Labels(volumes=names, findings=findings, present=present, probability=probability, places=places or {})


@pytest.fixture(scope="module")
def part():
    truth_VF, said_VF, probability_VF = label_tables()
    return clinical_part(labels(said_VF, probability=probability_VF), labels(truth_VF))


def test_every_figure_is_scikit_learns(part):
    theirs = TABLE["labels"]
    for name in ("precision", "recall", "f1"):
        each = [finding[name] for finding in part["findings"].values()]
        assert each == pytest.approx(theirs[f"each_{name}"], abs=TOLERANCE)
        assert part["macro"][name] == pytest.approx(theirs[f"macro_{name}"], abs=TOLERANCE)
        assert part["micro"][name] == pytest.approx(theirs[f"micro_{name}"], abs=TOLERANCE)
    for name in ("auroc", "average_precision"):
        each = [finding[name] for finding in part["findings"].values()]
        assert each == pytest.approx(theirs[name], abs=TOLERANCE)
        assert part["micro"][name] == pytest.approx(theirs[f"micro_{name}"], abs=TOLERANCE)
        assert part["macro"][name] == pytest.approx(np.mean(theirs[name]), abs=TOLERANCE)


def test_the_table_is_what_the_installed_scikit_learn_gives():
    pytest.importorskip("sklearn", reason="scikit-learn is not installed; its table is compared instead")
    from .make_parity_table import scores_of_labels

    for name, values in scores_of_labels().items():
        assert values == pytest.approx(TABLE["labels"][name], abs=TOLERANCE), name


def test_a_figure_of_a_finding_that_one_scan_alone_bears_on_has_no_interval():
    truth = labels([[1, 1], [0, 1], [0, 0], [0, 1]])
    said = labels([[1, 1], [1, 0], [1, 1], [0, 1]])
    found = clinical_part(said, truth)["findings"]
    assert found["finding 0"]["ci95"]["recall"] is None, "one scan has it"
    assert found["finding 0"]["ci95"]["precision"] is not None, "it was said of three"
    assert None not in (found["finding 1"]["ci95"]["recall"], found["finding 1"]["ci95"]["f1"])


def test_intervals_hold_their_value(part):
    for average in ("micro", "macro"):
        for name in ("precision", "recall", "f1", "auroc", "average_precision"):
            low, high = part["ci95"][average][name]
            assert low < part[average][name] < high
    low, high = part["ci95"]["crg"]
    assert low < part["crg"] < high
    low, high = part["findings"]["finding 0"]["ci95"]["auroc"]
    assert low < part["findings"]["finding 0"]["auroc"] < high


def test_crg_is_the_papers_formula():
    """arXiv 2505.17167, restated: 20 positives of 100 labels weigh 2 each."""
    assert crg(20, 0, 0, 80) == 1
    assert crg(0, 0, 20, 80) == pytest.approx(1 / 3)
    weight = (100 - 20) / (2 * 20)
    score, best = 12 * weight - 8 * weight - 5, 20 * weight
    assert crg(12, 5, 8, 75) == pytest.approx(best / (2 * best - score))
    assert crg(12, 6, 8, 74) < crg(12, 5, 8, 75) < crg(13, 5, 7, 75)
    assert crg(0, 3, 0, 97) is None
    assert crg(5, 0, 5, 0) is None


def test_the_part_has_the_crg_of_its_pooled_counts(part):
    truth_VF, said_VF, _ = label_tables()
    counts = count(labels(said_VF), labels(truth_VF))
    tp, fp, fn, tn = (each.sum() for each in (counts.tp, counts.fp, counts.fn, counts.tn))
    assert part["crg"] == pytest.approx(crg(tp, fp, fn, tn))


def test_controls_are_what_needs_no_scan(part):
    nothing, everything, another = (part["controls"][name] for name in ("nothing", "everything", "another_scan"))
    assert nothing["crg"] == pytest.approx(1 / 3)
    assert nothing["micro"]["recall"] == 0
    assert everything["micro"]["recall"] == 1
    assert everything["micro"]["precision"] == pytest.approx(part["num_positive"] / part["num_labels"])
    assert another["macro"]["f1"] < part["macro"]["f1"]
    assert nothing["macro"]["auroc"] == another["macro"]["auroc"] - another["macro"]["auroc"] + 0.5


def test_what_has_no_value_is_null_and_says_why():
    found = clinical_part(labels([[0, 1], [0, 0]]), labels([[0, 1], [0, 1]]))
    assert found["findings"]["finding 0"]["f1"] is None, "never there and never said"
    assert found["macro"]["f1"] == found["findings"]["finding 1"]["f1"] == pytest.approx(2 / 3)
    assert found["num_findings_in_macro"] == 1
    assert found["macro"]["auroc"] is None
    assert found["side"] is None
    assert {"clinical.auroc", "clinical.side", "clinical.location"} <= set(missing_of(found))
    empty = clinical_part(labels([[0], [0]]), labels([[0], [0]]))
    assert empty["crg"] is None
    assert "clinical.crg" in missing_of(empty)


def test_unknown_labels_are_in_no_figure():
    known = clinical_part(labels([[1], [0], [1]]), labels([[1], [0], [0]]))
    more = clinical_part(labels([[1], [0], [1], [1]]), labels([[1], [0], [0], [np.nan]]))
    assert more["micro"] == known["micro"]
    assert more["num_labels"] == 3


def test_a_finding_on_the_wrong_side_costs():
    def on(side: str) -> dict:
        return {
            ("v0", "finding 0"): Place(side=frozenset([side])),
            ("v1", "finding 0"): Place(side=frozenset(["left"])),
        }

    true = labels([[1], [1], [0]], places=on("left"))
    right = clinical_part(labels([[1], [1], [0]], places=on("left")), true)
    wrong = clinical_part(labels([[1], [1], [0]], places=on("right")), true)
    assert right["side"]["agreement"] == right["side"]["f1"] == 1
    assert wrong["side"]["agreement"] == wrong["side"]["f1"] == 0.5
    assert wrong["micro"] == right["micro"]
    missed = clinical_part(labels([[1], [0], [0]], places={("v0", "finding 0"): Place(side=frozenset(["left"]))}), true)
    assert (missed["side"]["agreement"], missed["side"]["recall"]) == (1, 0.5)


def test_two_systems_are_compared_scan_by_scan():
    truth_VF, said_VF, _ = label_tables()
    true, good = labels(truth_VF), labels(said_VF)
    rng = np.random.default_rng(0)
    bad = labels(rng.random(truth_VF.shape) < 0.3)
    found = {entry["metric"]: entry for entry in compare_clinical({"good": (good, true), "bad": (bad, true)})}
    assert found["macro_f1"]["difference"] > 0.2
    assert found["macro_f1"]["ci95"][0] > 0
    assert all(entry["p"] <= entry["p_holm"] < 0.01 for entry in found.values())
    same = compare_clinical({"a": (good, true), "b": (good, true)})
    assert {entry["p_holm"] for entry in same} == {1.0}
    assert {entry["difference"] for entry in same} == {0.0}
