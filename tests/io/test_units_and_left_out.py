"""Is a unit only said where the file says it, is NaN filled only as asked, and is every file that is left out named?"""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest

from slicesight.errors import InputError, VolumeError
from slicesight.io.loading import read_volume


@pytest.mark.parametrize(("rescale_type", "unit"), [("MGML", "arbitrary"), ("Z_EFF", "arbitrary"), ("HU", "HU")])
def test_a_ct_is_in_hu_only_where_its_rescale_type_says_so(scan, dicom_folder, rescale_type: str, unit: str) -> None:
    folder = dicom_folder(lambda dataset, index: setattr(dataset, "RescaleType", rescale_type))
    read = read_volume(folder)
    assert read.unit == unit
    np.testing.assert_array_equal(read.voxels, scan.voxels)
    assert any(rescale_type in note for note in read.warnings) == (unit == "arbitrary")


def body(values: np.ndarray, path: Path) -> Path:
    nib.save(nib.Nifti1Image(values, np.diag([1.0, 1.0, 1.0, 1.0])), path)
    return path


def test_a_ct_stored_with_an_offset_is_remarked(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    hu = np.where(rng.random((12, 12, 12)) < 0.5, -1000, 40) + rng.integers(-20, 20, (12, 12, 12))
    shifted = read_volume(body((hu + 1024).astype(np.uint16), tmp_path / "shifted.nii.gz"))
    assert shifted.unit == "arbitrary"
    assert any("HU + 1024" in note for note in shifted.warnings)
    even = read_volume(body(rng.integers(0, 1300, (12, 12, 12)).astype(np.uint16), tmp_path / "mr.nii.gz"))
    assert not any("HU + 1024" in note for note in even.warnings)


@pytest.mark.parametrize(("fill", "value"), [("LOWEST", -3.5), (-1000, -1000.0), ("-7.5", -7.5)])
def test_a_background_of_nan_takes_what_is_asked_for(tmp_path: Path, fill: object, value: float) -> None:
    values = np.linspace(-3.5, 50, 8 * 9 * 10).reshape(8, 9, 10).astype(np.float32)
    holes = values.copy()
    holes[:, :2] = np.nan
    holes[0, 5, 5] = np.inf
    path = body(holes, tmp_path / "nan.nii.gz")
    with pytest.raises(VolumeError, match="--fill LOWEST or VALUE"):
        read_volume(path)
    read = read_volume(path, fill=fill)
    whole = read_volume(body(np.where(np.isfinite(holes), values, 1e6), tmp_path / "marked.nii.gz"))
    expected = np.where(
        whole.voxels == 1e6, np.float32(value if fill != "LOWEST" else values[:, 2:].min()), whole.voxels
    )
    np.testing.assert_array_equal(read.voxels, expected)
    assert any("161 voxels were NaN" in note for note in read.warnings)


def test_a_fill_that_is_no_value_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="fill is 'zero'; expected LOWEST or a number"):
        read_volume(tmp_path / "any.nii", fill="zero")


def test_files_that_are_no_slices_are_counted_and_named(scan, dicom_folder) -> None:
    folder = dicom_folder()
    (folder / "slice_0002.dcm").write_bytes(b"")
    (folder / "slice_0004.dcm").write_text("<html>502 Bad Gateway</html>")
    read = read_volume(folder)
    np.testing.assert_array_equal(read.voxels, np.delete(scan.voxels, [1, 3], axis=0))
    (note,) = [note for note in read.warnings if "of the folder's" in note]
    assert "left out 2 of the folder's 6 files" in note
    assert "slice_0002.dcm (empty), slice_0004.dcm" in note


def test_objects_without_images_are_counted(scan, dicom_folder) -> None:
    folder = dicom_folder()
    extra = pydicom.dcmread(folder / "slice_0001.dcm")
    extra.Modality = "SR"
    extra.save_as(folder / "report.dcm")
    assert any("left out 1 objects without images (SR)" in note for note in read_volume(folder).warnings)
