import nibabel as nib
import numpy as np
import pytest

from slicesight.errors import InputError, VolumeError
from slicesight.io.loading import read_volume
from slicesight.io.masks import read_labels
from slicesight.models.med3dinsight.preparation import Preparation, prepare_mask, prepare_scan
from slicesight.training.scan_list import ScanDataset, read_cases
from slicesight.volumes.volume import Volume


def some_volume(shape=(10, 12, 14), spacing=(3.0, 1.0, 1.5)):
    voxels = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    return Volume(voxels=voxels, spacing_mm=spacing, affine_lps=np.diag([*spacing[::-1], 1.0]))


def test_the_size_follows_from_the_spacing_and_the_whole_extent_is_kept():
    scan = prepare_scan(some_volume(), Preparation(spacing_mm=(2.0, 2.0, 2.0)), image_size=(8, 8, 8), name="x")
    assert scan.voxels.shape == (15, 6, 10)
    assert scan.box == ((0, 10), (0, 12), (0, 14))
    assert scan.voxels.min() >= 0
    assert scan.voxels.max() <= 1


def test_without_a_spacing_the_scan_becomes_the_networks_cube():
    volume = Volume(voxels=some_volume().voxels)
    assert prepare_scan(volume, Preparation(), image_size=(8, 9, 7), name="x").voxels.shape == (8, 9, 7)
    with pytest.raises(VolumeError, match=r"x\.nii: the file states no voxel size"):
        prepare_scan(volume, Preparation(spacing_mm=(1, 1, 1)), image_size=(8, 8, 8), name="x.nii")


def test_a_scan_that_would_not_fit_is_refused_with_its_size():
    with pytest.raises(VolumeError, match=r"3000×1200×2100 voxels .* above the limit"):
        prepare_scan(some_volume(), Preparation(spacing_mm=(0.01, 0.01, 0.01)), image_size=(8, 8, 8), name="x")


def test_a_mask_keeps_its_volume_and_its_classes_when_it_shrinks():
    labels = np.zeros((30, 30, 30), np.int32)
    labels[3:18, 6:21, 3:12] = 4
    labels[18:27, 6:21, 3:27] = 9
    box = ((0, 30), (0, 30), (0, 30))
    classes = prepare_mask(labels, box=box, size=(10, 10, 10), values=(9, 4))
    assert set(np.unique(classes)) == {0, 1, 2}
    assert (classes == 2).sum() * 27 == (labels == 4).sum()
    assert (classes == 1).sum() * 27 == (labels == 9).sum()
    assert classes[2, 4, 2] == 2
    only = prepare_mask(labels, box=box, size=(10, 10, 10), values=(4,))
    assert (only == 1).sum() == (classes == 2).sum()
    inside = prepare_mask(labels, box=((3, 18), (6, 21), (3, 12)), size=(5, 5, 3), values=(4,))
    assert inside.all()


def test_a_mask_keeps_its_size_at_its_own_grid():
    labels = np.random.default_rng(1).integers(0, 3, (6, 7, 8)).astype(np.int32)
    box = ((0, 6), (0, 7), (0, 8))
    assert np.array_equal(prepare_mask(labels, box=box, size=(6, 7, 8), values=(1, 2)), labels)


def save(values, path, affine=None):
    nib.save(nib.Nifti1Image(values, np.diag([1.0, 1, 2, 1]) if affine is None else affine), path)
    return path


def test_a_blank_mask_is_read_and_a_blank_scan_is_not(tmp_path):
    scan = save(np.random.default_rng(2).normal(50, 9, (8, 8, 8)).astype(np.float32), tmp_path / "a.nii.gz")
    blank = save(np.zeros((8, 8, 8), np.uint8), tmp_path / "b.nii.gz")
    assert not read_labels(blank, read_volume(scan)).any()
    with pytest.raises(VolumeError, match="every voxel is 0"):
        read_volume(blank)


def test_a_mask_in_other_axes_lies_on_its_scan_and_one_elsewhere_is_refused(tmp_path):
    values = np.random.default_rng(3).normal(50, 9, (6, 8, 10)).astype(np.float32)
    volume = read_volume(save(values, tmp_path / "scan.nii.gz"))
    mask = np.zeros((6, 8, 10), np.uint8)
    mask[1, 2, 3] = 5
    flipped = np.diag([-1.0, 1, 2, 1])
    flipped[0, 3] = 5.0
    same = read_labels(save(mask, tmp_path / "same.nii.gz"), volume)
    turned = read_labels(save(mask[::-1], tmp_path / "turned.nii.gz", flipped), volume)
    assert same.sum() == 5
    assert np.array_equal(same, turned)
    moved = np.diag([1.0, 1, 2, 1])
    moved[2, 3] = 6.0
    with pytest.raises(VolumeError, match=r"moved\.nii\.gz: the mask lies up to 6\.0 mm off the scan"):
        read_labels(save(mask, tmp_path / "moved.nii.gz", moved), volume)
    with pytest.raises(VolumeError, match="expected one grid"):
        read_labels(save(mask[:4], tmp_path / "short.nii.gz"), volume)
    with pytest.raises(VolumeError, match="fractions or negative values"):
        read_labels(save(mask * 0.5, tmp_path / "half.nii.gz"), volume)


def test_prepared_files_are_made_once_and_anew_when_a_source_or_a_setting_changes(balls, tmp_path):
    case = read_cases(balls)[0]
    how = Preparation(spacing_mm=(2.0, 2.0, 2.0))
    prepared = ScanDataset(tmp_path, how, image_size=(16, 16, 16), labels={"a": 1})
    prepared.prepare(case)
    files = {file: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
    assert len(files) == 3
    prepared.prepare(case)
    assert {file: file.stat().st_mtime_ns for file in tmp_path.iterdir()} == files
    voxels, mask = prepared.load(case)
    assert voxels.shape == mask.shape
    assert voxels[mask == 1].mean() > voxels[mask == 0].mean() + 50
    coarse = Preparation(spacing_mm=(2.0, 2.0, 4.0))
    ScanDataset(tmp_path, coarse, image_size=(16, 16, 16), labels={"a": 1}).prepare(case)
    assert len(list(tmp_path.iterdir())) == 6
    ScanDataset(tmp_path, how, image_size=(8, 8, 8), labels={"a": 1}).prepare(case)
    assert len(list(tmp_path.iterdir())) == 6


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(InputError, match="three channels"):
        Preparation(window="lung+soft_tissue+bone")
    with pytest.raises(InputError, match="spacing_mm"):
        Preparation(spacing_mm=(0.0, 1.0, 1.0))
