"""Which grey values of a CT does each named window show? The usual levels and widths of radiology, in HU."""

from __future__ import annotations

import numpy as np
import pytest

from slicesight.volumes.volume import Volume
from slicesight.volumes.windows import CT_WINDOWS_HU, window_bounds

LEVEL_AND_WIDTH = {
    "soft_tissue": (40, 400),
    "lung": (-600, 1500),
    "bone": (400, 1800),
    "brain": (40, 80),
    "mediastinum": (50, 350),
    "liver": (30, 150),
}


def ct(values, **facts) -> Volume:
    facts = {"modality": "CT", "unit": "HU", **facts}
    voxels = np.broadcast_to(np.asarray(values, dtype=np.float32), (3, 4, len(values))).copy()
    return Volume(voxels=voxels, affine_lps=None, spacing_mm=None, **facts)


@pytest.mark.parametrize("name", LEVEL_AND_WIDTH)
def test_a_window_lies_around_its_level_with_its_width(name):
    level, width = LEVEL_AND_WIDTH[name]
    window = window_bounds(ct([0.0, 1.0]), name, threshold=-500.0)
    assert (window.low, window.high) == (level - width / 2, level + width / 2)
    assert window.to_grey(np.array([window.low - 1, level, window.high + 1])).tolist() == [0.0, 0.5, 1.0]


def test_every_named_window_is_in_this_table():
    assert set(CT_WINDOWS_HU) == set(LEVEL_AND_WIDTH)


def test_percentiles_are_taken_of_what_lies_above_the_threshold():
    values = np.concatenate([np.full(500, -1000.0), np.linspace(0, 1000, 500)])
    window = window_bounds(ct(values, modality="MR", unit="arbitrary"), "percentile", threshold=-500.0)
    assert window.low == pytest.approx(5.0, abs=2.0)
    assert window.high == pytest.approx(995.0, abs=2.0)


def test_a_scan_of_one_value_is_black_in_every_window():
    window = window_bounds(ct([7.0, 7.0], modality="MR", unit="arbitrary"), "percentile", threshold=0.0)
    assert (window.low, window.high) == (7.0, 7.0)
    assert window.to_grey(np.array([6.0, 7.0, 8.0])).tolist() == [0.0, 0.0, 0.0]
