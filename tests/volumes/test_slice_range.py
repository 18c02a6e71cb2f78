"""A range of slices keeps the frame, the places and the slice numbers that it has in the whole scan."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from slicesight.errors import InputError, VolumeError
from slicesight.io.loading import read_volume
from slicesight.io.writers import write_nifti
from slicesight.volumes.geometry import slice_centres
from slicesight.volumes.grid import GridSpec, to_grid
from slicesight.volumes.slice_range import cut_range
from slicesight.volumes.volume import Volume

SPEC = GridSpec(num_slices=4, height=8, width=8, window="-1000,1000")


def body(*, slices_reversed: bool = False, axis: int = 0, with_positions: bool = False) -> Volume:
    """Air round a body that is broad below and narrow above; every voxel of the body is another value."""
    voxels = np.full((12, 10, 14), -1000, dtype=np.float32)
    voxels[1:6, 1:9, 1:13] = np.arange(5 * 8 * 12).reshape(5, 8, 12)
    voxels[6:11, 4:6, 6:8] = 500
    affine = np.array([[0, 0, 2, -10], [0, 3, 0, 5], [4, 0, 0, 100], [0, 0, 0, 1]], dtype=float)
    positions = slice_centres(affine, voxels.shape, axis=axis, reversed_=slices_reversed) if with_positions else None
    return Volume(
        voxels=voxels, affine_lps=affine, spacing_mm=(4, 3, 2), acquisition_axis=axis, slices_reversed=slices_reversed,
        slice_positions_mm=positions, unit="HU", modality="CT",
        sop_instance_uids=tuple(f"1.{number}" for number in range(voxels.shape[axis])),
    )  # fmt: skip


@pytest.mark.parametrize("slices_reversed", [False, True])
@pytest.mark.parametrize("with_positions", [False, True])
@pytest.mark.parametrize("axis", [0, 1])
def test_a_range_lies_where_it_lies_in_the_whole_scan(axis: int, slices_reversed: bool, with_positions: bool) -> None:
    whole = body(axis=axis, slices_reversed=slices_reversed, with_positions=with_positions)
    part = cut_range(whole, (2, 6))
    (z, _), (y, _), (x, _) = part.source["box_zyx"]
    for index in np.argwhere(part.voxels > 0)[::7]:
        there = index + np.array([z, y, x])
        assert part.voxels[tuple(index)] == whole.voxels[tuple(there)]
        np.testing.assert_allclose(part.geometry.to_mm(index), whole.geometry.to_mm(there), atol=1e-9)
    assert part.geometry.source_slices(range(part.shape[axis])) == (2, 3, 4, 5, 6)
    assert part.sop_instance_uids == ("1.2", "1.3", "1.4", "1.5", "1.6")


def test_a_narrow_part_is_not_cropped_to_its_own_foreground() -> None:
    whole, part = body(), cut_range(body(), (7, 9))
    assert part.shape == (3, 8, 12)
    grid = to_grid(part, SPEC)
    assert grid.box == ((0, 3), (0, 8), (0, 12))
    assert to_grid(whole, SPEC).box[1:] == ((1, 9), (1, 13))
    assert to_grid(replace(part, keeps_frame=False), SPEC).box[1:] != grid.box[1:]


def test_the_whole_frame_as_a_range_gives_the_same_grid_as_the_scan() -> None:
    whole = to_grid(body(), SPEC)
    part = to_grid(cut_range(body(), (1, 10)), SPEC)
    np.testing.assert_array_equal(part.voxels, whole.voxels)
    assert part.slices == whole.slices


@pytest.mark.parametrize(("side", "columns"), [("right", slice(1, 7)), ("left", slice(7, 13))])
def test_a_side_is_the_patients(side: Any, columns: slice) -> None:
    part = cut_range(body(), (1, 5), side=side)
    np.testing.assert_array_equal(part.voxels, body().voxels[1:6, 1:9, columns])


@pytest.mark.parametrize("slices", [(3, 12), (-1, 4), (5, 4)])
def test_slices_that_the_scan_has_not_are_refused(slices: tuple[int, int]) -> None:
    with pytest.raises(InputError, match=f"slices {slices[0]} to {slices[1]} are asked for, and the scan has slices 0"):
        cut_range(body(), slices)


def test_sagittal_slices_have_no_side_to_keep() -> None:
    with pytest.raises(InputError, match="sagittal"):
        cut_range(body(axis=2), None, side="left")


def test_reading_a_range_is_cutting_it_from_the_scan(tmp_path) -> None:
    file = tmp_path / "scan.nii.gz"
    write_nifti(body(), file)
    part = read_volume(file, slices=(2, 6), side="left")
    np.testing.assert_array_equal(part.voxels, cut_range(read_volume(file), (2, 6), side="left").voxels)
    with pytest.raises(VolumeError, match=r"scan\.nii\.gz: slices 2 to 60"):
        read_volume(file, slices=(2, 60))
