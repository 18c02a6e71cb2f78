"""Is the model grid an upright, windowed picture of the scan, and does every grid slice lead back to where it lies?"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from slicesight.errors import InputError
from slicesight.volumes.grid import GridSpec, to_grid
from slicesight.volumes.volume import Volume

PLANES = ("axial", "coronal", "sagittal")


def scan_of(voxels: np.ndarray, *, axis: int = 0, is_reversed: bool = False, unit: str = "HU") -> Volume:
    affine = np.array([[0, 0, 0.7, -30], [0, 0.8, 0, 10], [2.5, 0, 0, 100], [0, 0, 0, 1.0]])
    return Volume(
        voxels=voxels.astype(np.float32),
        affine_lps=affine,
        spacing_mm=(2.5, 0.8, 0.7),
        acquisition_axis=axis,
        slices_reversed=is_reversed,
        unit=unit,
        modality="CT" if unit == "HU" else "unknown",
    )


def ramp(shape: tuple[int, int, int], axis: int) -> np.ndarray:
    return np.broadcast_to(
        np.arange(shape[axis], dtype=np.float32).reshape([-1 if a == axis else 1 for a in range(3)]), shape
    )


@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize("shape", [(40, 24, 30), (9, 50, 20), (16, 7, 64)])
def test_grid_pixels_map_back_exactly(plane: str, shape: tuple[int, int, int]) -> None:
    """A scan whose values ARE its own index: what a grid pixel shows must be the index it claims to come from."""
    spec = GridSpec(num_slices=12, height=10, width=14, plane=plane, window="-100,100", crop_foreground=False)
    index = np.stack(np.meshgrid(np.arange(12), np.arange(10), np.arange(14), indexing="ij"), axis=-1)
    for axis in range(3):
        grid = to_grid(scan_of(ramp(shape, axis)), spec)
        claimed = grid.to_canonical(index)
        shown = grid.voxels * 200 - 100
        margin = max(shape[axis] / 8, 1)  # the filter is cut off at the edge
        inside = (claimed[..., axis] > margin) & (claimed[..., axis] < shape[axis] - 1 - margin)
        assert inside.any()
        # A sampled triangle filter is off its centre by up to 0.08 voxel when it shrinks, by nothing when it does not.
        tolerance = 2e-4 if shape[axis] <= 10 else 0.09
        np.testing.assert_allclose(shown[inside], claimed[..., axis][inside], atol=tolerance)
        np.testing.assert_allclose(grid.to_grid_index(claimed), index, atol=1e-9)


@pytest.mark.parametrize("plane", PLANES)
def test_millimetres_follow_the_affine(plane: str) -> None:
    scan = scan_of(np.random.default_rng(0).normal(0, 300, (20, 30, 40)))
    grid = to_grid(scan, GridSpec(num_slices=8, height=9, width=11, plane=plane))
    canonical = grid.to_canonical([3, 4, 5])
    np.testing.assert_allclose(grid.to_mm([3, 4, 5]), (scan.affine_lps @ [*canonical, 1])[:3])
    middle = grid.to_mm([3, (9 - 1) / 2, (11 - 1) / 2])
    np.testing.assert_allclose(grid.slices[3].position_mm, middle)


@pytest.mark.parametrize("is_reversed", [False, True])
@pytest.mark.parametrize("axis", range(3))
def test_a_bright_source_slice_is_found_in_the_grid_slices_that_claim_it(axis: int, is_reversed: bool) -> None:
    shape = [11, 13, 12]
    shape[axis] = 40
    for source in (0, 6, 21, 39):
        voxels = np.zeros(shape, np.float32)
        stored_at = 39 - source if is_reversed else source
        voxels[tuple(stored_at if a == axis else slice(None) for a in range(3))] = 100
        grid = to_grid(scan_of(voxels, axis=axis, is_reversed=is_reversed), GridSpec(num_slices=16, height=8, width=8))
        brightest = int(grid.voxels.mean(axis=(1, 2)).argmax())
        assert source in grid.slices[brightest].source_slices
        assert grid.grid_slices_of([source]) == (brightest,)


@pytest.mark.parametrize("num_source", [5, 31, 32, 33, 64, 187])
def test_source_slices_are_shared_out_among_grid_slices(num_source: int) -> None:
    scan = scan_of(np.random.default_rng(0).normal(0, 300, (num_source, 6, 6)))
    grid = to_grid(scan, GridSpec(height=4, width=4, crop_foreground=False))
    listed = [index for piece in grid.slices for index in piece.source_slices]
    assert listed == sorted(listed)
    assert set(listed) == set(range(num_source))
    if num_source >= 32:
        assert len(listed) == num_source
    for piece in grid.slices:
        place = grid.to_canonical([piece.index, 0, 0])[0]
        assert abs(np.mean(piece.source_slices) - place) <= 0.5 + 1e-9


def test_a_reformatted_plane_names_every_slice_it_cuts() -> None:
    voxels = np.full((20, 16, 16), -1000.0)
    voxels[4:15] = 40
    grid = to_grid(scan_of(voxels), GridSpec(num_slices=8, height=8, width=8, plane="coronal"))
    assert grid.plane == "coronal"
    assert grid.slices[0].source_slices == tuple(range(4, 15))


@pytest.mark.parametrize(("plane", "expected"), [("axial", (6, 1, 6)), ("coronal", (1, 1, 6)), ("sagittal", (6, 1, 1))])
def test_pictures_are_upright(plane: str, expected: tuple[int, int, int]) -> None:
    """A lesion that is superior, anterior and left: top of coronal rows, top of axial rows, right-hand columns."""
    voxels = np.zeros((16, 16, 16))
    voxels[12:14, 2:4, 12:14] = 200
    spec = GridSpec(num_slices=8, height=8, width=8, plane=plane, window="0,200", crop_foreground=False)
    grid = to_grid(scan_of(voxels), spec)
    assert np.unravel_index(grid.voxels.argmax(), grid.voxels.shape) == expected


@pytest.mark.parametrize("size", [(12, 20), (50, 64), (12, 64), (33, 41)])
def test_slices_equal_torch_with_antialias(size: tuple[int, int]) -> None:
    voxels = np.random.default_rng(1).normal(0, 200, (6, 33, 41)).astype(np.float32)
    spec = GridSpec(num_slices=6, height=size[0], width=size[1], window="-500,500", crop_foreground=False)
    grey = torch.from_numpy(((voxels + 500) / 1000).clip(0, 1))[:, None]
    expected = torch.nn.functional.interpolate(grey, size=size, mode="bilinear", antialias=True)[:, 0]
    np.testing.assert_allclose(to_grid(scan_of(voxels), spec).voxels, expected.numpy(), atol=2e-6)


def test_the_crop_holds_the_body_and_ignores_noise() -> None:
    rng = np.random.default_rng(2)
    voxels = np.full((30, 40, 50), -1000.0)
    voxels[5:20, 8:31, 12:44] = 40
    voxels[rng.integers(0, 30, 12), rng.integers(0, 40, 12), rng.integers(0, 50, 12)] = 500
    assert to_grid(scan_of(voxels), GridSpec(height=16, width=16)).box == ((5, 20), (8, 31), (12, 44))


def test_values_outside_the_window_are_clipped_and_the_rest_is_linear() -> None:
    voxels = np.full((4, 4, 4), 40.0)
    voxels[0], voxels[1], voxels[2] = -1000, 3000, -60
    spec = GridSpec(num_slices=4, height=4, width=4, crop_foreground=False)
    grid = to_grid(scan_of(voxels), spec)
    np.testing.assert_allclose(grid.voxels[:, 0, 0], [0, 1, 0.25, 0.5], atol=1e-6)
    assert grid.spec.window == "soft_tissue"


def test_uneven_slices_keep_their_own_positions() -> None:
    scan = scan_of(np.random.default_rng(0).normal(0, 300, (8, 6, 6)))
    centres = np.stack([np.full(8, 2.0), np.linspace(0, 7, 8), np.array([0, 1, 2, 5, 9, 10, 20, 40.0])], axis=1)
    grid = to_grid(
        replace(scan, slice_positions_mm=centres), GridSpec(num_slices=8, height=6, width=6, crop_foreground=False)
    )
    np.testing.assert_allclose([piece.position_mm for piece in grid.slices], centres)
    np.testing.assert_allclose(grid.to_mm([4.5, 2.5, 2.5]), (centres[4] + centres[5]) / 2)
    np.testing.assert_allclose(grid.to_mm([4, 2.5, 4.5]), centres[4] + [1.4, 0, 0])


def test_int16_voxels_give_the_same_grid() -> None:
    voxels = np.random.default_rng(0).integers(-1000, 1000, (20, 18, 17))
    floats = scan_of(voxels)
    whole = replace(floats, voxels=voxels.astype(np.int16))
    spec = GridSpec(num_slices=8, height=8, width=8)
    np.testing.assert_array_equal(to_grid(floats, spec).voxels, to_grid(whole, spec).voxels)


def test_the_receipt_is_json_and_the_spec_survives_a_round_trip() -> None:
    import json

    grid = to_grid(scan_of(np.random.default_rng(0).normal(0, 300, (8, 6, 6))), GridSpec(height=4, width=4))
    assert json.loads(json.dumps(grid.receipt))["window"] == {
        "name": "soft_tissue",
        "low": -160,
        "high": 240,
        "unit": "HU",
    }
    assert GridSpec.from_dict(grid.spec.to_dict()) == grid.spec


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"num_slices": 0}, "num_slices"),
        ({"plane": "oblique"}, "coronal"),
        ({"window": "lungs"}, "did you mean 'lung'"),
        ({"window": "240,-160"}, "lower value first"),
        ({"windw": "lung"}, "windw"),
    ],
)
def test_a_wrong_setting_is_named(settings: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        GridSpec.from_dict(settings)
