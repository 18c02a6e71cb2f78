"""A scan's look survives how it is stored; another patient's is another look."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from slicesight.data.perceptual_hash import MAX_DIFFERENCE, difference, perceptual_hash, similar_pairs
from slicesight.io.loading import read_volume
from slicesight.phantoms.rendering import make_phantom
from slicesight.volumes.volume import Volume


@pytest.fixture(scope="module")
def scans() -> list[Volume]:
    """People scanned alike: the hardest strangers there are."""
    return [make_phantom(3, number, pixel_mm=(4.0, 4.5)).volume for number in range(6)]


def _picture(volume: Volume, voxels: np.ndarray) -> Volume:
    return replace(volume, voxels=voxels.astype(np.float32), unit="arbitrary", affine_lps=None, slice_positions_mm=None)


def _grey(volume: Volume) -> np.ndarray:
    return np.clip((volume.voxels + 160) / 400, 0, 1)


def _jpeg(volume: Volume) -> np.ndarray:
    sheets = np.moveaxis(np.rint(_grey(volume) * 255).astype(np.uint8), volume.acquisition_axis, 0)
    packed = []
    for sheet in sheets:
        buffer = io.BytesIO()
        Image.fromarray(sheet).save(buffer, "JPEG", quality=60)
        packed.append(np.asarray(Image.open(buffer)))
    return np.moveaxis(np.stack(packed), 0, volume.acquisition_axis)


def _m3d(volume: Volume) -> np.ndarray:
    """Cropped to what is not black, resized to one size, trilinear."""
    grey = np.moveaxis(_grey(volume), volume.acquisition_axis, 0)
    cropped = grey[tuple(slice(index.min(), index.max() + 1) for index in np.nonzero(grey))]
    scaled = ndimage.zoom(cropped, [a / b for a, b in zip((32, 96, 96), cropped.shape, strict=True)], order=1)
    return np.moveaxis(scaled, 0, volume.acquisition_axis)


def _rescaled(volume: Volume) -> np.ndarray:
    return (volume.voxels + 1024) / 4095


COPIES = {
    "as floats from 0 to 1": (lambda v: v.voxels, _rescaled),
    "as 8 bits": (lambda v: v.voxels, lambda v: np.rint(_rescaled(v) * 255)),
    "with a gamma": (lambda v: _grey(v), lambda v: _grey(v) ** 1.5),
    "with other voxels": (lambda v: v.voxels, lambda v: ndimage.zoom(v.voxels, (0.7, 0.6, 0.6), order=1)),
    "as JPEG": (lambda v: _grey(v) * 255, _jpeg),
    "as M3D's array": (lambda v: _grey(v) * 255, _m3d),
    "JPEG against M3D's array": (_jpeg, _m3d),
}


@pytest.mark.parametrize("kind", list(COPIES))
def test_a_copy_is_alike(scans, kind: str) -> None:
    first, second = COPIES[kind]
    for volume in scans[:3]:
        found = difference(
            perceptual_hash(_picture(volume, first(volume))), perceptual_hash(_picture(volume, second(volume)))
        )
        assert found < MAX_DIFFERENCE, kind


def test_people_scanned_alike_are_not_alike_and_pairs_are_those_of_a_loop(scans) -> None:
    hashes = np.stack([perceptual_hash(volume) for volume in (*scans, scans[2], scans[0])])
    differences = {(i, j): difference(hashes[i], hashes[j]) for j in range(len(hashes)) for i in range(j)}
    assert similar_pairs(hashes) == [(0, 7), (2, 6)]
    for least in (0.05, 0.3, 0.45):
        assert similar_pairs(hashes, least=least) == sorted(
            pair for pair, found in differences.items() if found < least
        )
    assert min(found for pair, found in differences.items() if pair not in [(0, 7), (2, 6)]) > 1.2 * MAX_DIFFERENCE


def test_many_looks_are_compared_in_blocks_without_losing_a_pair() -> None:
    hashes = np.random.default_rng(0).integers(0, 256, (300, 2, 256), dtype=np.uint8)
    hashes[[63, 64, 200]] = hashes[5]
    hashes[299, 1] = hashes[128, 1]  # equal in one of the two takes only
    assert similar_pairs(hashes) == [(5, 63), (5, 64), (5, 200), (63, 64), (63, 200), (64, 200), (128, 299)]


def test_a_scan_of_one_value_in_most_places_has_a_look() -> None:
    voxels = np.zeros((6, 12, 12), np.float32)
    voxels[3, 4, 5] = 1
    assert perceptual_hash(Volume(voxels=voxels)).shape == (2, 256)


@pytest.mark.shared_data
def test_no_two_patients_among_real_scans_are_alike(shared_folder) -> None:
    paths = sorted((shared_folder / "data" / "sts").glob("STS_0*/*_image.nii.gz"))
    hashes = np.stack([perceptual_hash(read_volume(path)) for path in paths])
    assert len(paths) > 50
    assert similar_pairs(hashes, least=2 * MAX_DIFFERENCE) == []
