"""Which series does a heap of DICOM headers hold, and which one is meant?"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import pydicom
from pydicom.uid import UID

from slicesight.io.dicom.header import read_header
from slicesight.io.dicom.values import quiet_pydicom, text_of, whole_number
from slicesight.io.files import ScanError, about, damage_as

_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
NOT_SCANS = ("SEG", "RTDOSE", "PR", "KO", "SR", "REG", "RTSTRUCT", "RTPLAN")
_DATE = re.compile(r"\b(19|20)\d{2}[-./]?[01]\d[-./]?[0-3]\d\b")
_IMAGE_MODALITIES = ("CT", "MR", "PT")
_MAX_LISTED = 20
_SORTING_TAGS = (
    "SOPClassUID",
    "SOPInstanceUID",
    "Modality",
    "SeriesInstanceUID",
    "Rows",
    "Columns",
    "ImageType",
    "ImagePositionPatient",
    "NumberOfFrames",
    "PerFrameFunctionalGroupsSequence",
)


@dataclass(frozen=True)
class Series:
    """The image headers of one series."""

    uid: str
    headers: list[pydicom.Dataset]
    notes: list[str]

    @property
    def modality(self) -> str:
        """CT, MR, PT or another DICOM modality word."""
        return text_of(self.headers[0], "Modality") or "unknown"

    @property
    def num_images(self) -> int:
        """Slices in all files."""
        return sum(_num_frames(header) for header in self.headers)

    @property
    def safe_description(self) -> str:
        """The series description without the patient's name, id or a date, should somebody have typed them in."""
        header = self.headers[0]
        description = _DATE.sub("…", text_of(header, "SeriesDescription"))
        for secret in re.split(r"[\^=,\s]+", f"{text_of(header, 'PatientName')} {text_of(header, 'PatientID')}"):
            if len(secret) > 2:
                description = re.sub(re.escape(secret), "…", description, flags=re.IGNORECASE)
        return description

    @property
    def summary(self) -> str:
        """UID, modality, description and size, for choosing."""
        first = self.headers[0]
        description = self.safe_description or "no description"
        size = f"{text_of(first, 'Columns')}×{text_of(first, 'Rows')}×{self.num_images}"
        return f"{self.uid} ({self.modality}, {description}, {size})"


def grouped(headers: list[pydicom.Dataset]) -> list[Series]:
    """Series with at least one image, largest first; objects without pixels are left out."""
    by_uid: dict[str, list[pydicom.Dataset]] = defaultdict(list)
    others: list[str] = []
    for header in headers:
        if text_of(header, "Modality") in NOT_SCANS:
            others.append(text_of(header, "Modality"))
            continue
        if "Rows" in header and "Columns" in header:
            by_uid[text_of(header, "SeriesInstanceUID")].append(header)
        elif _is_image_class(header):
            with about(Path(str(header.filename)).name):
                raise ScanError("an image without Rows or Columns; the file is damaged, copy it again or remove it")
        else:
            others.append(text_of(header, "Modality") or "unnamed")
    series = []
    for uid, members in by_uid.items():
        images = [header for header in members if not _is_side_picture(header)]
        notes = [f"left out {len(others)} objects without images ({', '.join(sorted(set(others)))})"] if others else []
        if images and len(images) < len(members):
            notes.append(f"left out {len(members) - len(images)} localizer or secondary capture images of the series")
        series.append(Series(uid, images or members, notes))
    return sorted(series, key=lambda s: (_is_side_picture(s.headers[0]), -s.num_images, s.uid))


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What must be known of a DICOM file to sort a heap of them: its series, itself, and whether it is of a stack."""

    series_uid: str
    sop_uid: str
    num_images: int
    is_side_picture: bool


@quiet_pydicom()
def image_facts(file: Path) -> ImageFacts | None:
    """The facts of an image, None for any other object, reading little of the file.

    Raises:
        ScanError: the header is damaged.
    """
    with damage_as("the DICOM header is damaged", "copy the file again"):
        header = read_header(file, stop_before_pixels=True, specific_tags=list(_SORTING_TAGS))
        if "SOPClassUID" not in header and "Modality" not in header:
            raise ScanError("the DICOM header names no object class; the file is damaged, copy it again")
    for series in grouped([header]):
        first = series.headers[0]
        return ImageFacts(series.uid, text_of(first, "SOPInstanceUID"), series.num_images, _is_side_picture(first))
    return None


def choose_series(series: list[Series], series_uid: str | None) -> Series:
    """The series asked for, or the only one; localizers, secondary captures and single images are not a choice."""
    if not series:
        raise ScanError("the DICOM files hold no images; expected slices of a CT, MR or PET scan, check the export")
    if series_uid is not None:
        for candidate in series:
            if candidate.uid == series_uid:
                return candidate
        raise ScanError(f"series {series_uid} is not there; choose one of: {_listed(series)}")
    stacks = [candidate for candidate in series if not _is_side_picture(candidate.headers[0])]
    if not stacks:
        raise ScanError("found only localizers or secondary captures; expected a stack of slices, export the scan")
    volumes = [candidate for candidate in stacks if candidate.num_images > 1] or stacks
    if len(volumes) > 1:
        raise ScanError(f"found {len(volumes)} series; choose one with --series UID: {_listed(volumes)}")
    if len(series) > 1:
        left_out = f"left out {len(series) - 1} other series (localizers, secondary captures or single images)"
        volumes[0].notes.append(left_out)
    return volumes[0]


def _listed(series: list[Series]) -> str:
    rest = f"; and {len(series) - _MAX_LISTED} more" if len(series) > _MAX_LISTED else ""
    return "; ".join(candidate.summary for candidate in series[:_MAX_LISTED]) + rest


def _num_frames(header: pydicom.Dataset) -> int:
    return max(1, whole_number(header, "NumberOfFrames", default=1))


def _is_image_class(header: pydicom.Dataset) -> bool:
    """Whether the header promises pixels; without an object class its modality has to tell."""
    uid = text_of(header, "SOPClassUID")
    return UID(uid).name.endswith("Image Storage") if uid else text_of(header, "Modality") in _IMAGE_MODALITIES


def _is_side_picture(header: pydicom.Dataset) -> bool:
    image_type = text_of(header, "ImageType").upper()
    is_capture = text_of(header, "SOPClassUID").startswith(_SECONDARY_CAPTURE)
    has_place = "ImagePositionPatient" in header or "PerFrameFunctionalGroupsSequence" in header
    return "LOCALIZER" in image_type or (is_capture and not has_place)
