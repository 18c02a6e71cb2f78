"""How does a DICOM file, or a folder with any mixture of them, become one scan?

find files -> read headers -> group by series -> leave out localizers and secondary captures -> choose one series ->
sort its frames along their normal (GDCM's order) -> decode -> rescale -> assemble.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.errors import BytesLengthException, InvalidDicomError

from slicesight.errors import VolumeError
from slicesight.volumes.readers.assemble import assemble
from slicesight.volumes.readers.dicom_frames import Frame, frames_of, sorted_stack
from slicesight.volumes.readers.dicom_pixels import decoded_stack
from slicesight.volumes.readers.dicom_series import Series, choose_series, grouped
from slicesight.volumes.readers.options import ReadOptions
from slicesight.volumes.volume import Volume

SYNTHETIC_MARKER = "slicesight phantom"
MAX_FILES = 100_000
_BROKEN_HEADER = (
    InvalidDicomError,
    BytesLengthException,
    EOFError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    NotImplementedError,
    OverflowError,
    RecursionError,
    MemoryError,
    IndexError,
    LookupError,
)  # what pydicom raises on damaged bytes


def is_dicom(head: bytes) -> bool:
    """Whether a file starts like DICOM, with or without the 128-byte preamble."""
    return head[128:132] == b"DICM" or head[:4] in (b"\x08\0\x00\0", b"\x08\0\x05\0", b"\x08\0\x08\0", b"\x02\0\0\0")


def read_dicom(path: Path, options: ReadOptions) -> Volume:
    """One series of a DICOM folder (searched with its subfolders), or a single file."""
    headers = [header for file in _files(path) if (header := _header(file, is_only=path.is_file())) is not None]
    if not headers:
        raise VolumeError(f"{path}: no DICOM file found in this folder or below; expected a folder of slices")
    chosen = choose_series(str(path.name or path), grouped(headers), options.series_uid)
    return _volume(path.name or str(path), chosen, options)


def _volume(name: str, series: Series, options: ReadOptions) -> Volume:
    notes = list(series.notes)
    frames = sorted_stack(name, frames_of(name, series.headers), options, notes)
    stored_kji, unit = decoded_stack(name, frames, notes)
    first: Any = frames[0].header
    manufacturer = str(first.get("Manufacturer", ""))
    is_synthetic = manufacturer == SYNTHETIC_MARKER
    uids = tuple(frame.sop_instance_uid for frame in frames)
    affine, positions = _geometry(frames)
    return assemble(
        name,
        stored_kji.transpose(2, 1, 0),
        affine,
        options,
        slice_positions_mm=positions,
        modality=series.modality,
        unit=unit,
        warnings=notes,
        sop_instance_uids=uids,
        is_synthetic=is_synthetic,
        source={"format": "DICOM", "series_uid": series.uid, "description": series.safe_description},
    )


def _geometry(frames: list[Frame]) -> tuple[np.ndarray[Any, Any] | None, np.ndarray[Any, Any] | None]:
    first = frames[0]
    if first.position is None or first.directions is None or first.spacing is None:
        return None, None
    origins = np.stack([frame.position for frame in frames if frame.position is not None])
    affine = np.eye(4)
    affine[:3, 0] = first.directions[0] * first.spacing[1]
    affine[:3, 1] = first.directions[1] * first.spacing[0]
    affine[:3, 2] = (origins[-1] - origins[0]) / (len(origins) - 1)
    affine[:3, 3] = origins[0]
    rows, columns = first.shape
    to_centre = affine[:3, 0] * (columns - 1) / 2 + affine[:3, 1] * (rows - 1) / 2
    return affine, origins + to_centre


def _files(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
        return
    count = 0
    for folder, subfolders, names in os.walk(path, followlinks=False):
        subfolders.sort()
        for file_name in sorted(names):
            file = Path(folder) / file_name
            if file_name == "DICOMDIR" or file_name.startswith(".") or not file.is_file():
                continue
            count += 1
            if count > MAX_FILES:
                raise VolumeError(f"{path}: more than {MAX_FILES} files; point at the folder of one study")
            yield file


def _header(file: Path, *, is_only: bool) -> pydicom.Dataset | None:
    """The header without pixel data; None for a file that is not DICOM."""
    try:
        with file.open("rb") as stream:
            if not is_dicom(stream.read(132)):
                return None
            stream.seek(0)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                header = pydicom.dcmread(stream, stop_before_pixels=True, force=True)
                header.filename = str(file)
                if "SOPClassUID" not in header and "Modality" not in header:
                    raise VolumeError(
                        f"{file.name}: the DICOM header names no object class; the file is damaged, copy it again"
                    )
                return header
    except PermissionError:
        raise VolumeError(f"{file}: no permission to read it; change its permissions or copy it") from None
    except VolumeError:
        raise
    except _BROKEN_HEADER as error:
        raise VolumeError(
            f"{file.name}: the DICOM header is damaged ({type(error).__name__}); copy the file again"
        ) from None
