"""How is a bare .npy array read: M3D's (1, 32, 256, 256) grey values or any (Z, Y, X) array without geometry?"""

from __future__ import annotations

import tokenize
import warnings
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from slicesight.errors import VolumeError
from slicesight.io.assemble import assemble, check_shape
from slicesight.io.options import ReadOptions
from slicesight.io.voxel_bytes import read_voxels
from slicesight.volumes.volume import Volume

_NPY_MAGIC = b"\x93NUMPY"
_MAX_HEADER_BYTES = 4096
_BROKEN = (
    tokenize.TokenError,
    ValueError,
    EOFError,
    SyntaxError,
    TypeError,
    KeyError,
    OverflowError,
    RecursionError,
    MemoryError,
)


def is_npy(head: bytes) -> bool:
    """Whether a file starts like .npy."""
    return head[:6] == _NPY_MAGIC


def read_npy(path: Path, options: ReadOptions) -> Volume:
    """A .npy file; axes are taken as (slice, row, column) and positions stay unknown."""
    name = path.name
    with path.open("rb") as stream:
        try:
            shape, is_fortran, dtype = _header(stream)
        except _BROKEN as error:
            raise VolumeError(
                f"{name}: the .npy header is broken ({_first_line(error)}); save the array again"
            ) from None
        if dtype.hasobject:
            raise VolumeError(
                f"{name}: holds pickled Python objects, which can run code; save a plain number array instead"
            )
        if dtype.kind not in "iufb":
            raise VolumeError(f"{name}: holds {dtype} values; expected integers or floats, convert and save it again")
        stored_shape = shape
        while len(shape) > 3 and shape[0] == 1:
            shape = shape[1:]
        check_shape(name, shape)
        expected = dtype.itemsize
        for size in shape:
            expected *= size
        found = path.stat().st_size - stream.tell()
        if found != expected:
            raise VolumeError(
                f"{name}: found {found} bytes of voxels, expected {expected} for {shape}; save the array again"
            )
        flat = shape if is_fortran else shape[::-1]
        voxels = read_voxels(stream, flat, dtype, name)
    stored_ijk = voxels.transpose(2, 1, 0) if is_fortran else voxels
    is_grey = dtype.kind == "f" and float(voxels.min()) >= 0.0 and float(voxels.max()) <= 1.0
    return assemble(
        name,
        stored_ijk,
        None,
        options,
        display_range=(0.0, 1.0) if is_grey else None,
        warnings=["unknown side: an array carries no geometry, axes are taken as stored, positions are unknown"],
        source={"format": "npy", "stored_type": str(dtype), "stored_shape": list(stored_shape)},
    )


def _header(stream: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0), (3, 0)):
        raise ValueError(f"version {version[0]}.{version[1]} is unknown")
    start = stream.tell()
    num_bytes = int.from_bytes(stream.read(2 if version == (1, 0) else 4), "little")
    if num_bytes > _MAX_HEADER_BYTES:
        raise ValueError(f"{num_bytes} bytes long")
    stream.seek(start)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy remarks on headers written by Python 2
        return read(stream, max_header_size=_MAX_HEADER_BYTES)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:100] if str(error) else type(error).__name__
