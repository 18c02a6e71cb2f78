"""Do the evidence metrics give the numbers that one counts by hand, and nothing by accident?"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slicesight.errors import InputError
from slicesight.evaluation.metrics.evidence import (
    Pointed,
    as_weights,
    distance_mm,
    excess_mass,
    pointing_game,
    range_iou,
    score_evidence,
    shortest_runs,
)

EVEN = (0.25,) * 4


def pointed(scores, true_slices, **more) -> Pointed:
    return Pointed(**{"scores": scores, "true_slices": true_slices, "volume": "v", **more})


def marks(true, count) -> np.ndarray:
    return np.isin(np.arange(count), list(true))


def test_all_weight_on_the_truth_is_right_by_every_measure():
    found = score_evidence([pointed((0.0, 1.0, 0.0, 0.0), (1,), places_mm=(0, 5, 10, 15))])
    assert (found["mass"], found["share"], found["excess"]) == (1.0, 0.25, 1.0)
    assert found["pointing_game"]["value"] == found["range_iou"]["value"] == 1.0
    assert found["distance_mm"]["value"] == 0.0
    assert found["distance_mm"]["chance"] == pytest.approx((5 + 0 + 5 + 10) / 4)


def test_an_even_spread_gains_nothing_over_chance_by_any_measure():
    found = score_evidence([pointed(EVEN, (0,), places_mm=(0, 5, 10, 15))])
    assert found["excess"] == 0
    for name in ("pointing_game", "range_iou", "distance_mm"):
        assert found[name]["gain"] == pytest.approx(0), name
    assert found["pointing_game"]["value"] == 0.25, "the first slice is no better a guess than the others"


def test_a_question_shown_nearly_everywhere_or_without_scores_does_not_count():
    assert score_evidence([pointed(EVEN, (0, 1, 2))]) is None, "no place to point at"
    assert score_evidence([pointed(None, (1,))]) is None
    assert score_evidence([pointed(EVEN, None), pointed(EVEN, ())]) is None
    both = score_evidence([pointed(EVEN, (0, 1, 2)), pointed((1.0, 0, 0, 0), (0,))])
    assert both["num_questions"] == 1


def test_a_bare_tuple_says_the_same_without_places():
    assert score_evidence([((0.1, 0.9, 0.0, 0.0), (1,), "v")]) == score_evidence([pointed((0.1, 0.9, 0.0, 0.0), (1,))])


def test_weight_on_the_wrong_slices_is_below_chance():
    found = score_evidence([pointed((0.0, 0.0, 0.1, 0.9), (0,), places_mm=(0, 5, 10, 15))])
    assert found["excess"] < 0
    assert found["pointing_game"]["value"] == 0.0
    assert found["distance_mm"]["value"] == 15.0
    assert found["distance_mm"]["gain"] < 0, "more millimetres than chance is a loss"


def test_what_occlusion_costs_is_weighed_without_its_negative_part():
    np.testing.assert_allclose(as_weights([-3.0, 1.0, 3.0, -0.5]), [0, 0.25, 0.75, 0])
    np.testing.assert_allclose(as_weights([-1.0, -2.0]), [0.5, 0.5])
    scores = np.array([0.1, 0.2, 0.7])
    assert as_weights(scores) is scores, "weights that sum to one keep their bits"
    found = score_evidence([pointed((-3.0, 1.0, 3.0, -0.5), (2,), measured_by="occlusion")])
    assert found["measured_by"] == {"occlusion": 1}
    assert found["mass"] == 0.75


def test_the_run_is_the_shortest_that_holds_half_and_the_heaviest_of_its_length():
    starts, length = shortest_runs(np.array([0.3, 0.1, 0.25, 0.3, 0.05]))
    assert (starts.tolist(), length) == ([2], 2)
    starts, length = shortest_runs(np.array([0.5, 0.0, 0.5]))
    assert (starts.tolist(), length) == ([0, 2], 1), "of two alike neither comes first"


def test_range_iou_counts_slices_of_run_and_truth():
    weights = np.array([0.0, 0.3, 0.3, 0.2, 0.2, 0.0])
    value, chance = range_iou(weights, marks({2, 3}, 6))  # the run is 1–2
    assert value == pytest.approx(1 / 3)
    assert chance == pytest.approx(np.mean([0, 1 / 3, 1, 1 / 3, 0]))


def test_distance_is_between_slice_centres_along_the_stack_or_in_space():
    weights, true = np.array([0.1, 0.2, 0.6, 0.1]), marks({0}, 4)
    along, _ = distance_mm(weights, true, (0, 2.5, 5.0, 7.5))
    in_space, _ = distance_mm(weights, true, [(1, 2, 2.5 * n) for n in range(4)])
    assert along == in_space == 5.0


def test_slices_whose_places_are_unknown_have_no_distance_and_the_others_keep_theirs():
    found = score_evidence([pointed((1.0, 0, 0, 0), (0,)), pointed((0, 1.0, 0, 0), (0,), places_mm=(0, 4, 8, 12))])
    assert found["distance_mm"]["value"] == 4.0
    assert found["distance_mm"]["num_questions"] == 1
    assert score_evidence([pointed((1.0, 0, 0, 0), (0,))])["distance_mm"] is None


def test_intervals_draw_volumes_and_the_gain_is_beside_chance():
    rng = np.random.default_rng(0)
    rows = []
    for volume in range(30):
        for _ in range(4):
            weights = rng.dirichlet(np.ones(8))
            true = (int(weights.argmax()),) if rng.random() < 0.7 else (int(rng.integers(8)),)
            rows.append(pointed(tuple(weights), true, volume=str(volume), places_mm=tuple(range(8))))
    found = score_evidence(rows)["pointing_game"]
    assert found["ci95"][0] < found["value"] < found["ci95"][1]
    assert found["gain"] == pytest.approx(found["value"] - found["chance"])
    assert found["gain_ci95"][0] > 0.3


@pytest.mark.parametrize(
    ("scores", "true", "said"),
    [((0.5, float("nan"), 0.5), (0,), "finite"), ((0.4, 0.6, 0.0), (7,), "true slice 7 of a stack of 3")],
)
def test_what_cannot_be_weighed_is_refused(scores, true, said):
    with pytest.raises(InputError, match=said):
        score_evidence([pointed(scores, true)])


@given(st.integers(4, 12), st.integers(0, 10**6))
def test_turning_the_stack_round_changes_no_measure(count, seed):
    rng = np.random.default_rng(seed)
    weights, true = rng.dirichlet(np.ones(count)), marks(rng.choice(count, 1), count)
    places = np.cumsum(rng.uniform(1, 3, count))
    for measure in (excess_mass, pointing_game, range_iou):
        assert measure(weights[::-1], true[::-1]) == pytest.approx(measure(weights, true))
    assert distance_mm(weights[::-1], true[::-1], places[::-1]) == pytest.approx(distance_mm(weights, true, places))


@given(st.integers(0, 10**6))
def test_random_weights_point_as_well_as_chance_on_average(seed):
    rng = np.random.default_rng(seed)
    true = marks({2, 3}, 10)
    hits = [pointing_game(rng.dirichlet(np.ones(10)), true) for _ in range(300)]
    assert np.mean(hits) == pytest.approx(0.2, abs=0.12)
