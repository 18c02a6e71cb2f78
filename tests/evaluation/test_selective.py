"""Risk, coverage and calibration against public implementations and against what one counts by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from slicesight.errors import InputError
from slicesight.evaluation.metrics import selective
from slicesight.evaluation.metrics.selective import (
    accuracy_at,
    aurc,
    brier,
    expected_calibration_error,
    measure_selective,
    reliability,
    risk_coverage,
)

# What scikit-learn 1.9.1 (brier_score_loss, calibration_curve, precision_recall_curve), torchmetrics 1.9.0
# (binary_calibration_error) and torch-uncertainty 0.13.0 (AURC, the trapezoid over k / Q) say about `cases(240)`.
PUBLIC = {
    "brier": 0.2204948898437478,
    "ece": 0.15907089706743116,
    "aurc": 0.2720720774003908,
    "aurc_trapezoid": 0.2721905811439879,
}


def cases(count: int, *, seed: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Confidences without ties, half of them above what comes true."""
    rng = np.random.default_rng(seed)
    confidence = rng.beta(3, 1.5, count)
    return confidence, (rng.random(count) < confidence**1.6).astype(float)


def trapezoid(confidence: np.ndarray, right: np.ndarray) -> float:
    coverage, risk = risk_coverage(confidence, right)
    return float(np.trapezoid(risk, coverage) / (1 - 1 / len(right)))


