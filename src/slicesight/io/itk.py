"""What do the fields of ITK's formats mean, NRRD (.nrrd, .nhdr) and MetaImage (.mha, .mhd)?

Read here and not by ITK because a damaged header must end in one line, never in a crash; ITK is the tests' oracle.
MetaImage's world is LPS already; NRRD names its own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slicesight.io.assemble import MAX_VOXELS, ReadOptions, assemble, chosen_volume
from slicesight.io.files import ScanError
from slicesight.io.text_headers import (
    MAX_HEADER_BYTES,
    MAX_LINES,
    Fields,
    fields_of,
    listed_names,
    numbers_of,
    read_data,
    sizes_of,
    text_lines,
    whole_numbers_of,
)
from slicesight.volumes.volume import Volume

_META_TYPES = {
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
_NRRD_NAMES = {
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
_NRRD_TYPES = {word.strip(): code for code, words in _NRRD_NAMES.items() for word in words.split(",")}
_PACKING_OF = {
    "raw": "plain",
    "gzip": "gzip",
    "gz": "gzip",
    "bzip2": "bzip2",
    "bz2": "bzip2",
    "ascii": "text",
    "text": "text",
    "txt": "text",
    "hex": "hex",
}
_MM_OF = {"": 1.0, "mm": 1.0, "millimeter": 1.0, "um": 1e-3, "\xb5m": 1e-3, "micron": 1e-3, "micrometer": 1e-3}
_MM_OF |= {"cm": 10.0, "m": 1e3}
_SPATIAL_KINDS = ("domain", "space", "???", "none")  # any other kind of NRRD axis counts a voxel's values
_LPS_SIGNS = {
    "left-posterior-superior": (1, 1, 1),
    "lps": (1, 1, 1),
    "right-anterior-superior": (-1, -1, 1),
    "ras": (-1, -1, 1),
    "left-anterior-superior": (1, -1, 1),
    "las": (1, -1, 1),
}


def is_metaimage(head: bytes) -> bool:
    """Whether a file starts like a MetaImage header."""
    first = head.lstrip()[:40].split(b"=")[0].strip()
    return first in (b"ObjectType", b"NDims", b"Comment", b"ObjectSubType")


def is_nrrd(head: bytes) -> bool:
    """Whether a file starts like NRRD."""
    return head[:4] == b"NRRD"


def read_metaimage(path: Path, options: ReadOptions) -> Volume:
    """A MetaImage scan."""
    notes: list[str] = []
    with path.open("rb") as stream:
        fields = fields_of(text_lines(stream, ends_at="ElementDataFile"), separator="=")
        if fields.get("ElementNumberOfChannels", "1") != "1":
            raise ScanError(f"every voxel holds {fields['ElementNumberOfChannels']} values; expected one channel")
        sizes = sizes_of(fields, "DimSize")
        dtype = _meta_dtype(fields)
        shape, skipped = chosen_volume(sizes, options, notes)
        data_name = fields.get("ElementDataFile", "")
        names = listed_names(data_name) if data_name.upper() != "LOCAL" else []
        if data_name.split()[:1] == ["LIST"]:
            names = text_lines(stream, ends_at="", may_end=True)
        stored = read_data(
            path,
            stream,
            names,
            shape,
            dtype,
            num_volumes=sizes[3] if len(sizes) > 3 else 1,
            packing=_meta_packing(fields),
            header_bytes=whole_numbers_of(fields, "HeaderSize")[0] if "HeaderSize" in fields else 0,
            skipped=skipped,
        )
    affine, spacing = _meta_affine(fields, len(sizes), _meta_unit_mm(fields, notes), notes)
    source = {"format": "MetaImage", "stored_type": str(dtype)}
    return assemble(stored, affine, options, spacing_ijk=spacing, warnings=notes, source=source)


def read_nrrd(path: Path, options: ReadOptions) -> Volume:
    """A NRRD scan."""
    notes: list[str] = []
    with path.open("rb") as stream:
        lines = text_lines(stream, ends_at="")
        if not lines[0].startswith("NRRD000"):
            raise ScanError(f"the NRRD version line is {lines[0][:20]!r}; expected NRRD0004 or so, copy the file again")
        names: list[str] = []
        for index, line in enumerate(lines):
            if re.match(r"data ?file: *LIST\b", line, re.IGNORECASE):
                names, lines = lines[index + 1 :] or [""], lines[:index]
                break
        named = [line for line in lines[1:] if not line.startswith("#") and ":=" not in line]
        fields = {key.lower(): value for key, value in fields_of(named, separator=": ").items()}
        sizes = sizes_of(fields, "sizes")
        dtype = _nrrd_dtype(fields)
        packing = _PACKING_OF.get(fields.get("encoding", "").lower())
        if packing is None:
            raise ScanError(
                f"NRRD encoding {fields.get('encoding')!r} is not read; expected raw, gzip, bzip2, ascii or hex"
            )
        if detached := fields.get("data file") or fields.get("datafile"):
            names = listed_names(detached)
        first = _first_spatial_axis(fields, sizes, notes)
        is_time_first = first == 1 and sizes[0] > 1
        axes = [*sizes[1:], sizes[0]] if is_time_first else sizes[first:]
        shape, skipped = chosen_volume(axes, options, notes)
        if is_time_first:  # the values of all times lie side by side
            shape = tuple(sizes)
            if np.prod(shape, dtype=float) > MAX_VOXELS:
                raise ScanError(f"{sizes} voxels of all times are above the limit of 1024³; save a single time")
        stored = read_data(
            path,
            stream,
            names,
            shape,
            dtype,
            num_volumes=axes[3] if len(axes) > 3 and not is_time_first else 1,
            packing=packing,
            header_bytes=_byte_skip(fields),
            header_lines=_line_skip(fields),
            skipped=0 if is_time_first else skipped,
        )
        if is_time_first:
            stored = stored[skipped]
    affine, spacing = _nrrd_affine(fields, range(first, first + 3), notes)
    source = {"format": "NRRD", "stored_type": str(dtype)}
    return assemble(stored, affine, options, spacing_ijk=spacing, warnings=notes, source=source)


def _meta_packing(fields: Fields) -> str:
    if not _is_true(fields, "BinaryData", default="True"):
        return "text"
    return "zlib" if _is_true(fields, "CompressedData") else "plain"


def _is_true(fields: Fields, key: str, *, default: str = "False") -> bool:
    word = fields.get(key, default)
    if word.lower() not in ("true", "t", "1", "false", "f", "0"):
        raise ScanError(f"{key} is {word[:40]!r}; expected True or False, fix the header")
    return word.lower() in ("true", "t", "1")


def _meta_dtype(fields: Fields) -> np.dtype[Any]:
    word = fields.get("ElementType", "")
    if word not in _META_TYPES:
        raise ScanError(f"ElementType is {word[:40]!r}; expected MET_SHORT, MET_FLOAT or another number type")
    is_big = any(_is_true(fields, key) for key in ("BinaryDataByteOrderMSB", "ElementByteOrderMSB"))
    return np.dtype((">" if is_big else "<") + _META_TYPES[word])


def _meta_unit_mm(fields: Fields, notes: list[str]) -> float:
    """What the header's lengths are in (MetaIO knows um, mm, cm and ?); ITK itself passes them on unconverted."""
    word = fields.get("DistanceUnits", "?").strip().lower()
    factor = _MM_OF.get(word)
    if factor is None and word != "?":
        notes.append(f"the header's DistanceUnits are {word[:40]}; lengths are taken as mm")
    elif factor not in (None, 1.0):
        notes.append(f"lengths in the header are converted to mm (factor {factor:g})")
    return factor or 1.0


