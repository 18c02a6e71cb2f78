"""Volumes are drawn, not questions; tests and corrections are those of the textbooks."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from slicesight.evaluation.statistics import compare, draw_means, holm, mean_interval, sign_flip_p, volume_sums


def test_sums_by_volume_ignore_what_is_not_a_number():
    sums, counts = volume_sums(["b", "a", "b", "a"], np.array([1.0, 2.0, np.nan, 4.0]))
    assert sums.tolist() == [1, 6]
    assert counts.tolist() == [1, 2]


def test_the_bootstrap_is_scipys_for_one_value_per_volume():
    values = np.random.default_rng(1).normal(size=60)
    ours = mean_interval(values, draws=8000)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=8000, method="percentile", rng=2).confidence_interval
    assert ours.value == pytest.approx(values.mean())
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.02)


def test_answers_about_few_volumes_say_less_than_about_many():
    values = np.repeat([0.0, 1.0], 100)
    few = mean_interval(values, [f"v{place // 20}" for place in range(200)])
    many = mean_interval(values, [f"v{place}" for place in range(200)])
    assert few.value == many.value == 0.5
    assert few.high - few.low > 3 * (many.high - many.low)


def test_one_volume_has_no_interval_however_many_questions_it_answers():
    values = np.tile([0.0, 1.0], 50)
    alone = mean_interval(values, ["v"] * 100)
    assert (alone.value, alone.ends) == (0.5, None)
    assert alone.to_dict() == {"value": 0.5, "ci95": None}
    others_know_nothing = mean_interval(np.array([0.0, 1.0, np.nan]), ["v", "v", "w"])
    assert others_know_nothing.ends is None
    assert mean_interval(values, ["v", "w"] * 50).ends is not None
    found = compare([{"v": 1.0}], [{"v": 0.0}]).to_dict()
    assert (found["difference"], found["ci95"], found["p"]) == (1.0, None, 1.0)


def test_every_column_is_drawn_with_the_same_volumes():
    sums = np.array([[1.0, 2.0], [0.0, 0.0], [3.0, 6.0]])
    drawn = draw_means(sums, np.ones_like(sums), draws=50)
    np.testing.assert_allclose(drawn[:, 1], 2 * drawn[:, 0])


@pytest.mark.parametrize("count", [8, 40])
def test_the_paired_p_is_scipys_permutation_test(count):
    differences = np.random.default_rng(0).normal(0.5, 1, size=count)
    theirs = stats.permutation_test(
        (differences,), np.mean, permutation_type="samples", n_resamples=20_000, alternative="two-sided", rng=1
    ).pvalue
    ours = sign_flip_p(differences)
    assert ours == pytest.approx(theirs, abs=1e-9 if count < 13 else 0.01)


def test_a_difference_of_nothing_has_p_one_and_no_effect():
    found = compare([{"a": 1.0, "b": 0.0}], [{"a": 1.0, "b": 0.0}])
    assert found is not None
    assert (found.difference, found.p, found.effect_size) == (0, 1, None)


def test_under_the_null_p_is_uniform():
    rng = np.random.default_rng(5)
    p_values = [sign_flip_p(rng.normal(size=10)) for _ in range(300)]
    assert 0.02 < np.mean(np.array(p_values) < 0.05) < 0.09


def test_seeds_are_averaged_before_the_test_and_only_common_volumes_count():
    ours = [{"a": 1.0, "b": 0.0, "c": 1.0}, {"a": 0.0, "b": 1.0, "c": 1.0}]
    theirs = [{"a": 0.25, "b": 0.25, "z": 1.0}]
    found = compare(ours, theirs)
    assert found is not None
    assert found.num_volumes == 2
    assert found.difference == pytest.approx(0.25)
    assert compare([{"a": 1.0}], [{"b": 1.0}]) is None


def test_the_effect_size_is_cohens_d_of_the_differences():
    rng = np.random.default_rng(0)
    a, b = rng.normal(1, 1, 50), rng.normal(0, 1, 50)
    found = compare([dict(enumerate(map(float, a)))], [dict(enumerate(map(float, b)))])
    assert found is not None
    assert found.effect_size == pytest.approx((a - b).mean() / (a - b).std(ddof=1))


def test_holm_is_the_textbooks():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []
