"""Is a voxel where its affine says, in the patient's own directions?"""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest

from slicesight.volumes.geometry import (
    LPS_FROM_RAS,
    Geometry,
    acquisition_of,
    canonical_affine,
    canonical_view,
    is_orientation,
    orientation_of,
    slice_centres,
    stored_affine,
    stored_view,
)

DIRECTIONS = {"L": (1, 0, 0), "R": (-1, 0, 0), "P": (0, 1, 0), "A": (0, -1, 0), "S": (0, 0, 1), "I": (0, 0, -1)}
ORIENTATIONS = ["".join(letters) for pairs in permutations(("LR", "PA", "SI")) for letters in product(*pairs)]


def affine_of(orientation: str, spacing=(0.7, 0.8, 5.0), origin=(-12.0, 30.0, 100.0)) -> np.ndarray:
    """Stored (i, j, k, 1) to LPS millimetres, for axes that grow toward these letters."""
    affine = np.eye(4)
    for stored, letter in enumerate(orientation):
        affine[:3, stored] = np.multiply(DIRECTIONS[letter], spacing[stored])
    affine[:3, 3] = origin
    return affine


def test_ras_to_lps_turns_right_and_front_round_and_leaves_up():
    right, front, up = 3.0, 5.0, 7.0
    assert (LPS_FROM_RAS @ [right, front, up, 1.0]).tolist() == [-3.0, -5.0, 7.0, 1.0]


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_an_affine_along_the_axes_has_the_orientation_it_was_made_of(orientation):
    assert is_orientation(orientation)
    assert orientation_of(affine_of(orientation)) == orientation


def test_orientation_is_a_matter_of_directions_and_not_of_voxel_sizes():
    rng = np.random.default_rng(0)
    for _ in range(200):
        turned, _ = np.linalg.qr(rng.normal(size=(3, 3)))
        even, uneven = np.eye(4), np.eye(4)
        even[:3, :3] = turned
        uneven[:3, :3] = turned * (0.4, 1.0, 6.0)
        assert orientation_of(uneven) == orientation_of(even)


@pytest.mark.parametrize("orientation", ["LPS", "RAS", "PIL", "LIP", "IRA"])
def test_a_voxel_keeps_its_millimetres_when_its_axes_are_brought_into_order(orientation):
    shape = (4, 5, 6)
    stored = np.arange(120).reshape(shape)
    affine = affine_of(orientation)
    seen = canonical_view(stored, orientation)
    assert np.array_equal(stored_view(seen, orientation), stored)
    in_order = canonical_affine(affine, shape, orientation)
    assert np.allclose(stored_affine(in_order, shape, orientation), affine)
    for index in [(0, 0, 0), (3, 1, 2), (3, 4, 5)]:
        place = np.argwhere(seen == stored[index])[0]
        assert np.allclose(in_order @ [*place, 1], affine @ [*index, 1])
    assert (np.diag(in_order[[2, 1, 0], :3]) > 0).all()  # Z grows up, Y to the back, X to the left


def test_source_slices_have_their_centres_in_source_order():
    shape = (6, 5, 4)
    affine = canonical_affine(affine_of("LPS"), shape[::-1], "LPS")
    centres = slice_centres(affine, shape, axis=0, reversed_=False)
    assert centres.shape == (6, 3)
    assert np.allclose(centres[0], [-12 + 0.7 * 1.5, 30 + 0.8 * 2, 100])
    assert np.allclose(np.diff(centres, axis=0), [0, 0, 5])
    assert np.allclose(slice_centres(affine, shape, axis=0, reversed_=True), centres[::-1])


@pytest.mark.parametrize(("reversed_", "wanted"), [(False, (0, 2)), (True, (3, 5))])
def test_a_canonical_slice_comes_from_the_stored_one_counted_from_its_own_end(reversed_, wanted):
    geometry = Geometry(
        shape=(6, 5, 4), affine_lps=None, acquisition_axis=0, slices_reversed=reversed_, slice_positions_mm=None
    )
    assert geometry.source_slices([2, 0]) == wanted
    assert geometry.to_mm((1, 1, 1)) is None


def test_uneven_slices_lie_where_they_were_measured_and_between_them_in_proportion():
    positions = np.array([[0.0, 0, 0], [0, 0, 2], [0, 1, 10]])
    affine = np.array([[0, 0, 0.5, 0], [0, 0.5, 0, 0], [5.0, 0, 0, 0], [0, 0, 0, 1]])
    geometry = Geometry(
        shape=(3, 5, 5), affine_lps=affine, acquisition_axis=0, slices_reversed=False, slice_positions_mm=positions
    )
    assert np.allclose(geometry.to_mm((1, 2, 2)), [0, 0, 2])
    assert np.allclose(geometry.to_mm((1.25, 2, 2)), [0, 0.25, 4])
    assert np.allclose(geometry.to_mm((2, 4, 1)), [-0.5, 2, 10])


def test_slices_stored_from_the_top_run_against_their_axis():
    assert acquisition_of("LPS") == (0, False)
    assert acquisition_of("LPI") == (0, True)
    assert acquisition_of("LIP") == (1, False)
    assert acquisition_of("PIR") == (2, True)
    assert [word for word in ("LPS", "LLS", "LP", "XPS", "LRS") if is_orientation(word)] == ["LPS"]
