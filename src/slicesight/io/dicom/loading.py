"""How does a DICOM file, or a folder with any mixture of them, become one scan?

read headers -> group by series -> leave out localizers and secondary captures -> choose one series -> sort its frames
along their normal (GDCM's order) -> decode -> rescale -> assemble.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from slicesight.io.assemble import ReadOptions, assemble
from slicesight.io.dicom.frames import Frame, frames_of
from slicesight.io.dicom.header import read_header
from slicesight.io.dicom.pixels import decoded_stack
from slicesight.io.dicom.series import choose_series, grouped
from slicesight.io.dicom.stack import sorted_stack
from slicesight.io.dicom.values import quiet_pydicom, text_of
from slicesight.io.files import ScanError, about, damage_as
from slicesight.volumes.volume import Volume

SYNTHETIC_MARKER = "slicesight phantom"
_FIRST_ELEMENTS = (b"\x01\0", b"\x05\0", b"\x08\0", b"\x12\0", b"\x13\0", b"\x16\0", b"\x18\0")
_DICOMDIR_CLASS = b"1.2.840.10008.1.3.10"
_DEFERRED_BYTES = 8192  # larger values, pixels above all, stay on disk until they are asked for


def is_dicom(head: bytes) -> bool:
    """Whether a file starts like DICOM, with or without the 128-byte preamble."""
    if head[128:132] == b"DICM":
        return True
    is_group_length = head[:4] in (b"\x08\0\0\0", b"\x02\0\0\0") and head[4:8] in (b"\x04\0\0\0", b"UL\x04\0")
    is_first_tag = head[:2] == b"\x08\0" and head[2:4] in _FIRST_ELEMENTS and len(head) > 132
    return is_group_length or (is_first_tag and (head[4:6].isalpha() or head[6:8] == b"\0\0"))


def is_dicomdir(file: Path, head: bytes) -> bool:
    """Whether a DICOM file is only the table of contents of its folder."""
    return file.name.upper() == "DICOMDIR" or _DICOMDIR_CLASS in head


@quiet_pydicom()
def read_dicom(files: Sequence[Path], options: ReadOptions) -> Volume:
    """The one series that is meant among the files, as a volume."""
    series = choose_series(grouped([_header(file) for file in files]), options.series_uid)
    _check_one_patient(series.headers)
    notes = list(series.notes)
    frames = sorted_stack(frames_of(series.headers), options, notes)
    pixels = decoded_stack(frames, notes)
    affine, positions = _geometry(frames, notes)
    uids = tuple(frame.sop_instance_uid for frame in frames)
    return assemble(
        pixels.values.transpose(2, 1, 0),
        affine,
        options,
        slice_positions_mm=positions,
        modality=series.modality,
        unit=pixels.unit,
        warnings=notes,
        sop_instance_uids=uids if all(uids) else (),
        frame_numbers=tuple(frame.number + 1 for frame in frames)
        if any(frame.is_one_of_many for frame in frames)
        else (),
        is_synthetic=text_of(frames[0].header, "Manufacturer") == SYNTHETIC_MARKER,
        source={
            "format": "DICOM",
            "series_uid": series.uid,
            "description": series.safe_description,
            "num_files": len({id(frame.header) for frame in frames}),
            **pixels.facts,
        },
    )


def _check_one_patient(headers: list[pydicom.Dataset]) -> None:
    """A series is of one patient (PS3.3 A.1.2); an archive that gave two the same UID would give a scan of both."""
    if len(patients := {text_of(header, "PatientID") for header in headers} - {""}) > 1:
        raise ScanError(
            f"images of {len(patients)} patients (PatientID) in one series; expected one, separate the files"
        )


def _geometry(frames: list[Frame], notes: list[str]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Affine from stored (i, j, k, 1) and (S, 3) slice centres; a tilted stack gives a sheared affine."""
    first = frames[0]
    origins = np.stack([frame.position for frame in frames])
    affine = np.eye(4)
    affine[:3, 0] = first.directions[0] * first.spacing[1]
    affine[:3, 1] = first.directions[1] * first.spacing[0]
    affine[:3, 2] = (origins[-1] - origins[0]) / (len(origins) - 1)
    affine[:3, 3] = origins[0]
    normal = np.cross(first.directions[0], first.directions[1])
    step = affine[:3, 2] / np.linalg.norm(affine[:3, 2])
    tilt = float(np.degrees(np.arccos(np.clip(step @ normal, -1.0, 1.0))))
    if tilt > 60:
        raise ScanError(f"slices run {tilt:.0f} degrees off their normal; expected a stack, check the positions")
    if tilt > 0.5:
        notes.append(f"gantry tilt of {tilt:.1f} degrees; slices are kept as acquired, positions follow each header")
    rows, columns = first.shape
    to_centre = affine[:3, 0] * (columns - 1) / 2 + affine[:3, 1] * (rows - 1) / 2
    return affine, origins + to_centre


def _header(file: Path) -> pydicom.Dataset:
    with about(file.name), damage_as("the DICOM header is damaged", "copy the file again"):
        header = read_header(file, defer_size=_DEFERRED_BYTES)
        if "SOPClassUID" not in header and "Modality" not in header:
            raise ScanError("the DICOM header names no object class; the file is damaged, copy it again")
        if "TransferSyntaxUID" not in header.file_meta:  # a file without the meta header
            is_implicit, is_little = header.original_encoding
            plain = ImplicitVRLittleEndian if is_implicit else ExplicitVRLittleEndian
            header.file_meta.TransferSyntaxUID = plain if is_little else ExplicitVRBigEndian
        return header
