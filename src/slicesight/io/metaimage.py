"""How is a MetaImage file (.mha, or .mhd with its .raw) read?

Read here and not by ITK for the reason given in nrrd.py; its world is LPS already.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from slicesight.errors import VolumeError
from slicesight.io.assemble import assemble, check_shape, chosen_time_point
from slicesight.io.options import ReadOptions
from slicesight.io.text_header import data_file_beside, numbers, text_lines, whole_numbers
from slicesight.io.voxel_bytes import ByteSource, Unpacked, check_claim, read_voxels, skip
from slicesight.volumes.volume import Volume

_DTYPE_OF = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG": "i4",
    "MET_ULONG": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}


def is_metaimage(head: bytes) -> bool:
    """Whether a file starts like a MetaImage header."""
    first = head.lstrip()[:40].split(b"=")[0].strip()
    return first in (b"ObjectType", b"NDims", b"Comment", b"ObjectSubType")


def read_metaimage(path: Path, options: ReadOptions) -> Volume:
    """A 3D MetaImage scan."""
    name = path.name
    with ExitStack() as stack:
        stream = stack.enter_context(path.open("rb"))
        fields = _fields(name, text_lines(stream, name, ends_at="ElementDataFile"))
        if fields.get("BinaryData", "True").lower() == "false":
            raise VolumeError(f"{name}: the voxels are written as text; expected BinaryData = True, save it again")
        if fields.get("ElementNumberOfChannels", "1") != "1":
            raise VolumeError(
                f"{name}: every voxel holds {fields['ElementNumberOfChannels']} values; expected one channel"
            )
        sizes = whole_numbers(name, fields, "DimSize")
        if sizes and min(sizes) < 1:
            raise VolumeError(f"{name}: DimSize is {sizes}; expected sizes of 1 or more, fix the header")
        dtype = _dtype(name, fields)
        notes: list[str] = []
        skipped = 0
        if len(sizes) == 4 and sizes[3] == 1:
            notes.append("stored as 4D with a single extra axis; read as 3D")
            sizes = sizes[:3]
        elif len(sizes) == 4:
            skipped, note = chosen_time_point(name, sizes, sizes[3], options)
            notes.append(note)
            sizes = sizes[:3]
        check_shape(name, sizes)
        data_path = path
        data_name = fields.get("ElementDataFile", "")
        if data_name != "LOCAL":
            data_path = data_file_beside(path, data_name)
            stream = stack.enter_context(data_path.open("rb"))
        packing = "zlib" if fields.get("CompressedData", "False").lower() == "true" else "plain"
        num_bytes = int(np.prod(sizes, dtype=np.int64)) * dtype.itemsize
        check_claim(name, data_path, sizes, num_bytes * (skipped + 1), packing)
        source: ByteSource = Unpacked(stream, name, packing) if packing == "zlib" else stream
        skip(source, _header_size(name, fields, data_path, num_bytes) + skipped * num_bytes, name)
        stored = read_voxels(source, sizes, dtype, name)
    affine, spacing = _affine(name, fields, len(whole_numbers(name, fields, "DimSize")), notes)
    return assemble(
        name,
        stored,
        affine,
        options,
        spacing_ijk=spacing,
        warnings=notes,
        source={"format": "MetaImage", "stored_type": str(dtype)},
    )


def _fields(name: str, lines: list[str]) -> dict[str, str]:
    fields: dict[str, str] = {}
    for line in lines:
        key, equals, value = line.partition("=")
        if not equals:
            raise VolumeError(
                f"{name}: MetaImage header line {line[:40]!r} has no 'Key = value'; the header is damaged"
            )
        fields[key.strip()] = value.strip()
    return fields


def _dtype(name: str, fields: dict[str, str]) -> np.dtype[Any]:
    word = fields.get("ElementType", "")
    if word not in _DTYPE_OF:
        raise VolumeError(f"{name}: ElementType is {word[:40]!r}; expected MET_SHORT, MET_FLOAT or another number type")
    is_big = "true" in (fields.get("BinaryDataByteOrderMSB", "").lower(), fields.get("ElementByteOrderMSB", "").lower())
    return np.dtype((">" if is_big else "<") + _DTYPE_OF[word])


def _header_size(name: str, fields: dict[str, str], data_path: Path, num_bytes: int) -> int:
    if "HeaderSize" not in fields:
        return 0
    size = whole_numbers(name, fields, "HeaderSize")[0]
    if size == -1:
        return max(0, data_path.stat().st_size - num_bytes)
    if not 0 <= size <= 1 << 26:
        raise VolumeError(f"{name}: HeaderSize is {size}; expected 0 or a little more, fix the header")
    return size


def _affine(
    name: str, fields: dict[str, str], num_axes: int, notes: list[str]
) -> tuple[np.ndarray[Any, Any] | None, list[float] | None]:
    spacing = _first_found(name, fields, ("ElementSpacing", "ElementSize"))
    matrix = _first_found(name, fields, ("TransformMatrix", "Rotation", "Orientation"))
    offset = _first_found(name, fields, ("Offset", "Position", "Origin"))
    if matrix is None or offset is None or spacing is None:
        notes.append("unknown side: the header has no position matrix; axes are taken as left, posterior, superior")
        return None, [abs(size) for size in spacing[:3]] if spacing and len(spacing) >= 3 else None
    if len(matrix) != num_axes**2 or len(offset) != num_axes or len(spacing) < num_axes:
        raise VolumeError(
            f"{name}: TransformMatrix, Offset or ElementSpacing do not fit {num_axes} axes; fix the header"
        )
    if min(spacing) <= 0:
        raise VolumeError(f"{name}: ElementSpacing is {spacing} mm; fix the header or pass --spacing-mm")
    affine = np.eye(4)
    with np.errstate(over="ignore", invalid="ignore"):  # `assemble` refuses what overflows
        affine[:3, :3] = np.reshape(matrix, (num_axes, num_axes))[:3, :3].T * np.asarray(spacing[:3])
    affine[:3, 3] = offset[:3]
    return affine, None


def _first_found(name: str, fields: dict[str, str], keys: tuple[str, ...]) -> list[float] | None:
    for key in keys:
        if key in fields:
            return numbers(name, fields, key)
    return None
