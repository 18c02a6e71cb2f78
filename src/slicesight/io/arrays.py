"""How do files without geometry become a scan: .npy arrays, folders of PNG or JPEG slices (M3D-Cap's <Series>/<n>.png)?

Positions stay unknown. An array's axes are slice, row, column; M3D's are (1, 32, 256, 256) grey values. Pictures are
taken in the order of the numbers in their names.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from slicesight.io.assemble import ReadOptions, assemble, check_shape
from slicesight.io.files import ScanError, about, damage_as
from slicesight.io.voxel_bytes import read_voxels
from slicesight.volumes.volume import Volume

_MAX_HEADER_BYTES = 4096
_GREY_MODES = ("1", "L", "LA", "I", "I;16", "I;16B")
_MOST_OF_ROUNDING = 4  # grey levels by which JPEG's channels of a grey picture may differ


def is_npy(head: bytes) -> bool:
    """Whether a file starts like .npy."""
    return head[:6] == b"\x93NUMPY"


def read_npy(path: Path, options: ReadOptions) -> Volume:
    """A .npy file of numbers."""
    with path.open("rb") as stream:
        with damage_as("the .npy header is broken", "save the array again"):
            shape, is_fortran, dtype = _npy_header(stream)
        if dtype.hasobject:
            raise ScanError("holds pickled Python objects, which can run code; save a plain number array instead")
        if dtype.kind not in "iufb":
            raise ScanError(f"holds {dtype} values; expected integers or floats, convert and save it again")
        stored_shape = shape
        while len(shape) > 3 and shape[0] == 1:
            shape = shape[1:]
        check_shape(shape)
        expected = dtype.itemsize
        for size in shape:
            expected *= size
        found = path.stat().st_size - stream.tell()
        if found != expected:
            raise ScanError(f"found {found} bytes of voxels, expected {expected} for {shape}; save the array again")
        voxels = read_voxels(stream, shape if is_fortran else shape[::-1], dtype)
    is_grey = dtype.kind == "f" and float(voxels.min()) >= 0.0 and float(voxels.max()) <= 1.0
    return assemble(
        voxels.transpose(2, 1, 0) if is_fortran else voxels,
        None,
        options,
        display_range=(0.0, 1.0) if is_grey else None,
        warnings=["unknown side: an array carries no geometry, axes are taken as stored, positions are unknown"],
        source={"format": "npy", "stored_type": str(dtype), "stored_shape": list(stored_shape)},
    )


def _npy_header(stream: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
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


def is_picture(head: bytes) -> bool:
    """Whether a file starts like PNG or JPEG."""
    return head[:8] == b"\x89PNG\r\n\x1a\n" or head[:3] == b"\xff\xd8\xff"


def read_images(files: Sequence[Path], options: ReadOptions) -> Volume:
    """The pictures as the slices of one scan; colour is turned to grey."""
    ordered = sorted(files, key=lambda file: _natural(file.name))
    with _opened(ordered[0]) as first:
        size, is_deep = first.size, first.mode.startswith("I")
    check_shape((*size, len(ordered)))
    stack: NDArray[Any] = np.empty((len(ordered), *size[::-1]), np.uint16 if is_deep else np.uint8)
    num_coloured = 0
    for index, file in enumerate(ordered):
        with _opened(file) as picture:
            if picture.size != size or picture.mode.startswith("I") != is_deep:
                raise ScanError(
                    f"this slice is {picture.width}×{picture.height} {picture.mode}, the first is {size[0]}×{size[1]}; "
                    "expected one size and depth, separate the series"
                )
            num_coloured += _is_coloured(picture)
            stack[index] = np.asarray(picture if is_deep else picture.convert("L"))
    notes = ["unknown side: pictures carry no geometry, slice order follows the file names, positions are unknown"]
    if num_coloured:
        notes.append(f"{num_coloured} of {len(ordered)} pictures are in colour; their lightness is read as grey values")
    return assemble(
        stack.transpose(2, 1, 0),
        None,
        options,
        unit="arbitrary",
        display_range=None if is_deep else (0.0, 255.0),
        warnings=notes,
        source={"format": "pictures", "stored_type": str(stack.dtype)},
    )


def _is_coloured(picture: Image.Image) -> bool:
    if picture.mode in _GREY_MODES:
        return False
    channels = np.asarray(picture.convert("RGB"))
    return bool((channels.max(axis=-1) - channels.min(axis=-1)).max() > _MOST_OF_ROUNDING)


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Sort key by which 2.png comes before 10.png."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", name) if part]


@contextmanager
def _opened(file: Path) -> Iterator[Image.Image]:
    with (
        about(file.name),
        damage_as("the picture cannot be read", "copy it again"),
        warnings.catch_warnings(),
        file.open("rb") as stream,  # so that no reason shows the path
    ):
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(stream, formats=("PNG", "JPEG")) as picture:
            yield picture
