"""How small can the p of a paired test become?"""

from __future__ import annotations

import numpy as np
import pytest

from slicesight.evaluation.statistics import EXACT_UP_TO, sign_flip_p


def test_beyond_the_exact_test_it_is_one_of_ten_thousand_the_observed_order_counted():
    assert sign_flip_p(np.full(40, 1.0)) == pytest.approx(1 / 10_000, rel=1e-12)


def test_where_all_signs_are_tried_it_is_the_two_orders_that_are_as_extreme():
    assert sign_flip_p(np.full(EXACT_UP_TO, 1.0)) == pytest.approx(2 / 2**EXACT_UP_TO, rel=1e-12)
    assert sign_flip_p(np.array([1.0])) == 1.0
