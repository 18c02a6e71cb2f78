"""Which series does a heap of DICOM headers hold, and which one is meant?"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import pydicom

from slicesight.errors import VolumeError

_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
_IMAGE_MODALITIES = ("CT", "MR", "PT", "NM", "OT", "US", "XA")


@dataclass(frozen=True)
class Series:
    """The image headers of one series."""

    uid: str
    headers: list[pydicom.Dataset]
    notes: list[str]

    @property
    def modality(self) -> str:
        return str(self.headers[0].get("Modality", "unknown")) or "unknown"

    @property
    def safe_description(self) -> str:
        """The series description; technologists write protocol names there, not people."""
        return str(self.headers[0].get("SeriesDescription", ""))

    @property
    def summary(self) -> str:
        first = self.headers[0]
        count = sum(_num_frames(header) for header in self.headers)
        description = self.safe_description or "no description"
        return f"{self.uid} ({self.modality}, {description}, {first.get('Columns')}×{first.get('Rows')}×{count})"


def grouped(headers: list[pydicom.Dataset]) -> list[Series]:
    """Series with at least one image, largest first; objects without pixels are left out."""
    by_uid: dict[str, list[pydicom.Dataset]] = defaultdict(list)
    for header in headers:
        if "Rows" in header and "Columns" in header:
            by_uid[str(header.get("SeriesInstanceUID", "no series UID"))].append(header)
    series = []
    for uid, members in by_uid.items():
        images = [header for header in members if not _is_side_picture(header)]
        notes = []
        if images and len(images) < len(members):
            notes.append(f"left out {len(members) - len(images)} localizer or secondary capture images of the series")
        series.append(Series(uid, images or members, notes))
    return sorted(series, key=lambda s: (_is_side_picture(s.headers[0]), -sum(map(_num_frames, s.headers)), s.uid))


def choose_series(name: str, series: list[Series], series_uid: str | None) -> Series:
    """The series asked for, or the only one; localizers and secondary captures do not count as a choice."""
    if not series:
        raise VolumeError(f"{name}: the DICOM files hold no images; expected slices of a CT, MR or PET scan")
    if series_uid is not None:
        for candidate in series:
            if candidate.uid == series_uid:
                return candidate
        raise VolumeError(f"{name}: series {series_uid} is not there; found {'; '.join(s.summary for s in series)}")
    stacks = [s for s in series if not _is_side_picture(s.headers[0])]
    if not stacks:
        raise VolumeError(f"{name}: found only localizers or secondary captures; expected a stack of slices")
    volumes = [s for s in stacks if sum(map(_num_frames, s.headers)) > 1] or stacks
    if len(volumes) > 1:
        raise VolumeError(
            f"{name}: found {len(volumes)} series; choose one with --series UID: "
            + "; ".join(s.summary for s in volumes[:20])
        )
    left_out = len(series) - 1
    if left_out:
        volumes[0].notes.append(f"left out {left_out} other series (localizers, secondary captures or single images)")
    return volumes[0]


def _num_frames(header: Any) -> int:
    try:
        return max(1, int(header.get("NumberOfFrames", 1) or 1))
    except (TypeError, ValueError):
        return 1


def _is_side_picture(header: Any) -> bool:
    image_type = [str(word).upper() for word in header.get("ImageType", None) or []]
    is_capture = (
        str(header.get("SOPClassUID", "")).startswith(_SECONDARY_CAPTURE) and "ImagePositionPatient" not in header
    )
    return "LOCALIZER" in image_type or is_capture
