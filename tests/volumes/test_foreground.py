"""Which planes belong to the patient, and which hold only noise?"""

from __future__ import annotations

import numpy as np
import pytest

from slicesight.volumes.foreground import foreground_box
from slicesight.volumes.grid import GridSpec, to_grid
from slicesight.volumes.volume import Volume

SIDE = 100


def with_specks(count: int) -> np.ndarray:
    """A block of 20 in air of 100 x 100 x 100, and so many bright voxels scattered over plane 5 of the stack."""
    voxels = np.full((SIDE, SIDE, SIDE), -1000, np.float32)
    voxels[40:60, 40:60, 40:60] = 50
    rows, columns = np.divmod(np.arange(count), 20)
    voxels[5, 40 + rows, 40 + columns] = 50
    return voxels


@pytest.mark.parametrize(("count", "start"), [(10, 40), (11, 5), (60, 5), (101, 5)])
def test_a_plane_counts_when_more_than_one_voxel_in_a_thousand_is_bright(count: int, start: int) -> None:
    box = foreground_box(with_specks(count), -500.0)
    assert box[0] == (start, 60)


def test_the_grid_covers_what_is_foreground() -> None:
    scan = Volume(voxels=with_specks(60), modality="CT", unit="HU")
    assert to_grid(scan, GridSpec(num_slices=4, height=4, width=4)).box == ((5, 60), (40, 60), (40, 60))
