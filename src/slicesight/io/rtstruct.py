"""How does a label map become a DICOM RT structure set, the form that radiotherapy planning reads?

Every slice of every structure becomes closed planar contours (PS3.3 C.8.8.6) half a pixel outside its outer pixels'
middles, in mm of the images' frame of reference; a hole is a contour of its own inside the other, which readers take as
a hole (even-odd). The lines are contourpy's; the pixels whose middles they enclose are the label map again. No library
that writes them is kept up: rt-utils (1.2.7, 2023) draws through the outer pixels' middles, so that structures shrink,
and writes numbers longer than DICOM allows.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, RTStructureSetStorage, generate_uid

from slicesight import __version__
from slicesight.errors import InputError, VolumeError
from slicesight.files import checked_place, replacing
from slicesight.io.dicom.values import quiet_pydicom
from slicesight.io.masks import BLANKS, MANUFACTURER, source_images
from slicesight.volumes.geometry import stored_view
from slicesight.volumes.volume import Volume

COLOURS = ((255, 92, 51), (51, 195, 255), (255, 214, 51), (179, 102, 255), (102, 255, 140), (255, 102, 196))
FEWEST_POINTS = 3
DETACHED_STUDY = "1.2.840.10008.3.1.2.3.1"
"""Class of the study that a structure set refers to (Detached Study Management), as planning systems write it."""


def write_rtstruct(
    labels_ZYX: NDArray[np.integer],
    volume: Volume,
    *,
    source: str | Path,
    out: str | Path,
    names: Sequence[str],
    values: Sequence[int],
    algorithm: str,
) -> None:
    """Write a canonical label map as one RT structure set, an ROI per label in the order of `values`, empty ones too.

    Args:
        volume: the scan as read from `source`, a DICOM series of single-frame images.

    Raises:
        InputError: the scan was not read from DICOM, or its images have several frames, or no frame of reference.
    """
    place, name = checked_place(Path(out)), Path(source).name
    images, order = source_images(Path(source), volume)
    if len(images) != len(order):
        raise VolumeError(f"{name}: multi-frame images; an RTSTRUCT refers to single slices, pass --dicom-seg FILE")
    if "FrameOfReferenceUID" not in images[0]:
        raise InputError(
            f"{name}: its images name no frame of reference; an RTSTRUCT needs one, pass --out MASK.nii.gz"
        )
    frames = np.ascontiguousarray(stored_view(labels_ZYX, volume.source["stored_orientation"]).transpose(2, 1, 0))
    structures = _structure_set(images, algorithm)
    for number, (structure, value) in enumerate(zip(names, values, strict=True), start=1):
        contours = [
            contour
            for image, frame in zip(images, frames[order], strict=True)
            if (frame == value).any()
            for contour in _contours(frame == value, image)
        ]
        _add_structure(structures, number, structure, contours, images[0].FrameOfReferenceUID)
    with quiet_pydicom(), replacing(place) as temporary:
        structures.save_as(temporary, enforce_file_format=True)


def outlines(mask_YX: NDArray[np.bool_]) -> list[NDArray[np.float64]]:
    """Closed lines (points, 2) of (column, row) on the edges of a slice's pixels, the first point not repeated."""
    from contourpy import contour_generator

    lines: Any = contour_generator(z=np.pad(mask_YX, 1).astype(np.float32)).lines(0.5)
    return [line[:-1] - 1 for line in lines if len(line) > FEWEST_POINTS]


def _contours(mask_YX: NDArray[np.bool_], image: Dataset) -> list[Dataset]:
    position, directions = np.array(image.ImagePositionPatient, float), np.array(image.ImageOrientationPatient, float)
    between_rows, between_columns = (float(step) for step in image.PixelSpacing)
    along_columns, along_rows = directions[:3] * between_columns, directions[3:] * between_rows
    found = []
    for line in outlines(mask_YX):
        points = position + line[:, :1] * along_columns + line[:, 1:] * along_rows
        contour = Dataset()
        contour.ContourImageSequence = [_reference(image)]
        contour.ContourGeometricType = "CLOSED_PLANAR"
        contour.NumberOfContourPoints = len(points)
        contour.ContourData = [f"{coordinate:.3f}" for coordinate in points.ravel()]
        found.append(contour)
    return found


