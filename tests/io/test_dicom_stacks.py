"""Is a DICOM series of several stacks read as one of them, never as a mixture?

Oracle: the written scan; where a second stack is added, its values are the first's plus a number.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import generate_uid

from dicom_items import item
from slicesight.errors import VolumeError
from slicesight.io.loading import read_volume

ADDED = 100.0


def add_stack(folder: Path, edit: Callable[[Dataset, int], None], *, first: Callable[[Dataset], None] | None = None):
    """A second stack of the series: copies of every slice with other values, edited; `first` edits the old ones."""
    for index, file in enumerate(sorted(folder.glob("slice_*.dcm"))):
        dataset = pydicom.dcmread(file)
        if first is not None:
            first(dataset)
            dataset.save_as(file)
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        dataset.RescaleIntercept = float(dataset.RescaleIntercept) + ADDED
        dataset.InstanceNumber = 100 + index
        edit(dataset, index)
        dataset.save_as(folder / f"z_{index:04d}.dcm")


def setting(**values: object) -> Callable[..., None]:
    def edit(dataset: Dataset, _: int = 0) -> None:
        for keyword, value in values.items():
            setattr(dataset, keyword, value)

    return edit


def siemens_b(b_value: int) -> Callable[..., None]:
    def edit(dataset: Dataset, _: int = 0) -> None:
        block = dataset.private_block(0x0019, "SIEMENS MR HEADER", create=True)
        if 0x0C in block:
            del block[0x0C]
        block.add_new(0x0C, "IS", str(b_value))

    return edit


def ge_b(value: int) -> Callable[[Dataset], None]:
    def edit(dataset: Dataset) -> None:
        block = dataset.private_block(0x0043, "GEMS_PARM_01", create=True)
        block.add_new(0x39, "IS", [100_000 + value, 8, 0, 0])

    return edit


@pytest.mark.parametrize(
    ("first", "second", "labels"),
    [
        (setting(EchoTime=72), setting(EchoTime=144), ("TE 72 ms", "TE 144 ms")),
        (setting(DiffusionBValue=0.0), setting(DiffusionBValue=1000.0), ("b = 0", "b = 1000")),
        (siemens_b(50), siemens_b(800), ("b = 50", "b = 800")),
        (setting(AcquisitionNumber=1), setting(AcquisitionNumber=2), ("acquisition 1", "acquisition 2")),
        (setting(StackID="1"), setting(StackID="2"), ("stack 1", "stack 2")),
        (setting(TemporalPositionIdentifier=1), setting(TemporalPositionIdentifier=2), ("position 1", "position 2")),
        (ge_b(50), ge_b(800), ("b = 50", "b = 800")),
        (
            setting(DiffusionGradientOrientation=[1.0, 0.0, 0.0]),
            setting(DiffusionGradientOrientation=[1.0, 0.5, 0.0]),
            ("direction (1, 0, 0)", "direction (1, 0.5, 0)"),
        ),
        (setting(FrameReferenceTime=5.0), setting(FrameReferenceTime=9.0), ("time 5 ms", "time 9 ms")),
        (setting(AcquisitionTime="113000"), setting(AcquisitionTime="120000"), ("time 0", "time 1")),
        (setting(TriggerTime=0.0), setting(TriggerTime=400.0), ("trigger 0 ms", "trigger 400 ms")),
        (setting(ImageType=["ORIGINAL", "PRIMARY", "M"]), setting(ImageType=["ORIGINAL", "PRIMARY", "P"]), ("M", "P")),
    ],
)
@pytest.mark.parametrize("is_reversed", [False, True])
def test_volumes_at_the_same_places_are_told_apart_by_their_headers(
    scan, dicom_folder, first, second, labels, is_reversed: bool
) -> None:
    folder = dicom_folder()

    def edit(dataset: Dataset, index: int) -> None:
        second(dataset)
        if is_reversed:  # the second volume was acquired from the other end, so instance numbers say nothing
            dataset.InstanceNumber = 100 - index
        if index % 2:
            dataset.InstanceNumber -= 100

    add_stack(folder, edit, first=first)
    with pytest.raises(VolumeError, match=r"2 volumes in one series.*--time-point 0…1") as refused:
        read_volume(folder)
    assert f"0: {'' if 'position' not in labels[0] else 'temporal '}" in str(refused.value)
    assert all(label in str(refused.value) for label in labels)
    for number in (0, 1):
        read = read_volume(folder, time_point=number)
        np.testing.assert_array_equal(read.voxels, scan.voxels + number * ADDED)
        assert any(labels[number] in note for note in read.warnings)


def test_echoes_and_b_values_together_are_named_together(scan, dicom_folder) -> None:
    folder = dicom_folder()
    add_stack(folder, setting(EchoTime=72, DiffusionBValue=1000.0), first=setting(EchoTime=72, DiffusionBValue=0.0))
    with pytest.raises(VolumeError, match=r"0: b = 0; 1: b = 1000"):
        read_volume(folder)
    for file in folder.glob("z_*.dcm"):
        dataset = pydicom.dcmread(file)
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        dataset.EchoTime = 90
        dataset.save_as(folder / f"third_{file.name}")
    with pytest.raises(VolumeError, match=r"0: TE 72 ms, b = 0; 1: TE 72 ms, b = 1000; 2: TE 90 ms"):
        read_volume(folder)


@pytest.mark.parametrize("echo_times", [[4.92, 4.93] * 3, [None, 5, 5, 5, 5, 5]])
def test_rounding_or_a_lone_slice_makes_no_second_echo(scan, dicom_folder, echo_times: list[float | None]) -> None:
    folder = dicom_folder(lambda dataset, index: setattr(dataset, "EchoTime", echo_times[index]))
    np.testing.assert_array_equal(read_volume(folder).voxels, scan.voxels)


def test_a_few_images_more_are_no_second_volume(dicom_folder) -> None:
    folder = dicom_folder()
    add_stack(folder, setting(TemporalPositionIdentifier=2), first=setting(TemporalPositionIdentifier=1))
    for index in range(2, 6):
        (folder / f"z_{index:04d}.dcm").unlink()
    with pytest.raises(VolumeError, match="2 of 6 slice positions hold more than one image"):
        read_volume(folder)


def test_a_missing_image_of_one_volume_does_not_refuse_the_others(scan, dicom_folder) -> None:
    folder = dicom_folder()
    add_stack(folder, setting(TemporalPositionIdentifier=2), first=setting(TemporalPositionIdentifier=1))
    (folder / "z_0003.dcm").unlink()
    np.testing.assert_array_equal(read_volume(folder, time_point=0).voxels, scan.voxels)
    lacking = read_volume(folder, time_point=1)
    np.testing.assert_array_equal(lacking.voxels, np.delete(scan.voxels, 3, axis=0) + ADDED)
    assert any("about 1 slices are missing" in note for note in lacking.warnings)


def shifted(x: float, z: float, **values: object) -> Callable[[Dataset, int], None]:
    def edit(dataset: Dataset, _: int) -> None:
        position = [float(value) for value in dataset.ImagePositionPatient]
        dataset.ImagePositionPatient = [position[0] + x, position[1], position[2] + z]
        setting(**values)(dataset)

    return edit


def test_a_second_pass_half_a_slice_off_is_not_joined_to_the_first(scan, dicom_folder) -> None:
    folder = dicom_folder()
    add_stack(folder, shifted(0, 1.25, AcquisitionNumber=2), first=setting(AcquisitionNumber=1, SliceThickness=2.5))
    with pytest.raises(VolumeError, match=r"0: acquisition 1; 1: acquisition 2"):
        read_volume(folder)
    np.testing.assert_array_equal(read_volume(folder, time_point=1).voxels, scan.voxels + ADDED)


def test_passes_that_interleave_thin_slices_are_one_volume(scan, dicom_folder) -> None:
    folder = dicom_folder()
    thin = setting(AcquisitionNumber=1, SliceThickness=1.25)
    add_stack(folder, shifted(0, 1.25, AcquisitionNumber=2), first=thin)
    read = read_volume(folder)
    np.testing.assert_array_equal(read.voxels[::2], scan.voxels)
    np.testing.assert_array_equal(read.voxels[1::2], scan.voxels + ADDED)


def test_acquisitions_one_above_the_other_are_one_volume(scan, dicom_folder) -> None:
    folder = dicom_folder(lambda dataset, index: setattr(dataset, "AcquisitionNumber", 1 + index // 2))
    np.testing.assert_array_equal(read_volume(folder).voxels, scan.voxels)


@pytest.mark.parametrize("z", [0.0, 1.25, 40.0])
def test_stacks_side_by_side_are_refused_or_told_apart_by_their_id(scan, dicom_folder, z: float) -> None:
    folder = dicom_folder()
    add_stack(folder, shifted(30, z))
    with pytest.raises(VolumeError, match=r"beside the line|at every slice position"):
        read_volume(folder)
    named = dicom_folder(name="named")
    add_stack(named, shifted(30, z, StackID="2"), first=setting(StackID="1"))
    with pytest.raises(VolumeError, match=r"0: stack 1; 1: stack 2"):
        read_volume(named)
    read = read_volume(named, time_point=1)
    np.testing.assert_array_equal(read.voxels, scan.voxels + ADDED)
    assert not any("tilt" in note for note in read.warnings)


def test_some_slices_beside_the_others_are_refused(dicom_folder) -> None:
    def edit(dataset: Dataset, index: int) -> None:
        x = 30 if 3 <= index < 5 else 0
        dataset.ImagePositionPatient = [-40.5 + x, 12.25, 100 + 2.5 * index]

    with pytest.raises(VolumeError, match=r"2 of 6 slices lie up to 30.0 mm beside the line"):
        read_volume(dicom_folder(edit))


def test_what_a_header_rounds_off_is_no_second_stack(scan, dicom_folder) -> None:
    def edit(dataset: Dataset, index: int) -> None:
        dataset.ImagePositionPatient = [-40.5 + 0.2 * (index % 2), 12.25, 100 + 2.5 * index]

    np.testing.assert_array_equal(read_volume(dicom_folder(edit)).voxels, scan.voxels)


def test_instance_numbers_against_the_times_are_refused(dicom_folder) -> None:
    folder = dicom_folder(lambda dataset, index: setattr(dataset, "AcquisitionTime", f"1200{index:02d}"))

    def edit(dataset: Dataset, index: int) -> None:
        dataset.AcquisitionTime = f"1130{index:02d}"

    add_stack(folder, edit)
    with pytest.raises(VolumeError, match="instance numbers and times disagree"):
        read_volume(folder, time_point=0)


def test_stacks_of_an_enhanced_object_are_told_apart(scan, dicom_folder, tmp_path: Path) -> None:
    slices = [pydicom.dcmread(file) for file in sorted(dicom_folder().iterdir())]
    whole = slices[0].copy()
    whole.SOPClassUID = "1.2.840.10008.5.1.4.1.1.4.1"
    whole.Modality = "MR"
    whole.NumberOfFrames = 2 * len(slices)
    whole.PixelData = b"".join(s.PixelData for s in slices) * 2
    frames = []
    for stack in (1, 2):
        for s in slices:
            x, y, z = (float(value) for value in s.ImagePositionPatient)
            transform = item(RescaleSlope=1, RescaleIntercept=-1024 + ADDED * (stack - 1), RescaleType="US")
            frames.append(
                item(
                    PlanePositionSequence=Sequence([item(ImagePositionPatient=[x + 30 * (stack - 1), y, z])]),
                    FrameContentSequence=Sequence([item(StackID=str(stack))]),
                    PixelValueTransformationSequence=Sequence([transform]),
                )
            )
    whole.SharedFunctionalGroupsSequence = Sequence(
        [
            item(
                PlaneOrientationSequence=Sequence([item(ImageOrientationPatient=whole.ImageOrientationPatient)]),
                PixelMeasuresSequence=Sequence([item(PixelSpacing=whole.PixelSpacing, SliceThickness=2.5)]),
            )
        ]
    )
    whole.PerFrameFunctionalGroupsSequence = Sequence(frames)
    for keyword in (
        "ImagePositionPatient",
        "ImageOrientationPatient",
        "PixelSpacing",
        "RescaleSlope",
        "RescaleIntercept",
    ):
        delattr(whole, keyword)
    whole.save_as(tmp_path / "enhanced.dcm")
    with pytest.raises(VolumeError, match=r"0: stack 1; 1: stack 2"):
        read_volume(tmp_path / "enhanced.dcm")
    for number in (0, 1):
        read = read_volume(tmp_path / "enhanced.dcm", time_point=number)
        np.testing.assert_array_equal(read.voxels, scan.voxels + number * ADDED)
