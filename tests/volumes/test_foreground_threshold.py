"""From which value on is a voxel patient and not air?"""

from __future__ import annotations

import numpy as np
import pytest

from slicesight.volumes.foreground import foreground_box, foreground_threshold
from slicesight.volumes.volume import Volume


def scan(values, unit: str) -> Volume:
    modality = "CT" if unit == "HU" else "MR"
    return Volume(
        voxels=np.asarray(values, dtype=np.float32), affine_lps=None, spacing_mm=None, modality=modality, unit=unit
    )


def test_in_ct_the_patient_begins_at_minus_500_hu():
    voxels = np.full((8, 10, 10), -1000.0)
    voxels[1:7] = -700.0  # lung's density: no foreground
    voxels[3:5] = -400.0  # fat and more
    volume = scan(voxels, "HU")
    assert foreground_threshold(volume) == -500.0
    assert foreground_box(volume.voxels, foreground_threshold(volume)) == ((3, 5), (0, 10), (0, 10))


def test_elsewhere_it_begins_at_a_twentieth_of_the_way_to_the_brightest_values():
    voxels = np.linspace(100, 1100, 1000).reshape(10, 10, 10)
    assert foreground_threshold(scan(voxels, "arbitrary")) == pytest.approx(100 + 0.05 * 995, rel=1e-3)