def _meta_affine(
    fields: Fields, num_axes: int, unit_mm: float, notes: list[str]
) -> tuple[NDArray[np.float64] | None, list[float] | None]:
    spacing = _first_found(fields, ("ElementSpacing", "ElementSize"))
    matrix = _first_found(fields, ("TransformMatrix", "Rotation", "Orientation"))
    offset = _first_found(fields, ("Offset", "Position", "Origin"))
    if matrix is None or offset is None or spacing is None:
        notes.append("unknown side: the header has no position matrix; axes are taken as left, posterior, superior")
        return None, [abs(size) * unit_mm for size in spacing[:3]] if spacing and len(spacing) >= 3 else None
    if len(matrix) != num_axes**2 or len(offset) != num_axes or len(spacing) < num_axes:
        raise ScanError(f"TransformMatrix, Offset or ElementSpacing do not fit {num_axes} axes; fix the header")
    if min(spacing) <= 0:
        raise ScanError(f"ElementSpacing is {spacing} mm; fix the header or pass --spacing-mm")
    affine = np.eye(4)
    with np.errstate(over="ignore", invalid="ignore"):  # `assemble` refuses what overflows
        affine[:3, :3] = np.reshape(matrix, (num_axes, num_axes))[:3, :3].T * np.asarray(spacing[:3]) * unit_mm
    affine[:3, 3] = np.asarray(offset[:3]) * unit_mm
    return affine, None


def _first_found(fields: Fields, keys: tuple[str, ...]) -> list[float] | None:
    for key in keys:
        if key in fields:
            return numbers_of(fields, key)
    return None


