"""Which DICOM images was a volume read from, and what do they say about patient and study?

A report must repeat both. They are read again from the files, and only when a report is wanted: no volume and no
receipt carries a patient's name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pydicom

from slicesight.errors import InputError, VolumeError
from slicesight.io.dicom.header import read_header
from slicesight.io.dicom.loading import is_dicom, is_dicomdir
from slicesight.io.dicom.values import quiet_pydicom, text_of
from slicesight.io.files import DAMAGED, files_below, head_of, is_zip, unpacked
from slicesight.volumes.volume import Volume

_SAME = ("StudyInstanceUID", "PatientID")  # a report is about one study of one patient
_GROUPS = (0x0008, 0x0010, 0x0012, 0x0020, 0x0032, 0x0038, 0x0040)  # where patient and study are described


@dataclass(frozen=True, kw_only=True)
class SourceImage:
    """The image behind one source slice. frame: which of its frames, from 1; None for an image of one frame.

    instance_number: as its header counts it.
    """

    sop_class_uid: str
    sop_instance_uid: str
    study_uid: str
    series_uid: str
    frame: int | None = None
    instance_number: int | None = None


@dataclass(frozen=True, kw_only=True)
class SourceSeries:
    """What a report takes from the images of a scan, without their pixels.

    images: one per source slice, in the volume's source order; header: the first image's attributes of patient and
    study, which no representation shows. Names a person: keep it no longer than the scan.
    """

    images: tuple[SourceImage, ...]
    header: pydicom.Dataset = field(repr=False)


def read_source(path: str | Path, volume: Volume) -> SourceSeries:
    """Read again the headers of the images that `volume` was read from.

    Args:
        path: the file, folder or zip that was read.

    Raises:
        InputError: the scan was not read from DICOM, or its images are gone or nameless.
    """
    place = Path(path)
    if not volume.sop_instance_uids:
        kind = str(volume.source.get("format", "no file"))
        if kind == "DICOM":
            raise InputError(
                f"{place.name}: images without a SOPInstanceUID; a DICOM report has to name every image, export the "
                "series again with its UIDs kept or replaced"
            )
        raise InputError(
            f"{place.name}: this scan is {kind}; a DICOM report refers to DICOM images, ask the DICOM series itself "
            "or write --json or --html"
        )
    found = headers_of(place, volume)
    for keyword in _SAME:
        if len(values := {text_of(header, keyword) for header in found.values()}) > 1:
            raise VolumeError(
                f"{place.name}: images of {len(values)} different {keyword} in one series; a report is about one, "
                "separate the files"
            )
    for header in found.values():
        for keyword in ("SOPClassUID", "StudyInstanceUID", "SeriesInstanceUID"):
            if not text_of(header, keyword):
                raise VolumeError(
                    f"{place.name}: an image without {keyword}; a DICOM report has to name it, export the series again"
                )
    frames: Sequence[int | None] = volume.frame_numbers or (None,) * len(volume.sop_instance_uids)
    images = tuple(
        SourceImage(
            sop_class_uid=text_of(found[uid], "SOPClassUID"),
            sop_instance_uid=uid,
            study_uid=text_of(found[uid], "StudyInstanceUID"),
            series_uid=text_of(found[uid], "SeriesInstanceUID"),
            frame=frame,
            instance_number=int(number) if (number := text_of(found[uid], "InstanceNumber")).isdecimal() else None,
        )
        for uid, frame in zip(volume.sop_instance_uids, frames, strict=True)
    )
    return SourceSeries(images=images, header=_subject(found[volume.sop_instance_uids[0]]))


@quiet_pydicom()
def headers_of(place: Path, volume: Volume) -> dict[str, pydicom.Dataset]:
    """The headers, without pixels, of the images that `volume` was read from, by SOP instance UID."""
    wanted = set(volume.sop_instance_uids)
    found: dict[str, pydicom.Dataset] = {}
    with _dicom_files(place) as files:
        for file in files:
            if not is_dicom(head_of(file)):
                continue
            try:
                header = read_header(file, stop_before_pixels=True)
            except DAMAGED:  # it was not part of the volume, which could be read
                continue
            if (uid := text_of(header, "SOPInstanceUID")) in wanted:
                found[uid] = header
    if missing := len(wanted - set(found)):
        raise VolumeError(
            f"{place.name}: {missing} images of the series are gone since it was read; read the scan again"
        )
    return found


@contextmanager
def _dicom_files(place: Path) -> Iterator[list[Path]]:
    if place.is_dir():
        yield files_below(place)
    elif is_zip(head := head_of(place)):
        with unpacked(place) as folder:
            yield files_below(folder)
    else:
        yield files_below(place.parent) if is_dicomdir(place, head) else [place]


def _subject(whole: pydicom.Dataset) -> pydicom.Dataset:
    """The image's attributes of the groups that describe patient and study, without private ones."""
    header = pydicom.Dataset()
    for tag in whole.keys():  # noqa: SIM118 iterating a Dataset itself decodes every value
        if tag.group in _GROUPS and not tag.is_private:
            try:
                header.add(whole[tag])
            except DAMAGED:  # a report does without
                continue
    return header