def _structure_set(images: Sequence[Dataset], algorithm: str) -> Dataset:
    """The set without its structures: of the images' patient and study, in a series of its own."""
    now, found, first = datetime.datetime.now(datetime.UTC), Dataset(), images[0]
    found.file_meta = FileMetaDataset()
    found.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    found.file_meta.MediaStorageSOPClassUID = found.SOPClassUID = RTStructureSetStorage
    found.file_meta.MediaStorageSOPInstanceUID = found.SOPInstanceUID = generate_uid()
    for keyword in (*BLANKS, "ReferringPhysicianName", "SpecificCharacterSet"):
        if keyword in first or keyword != "SpecificCharacterSet":
            setattr(found, keyword, first.get(keyword))
    found.StudyInstanceUID, found.SeriesInstanceUID = first.StudyInstanceUID, generate_uid()
    found.FrameOfReferenceUID, found.PositionReferenceIndicator = first.FrameOfReferenceUID, None
    found.Modality, found.SeriesNumber, found.InstanceNumber = "RTSTRUCT", 1001, 1
    found.OperatorsName, found.Manufacturer = None, MANUFACTURER
    found.ManufacturerModelName, found.SoftwareVersions = algorithm[:64], __version__
    found.SeriesDescription = f"Outlines by {algorithm}"[:64]
    found.StructureSetLabel, found.ApprovalStatus = "SLICESIGHT", "UNAPPROVED"
    found.StructureSetDescription = "For research use only; not a medical device."
    found.StructureSetDate = found.InstanceCreationDate = now.strftime("%Y%m%d")
    found.StructureSetTime = found.InstanceCreationTime = now.strftime("%H%M%S")
    series, study, frame = Dataset(), Dataset(), Dataset()
    series.SeriesInstanceUID = first.SeriesInstanceUID
    series.ContourImageSequence = [_reference(image) for image in images]
    study.ReferencedSOPClassUID, study.ReferencedSOPInstanceUID = DETACHED_STUDY, first.StudyInstanceUID
    study.RTReferencedSeriesSequence = [series]
    frame.FrameOfReferenceUID, frame.RTReferencedStudySequence = first.FrameOfReferenceUID, [study]
    found.ReferencedFrameOfReferenceSequence = [frame]
    found.StructureSetROISequence, found.ROIContourSequence, found.RTROIObservationsSequence = [], [], []
    return found


def _add_structure(structures: Dataset, number: int, name: str, contours: list[Dataset], frame_uid: str) -> None:
    roi, drawn, seen = Dataset(), Dataset(), Dataset()
    roi.ROINumber = drawn.ReferencedROINumber = seen.ReferencedROINumber = seen.ObservationNumber = number
    roi.ReferencedFrameOfReferenceUID, roi.ROIName, roi.ROIGenerationAlgorithm = frame_uid, name[:64], "AUTOMATIC"
    drawn.ROIDisplayColor = list(COLOURS[(number - 1) % len(COLOURS)])
    if contours:
        drawn.ContourSequence = contours
    seen.RTROIInterpretedType, seen.ROIInterpreter = "ORGAN", None
    structures.StructureSetROISequence.append(roi)
    structures.ROIContourSequence.append(drawn)
    structures.RTROIObservationsSequence.append(seen)


def _reference(image: pydicom.Dataset) -> Dataset:
    found = Dataset()
    found.ReferencedSOPClassUID, found.ReferencedSOPInstanceUID = image.SOPClassUID, image.SOPInstanceUID
    return found