def _nrrd_dtype(fields: Fields) -> np.dtype[Any]:
    word = fields.get("type", "")
    if word.lower() not in _NRRD_TYPES:
        raise ScanError(f"NRRD type {word!r} is not read; expected short, float or another number type")
    code = _NRRD_TYPES[word.lower()]
    if code[1] == "1":
        return np.dtype(code)
    endian = fields.get("endian", "").lower()
    if endian not in ("little", "big"):
        raise ScanError(f"NRRD endian is {endian!r}; expected little or big, fix the header")
    return np.dtype(("<" if endian == "little" else ">") + code)


def _first_spatial_axis(fields: Fields, sizes: list[int], notes: list[str]) -> int:
    """0, or 1 where the first of four axes is a single one, or counts the times of a sequence."""
    if len(sizes) != whole_numbers_of(fields, "dimension")[0]:
        raise ScanError(f"{len(sizes)} sizes for dimension {fields['dimension']}; fix the header")
    if len(sizes) == 4 and sizes[0] == 1:
        notes.append("stored as 4D with single extra axes; read as 3D")
        return 1
    directions, kinds = fields.get("space directions", "").split(), fields.get("kinds", "").lower().split()
    if len(sizes) == 4 and kinds[:1] in (["list"], ["time"]):
        return 1
    if directions[:1] == ["none"] or (kinds and kinds[0] not in _SPATIAL_KINDS):
        raise ScanError(f"every voxel holds {sizes[0]} values ({len(sizes)}D); expected one, save a single component")
    return 0


def _line_skip(fields: Fields) -> int:
    text = fields.get("line skip") or fields.get("lineskip") or "0"
    if not text.isdigit() or int(text) > MAX_LINES:
        raise ScanError(f"NRRD line skip is {text!r}; expected a small whole number, save the file again")
    return int(text)


def _byte_skip(fields: Fields) -> int:
    text = fields.get("byte skip") or fields.get("byteskip") or "0"
    if text == "-1":
        return -1
    if not text.isdigit() or int(text) > MAX_HEADER_BYTES:
        raise ScanError(f"NRRD byte skip is {text!r}; expected a small whole number, save the file again")
    return int(text)


def _nrrd_affine(
    fields: Fields, axes: Sequence[int], notes: list[str]
) -> tuple[NDArray[np.float64] | None, list[float] | None]:
    vectors = _vectors(fields.get("space directions", ""))
    if vectors and len(vectors) != len(whole_numbers_of(fields, "sizes")):
        raise ScanError(f"NRRD space directions are {fields['space directions'][:60]!r}; expected one per axis")
    signs = _LPS_SIGNS.get(fields.get("space", "").lower())
    if signs is None or not vectors:
        notes.append("unknown side: the file names no patient space; axes are taken as left, posterior, superior")
        if "spacings" not in fields:
            return None, None
        spacing = numbers_of(fields, "spacings", may_be_unknown=True)
        if len(spacing) <= max(axes) or np.isnan([spacing[axis] for axis in axes]).any():
            return None, None
        units = _mm_of(fields, "units", len(spacing), notes)
        return None, [abs(spacing[axis]) * units[axis] for axis in axes]
    affine = np.eye(4)
    for column, axis in enumerate(axes):
        affine[:3, column] = _triple(vectors[axis])
    if "space origin" in fields:
        affine[:3, 3] = _triple(fields["space origin"])
    else:
        notes.append("the file gives directions without an origin; positions are counted from the first voxel")
    affine[:3] *= (np.array(signs) * _mm_of(fields, "space units", 3, notes))[:, None]
    return affine, None


def _mm_of(fields: Fields, key: str, count: int, notes: list[str]) -> list[float]:
    """How many millimetres each axis's unit is; where one is not known, lengths are taken as mm."""
    words = [word.strip().lower() for word in re.findall(r'"([^"]*)"', fields.get(key, ""))]
    factors = [_MM_OF.get(word.replace("\xc2", "").removesuffix("s"), 0.0) for word in words]
    if len(factors) != count or not all(factors):
        if key in fields:
            notes.append(f"the header's {key} are {fields[key][:60]}; lengths are taken as mm")
        return [1.0] * count
    if set(factors) != {1.0}:
        notes.append(f"lengths in the header are converted to mm (factor {', '.join(f'{f:g}' for f in factors)})")
    return factors


def _vectors(text: str) -> list[str]:
    return re.findall(r"none|\([^)]*\)|[^\s()]+", text)


def _triple(text: str) -> list[float]:
    try:
        values = [float(part) for part in text.strip().strip("()").split(",")]
    except ValueError:
        values = []
    if len(values) != 3 or not np.isfinite(values).all():
        raise ScanError(f"NRRD vector {text!r} is not three numbers (x,y,z); fix the header")
    return values
