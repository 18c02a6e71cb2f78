"""An axial grid cut in other planes: the pictures the model is shown, at the places they come from."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from slicesight.models.med2e3.planes import cut_planes
from slicesight.phantoms.rendering import make_phantom
from slicesight.volumes.grid import GridSpec, to_grid
from slicesight.volumes.resize import cut_plane
from slicesight.volumes.volume import PLANES

SPEC = GridSpec(num_slices=16, height=48, width=48, plane="axial")


@pytest.mark.parametrize("shape", [(8, 32, 32), (8, 30, 20), (6, 5, 7), (4, 9, 4)])
def test_cuts_are_the_pictures_the_model_is_shown(shape):
    voxels = np.random.default_rng(0).random(shape, dtype=np.float32)
    shown = cut_planes(torch.from_numpy(voxels)[None, None], PLANES)[0].numpy()
    np.testing.assert_allclose(np.concatenate([cut_plane(voxels, plane) for plane in PLANES]), shown, atol=2e-6)


@pytest.fixture(scope="module")
def scans():
    """A phantom acquired in every plane."""
    found = {}
    for index in range(60):
        made = make_phantom(7, index, pixel_mm=(4.0, 5.0))
        found.setdefault(made.truth.plane, made.volume)
        if len(found) == 3:
            return found
    raise AssertionError("a plane is missing among the first 60 phantoms")


@pytest.mark.parametrize("acquired", PLANES)
def test_a_cut_lies_where_the_same_slice_of_a_reformatted_grid_lies(scans, acquired):
    grid = replace(to_grid(scans[acquired], SPEC), planes=PLANES)
    for stack in grid.stacks:
        other = to_grid(scans[acquired], replace(SPEC, plane=stack.plane))
        assert stack.box == other.box
        assert [piece.source_slices for piece in stack.slices] == [piece.source_slices for piece in other.slices]
        np.testing.assert_allclose(
            [piece.position_mm for piece in stack.slices], [piece.position_mm for piece in other.slices], atol=1e-6
        )
        assert {piece.plane for piece in stack.slices} == {stack.plane}
        assert [piece.index for piece in stack.slices] == list(range(16))


@pytest.mark.parametrize("acquired", PLANES)
def test_a_cut_shows_what_the_same_slice_of_a_reformatted_grid_shows(scans, acquired):
    grid = replace(to_grid(scans[acquired], SPEC), planes=PLANES)
    for stack in grid.stacks:
        other = to_grid(scans[acquired], replace(SPEC, plane=stack.plane)).voxels
        differences = np.abs(stack.voxels[:, None] - other[None]).mean(axis=(2, 3))
        middle = slice(3, 13)  # the outermost slices of a stack may all be alike
        assert (differences.argmin(axis=1) == np.arange(16))[middle].all()
        own = np.diag(differences)
        assert own.max() < 0.08
        for flipped in (other[:, ::-1], other[:, :, ::-1]):
            assert np.abs(stack.voxels - flipped).mean() > 1.5 * own.mean()


def test_changed_voxels_are_cut_anew(scans):
    grid = replace(to_grid(scans["axial"], SPEC), planes=PLANES)
    assert grid.stacks[1].voxels.max() > 0
    blank = replace(grid, voxels=np.zeros_like(grid.voxels))
    assert all(stack.voxels.max() == 0 for stack in blank.stacks)


def test_a_score_belongs_to_a_slice_of_its_plane(scans):
    grid = replace(to_grid(scans["axial"], SPEC), planes=("sagittal", "axial"))
    assert [piece.plane for piece in grid.scored_slices] == ["sagittal"] * 16 + ["axial"] * 16
    stack, index = grid.scored_slice(19)
    assert (stack.plane, index) == ("axial", 3)
    assert grid.scored_slices[19] == stack.slices[index]


def test_a_grid_of_one_plane_is_its_own_only_stack(scans):
    grid = to_grid(scans["coronal"], replace(SPEC, plane="acquired"))
    assert grid.stacks == (grid,)
    assert grid.scored_slices == grid.slices
    assert all(piece.plane is None for piece in grid.slices)