def test_the_numbers_are_those_of_public_implementations():
    confidence, right = cases(240)
    ours = {
        "brier": brier(confidence, right),
        "ece": expected_calibration_error(confidence, right),
        "aurc": aurc(confidence, right),
        "aurc_trapezoid": trapezoid(confidence, right),
    }
    assert ours == pytest.approx(PUBLIC, abs=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_the_numbers_are_those_of_scikit_learn_where_it_is_installed(seed):
    calibration = pytest.importorskip("sklearn.calibration", reason="scikit-learn is not installed")
    metrics = pytest.importorskip("sklearn.metrics")
    confidence, right = cases(500, seed=seed)
    confidence[:20] = np.arange(20) / 15 % 1  # edges of bins
    assert brier(confidence, right) == pytest.approx(metrics.brier_score_loss(right, confidence), abs=1e-6)
    shares, said = calibration.calibration_curve(right, confidence, n_bins=15, strategy="uniform")
    bins = [one for one in reliability(confidence, right) if one["num_answers"]]
    assert [one["accuracy"] for one in bins] == pytest.approx(shares.tolist(), abs=1e-6)
    assert [one["confidence"] for one in bins] == pytest.approx(said.tolist(), abs=1e-6)
    counts = np.array([one["num_answers"] for one in bins])
    theirs = float((counts * np.abs(shares - said)).sum() / len(right))
    assert expected_calibration_error(confidence, right) == pytest.approx(theirs, abs=1e-6)
    confidence, right = cases(500, seed=seed)
    precision = metrics.precision_recall_curve(right, confidence)[0][:-1]  # one a threshold, the lowest first
    np.testing.assert_allclose(risk_coverage(confidence, right)[1], (1 - precision)[::-1], atol=1e-6)
    assert aurc(confidence, right) == pytest.approx(float((1 - precision).mean()), abs=1e-6)


def test_the_curve_is_the_share_of_wrong_ones_among_the_surest():
    coverage, risk = risk_coverage([0.2, 0.9, 0.6, 0.4], [0, 1, 0, 1])
    np.testing.assert_allclose(coverage, [0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(risk, [0, 1 / 2, 1 / 3, 1 / 2])
    assert aurc([0.2, 0.9, 0.6, 0.4], [0, 1, 0, 1]) == pytest.approx((0 + 1 / 2 + 1 / 3 + 1 / 2) / 4)


def test_answers_of_one_confidence_count_as_the_mean_over_all_their_orders():
    confidence, right = np.array([0.9, 0.5, 0.5, 0.5, 0.1]), np.array([1.0, 0, 1, 0, 1])
    orders = []
    for order in itertools.permutations((1, 2, 3)):
        losses = 1 - right[[0, *order, 4]]
        orders.append(np.cumsum(losses) / np.arange(1, 6))
    np.testing.assert_allclose(risk_coverage(confidence, right)[1], np.mean(orders, axis=0))
    whole = np.full(50, 0.5)
    assert aurc(whole, np.arange(50) < 30) == pytest.approx(0.4), "a constant confidence says nothing"
    assert accuracy_at(whole, np.arange(50) < 30) == pytest.approx(0.6)
    assert accuracy_at(whole, np.arange(50) >= 20) == pytest.approx(0.6), "whatever the order of the file"


def test_accuracy_at_a_coverage_takes_the_surest_and_no_more():
    confidence, right = np.linspace(1, 0, 10), np.array([1, 1, 1, 1, 1, 1, 0, 0, 0, 0])
    assert accuracy_at(confidence, right) == 6 / 8, "ceil(0.8 · 10) is 8"
    assert accuracy_at(confidence, right, coverage=0.55) == 1.0
    assert accuracy_at(confidence, right, coverage=1.0) == 0.6
    with pytest.raises(InputError, match="coverage is 0"):
        accuracy_at(confidence, right, coverage=0)


def test_a_confidence_that_is_what_it_says_has_no_calibration_error_and_a_boast_has_all_of_it():
    assert expected_calibration_error([0.75] * 4, [1, 1, 1, 0]) == 0
    assert expected_calibration_error([1.0] * 4, [0] * 4) == 1
    assert brier([1.0] * 4, [0] * 4) == 1
    assert brier([0.5, 0.5], [1, 0]) == 0.25


def test_bins_hold_their_upper_edge_and_the_first_holds_zero():
    counts = [one["num_answers"] for one in reliability([0.0, 0.5, 1.0, 0.50001], [1, 1, 1, 1], num_bins=2)]
    assert counts == [2, 2]


def test_a_bootstrap_that_repeats_answers_is_the_metric_of_the_repeated_answers(monkeypatch):
    """The weighted forms behind the intervals, held against the plain ones on the answers written out."""
    confidence, right = cases(40)
    confidence = confidence.round(1)
    patients = [f"p{number % 9}" for number in range(40)]
    draws = []
    monkeypatch.setattr(selective, "bounds", lambda drawn, _: draws.append(drawn) or [0.0, 0.0])
    measure_selective(confidence, right, patients, draws=6)
    names = ("accuracy", "confidence", "aurc", "gain", "accuracy_at_80", "ece", "brier")
    rng = np.random.default_rng(0)
    picked = rng.multinomial(9, np.full(9, 1 / 9), size=6)
    for row, counts in enumerate(picked):
        again = np.concatenate([[place] * counts[place % 9] for place in range(40)]).astype(int)
        c, y = confidence[again], right[again]
        plain = {
            "accuracy": y.mean(), "confidence": c.mean(), "aurc": aurc(c, y), "gain": 1 - y.mean() - aurc(c, y),
            "accuracy_at_80": accuracy_at(c, y), "ece": expected_calibration_error(c, y), "brier": brier(c, y),
        }  # fmt: skip
        assert {name: drawn[row] for name, drawn in zip(names, draws, strict=True)} == pytest.approx(plain)


def test_patients_are_drawn_and_not_their_answers():
    confidence, right = cases(60)
    alone = measure_selective(confidence, right, [str(place) for place in range(60)])
    right_by_patient = np.repeat(right[:6], 10)
    together = measure_selective(confidence, right_by_patient, np.repeat(list("abcdef"), 10).tolist())

    def width(found):
        low, high = found["accuracy"]["ci95"]
        return high - low

    assert width(together) > 2 * width(alone)
    assert together["num_patients"] == 6


def test_a_confidence_that_ranks_gains_and_one_that_does_not_gains_nothing():
    confidence, right = cases(400)
    names = [str(place // 2) for place in range(400)]
    found = measure_selective(confidence, right, names)
    assert found["gain"]["ci95"][0] > 0
    assert found["aurc_best"] < found["aurc"]["value"] < found["aurc_none"]
    assert found["gain"]["value"] == pytest.approx(found["aurc_none"] - found["aurc"]["value"])
    assert found["accuracy_at_80"]["value"] > found["accuracy"]["value"]
    shuffled = measure_selective(np.random.default_rng(0).permutation(confidence), right, names)
    low, high = shuffled["gain"]["ci95"]
    assert low < 0 < high
    assert found["brier"]["value"] < found["brier_constant"]
    low, high = found["aurc"]["ci95"]
    assert low < found["aurc"]["value"] < high


def test_without_patients_there_are_numbers_and_no_intervals():
    found = measure_selective(*cases(30), None)
    assert found["aurc"]["ci95"] is None
    assert found["num_patients"] is None


@pytest.mark.parametrize(
    ("confidence", "right", "said"),
    [
        ([], [], "at least one"),
        ([0.5], [1, 0], "one of each"),
        ([1.5], [1], "1.5; expected a probability"),
        ([float("nan")], [1], "nan; expected a probability"),
        ([0.5], [0.5], "other than 0 and 1"),
    ],
)
def test_what_is_no_confidence_is_refused(confidence, right, said):
    with pytest.raises(InputError, match=said):
        measure_selective(confidence, right, None)
