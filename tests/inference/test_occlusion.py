from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from slicesight.errors import InputError
from slicesight.inference.occlusion import default_passes, occlude

Floats = NDArray[np.float64]


class Additive:
    """An answer that loses `loss[i]` with slice i, and notes every mask it was asked about."""

    def __init__(self, loss: list[float]) -> None:
        self.loss, self.masks = np.array(loss), []

    def __call__(self, kept_VN: NDArray[np.bool_]) -> Floats:
        self.masks += list(kept_VN)
        found: Floats = -(~kept_VN * self.loss).sum(axis=1)
        return found


@pytest.mark.parametrize("place", [0, 7, 19, 31])
def test_the_one_slice_that_matters_gets_all_the_weight(place: int) -> None:
    loss = [0.0] * 32
    loss[place] = 2.0
    found = occlude(Additive(loss), 32)
    assert found.shares[place] == pytest.approx(1.0)
    assert found.fall == pytest.approx(2.0)
    assert not found.is_flat


def test_weight_is_divided_as_the_losses_are_where_they_add_up() -> None:
    loss = [0.0] * 16
    loss[2], loss[11] = 3.0, 1.0
    shares = occlude(Additive(loss), 16).shares
    assert shares[2] == pytest.approx(0.75)
    assert shares[11] == pytest.approx(0.25)
    assert sum(shares) == pytest.approx(1.0)


def test_a_slice_that_only_matters_with_its_neighbour_keeps_the_pairs_weight() -> None:
    def redundant(kept_VN: NDArray[np.bool_]) -> Floats:
        found: Floats = -2.0 * (~kept_VN[:, 8:10]).all(axis=1)
        return found

    shares = occlude(redundant, 16).shares
    assert sum(shares[8:10]) == pytest.approx(1.0)
    assert shares[8] == pytest.approx(shares[9])


def test_slices_whose_blanking_makes_the_answer_likelier_weigh_nothing() -> None:
    loss = [-5.0] * 8
    loss[3] = 1.0
    shares = occlude(Additive(loss), 8, max_passes=40).shares
    assert shares[3] == pytest.approx(1.0)
    assert min(shares) == 0.0


def test_a_half_whose_blanking_makes_the_answer_likelier_takes_nothing_of_its_groups_share() -> None:
    loss = [0.0] * 16
    loss[2], loss[3] = 3.0, -2.0  # together they fall, so that the pair is halved
    shares = occlude(Additive(loss), 16, max_passes=40).shares
    assert shares[2] == pytest.approx(1.0)
    assert shares[3] == 0.0


def test_an_answer_that_rests_on_no_slice_is_said_to_and_weighs_all_alike() -> None:
    found = occlude(Additive([0.0] * 20), 20)
    assert found.is_flat
    assert set(found.shares) == {1 / 20}
    assert found.fall == 0.0


@pytest.mark.parametrize("num_slices", [2, 3, 5, 17, 32, 85, 180])
@pytest.mark.parametrize("width", [1, 4])
def test_passes_stay_within_twice_the_logarithm_times_the_width(num_slices: int, width: int) -> None:
    model = Additive([1.0] * num_slices)
    found = occlude(model, num_slices, width=width)
    assert found.num_passes == len(model.masks)
    assert found.num_passes <= max(4, math.ceil(2 * math.log2(num_slices) * width))
    assert len({mask.tobytes() for mask in model.masks}) == len(model.masks), "a mask was measured twice"


@pytest.mark.parametrize("budget", [4, 5, 9, 30])
def test_a_budget_is_never_exceeded_and_buys_sharper_evidence(budget: int) -> None:
    loss = [0.0] * 64
    loss[40] = 1.0
    model = Additive(loss)
    found = occlude(model, 64, max_passes=budget)
    assert len(model.masks) <= budget
    assert found.shares[40] == max(found.shares)
    if budget == 30:
        assert found.shares[40] == pytest.approx(1.0)


def test_one_slice_alone_has_all_the_weight() -> None:
    found = occlude(Additive([2.0]), 1)
    assert found.shares == (1.0,)
    assert found.num_passes == 2


@pytest.mark.parametrize("budget", [0, 3, True, 2.5])
def test_a_budget_that_cannot_be_is_one_line(budget: int) -> None:
    with pytest.raises(InputError, match="at least 4"):
        occlude(Additive([1.0] * 8), 8, max_passes=budget)


def test_the_usual_budget_grows_with_the_logarithm() -> None:
    assert default_passes(32) == 40
    assert default_passes(85) == math.ceil(8 * math.log2(85))
    assert default_passes(1) == 8
