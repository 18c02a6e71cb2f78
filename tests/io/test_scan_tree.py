"""Every scan of a folder is found once, whatever its format and place; nothing is passed over mutely."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from slicesight.errors import InputError, VolumeError
from slicesight.io import scan_tree
from slicesight.io.loading import read_volume
from slicesight.io.scan_tree import ScanFinder


def find(base, **options):
    return ScanFinder(base, **options).find()


def names(base, **options):
    return [scan.name for scan in find(base, **options).scans]


@pytest.fixture
def two_series(dicom_folder, tmp_path):
    """One folder with the slices of two series, as an archive pushes them."""
    folder = tmp_path / "flat"
    folder.mkdir()
    for number, rows in ((1, 12), (2, 16)):

        def edit(dataset, index, number=number):
            dataset.SeriesInstanceUID = f"1.2.{number}"
            dataset.SOPInstanceUID = f"1.2.{number}.{index}"

        for file in dicom_folder(edit, name=f"s{number}", shape=(6, rows, 10)).iterdir():
            shutil.copy(file, folder / f"{number}_{file.name}")
    return folder


def test_two_series_in_one_folder_are_two_scans_and_each_reads_as_itself(two_series):
    found = find(two_series).scans
    assert [(scan.name, scan.series, len(scan.files)) for scan in found] == [(".", "1.2.1", 6), (".", "1.2.2", 6)]
    for scan in found:
        alone = read_volume(two_series, series_uid=scan.series)
        np.testing.assert_array_equal(scan.read().voxels, alone.voxels)
    assert found[0].read().shape == (6, 12, 10)


def test_a_series_spread_over_folders_is_one_scan_and_a_copy_of_it_another(two_series, tmp_path):
    base = tmp_path / "base"
    for number, file in enumerate(sorted(two_series.glob("1_*"))):
        place = base / "study" / f"part{number % 2}"
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, place)
    assert [(scan.name, len(scan.files)) for scan in find(base).scans] == [("study", 6)]
    whole = find(base).scans[0].read()
    shutil.copytree(base / "study", base / "copy")
    assert names(base) == ["copy/part0", "copy/part1", "study/part0", "study/part1"], "halves of copies are never mixed"
    assert whole.shape == (6, 12, 10)


def test_every_format_is_found_by_content_and_texts_are_not(two_series, phantom_file, tmp_path):
    base = tmp_path / "all"
    shutil.copytree(two_series, base / "dicom")
    shutil.copy(phantom_file, base / "scan.of.any.name")
    np.save(base / "array.npy", np.zeros((4, 5, 6), np.float32))
    for name in ("notes.txt", "questions.csv", ".hidden.nii", "half.nii.gz.part"):
        (base / name).write_bytes(phantom_file.read_bytes())
    assert names(base) == ["array.npy", "dicom", "dicom", "scan.of.any.name"]
    assert names(base, leave_out=[base / "dicom"]) == ["array.npy", "scan.of.any.name"]


def test_what_is_called_like_a_scan_and_is_none_is_given_and_reading_says_why(tmp_path):
    (tmp_path / "empty.nii.gz").write_bytes(b"")
    (tmp_path / "text.dcm").write_text("hello")
    (tmp_path / "readme").write_text("hello")
    found = find(tmp_path).scans
    assert [scan.name for scan in found] == ["empty.nii.gz", "text.dcm"]
    for scan, why in zip(found, ("the file is empty", "this is a text file"), strict=True):
        with pytest.raises(VolumeError, match=why):
            scan.read()


def test_a_damaged_dicom_file_is_one_bad_case_and_the_series_beside_it_say_so(two_series):
    (two_series / "cut.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\x02\0\0\0UL\x04\0")
    bad, *good = sorted(find(two_series).scans, key=lambda scan: scan.problem is None)
    assert "header" in bad.problem
    assert bad.name == "cut.dcm"
    with pytest.raises(VolumeError, match=r"cut\.dcm"):
        bad.read()
    assert [scan.read().shape for scan in good] == [(6, 12, 10), (6, 16, 10)]
    assert all("may have been a part of it" in scan.notes[0] for scan in good)


def test_localizers_and_objects_without_images_are_left_out_and_counted(dicom_folder, two_series):
    def localizer(dataset, index):
        dataset.SeriesInstanceUID, dataset.ImageType = "1.2.9", ["ORIGINAL", "PRIMARY", "LOCALIZER"]

    def report(dataset, index):
        dataset.SeriesInstanceUID, dataset.Modality = "1.2.8", "SR"

    for edit in (localizer, report):
        for file in dicom_folder(edit, name=edit.__name__).iterdir():
            shutil.copy(file, two_series / f"{edit.__name__}{file.name}")
    found = find(two_series)
    assert [scan.series for scan in found.scans] == ["1.2.1", "1.2.2"]
    assert found.left_out == {
        "DICOM objects without images": 6,
        "DICOM series of a localizer, secondary captures or a single image": 1,
    }


def test_a_file_that_has_not_changed_is_not_opened_again(two_series, monkeypatch):
    opened, real = [], scan_tree.image_facts
    monkeypatch.setattr(scan_tree, "image_facts", lambda file: opened.append(file.name) or real(file))
    finder = ScanFinder(two_series)
    first = finder.find().scans
    assert len(opened) == 12
    assert [scan.stamp for scan in finder.find().scans] == [scan.stamp for scan in first]
    assert len(opened) == 12
    changed = sorted(two_series.iterdir())[0]
    changed.write_bytes(changed.read_bytes() + b"\0")
    assert [scan.has_changed() for scan in first] == [True, False]
    assert finder.find().scans[0].stamp != first[0].stamp
    assert opened[12:] == [changed.name]


def test_the_data_file_of_a_header_belongs_to_its_scan(tmp_path):
    header = "ObjectType = Image\nNDims = 3\nDimSize = 4 5 6\nElementType = MET_SHORT\nElementDataFile = voxels.bin\n"
    (tmp_path / "scan.mhd").write_text(header)
    (tmp_path / "voxels.bin").write_bytes(bytes(240))
    (scan,) = find(tmp_path).scans
    assert [file.name for file in scan.files] == ["scan.mhd", "voxels.bin"]
    (tmp_path / "voxels.bin").write_bytes(bytes(239) + b"\1")
    assert scan.has_changed()


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        find(tmp_path / "nowhere")
