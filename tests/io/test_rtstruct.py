"""A label map written as an RT structure set, read back by its contours alone."""

import numpy as np
import pydicom
import pytest
from matplotlib.path import Path as Polygon

from slicesight.errors import InputError
from slicesight.io.loading import read_volume
from slicesight.io.rtstruct import outlines, write_rtstruct
from slicesight.io.writers import write_dicom
from slicesight.volumes.geometry import stored_view

NAMES, VALUES = ("ring", "two pieces", "nowhere"), (3, 5, 9)


def filled(lines, shape):
    """The pixels whose middles lie inside an odd number of the lines."""
    rows, columns = np.indices(shape)
    middles = np.stack([columns.ravel(), rows.ravel()], axis=1)
    inside = np.zeros(shape, bool)
    for line in lines:
        inside ^= Polygon(np.vstack([line, line[:1]])).contains_points(middles).reshape(shape)
    return inside


@pytest.mark.parametrize("seed", range(6))
def test_the_pixels_inside_the_outlines_are_the_mask_again(seed):
    mask = np.random.default_rng(seed).random((14, 11)) < (0.1, 0.3, 0.5, 0.7, 0.9, 1.0)[seed]
    assert np.array_equal(filled(outlines(mask), mask.shape), mask)
    assert outlines(np.zeros((4, 4), bool)) == []


@pytest.fixture(params=["RAI", "LPS"])
def series(request, phantom, tmp_path):
    """A DICOM series, its volume as read, and a label map on it."""
    folder = tmp_path / "series"
    write_dicom(phantom.volume, folder, orientation=request.param)
    volume = read_volume(folder)
    labels = np.zeros(volume.shape, np.int32)
    _, height, width = volume.shape
    labels[2:5, 4 : height // 2, 3 : width // 3] = 3
    labels[3, 7:10, 6:9] = 0
    labels[4:6, -6:-2, -9:-3], labels[5, -12:-9, -5:-1] = 5, 5
    return folder, volume, labels


def test_every_contour_lies_on_its_image_and_together_they_are_the_label_map(series, tmp_path):
    folder, volume, labels = series
    out = tmp_path / "rt.dcm"
    write_rtstruct(labels, volume, source=folder, out=out, names=NAMES, values=VALUES, algorithm="slicesight segresnet")
    found = pydicom.dcmread(out)
    images = {image.SOPInstanceUID: image for image in map(pydicom.dcmread, folder.rglob("*.dcm"))}
    order = list(volume.sop_instance_uids)
    frames = stored_view(labels, volume.source["stored_orientation"]).transpose(2, 1, 0)
    back, num_points = np.zeros_like(frames), 0
    for value, drawn in zip(VALUES, found.ROIContourSequence, strict=True):
        lines: dict[int, list] = {}
        for contour in drawn.get("ContourSequence", []):
            image = images[contour.ContourImageSequence[0].ReferencedSOPInstanceUID]
            points = np.array(contour.ContourData, float).reshape(-1, 3) - np.array(image.ImagePositionPatient, float)
            directions = np.array(image.ImageOrientationPatient, float).reshape(2, 3)
            assert np.abs(points @ np.cross(*directions)).max() < 1e-2  # in the image's plane
            columns, rows = (
                points @ directions[0] / image.PixelSpacing[1],
                points @ directions[1] / image.PixelSpacing[0],
            )
            lines.setdefault(order.index(image.SOPInstanceUID), []).append(np.stack([columns, rows], axis=1))
            assert contour.NumberOfContourPoints == len(points)
            num_points += len(points)
        for number, own in lines.items():
            back[number][filled(own, back.shape[1:])] = value
    assert np.array_equal(back, frames)
    assert num_points > 50


def test_it_is_of_the_images_patient_study_and_frame_and_keeps_dicoms_lengths(series, tmp_path):
    folder, volume, labels = series
    out = tmp_path / "rt.dcm"
    write_rtstruct(labels, volume, source=folder, out=out, names=NAMES, values=VALUES, algorithm="slicesight segresnet")
    found, image = pydicom.dcmread(out), pydicom.dcmread(next(folder.rglob("*.dcm")))
    for keyword in ("StudyInstanceUID", "FrameOfReferenceUID", "PatientID"):
        assert found[keyword].value == image[keyword].value
    assert found.SeriesInstanceUID != image.SeriesInstanceUID
    assert [roi.ROIName for roi in found.StructureSetROISequence] == list(NAMES)
    assert "ContourSequence" not in found.ROIContourSequence[2]
    (study,) = found.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence
    referenced = study.RTReferencedSeriesSequence[0].ContourImageSequence
    assert {one.ReferencedSOPInstanceUID for one in referenced} == set(volume.sop_instance_uids)
    assert all(len(str(number)) <= 16 for number in found.ROIContourSequence[0].ContourSequence[0].ContourData)


def test_a_scan_that_is_no_dicom_is_refused_and_nothing_is_written(phantom, tmp_path):
    labels = np.ones(phantom.volume.shape, np.int32)
    out = tmp_path / "rt.dcm"
    with pytest.raises(InputError, match="refers to DICOM images; this scan has none"):
        write_rtstruct(labels, phantom.volume, source="a.nii.gz", out=out, names=["a"], values=[1], algorithm="x")
    assert not out.exists()
