"""A curve turns what a model thinks of its answers into how often they are right."""

from __future__ import annotations

import numpy as np
import pytest

from slicesight.inference.calibration.confidence import fit_curve, numbers_of, uncalibrated
from slicesight.inference.calibration.likelihood import AnswerLikelihood


def overconfident(count: int, *, temperature: float = 3.0, seed: int = 0):
    """(n, 1) logits that a model claims, and whether it was right: true logits are `temperature` times smaller."""
    rng = np.random.default_rng(seed)
    claimed = rng.normal(3, 3, (count, 1))
    return claimed, rng.random(count) < 1 / (1 + np.exp(-claimed[:, 0] / temperature))


def test_an_overconfident_model_is_brought_to_the_truth():
    claimed, right = overconfident(4000)
    curve = fit_curve(claimed, right.tolist())
    fresh, fresh_right = overconfident(4000, seed=1)
    before = 1 / (1 + np.exp(-fresh[:, 0]))
    after = np.array([curve.confidence(row) for row in fresh])
    assert abs(before.mean() - fresh_right.mean()) > 0.08
    assert abs(after.mean() - fresh_right.mean()) < 0.02
    high = after > 0.9
    assert abs(after[high].mean() - fresh_right[high].mean()) < 0.03


def test_a_kind_of_few_answers_stays_near_the_curve_of_all_and_one_of_many_leaves_it():
    claimed, right = overconfident(2000)
    parent = fit_curve(claimed, right.tolist())
    never = [False] * 1000
    few, many = (fit_curve(claimed[:n], never[:n], toward=parent) for n in (4, 1000))
    point = np.array([3.0])
    assert parent.confidence(point) > few.confidence(point) > many.confidence(point)
    assert many.confidence(point) < 0.2


def test_no_confidence_is_nearer_to_certainty_than_the_answers_seen_allow():
    curve = fit_curve(np.linspace(1, 9, 40)[:, None], [True] * 40)
    assert curve.confidence(np.array([50.0])) <= 1 - 0.5 / 41


@pytest.mark.parametrize("is_closed", [True, False])
def test_a_likelier_answer_has_larger_numbers(is_closed):
    surer = AnswerLikelihood(token_logs=(-0.01, -0.02), share=0.99 if is_closed else None)
    less = AnswerLikelihood(token_logs=(-1.0, -2.0), share=0.6 if is_closed else None)
    assert (numbers_of(surer, is_closed=is_closed) > numbers_of(less, is_closed=is_closed)).all()
    assert uncalibrated(surer) > uncalibrated(less)
