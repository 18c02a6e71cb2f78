"""From where on is a scan doubted? Each limit from both of its sides."""

from __future__ import annotations

import numpy as np
import pytest

from slicesight.volumes.foreground import sampled
from slicesight.volumes.receipt import doubts

BODY = np.linspace(-150, 250, 4000)


def doubted(values, *, spacing=(1.0, 1.0, 1.0), num_slices: int = 10) -> str:
    voxels = np.asarray(values, dtype=np.float32).reshape(10, 20, -1)
    return " / ".join(doubts(voxels, spacing, unit="HU", num_slices=num_slices))


def with_extreme(value: float) -> np.ndarray:
    values = np.concatenate([np.full(4000, -990.0), BODY])
    values[0] = value
    return values


@pytest.mark.parametrize(
    ("inside", "outside", "words"),
    [
        ({"num_slices": 10}, {"num_slices": 9}, "very few slices (9)"),
        ({"spacing": (5.0, 1.0, 1.0)}, {"spacing": (5.01, 1.0, 1.0)}, "anisotropic voxels"),
        ({"values": with_extreme(-1500.0)}, {"values": with_extreme(-1501.0)}, "from -1501 to 250"),
        ({"values": with_extreme(5000.0)}, {"values": with_extreme(5001.0)}, "from -990 to 5001"),
    ],
)
def test_a_scan_is_doubted_beyond_the_limit_and_not_at_it(inside, outside, words) -> None:
    sane = {"values": with_extreme(-990.0)}
    assert doubted(**{**sane, **inside}) == ""
    assert words in doubted(**{**sane, **outside})


def test_air_below_minus_800_without_a_hundredth_of_body_is_a_wrong_rescale() -> None:
    values = np.full(8000, 400.0)
    values[0] = -800.0
    assert doubted(values) == ""
    values[0] = -801.0
    assert "rescale seems applied twice" in doubted(values)
    values[1:81] = 0.0  # a hundredth of body
    assert doubted(values) == ""


def test_tissue_near_1000_without_air_is_a_missing_intercept() -> None:
    values = np.full(8000, 700.0)
    values[:401] = 1000.0  # a little more than a twentieth
    assert "intercept seems missing" in doubted(values)
    assert doubted(np.concatenate([np.full(7601, 700.0), np.full(399, 1000.0)])) == ""
    values[-1] = -201.0  # as low as fat: air was there
    assert doubted(values) == ""


def test_a_large_volume_is_sampled_evenly_and_a_small_one_whole() -> None:
    small = np.arange(1000.0).reshape(10, 10, 10)
    assert np.array_equal(sampled(small), small.reshape(-1))
    large = np.broadcast_to(np.arange(200.0)[:, None, None], (200, 200, 200))
    assert np.array_equal(np.unique(sampled(large)), np.arange(0, 200, 2))
