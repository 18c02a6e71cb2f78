"""How is a NRRD file (.nrrd, or .nhdr with its data beside it) read?

Read here and not by ITK because a damaged header must end in one line, never in a crash; ITK is the tests' oracle.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slicesight.errors import VolumeError
from slicesight.io.assemble import assemble, check_shape, chosen_time_point
from slicesight.io.options import ReadOptions
from slicesight.io.text_header import data_file_beside, numbers, text_lines, whole_numbers
from slicesight.io.voxel_bytes import ByteSource, Unpacked, check_claim, read_voxels, skip
from slicesight.volumes.volume import Volume

_TYPES = {
    "i1": "signed char, int8, int8_t",
    "u1": "uchar, unsigned char, uint8, uint8_t",
    "i2": "short, short int, signed short, signed short int, int16, int16_t",
    "u2": "ushort, unsigned short, unsigned short int, uint16, uint16_t",
    "i4": "int, signed int, int32, int32_t",
    "u4": "uint, unsigned int, uint32, uint32_t",
    "i8": "longlong, long long, long long int, signed long long, signed long long int, int64, int64_t",
    "u8": "ulonglong, unsigned long long, unsigned long long int, uint64, uint64_t",
    "f4": "float",
    "f8": "double",
}
_DTYPE_OF = {word.strip(): code for code, words in _TYPES.items() for word in words.split(",")}
_PACKING_OF = {"raw": "plain", "gzip": "gzip", "gz": "gzip", "bzip2": "bzip2", "bz2": "bzip2"}
_LPS_SIGNS = {
    "left-posterior-superior": (1, 1, 1),
    "lps": (1, 1, 1),
    "right-anterior-superior": (-1, -1, 1),
    "ras": (-1, -1, 1),
    "left-anterior-superior": (1, -1, 1),
    "las": (1, -1, 1),
}


def is_nrrd(head: bytes) -> bool:
    """Whether a file starts like NRRD."""
    return head[:4] == b"NRRD"


def read_nrrd(path: Path, options: ReadOptions) -> Volume:
    """A 3D NRRD scan."""
    name = path.name
    with ExitStack() as stack:
        stream = stack.enter_context(path.open("rb"))
        fields = _fields(name, text_lines(stream, name, ends_at=""))
        sizes = whole_numbers(name, fields, "sizes")
        dtype = _dtype(name, fields)
        packing = _PACKING_OF.get(fields.get("encoding", "").lower())
        if packing is None:
            raise VolumeError(f"{name}: NRRD encoding {fields.get('encoding')!r} is not read; save it as raw or gzip")
        axes, notes, skipped = _spatial_axes(name, fields, sizes, options)
        shape = tuple(sizes[axis] for axis in axes)
        check_shape(name, shape)
        data_path = path
        detached = fields.get("data file") or fields.get("datafile")
        if detached:
            data_path = data_file_beside(path, detached)
            stream = stack.enter_context(data_path.open("rb"))
        num_bytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        check_claim(name, data_path, shape, num_bytes * (skipped + 1), packing)
        source: ByteSource = stream if packing == "plain" else Unpacked(stream, name, packing)
        skip(source, _byte_skip(name, fields) + skipped * num_bytes, name)
        stored = read_voxels(source, shape, dtype, name)
    affine, spacing = _affine(name, fields, axes, notes)
    return assemble(
        name,
        stored,
        affine,
        options,
        spacing_ijk=spacing,
        warnings=notes,
        source={"format": "NRRD", "stored_type": str(dtype)},
    )


def _fields(name: str, lines: list[str]) -> dict[str, str]:
    if not lines[0].startswith("NRRD000"):
        raise VolumeError(
            f"{name}: the NRRD version line is {lines[0][:20]!r}; expected NRRD0004 or so, copy the file again"
        )
    fields: dict[str, str] = {}
    for line in lines[1:]:
        if line.startswith("#") or ":=" in line:
            continue
        key, colon, value = line.partition(": ")
        if not colon:
            raise VolumeError(f"{name}: NRRD header line {line[:40]!r} has no 'field: value'; the header is damaged")
        fields[key.strip().lower()] = value.strip()
    return fields


def _dtype(name: str, fields: dict[str, str]) -> np.dtype[Any]:
    word = fields.get("type", "")
    if word.lower() not in _DTYPE_OF:
        raise VolumeError(f"{name}: NRRD type {word!r} is not read; expected short, float or another number type")
    code = _DTYPE_OF[word.lower()]
    if code[1] == "1":
        return np.dtype(code)
    endian = fields.get("endian", "").lower()
    if endian not in ("little", "big"):
        raise VolumeError(f"{name}: NRRD endian is {endian!r}; expected little or big, fix the header")
    return np.dtype(("<" if endian == "little" else ">") + code)


def _spatial_axes(
    name: str, fields: dict[str, str], sizes: list[int], options: ReadOptions
) -> tuple[list[int], list[str], int]:
    """The three axes of the scan, notes, and how many volumes lie before the wanted one."""
    if len(sizes) != int(whole_numbers(name, fields, "dimension")[0]):
        raise VolumeError(f"{name}: {len(sizes)} sizes for dimension {fields['dimension']}; fix the header")
    if any(size < 1 for size in sizes):
        raise VolumeError(f"{name}: NRRD sizes are {sizes}; expected sizes of 1 or more, fix the header")
    if len(sizes) != 4:
        return list(range(len(sizes))), [], 0
    if sizes[0] == 1:
        return [1, 2, 3], ["stored as 4D with a single extra axis; read as 3D"], 0
    if sizes[3] == 1:
        return [0, 1, 2], ["stored as 4D with a single extra axis; read as 3D"], 0
    directions = fields.get("space directions", "").split()
    kinds = fields.get("kinds", "").split()
    if (directions and directions[0] == "none") or (kinds and kinds[0] in ("list", "vector", "RGB-color")):
        raise VolumeError(f"{name}: every voxel holds {sizes[0]} values (4D); expected one, save a single component")
    chosen, note = chosen_time_point(name, sizes, sizes[3], options)
    return [0, 1, 2], [note], chosen


def _byte_skip(name: str, fields: dict[str, str]) -> int:
    for key in ("line skip", "lineskip"):
        if fields.get(key, "0") != "0":
            raise VolumeError(f"{name}: NRRD line skip is not read; save the file again without it")
    text = fields.get("byte skip") or fields.get("byteskip") or "0"
    if not text.isdigit() or int(text) > 1 << 26:
        raise VolumeError(f"{name}: NRRD byte skip is {text!r}; expected a small whole number, save the file again")
    return int(text)


def _affine(
    name: str, fields: dict[str, str], axes: list[int], notes: list[str]
) -> tuple[NDArray[np.float64] | None, list[float] | None]:
    vectors = _vectors(fields.get("space directions", ""))
    if vectors and len(vectors) != len(whole_numbers(name, fields, "sizes")):
        raise VolumeError(
            f"{name}: NRRD space directions are {fields['space directions'][:60]!r}; expected one per axis"
        )
    signs = _LPS_SIGNS.get(fields.get("space", "").lower())
    if signs is None or not vectors:
        notes.append("unknown side: the file names no patient space; axes are taken as left, posterior, superior")
        if "spacings" not in fields:
            return None, None
        spacing = numbers(name, fields, "spacings")
        return None, [abs(spacing[axis]) for axis in axes] if len(spacing) > max(axes) else None
    affine = np.eye(4)
    for column, axis in enumerate(axes):
        affine[:3, column] = _triple(name, vectors[axis])
    if "space origin" in fields:
        affine[:3, 3] = _triple(name, fields["space origin"])
    else:
        notes.append("the file gives directions without an origin; positions are counted from the first voxel")
    affine[:3] *= np.array(signs)[:, None]
    return affine, None


def _vectors(text: str) -> list[str]:
    return text.replace(") (", ")|(").replace(" none ", "|none|").replace("none (", "none|(").split("|") if text else []


def _triple(name: str, text: str) -> list[float]:
    try:
        values = [float(part) for part in text.strip().strip("()").split(",")]
    except ValueError:
        values = []
    if len(values) != 3 or not np.isfinite(values).all():
        raise VolumeError(f"{name}: NRRD vector {text!r} is not three numbers (x,y,z); fix the header")
    return values
