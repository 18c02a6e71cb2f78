"""Does every window word mean what it says, and is M3D's own preprocessing reproduced?"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from slicesight.errors import InputError, VolumeError
from slicesight.volumes.grid import GridSpec, to_grid
from slicesight.volumes.receipt import doubts
from slicesight.volumes.volume import Volume
from slicesight.volumes.windows import CT_WINDOWS_HU

SMALL = {"num_slices": 4, "height": 6, "width": 6, "crop_foreground": False}


@pytest.mark.parametrize(("word", "bounds"), CT_WINDOWS_HU.items())
def test_a_named_window_maps_its_ends_to_black_and_white(word: str, bounds: tuple[float, float]) -> None:
    voxels = np.full((4, 6, 6), bounds[0], np.float32)
    voxels[2:] = bounds[1]
    grid = to_grid(Volume(voxels=voxels, unit="HU"), GridSpec(window=word.replace("_", " "), **SMALL))
    assert (grid.voxels[0, 0, 0], grid.voxels[3, 0, 0]) == (0, 1)
    assert grid.receipt["window"] == {"name": word, "low": bounds[0], "high": bounds[1], "unit": "HU"}


def test_percentiles_are_taken_in_the_foreground() -> None:
    rng = np.random.default_rng(0)
    voxels = np.zeros((20, 30, 30), np.float32)
    voxels[:, 10:20, 10:20] = rng.uniform(100, 1100, (20, 10, 10))
    grid = to_grid(Volume(voxels=voxels), GridSpec(num_slices=4, height=6, width=6))
    body = voxels[voxels > 0]
    expected = np.percentile(body[body > 0.05 * np.percentile(voxels, 99.5)], [0.5, 99.5])
    np.testing.assert_allclose([grid.receipt["window"]["low"], grid.receipt["window"]["high"]], expected, rtol=1e-6)


def test_a_ct_window_on_an_mr_is_refused() -> None:
    scan = Volume(voxels=np.random.default_rng(0).random((4, 4, 4), dtype=np.float32), modality="MR")
    with pytest.raises(VolumeError, match=r"window 'lung' is in HU.*MR.*'percentile'"):
        to_grid(scan, GridSpec(window="lung"))


def test_three_windows_make_three_channels(scan) -> None:
    spec = GridSpec(window="lung+soft tissue+bone", num_slices=4, height=6, width=6)
    grid = to_grid(scan, spec)
    assert grid.channels.shape == (3, 4, 6, 6)
    for channel, word in zip(grid.channels, ("lung", "soft_tissue", "bone"), strict=True):
        np.testing.assert_array_equal(channel, to_grid(scan, replace(spec, window=word)).voxels)
    np.testing.assert_array_equal(grid.voxels, grid.channels[0])
    assert [window["name"] for window in grid.receipt["windows"]] == ["lung", "soft_tissue", "bone"]
    with pytest.raises(InputError, match="2 parts; expected 3"):
        GridSpec(window="lung+bone")


def with_torch(scaled: np.ndarray, size: tuple[int, int, int]) -> np.ndarray:
    """What MONAI's CropForeground and Resize(mode="trilinear") do, in their own words: the box above 0, interpolate."""
    held = np.argwhere(scaled > 0)
    (z0, y0, x0), (z1, y1, x1) = held.min(axis=0), held.max(axis=0) + 1
    cropped = torch.from_numpy(scaled[z0:z1, y0:y1, x0:x1])[None, None]
    return torch.nn.functional.interpolate(cropped, size=size, mode="trilinear", align_corners=False)[0, 0].numpy()


def with_monai(scaled: np.ndarray, size: tuple[int, int, int]) -> np.ndarray:
    monai = pytest.importorskip("monai.transforms")
    return monai.Resize(size, mode="trilinear")(monai.CropForeground()(scaled[None]))[0].numpy()


@pytest.mark.parametrize("reference", [with_torch, pytest.param(with_monai, marks=pytest.mark.slow)])
@pytest.mark.parametrize("shape", [(40, 60, 50), (20, 33, 70)])
def test_m3d_equals_its_own_pipeline(shape: tuple[int, int, int], reference) -> None:
    """M3D: min-max to [0, 1], CropForeground (> 0), trilinear Resize without anti-aliasing."""
    rng = np.random.default_rng(3)
    voxels = np.full(shape, -1024, np.float32)
    voxels[3:-2, 5:-7, 4:-1] = rng.normal(0, 300, tuple(np.array(shape) - (5, 12, 5)))
    voxels[0, 1, 0] = -1024
    np.maximum(voxels, -1024, out=voxels)
    grid = to_grid(Volume(voxels=voxels, unit="HU"), GridSpec(num_slices=32, height=48, width=40, window="m3d"))
    scaled = (voxels - voxels.min()) / (voxels.max() - voxels.min())
    np.testing.assert_allclose(grid.voxels, reference(scaled, (32, 48, 40)), atol=1e-5)
    assert grid.receipt["resize"] == "trilinear, not anti-aliased"


def doubts_about(voxels: np.ndarray, spacing=(2.0, 1.0, 1.0)) -> str:
    return " / ".join(doubts(voxels.astype(np.float32), spacing, unit="HU", num_slices=len(voxels)))


def test_a_sane_ct_raises_no_doubt(scan) -> None:
    assert doubts(scan.voxels, (2.0, 1.0, 1.0), unit="HU", num_slices=20) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda hu: hu - 1024, "rescale seems applied twice"),
        (lambda hu: hu + 1024, "rescale intercept seems missing"),
        (lambda hu: np.where(hu > 600, 30_000, hu), "HU out of range"),
        (lambda hu: np.where(hu < -995, -3024, hu), "HU out of range"),
    ],
)
def test_implausible_hu_are_doubted(scan, change, words: str) -> None:
    assert words in doubts_about(np.repeat(change(scan.voxels), 3, axis=0))


def test_few_slices_and_anisotropy_are_doubted(scan) -> None:
    found = doubts_about(scan.voxels, (8.0, 1.0, 1.0))
    assert "very few slices (6)" in found
    assert "anisotropic voxels: 8.00 mm against 1.00 mm" in found
