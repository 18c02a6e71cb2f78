"""How is a file or folder, whatever its format, read into one canonical Volume?

The format is told by content, never by the name.
"""

from __future__ import annotations

from pathlib import Path

from slicesight.errors import VolumeError
from slicesight.volumes.readers.arrays import read_npy
from slicesight.volumes.readers.dicom import is_dicom, read_dicom
from slicesight.volumes.readers.nifti import is_nifti, read_nifti
from slicesight.volumes.readers.options import ReadOptions, Unit
from slicesight.volumes.volume import Volume

__all__ = ["read_volume"]


def read_volume(
    path: str | Path,
    *,
    series_uid: str | None = None,
    spacing_mm: tuple[float, float, float] | None = None,
    time_point: int | None = None,
    unit: Unit | None = None,
) -> Volume:
    """Read a scan in canonical orientation.

    Args:
        path: a NIfTI or .npy file, a DICOM file or a folder of them.
        series_uid: which DICOM series of a folder that holds several.
        spacing_mm: (z, y, x) to use where the header's own spacing is missing or wrong.
        time_point: which volume of a 4D file, from 0.
        unit: "HU" or "arbitrary", for files that do not say.

    Raises:
        VolumeError: one line with what was found, what was expected and what to change.
    """
    options = ReadOptions(series_uid=series_uid, spacing_mm=spacing_mm, time_point=time_point, unit=unit)
    place = Path(path)
    try:
        if place.is_dir():
            return read_dicom(place, options)
        with place.open("rb") as stream:
            head = stream.read(512)
    except FileNotFoundError:
        raise VolumeError(f"{place}: no such file or folder; check the path") from None
    except PermissionError:
        raise VolumeError(f"{place}: no permission to read it; change its permissions or copy it") from None
    if head[:6] == b"\x93NUMPY":
        return read_npy(place, options)
    if is_nifti(place, head):
        return read_nifti(place, options)
    if is_dicom(head):
        return read_dicom(place, options)
    raise VolumeError(
        f"{place.name}: {_described(head)}; expected NIfTI (.nii, .nii.gz), a DICOM file or folder, or .npy"
    )


def _described(head: bytes) -> str:
    if not head:
        return "the file is empty"
    if all(32 <= byte < 127 or byte in b"\t\r\n" for byte in head):
        return "this is a text file"
    if head[:2] == b"\x80\x04" or head[:2] == b"\x80\x05":
        return "this is a Python pickle, which is never opened because it can run code"
    return f"no known scan format starts with bytes {head[:4].hex(' ')}"
