"""How do voxels on screen become a file that slicesight reads, and where on screen is a place in millimetres?

Used inside 3D Slicer and napari, where slicesight itself need not be installed: numpy and the standard library, Python
3.9 or newer. Voxels are KJI (slice, row, column), as `slicer.util.arrayFromVolume` gives them; a matrix takes
(i, j, k, 1) to patient millimetres. Slicer and NIfTI count RAS, slicesight and DICOM LPS: x and y change their sign.
NIfTI-1: https://nifti.nimh.nih.gov/nifti-1/documentation
"""

from __future__ import annotations

import gzip
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

FLIP_XY = np.diag([-1.0, -1.0, 1.0, 1.0])
"""LPS from RAS, and RAS from LPS."""
_NIFTI_TYPES = {
    "uint8": 2, "int16": 4, "int32": 8, "float32": 16, "float64": 64, "int8": 256, "uint16": 512, "uint32": 768,
}  # fmt: skip
_HEADER_BYTES, _VOXELS_AT = 348, 352
_MM, _SCANNER_SPACE = 2, 1
_GZIP_LEVEL = 1  # the file is sent once: time counts more than size


class ViewerError(Exception):
    """What a person can do something about, in one line.

    code: the server's word for it, where it comes from there.
    """

    def __init__(self, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, eq=False)
class ScreenScan:
    """A scan as a viewer holds it.

    voxels: (K, J, I), of one channel. ras_from_ijk: (4, 4), every transform of the viewer applied. key: says whether
    two are the same. unit: "HU", "arbitrary", or "" where the reader shall find out. volume: slicesight's own, where it
    was read by it on this machine.
    """

    voxels: Any
    ras_from_ijk: Any
    name: str = "scan"
    key: str = ""
    unit: str = ""
    volume: Any = field(default=None, repr=False)

    def __post_init__(self) -> None:
        voxels, matrix = np.asarray(self.voxels), np.asarray(self.ras_from_ijk, dtype=float)
        if voxels.ndim != 3 or 0 in voxels.shape:
            raise ViewerError(
                f"{self.name} has the shape {voxels.shape}; expected three axes of one channel, choose one time point "
                "or channel."
            )
        if matrix.shape != (4, 4) or not np.isfinite(matrix).all() or abs(np.linalg.det(matrix)) < 1e-9:
            raise ViewerError(f"{self.name}: its voxels have no size; fix its spacing.")
        object.__setattr__(self, "ras_from_ijk", matrix)

    @property
    def lps_from_ijk(self) -> Any:
        """(4, 4) in slicesight's own direction of x and y."""
        return FLIP_XY @ self.ras_from_ijk

    def ijk_at(self, position_mm: Sequence[float]) -> tuple[float, float, float]:
        """The fractional voxel (i, j, k) at a place in LPS millimetres."""
        i, j, k, _ = np.linalg.solve(self.lps_from_ijk, [*position_mm, 1.0])
        return float(i), float(j), float(k)


def to_ras(position_mm: Sequence[float]) -> tuple[float, float, float]:
    """A place in LPS millimetres as Slicer counts."""
    x, y, z = position_mm
    return -x, -y, z


def write_nifti(scan: ScreenScan, path: Path) -> None:
    """Write the voxels unchanged, with their place in the patient, as .nii.gz.

    Raises:
        ViewerError: voxels of a type that NIfTI readers do not share.
    """
    voxels = np.asarray(scan.voxels)
    if voxels.dtype == bool:
        voxels = voxels.astype(np.uint8)
    elif voxels.dtype in (np.int64, np.uint64, np.float16):
        voxels = _narrowed(voxels, scan.name)
    if voxels.dtype.name not in _NIFTI_TYPES:
        raise ViewerError(f"{scan.name} has voxels of type {voxels.dtype}; expected numbers, convert it to float.")
    with gzip.open(path, "wb", compresslevel=_GZIP_LEVEL) as stream:
        stream.write(_header(voxels, scan.ras_from_ijk))
        for layer in voxels:  # never a second copy of the whole scan
            stream.write(np.ascontiguousarray(layer).astype(layer.dtype.newbyteorder("<"), copy=False).tobytes())


def read_labels(path: Path) -> Any:
    """The label map (K, J, I) of a NIfTI that was made on a scan of `write_nifti`.

    Raises:
        ViewerError: no such file.
    """
    content = path.read_bytes()
    if path.name.endswith(".gz"):
        content = gzip.decompress(content)
    if len(content) < _VOXELS_AT or struct.unpack_from("<i", content, 0)[0] != _HEADER_BYTES:
        raise ViewerError(f"{path.name} is no little-endian NIfTI-1; expected the mask of slicesight insight predict.")
    shape = struct.unpack_from("<8h", content, 40)[1:4]
    code, first = struct.unpack_from("<h", content, 70)[0], int(struct.unpack_from("<f", content, 108)[0])
    names = {number: name for name, number in _NIFTI_TYPES.items()}
    if code not in names:
        raise ViewerError(f"{path.name} has voxels of NIfTI type {code}; expected whole numbers.")
    count = int(np.prod(shape))
    voxels = np.frombuffer(content, np.dtype(names[code]).newbyteorder("<"), count, first).reshape(shape[::-1])
    return np.rint(voxels).astype(np.uint8 if voxels.max() < 256 else np.int16)


def _narrowed(voxels: Any, name: str) -> Any:
    if voxels.dtype == np.float16:
        return voxels.astype(np.float32)
    limits = np.iinfo(np.int32)
    if voxels.min() < limits.min or voxels.max() > limits.max:
        raise ViewerError(f"{name} has values beyond 32 bits; convert it to float.")
    return voxels.astype(np.int32)


def _header(voxels_KJI: Any, ras_from_ijk: Any) -> bytes:
    """The 348 bytes of NIfTI-1 and the four that say no extension follows."""
    header = bytearray(_VOXELS_AT)
    struct.pack_into("<i", header, 0, _HEADER_BYTES)
    struct.pack_into("<8h", header, 40, 3, *voxels_KJI.shape[::-1], 1, 1, 1, 1)
    struct.pack_into("<2h", header, 70, _NIFTI_TYPES[voxels_KJI.dtype.name], voxels_KJI.dtype.itemsize * 8)
    spacing_mm = np.linalg.norm(ras_from_ijk[:3, :3], axis=0)
    struct.pack_into("<8f", header, 76, 1.0, *spacing_mm, 1, 1, 1, 1)
    struct.pack_into("<3f", header, 108, _VOXELS_AT, 1.0, 0.0)  # voxels begin there; slope and intercept change nothing
    header[123] = _MM
    struct.pack_into("<2h", header, 252, 0, _SCANNER_SPACE)  # the matrix alone says where the scan lies
    struct.pack_into("<12f", header, 280, *np.asarray(ras_from_ijk)[:3].ravel())
    header[344:348] = b"n+1\0"
    return bytes(header)
