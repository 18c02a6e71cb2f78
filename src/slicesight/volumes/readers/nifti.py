"""How is a NIfTI file (.nii, .nii.gz) read without trusting its header?

Sizes are checked against the file before anything is allocated; gzip is unpacked straight into the voxel array.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any, BinaryIO

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from slicesight.errors import VolumeError
from slicesight.volumes.geometry import LPS_FROM_RAS
from slicesight.volumes.readers.assemble import assemble, check_shape
from slicesight.volumes.readers.options import ReadOptions
from slicesight.volumes.volume import Volume

SYNTHETIC_MARKER = "slicesight phantom"
_CHUNK = 1 << 20
_MAX_DEFLATE_RATIO = 1032  # no deflate stream unpacks to more


def is_nifti(path: Path, head: bytes) -> bool:
    """Whether the file, or what its gzip holds, starts like NIfTI-1 or NIfTI-2."""
    if head[:2] == b"\x1f\x8b":
        try:
            with path.open("rb") as stream:
                head = zlib.decompressobj(31).decompress(stream.read(4096), 512)
        except zlib.error:
            return path.name.endswith((".nii.gz", ".nii"))
        if not head:
            return path.name.endswith((".nii.gz", ".nii"))
    return head[:4] in (b"\x5c\x01\0\0", b"\0\0\x01\x5c", b"\x1c\x02\0\0", b"\0\0\x02\x1c")


def read_nifti(path: Path, options: ReadOptions) -> Volume:
    """A single-file NIfTI-1 or NIfTI-2 scan."""
    name = path.name
    with path.open("rb") as stream:
        is_gzip = stream.read(2) == b"\x1f\x8b"
        stream.seek(0)
        source = _Unpacked(stream, name) if is_gzip else stream
        header = _header(name, source)
        shape, time_note = _shape(name, header, options)
        dtype = _dtype(name, header)
        stored = _voxels(name, path, source, header, shape, dtype, is_gzip=is_gzip, options=options)
    notes = [time_note] if time_note else []
    affine, spacing, orientation = _affine(name, header, notes)
    is_synthetic = bytes(header["descrip"].tobytes()).rstrip(b"\0").decode("latin-1") == SYNTHETIC_MARKER
    return assemble(
        name,
        stored,
        affine,
        options,
        scale=_scale(name, header),
        orientation=orientation,
        spacing_ijk=spacing,
        modality="CT" if is_synthetic else "unknown",
        unit="HU" if is_synthetic else None,
        warnings=notes,
        source={"format": "NIfTI-2" if int(header["sizeof_hdr"]) == 540 else "NIfTI-1", "stored_type": str(dtype)},
        is_synthetic=is_synthetic,
    )


class _Unpacked:
    """Sequential reads from a gzip stream, straight into a buffer; checksum and end are verified by `close_checked`."""

    def __init__(self, stream: BinaryIO, name: str) -> None:
        self._stream = stream
        self._name = name
        self._inflate = zlib.decompressobj(31)
        self._pending = b""

    def read(self, size: int) -> bytes:
        buffer = bytearray(size)
        return bytes(buffer[: self.readinto(memoryview(buffer))])

    def readinto(self, buffer: memoryview) -> int:
        filled = 0
        while filled < len(buffer):
            data = self._inflated(min(len(buffer) - filled, 4 * _CHUNK))
            if not data:
                break
            buffer[filled : filled + len(data)] = data
            filled += len(data)
        return filled

    def _inflated(self, at_most: int) -> bytes:
        while True:
            packed = self._pending or self._stream.read(_CHUNK)
            if not packed:
                if self._inflate.eof:
                    return b""
                raise VolumeError(f"{self._name}: the gzip stream ends too early; the file is truncated, copy it again")
            try:
                data = self._inflate.decompress(packed, at_most)
            except zlib.error as error:
                raise VolumeError(f"{self._name}: the gzip stream is damaged ({error}); copy the file again") from None
            self._pending = self._inflate.unconsumed_tail
            if self._inflate.eof and self._inflate.unused_data[:2] == b"\x1f\x8b":
                self._pending = self._inflate.unused_data
                self._inflate = zlib.decompressobj(31)
            if data:
                return data
            if self._inflate.eof:
                return b""


def _header(name: str, source: Any) -> Any:
    block = source.read(348)
    if len(block) < 348:
        raise VolumeError(f"{name}: found {len(block)} bytes, expected a NIfTI header of 348; copy the file again")
    is_second = block[:4] in (b"\x1c\x02\0\0", b"\0\0\x02\x1c")
    if is_second:
        block += source.read(540 - 348)
        if len(block) < 540:
            raise VolumeError(
                f"{name}: found {len(block)} bytes, expected a NIfTI-2 header of 540; copy the file again"
            )
    kind: Any = nib.Nifti2Header if is_second else nib.Nifti1Header
    header = kind(block, check=False)
    magic = bytes(header["magic"].tobytes())[:3]
    if magic not in (b"n+1", b"n+2"):
        raise VolumeError(f"{name}: NIfTI magic is {magic!r}, expected 'n+1'; export the scan as a single .nii file")
    return header


def _shape(name: str, header: Any, options: ReadOptions) -> tuple[tuple[int, ...], str]:
    num_axes = int(header["dim"][0])
    if not 1 <= num_axes <= 7:
        raise VolumeError(f"{name}: the header claims {num_axes} dimensions; expected 3, fix the header")
    shape = tuple(int(size) for size in header["dim"][1 : num_axes + 1])
    if min(shape) < 1:
        raise VolumeError(f"{name}: the header's shape is {shape}; expected sizes of 1 or more, fix the header")
    note = ""
    if len(shape) > 3 and set(shape[3:]) == {1}:
        note = f"stored as {len(shape)}D with single extra axes; read as 3D"
        shape = shape[:3]
    if len(shape) == 4:
        count = shape[3]
        if options.time_point is None:
            raise VolumeError(
                f"{name}: found 4D data ({'×'.join(map(str, shape))}); expected a 3D scan, "
                f"choose one volume with --time-point 0…{count - 1}"
            )
        if options.time_point >= count:
            raise VolumeError(f"{name}: time point {options.time_point} does not exist; the file holds 0…{count - 1}")
        note = f"4D file of {count} volumes; read number {options.time_point} (from 0)"
        shape = shape[:3]
    check_shape(name, shape)
    return shape, note


def _dtype(name: str, header: Any) -> np.dtype[Any]:
    try:
        dtype: np.dtype[Any] = header.get_data_dtype()
    except HeaderDataError:
        raise VolumeError(f"{name}: NIfTI datatype {int(header['datatype'])} is unknown; fix the header") from None
    if dtype.kind not in "iuf":
        raise VolumeError(
            f"{name}: voxels are {dtype} (colour or complex); expected integers or floats, convert them first"
        )
    return dtype


def _voxels(
    name: str,
    path: Path,
    source: Any,
    header: Any,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    *,
    is_gzip: bool,
    options: ReadOptions,
) -> NDArray[Any]:
    header_size = int(header["sizeof_hdr"])
    offset = float(header["vox_offset"])
    if not (np.isfinite(offset) and header_size <= offset <= 1 << 30) and offset != 0:
        raise VolumeError(
            f"{name}: vox_offset is {offset:g}; expected {header_size + 4} or a little more, fix the header"
        )
    start = int(offset) or header_size + 4
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    start += size * (options.time_point or 0)
    packed = path.stat().st_size
    if packed * (_MAX_DEFLATE_RATIO if is_gzip else 1) < start + size:
        raise VolumeError(
            f"{name}: the header claims {'×'.join(map(str, shape))} voxels ({start + size} bytes), "
            f"more than its {packed} bytes can hold; the file is truncated or its header is wrong"
        )
    to_skip = start - header_size
    while to_skip > 0:
        skipped = len(source.read(min(to_skip, _CHUNK)))
        if not skipped:
            raise VolumeError(f"{name}: the file ends before vox_offset {start}; the file is truncated")
        to_skip -= skipped
    buffer = np.empty(size, np.uint8)
    filled = source.readinto(buffer.data)
    if filled < size:
        raise VolumeError(f"{name}: found {filled} bytes of voxels, expected {size}; the file is truncated")
    if is_gzip:
        source.read(16)
    return buffer.view(dtype).reshape(shape, order="F")


def _scale(name: str, header: Any) -> tuple[float, float]:
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or not np.isfinite(slope):
        return 1.0, 0.0
    if not np.isfinite(intercept):
        raise VolumeError(f"{name}: scl_inter is {intercept}; expected a number, fix the header")
    return slope, intercept


def _affine(name: str, header: Any, notes: list[str]) -> tuple[NDArray[np.float64] | None, list[float], str]:
    spacing = [abs(float(size)) for size in header["pixdim"][1:4]]
    has_sform, has_qform = int(header["sform_code"]) > 0, int(header["qform_code"]) > 0
    if not (has_sform or has_qform):
        notes.append(
            "neither sform nor qform is set: which side is left is unknown, axes are taken as right, anterior, superior"
        )
        return None, spacing, "RAS"
    sform = header.get_sform() if has_sform else None
    qform = _qform(name, header) if has_qform else None
    if sform is not None and qform is not None and np.abs(sform[:3] - qform[:3]).max() > 0.1:
        notes.append("sform and qform disagree; the sform is used")
    chosen = sform if sform is not None else qform
    assert chosen is not None
    return LPS_FROM_RAS @ chosen, spacing, "LPS"


def _qform(name: str, header: Any) -> NDArray[np.float64]:
    try:
        return np.asarray(header.get_qform(), dtype=np.float64)
    except (HeaderDataError, ValueError) as error:
        raise VolumeError(f"{name}: the qform is broken ({error}); fix the header") from None
