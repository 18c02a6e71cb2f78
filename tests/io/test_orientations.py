"""Does a scan come out the same whichever way its file stores it?"""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from slicesight.io.loading import read_volume
from slicesight.io.writers import write_dicom, write_nifti
from slicesight.phantoms.rendering import make_phantom
from slicesight.volumes.geometry import is_orientation
from slicesight.volumes.volume import Volume

ORIENTATIONS = [word for word in map("".join, product("SIPALR", repeat=3)) if is_orientation(word)]
SPACING_MM = (2.5, 0.8, 0.7)


@pytest.fixture(scope="module")
def oblique() -> Volume:
    """A small asymmetric scan, turned by 7 to 12 degrees so that no axis is exact."""
    rng = np.random.default_rng(5)
    straight = np.zeros((3, 3))
    straight[[2, 1, 0], [0, 1, 2]] = SPACING_MM
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", [10, -7, 12], degrees=True).as_matrix() @ straight
    affine[:3, 3] = (-30, 10, 100)
    return Volume(
        voxels=rng.integers(-1000, 1500, (5, 7, 6)).astype(np.float32),
        affine_lps=affine,
        spacing_mm=SPACING_MM,
        modality="CT",
        unit="HU",
        is_synthetic=True,
    )


def test_there_are_48_orientations() -> None:
    assert len(ORIENTATIONS) == 48


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("file_format", ["nifti", "dicom"])
def test_every_stored_orientation_reads_as_the_same_volume(
    oblique: Volume, orientation: str, file_format: str, tmp_path: Path
) -> None:
    if file_format == "nifti":
        write_nifti(oblique, tmp_path / "scan.nii.gz", orientation=orientation)
        scan = read_volume(tmp_path / "scan.nii.gz")
    else:
        write_dicom(oblique, tmp_path / "scan", orientation=orientation)
        scan = read_volume(tmp_path / "scan")
    np.testing.assert_array_equal(scan.voxels, oblique.voxels)
    corners = np.array([[0, 0, 0], [4, 0, 0], [0, 6, 0], [0, 0, 5], [4, 6, 5], [1.5, 2.5, 3.5]])
    expected_mm = corners @ oblique.affine_lps[:3, :3].T + oblique.affine_lps[:3, 3]
    np.testing.assert_allclose(scan.geometry.to_mm(corners), expected_mm, atol=1e-4)
    np.testing.assert_allclose(scan.spacing_mm, SPACING_MM, atol=1e-5)
    assert (scan.modality, scan.unit, scan.is_synthetic) == ("CT", "HU", True)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_source_slices_are_where_the_file_says(oblique: Volume, orientation: str, tmp_path: Path) -> None:
    """The stored slice k, found through its own pixels, is the one the canonical volume calls source slice k."""
    import nibabel as nib

    write_nifti(oblique, tmp_path / "scan.nii", orientation=orientation)
    scan = read_volume(tmp_path / "scan.nii")
    image = nib.load(tmp_path / "scan.nii")
    stored = np.asarray(image.dataobj)
    for canonical in range(scan.num_source_slices):
        (k,) = scan.geometry.source_slices([canonical])
        here = np.take(scan.voxels, canonical, axis=scan.acquisition_axis)
        assert sorted(here.ravel()) == sorted(stored[:, :, k].ravel())
        middle = [(stored.shape[0] - 1) / 2, (stored.shape[1] - 1) / 2, k, 1]
        centre_ras = (image.affine @ middle)[:3]
        np.testing.assert_allclose(scan.slice_positions_mm[k], centre_ras * (-1, -1, 1), atol=1e-4)


def test_dicom_slices_carry_their_own_uids_in_geometric_order(oblique: Volume, tmp_path: Path) -> None:
    import pydicom

    write_dicom(oblique, tmp_path / "scan", orientation="LPI")
    scan = read_volume(tmp_path / "scan")
    assert not scan.slices_reversed  # rows x columns point to superior, whatever the order of the file names
    for uid, position in zip(scan.sop_instance_uids, scan.slice_positions_mm, strict=True):
        (header,) = [h for f in (tmp_path / "scan").iterdir() if (h := pydicom.dcmread(f)).SOPInstanceUID == uid]
        corner = np.array(header.ImagePositionPatient, dtype=float)
        along_row, along_column = np.array(header.ImageOrientationPatient, dtype=float).reshape(2, 3)
        centre = corner + along_row * header.PixelSpacing[1] * (header.Columns - 1) / 2
        centre += along_column * header.PixelSpacing[0] * (header.Rows - 1) / 2
        np.testing.assert_allclose(position, centre, atol=1e-6)


@pytest.mark.parametrize("index", range(3))
def test_a_phantom_survives_nifti_and_dicom(index: int, tmp_path: Path) -> None:
    phantom = make_phantom(3, index).volume
    write_nifti(phantom, tmp_path / "scan.nii.gz")
    write_dicom(phantom, tmp_path / "scan")
    for scan in (read_volume(tmp_path / "scan.nii.gz"), read_volume(tmp_path / "scan")):
        np.testing.assert_array_equal(scan.voxels, np.rint(phantom.voxels))
        np.testing.assert_allclose(scan.affine_lps, phantom.affine_lps, atol=1e-3)
        assert (scan.plane, scan.is_synthetic, scan.unit) == (phantom.plane, True, "HU")


def test_labels_lie_on_the_volume(oblique: Volume, tmp_path: Path) -> None:
    labels = (oblique.voxels > 200).astype(np.uint8) * 3
    write_nifti(oblique, tmp_path / "labels.nii.gz", labels=labels, orientation="IRA")
    scan = read_volume(tmp_path / "labels.nii.gz", unit="arbitrary")
    np.testing.assert_array_equal(scan.voxels, labels)
    np.testing.assert_allclose(scan.affine_lps, oblique.affine_lps, atol=1e-4)
