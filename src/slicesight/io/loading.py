"""How is a file or folder, whatever its format, read into one canonical Volume?

The format is told by content, never by the name. Every reader ends in `assemble`, where the values are checked,
and every size a header claims is checked against the file before memory is asked for.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slicesight.errors import InputError, VolumeError, check_type
from slicesight.io.arrays import is_npy, is_picture, read_images, read_npy
from slicesight.io.assemble import ReadOptions, Unit, checked_fill
from slicesight.io.dicom.loading import is_dicom, is_dicomdir, read_dicom
from slicesight.io.dicomweb.address import is_address, read_address
from slicesight.io.downloads import on_disk
from slicesight.io.files import ScanError, about, files_below, head_of, is_zip, one_line, unpacked
from slicesight.io.itk import is_metaimage, is_nrrd, read_metaimage, read_nrrd
from slicesight.io.nifti import is_nifti, read_nifti
from slicesight.io.object_store import is_remote
from slicesight.volumes.slice_range import Side, cut_range
from slicesight.volumes.volume import Volume

__all__ = ["read_scan", "read_series", "read_volume"]

_KNOWN = "expected NIfTI, DICOM, NRRD, MetaImage, .npy, a zip or a folder of slices"
_Reader = Callable[[Path, ReadOptions], Volume]


def read_volume(
    path: str | Path,
    *,
    series_uid: str | None = None,
    spacing_mm: tuple[float, float, float] | None = None,
    time_point: int | None = None,
    unit: Unit | None = None,
    may_be_blank: bool = False,
    fill: str | float | None = None,
    slices: tuple[int, int] | None = None,
    side: Side | None = None,
) -> Volume:
    """Read a scan in canonical orientation.

    Args:
        path: a NIfTI, NRRD, MetaImage, .npy or DICOM file, a folder of DICOM files or of PNG or JPEG slices, a zip, or
            the address of a series in an archive, dicomweb+https://host/dicom-web/studies/S/series/UID, or of a file or
            folder in an object store, s3://bucket/scan.nii.gz.
        series_uid: which DICOM series of a folder that holds several.
        spacing_mm: (z, y, x) to use where the header's own spacing is missing or wrong.
        time_point: which volume of a 4D file, from 0.
        unit: "HU" or "arbitrary", for files that do not say.
        may_be_blank: whether every voxel may have one value, as in a mask of a scan that shows nothing.
        fill: what takes the place of NaN and infinity: "LOWEST" for the scan's lowest value, or a number; None refuses.
        slices, side: only these source slices (first, last), or one half of the patient; see `volumes/slice_range.py`.

    Raises:
        VolumeError: one line with what was found, what was expected and what to change.
    """
    check_type(path, (str, os.PathLike), name="path", expected="a file, a folder or an archive's address")
    if slices is not None or side is not None:
        whole = read_volume(
            path,
            series_uid=series_uid,
            spacing_mm=spacing_mm,
            time_point=time_point,
            unit=unit,
            may_be_blank=may_be_blank,
            fill=fill,
        )
        try:
            return cut_range(whole, slices, side=side)
        except InputError as error:
            raise VolumeError(f"{Path(path).name}: {error}") from None
    options = ReadOptions(
        series_uid=series_uid,
        spacing_mm=spacing_mm,
        time_point=time_point,
        unit=unit,
        may_be_blank=may_be_blank,
        fill=checked_fill(fill),
    )
    if is_address(path):
        from slicesight.io.dicomweb.client import fetched

        with fetched(read_address(path)) as folder:
            return _read_folder(folder, options, name=folder.name)
    if is_remote(path):
        with on_disk(path) as copy:
            return _read_place(copy, options)
    return _read_place(Path(path), options)


def read_series(files: Sequence[Path], options: ReadOptions, *, name: Path) -> Volume:
    """The DICOM series that these files hold, wherever they lie; `name` is for messages, errors as of `read_volume`."""
    with _plain_errors_of(name), about(name.name):
        return read_dicom(files, options)


@contextmanager
def _plain_errors_of(place: Path) -> Iterator[None]:
    """What the disk refuses, in one line."""
    try:
        yield
    except FileNotFoundError as error:
        raise VolumeError(f"{error.filename or place}: no such file or folder; check the path") from None
    except PermissionError as error:
        raise VolumeError(f"{error.filename or place}: no permission to read it; change its permissions") from None
    except OSError as error:
        raise VolumeError(f"{place}: cannot be read ({error.strerror or error}); check the path and the disk") from None


def read_scan(scan: str | os.PathLike[str] | NDArray[Any]) -> Volume:
    """The scan that a path or an array (slices, rows, columns) stands for; errors as of `read_volume`.

    An array is read as a .npy file would be: without geometry.
    """
    if not isinstance(scan, np.ndarray):
        return read_volume(scan if isinstance(scan, str) else Path(scan))
    with tempfile.TemporaryDirectory(prefix="slicesight-") as folder:
        file = Path(folder) / "array.npy"
        np.save(file, scan)
        return read_volume(file)


def _read_place(place: Path, options: ReadOptions) -> Volume:
    with _plain_errors_of(place):
        return _read(place, options)


def _read(place: Path, options: ReadOptions) -> Volume:
    if place.is_dir():
        return _read_folder(place, options, name=place.name or str(place))
    if place.exists() and not place.is_file():
        raise VolumeError(f"{place}: this is a device or pipe; expected a file or a folder")
    head = head_of(place)
    if is_zip(head):
        with unpacked(place) as folder:
            return _read_folder(folder, options, name=place.name)
    if is_dicom(head) and is_dicomdir(place, head):
        return _read_folder(place.parent, options, name=place.parent.name or str(place.parent))
    with about(place.name):
        if is_dicom(head):
            return read_dicom([place], options)
        if is_picture(head):
            raise ScanError("a single picture is 2D; expected a 3D scan, point at the folder with all slices")
        reader = _reader_for(place, head)
        if reader is None:
            raise ScanError(f"{_described(head)}; {_KNOWN}")
        return reader(place, options)


def _reader_for(place: Path, head: bytes) -> _Reader | None:
    if is_npy(head):
        return read_npy
    if is_nrrd(head):
        return read_nrrd
    if is_metaimage(head):
        return read_metaimage
    if _header_beside(place) is not None:
        return _read_pair
    return read_nifti if is_nifti(place, head) else None


def _read_folder(folder: Path, options: ReadOptions, *, name: str) -> Volume:
    """DICOM if there is any, else one scan file, else the pictures."""
    files = files_below(folder)
    heads = [(file, head_of(file)) for file in files]
    with about(name):
        if dicom := [file for file, head in heads if is_dicom(head)]:
            return _with_left_out(read_dicom(dicom, options), files, dicom)
        readable = [(file, reader) for file, head in heads if (reader := _reader_for(file, head)) is not None]
        scans = [(file, reader) for file, reader in readable if not file.name.endswith((".img", ".img.gz"))]
        if len(scans) == 1:
            file, reader = scans[0]
            with about(file.name):
                return _with_left_out(reader(file, options), files, [pair[0] for pair in readable])
        if scans:
            listed = ", ".join(file.name for file, _ in scans[:5])
            raise ScanError(
                f"the folder holds {len(scans)} scans ({listed}…); expected one, point at the file you mean"
            )
        if pictures := [file for file, head in heads if is_picture(head)]:
            folders = sorted({file.parent for file in pictures})
            if len(folders) == 1:
                return _with_left_out(read_images(pictures, options), files, pictures)
            listed = ", ".join(str(place.relative_to(folder)) for place in folders[:5])
            raise ScanError(
                f"pictures in {len(folders)} folders ({listed}…); expected one series, point at one of them"
            )
        found = f"{len(files)} files, none of them a scan" if files else "no files"
        raise ScanError(f"{found}; expected DICOM files, PNG or JPEG slices or one scan file in the folder")


def _with_left_out(volume: Volume, files: list[Path], used: list[Path]) -> Volume:
    """The volume with a note that counts and names the folder's files that are no part of it."""
    beside = {".raw", ".zraw", ".gz", ".hdr", ".img", ".bin"} if len(used) == 1 else set()
    left_out = [file for file in files if file not in set(used) and file.suffix not in beside]
    if not left_out:
        return volume
    named = ", ".join(one_line(file.name) + (" (empty)" if not file.stat().st_size else "") for file in left_out[:5])
    more = ", …" if len(left_out) > 5 else ""
    note = f"left out {len(left_out)} of the folder's {len(files)} files, which are no part of a scan: {named}{more}"
    return replace(volume, warnings=(*volume.warnings, note))


def _header_beside(image: Path) -> Path | None:
    """The .hdr of a .img, which by itself starts with voxels."""
    stem = image.name.removesuffix(".gz")
    if not stem.endswith(".img"):
        return None
    for suffix in (".hdr", ".hdr.gz"):
        header = image.with_name(stem.removesuffix(".img") + suffix)
        if header.is_file():
            return header
    return None


def _read_pair(image: Path, options: ReadOptions) -> Volume:
    header = _header_beside(image)
    assert header is not None
    with about(header.name):
        return read_nifti(header, options)


def _described(head: bytes) -> str:
    if not head:
        return "the file is empty"
    if all(32 <= byte < 127 or byte in b"\t\r\n" for byte in head):
        return "this is a text file"
    if head[:1] == b"\x80" and head[1:2] in (b"\2", b"\3", b"\4", b"\5"):
        return "this is a Python pickle, which is never opened because it can run code"
    return f"no known scan format starts with bytes {head[:4].hex(' ')}"
