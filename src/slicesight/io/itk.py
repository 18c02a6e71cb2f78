"""How are ITK's formats read, NRRD (.nrrd, .nhdr) and MetaImage (.mha, .mhd): text headers, voxels behind or beside?

Read here and not by ITK because a damaged header must end in one line, never in a crash; ITK is the tests' oracle.
MetaImage's world is LPS already; NRRD names its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from slicesight.io.assemble import ReadOptions, assemble, chosen_volume
from slicesight.io.files import ScanError
from slicesight.io.voxel_bytes import byte_source, check_claim, read_voxels, skip
from slicesight.volumes.volume import Volume

Fields = dict[str, str]
_MAX_LINE_BYTES = 4096
_MAX_LINES = 1000
_MAX_HEADER_BYTES = 1 << 26
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
_NRRD_TYPES = {word.strip(): code for code, words in _TYPES.items() for word in words.split(",")}
_PACKING_OF = {"raw": "plain", "gzip": "gzip", "gz": "gzip", "bzip2": "bzip2", "bz2": "bzip2"}
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
        fields = _fields(_text_lines(stream, ends_at="ElementDataFile"), separator="=")
        if fields.get("BinaryData", "True").lower() == "false":
            raise ScanError("the voxels are written as text; expected BinaryData = True, save it again")
        if fields.get("ElementNumberOfChannels", "1") != "1":
            raise ScanError(f"every voxel holds {fields['ElementNumberOfChannels']} values; expected one channel")
        sizes = _sizes(fields, "DimSize")
        dtype = _meta_dtype(fields)
        shape, skipped = chosen_volume(sizes, options, notes)
        data_name = fields.get("ElementDataFile", "")
        stored = _read_data(
            path,
            stream,
            None if data_name == "LOCAL" else data_name,
            shape,
            dtype,
            packing="zlib" if fields.get("CompressedData", "False").lower() == "true" else "plain",
            header_bytes=_whole_numbers(fields, "HeaderSize")[0] if "HeaderSize" in fields else 0,
            skipped=skipped,
        )
    affine, spacing = _meta_affine(fields, len(sizes), notes)
    source = {"format": "MetaImage", "stored_type": str(dtype)}
    return assemble(stored, affine, options, spacing_ijk=spacing, warnings=notes, source=source)


def read_nrrd(path: Path, options: ReadOptions) -> Volume:
    """A NRRD scan."""
    notes: list[str] = []
    with path.open("rb") as stream:
        lines = _text_lines(stream, ends_at="")
        if not lines[0].startswith("NRRD000"):
            raise ScanError(f"the NRRD version line is {lines[0][:20]!r}; expected NRRD0004 or so, copy the file again")
        named = [line for line in lines[1:] if not line.startswith("#") and ":=" not in line]
        fields = {key.lower(): value for key, value in _fields(named, separator=": ").items()}
        sizes = _sizes(fields, "sizes")
        dtype = _nrrd_dtype(fields)
        packing = _PACKING_OF.get(fields.get("encoding", "").lower())
        if packing is None:
            raise ScanError(f"NRRD encoding {fields.get('encoding')!r} is not read; save it as raw or gzip")
        first = _first_spatial_axis(fields, sizes, notes)
        shape, skipped = chosen_volume(sizes[first:], options, notes)
        stored = _read_data(
            path,
            stream,
            fields.get("data file") or fields.get("datafile"),
            shape,
            dtype,
            packing=packing,
            header_bytes=_byte_skip(fields),
            skipped=skipped,
        )
    affine, spacing = _nrrd_affine(fields, range(first, first + 3), notes)
    source = {"format": "NRRD", "stored_type": str(dtype)}
    return assemble(stored, affine, options, spacing_ijk=spacing, warnings=notes, source=source)


def _read_data(
    path: Path,
    stream: BinaryIO,
    data_name: str | None,
    shape: Sequence[int],
    dtype: np.dtype[Any],
    *,
    packing: str,
    header_bytes: int,
    skipped: int,
) -> NDArray[Any]:
    """The voxels behind the header, or in the data file it names. header_bytes: before them; -1: they end the file."""
    with ExitStack() as stack:
        if data_name is not None:
            path = _data_file_beside(path, data_name)
            stream = stack.enter_context(path.open("rb"))
        num_bytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        check_claim(path, shape, num_bytes * (skipped + 1), packing)
        if header_bytes == -1:
            header_bytes = max(0, path.stat().st_size - num_bytes)
        elif not 0 <= header_bytes <= _MAX_HEADER_BYTES:
            raise ScanError(f"HeaderSize is {header_bytes}; expected 0 or a little more, fix the header")
        source = byte_source(stream, packing)
        skip(source, header_bytes + skipped * num_bytes)
        return read_voxels(source, shape, dtype)


def _text_lines(stream: BinaryIO, *, ends_at: str) -> list[str]:
    """Header lines up to the one that starts with `ends_at`; for "" up to the empty line, which is dropped."""
    lines: list[str] = []
    while len(lines) < _MAX_LINES:
        raw = stream.readline(_MAX_LINE_BYTES)
        if not raw:
            if ends_at == "" and len(lines) > 1:
                return lines  # a detached header may simply end
            raise ScanError("the header does not end; the file is truncated, copy it again")
        if not raw.endswith(b"\n") and len(raw) == _MAX_LINE_BYTES:
            break
        line = raw.decode("latin-1").strip()
        if line == "" and ends_at == "":
            return lines
        lines.append(line)
        if ends_at and line.startswith(ends_at):
            return lines
    raise ScanError("the header is longer than any scan's; the file is damaged, copy it again")


def _fields(lines: list[str], *, separator: str) -> Fields:
    fields: Fields = {}
    for line in lines:
        key, found, value = line.partition(separator)
        if not found:
            raise ScanError(f"header line {line[:40]!r} has no 'field{separator}value'; the header is damaged")
        fields[key.strip()] = value.strip()
    return fields


def _numbers(fields: Fields, key: str) -> list[float]:
    if key not in fields:
        raise ScanError(f"the header has no {key!r}; fix the header or export the scan again")
    try:
        values = [float(part) for part in fields[key].split()]
    except ValueError:
        values = []
    if not values or not np.isfinite(values).all():
        raise ScanError(f"{key!r} is {fields[key][:60]!r}; expected numbers, fix the header")
    return values


def _whole_numbers(fields: Fields, key: str) -> list[int]:
    values = _numbers(fields, key)
    if any(value != int(value) or abs(value) > 2**40 for value in values):
        raise ScanError(f"{key!r} is {fields[key][:60]!r}; expected whole numbers, fix the header")
    return [int(value) for value in values]


def _sizes(fields: Fields, key: str) -> list[int]:
    sizes = _whole_numbers(fields, key)
    if min(sizes) < 1:
        raise ScanError(f"{key} is {sizes}; expected sizes of 1 or more, fix the header")
    return sizes


def _data_file_beside(header_path: Path, data_name: str) -> Path:
    if Path(data_name).name != data_name or data_name in ("", ".", ".."):
        raise ScanError(f"the header points to {data_name[:60]!r}; expected a file in its own folder")
    place = header_path.with_name(data_name)
    if not place.is_file():
        raise ScanError(f"the voxels should be in {data_name[:60]!r} beside it; put both into one folder")
    return place


def _meta_dtype(fields: Fields) -> np.dtype[Any]:
    word = fields.get("ElementType", "")
    if word not in _META_TYPES:
        raise ScanError(f"ElementType is {word[:40]!r}; expected MET_SHORT, MET_FLOAT or another number type")
    is_big = "true" in (fields.get("BinaryDataByteOrderMSB", "").lower(), fields.get("ElementByteOrderMSB", "").lower())
    return np.dtype((">" if is_big else "<") + _META_TYPES[word])


def _meta_affine(
    fields: Fields, num_axes: int, notes: list[str]
) -> tuple[NDArray[np.float64] | None, list[float] | None]:
    spacing = _first_found(fields, ("ElementSpacing", "ElementSize"))
    matrix = _first_found(fields, ("TransformMatrix", "Rotation", "Orientation"))
    offset = _first_found(fields, ("Offset", "Position", "Origin"))
    if matrix is None or offset is None or spacing is None:
        notes.append("unknown side: the header has no position matrix; axes are taken as left, posterior, superior")
        return None, [abs(size) for size in spacing[:3]] if spacing and len(spacing) >= 3 else None
    if len(matrix) != num_axes**2 or len(offset) != num_axes or len(spacing) < num_axes:
        raise ScanError(f"TransformMatrix, Offset or ElementSpacing do not fit {num_axes} axes; fix the header")
    if min(spacing) <= 0:
        raise ScanError(f"ElementSpacing is {spacing} mm; fix the header or pass --spacing-mm")
    affine = np.eye(4)
    with np.errstate(over="ignore", invalid="ignore"):  # `assemble` refuses what overflows
        affine[:3, :3] = np.reshape(matrix, (num_axes, num_axes))[:3, :3].T * np.asarray(spacing[:3])
    affine[:3, 3] = offset[:3]
    return affine, None


def _first_found(fields: Fields, keys: tuple[str, ...]) -> list[float] | None:
    for key in keys:
        if key in fields:
            return _numbers(fields, key)
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
    """0, or 1 where the first of four axes is a single one that is no part of the scan."""
    if len(sizes) != _whole_numbers(fields, "dimension")[0]:
        raise ScanError(f"{len(sizes)} sizes for dimension {fields['dimension']}; fix the header")
    if len(sizes) != 4 or (sizes[3] == 1 and sizes[0] > 1):
        return 0
    if sizes[0] == 1:
        notes.append("stored as 4D with single extra axes; read as 3D")
        return 1
    directions, kinds = fields.get("space directions", "").split(), fields.get("kinds", "").split()
    if directions[:1] == ["none"] or (kinds and kinds[0] in ("list", "vector", "RGB-color")):
        raise ScanError(f"every voxel holds {sizes[0]} values (4D); expected one, save a single component")
    return 0


def _byte_skip(fields: Fields) -> int:
    for key in ("line skip", "lineskip"):
        if fields.get(key, "0") != "0":
            raise ScanError("NRRD line skip is not read; save the file again without it")
    text = fields.get("byte skip") or fields.get("byteskip") or "0"
    if not text.isdigit() or int(text) > 1 << 26:
        raise ScanError(f"NRRD byte skip is {text!r}; expected a small whole number, save the file again")
    return int(text)


def _nrrd_affine(
    fields: Fields, axes: Sequence[int], notes: list[str]
) -> tuple[NDArray[np.float64] | None, list[float] | None]:
    vectors = _vectors(fields.get("space directions", ""))
    if vectors and len(vectors) != len(_whole_numbers(fields, "sizes")):
        raise ScanError(f"NRRD space directions are {fields['space directions'][:60]!r}; expected one per axis")
    signs = _LPS_SIGNS.get(fields.get("space", "").lower())
    if signs is None or not vectors:
        notes.append("unknown side: the file names no patient space; axes are taken as left, posterior, superior")
        if "spacings" not in fields:
            return None, None
        spacing = _numbers(fields, "spacings")
        return None, [abs(spacing[axis]) for axis in axes] if len(spacing) > max(axes) else None
    affine = np.eye(4)
    for column, axis in enumerate(axes):
        affine[:3, column] = _triple(vectors[axis])
    if "space origin" in fields:
        affine[:3, 3] = _triple(fields["space origin"])
    else:
        notes.append("the file gives directions without an origin; positions are counted from the first voxel")
    affine[:3] *= np.array(signs)[:, None]
    return affine, None


def _vectors(text: str) -> list[str]:
    return text.replace(") (", ")|(").replace(" none ", "|none|").replace("none (", "none|(").split("|") if text else []


def _triple(text: str) -> list[float]:
    try:
        values = [float(part) for part in text.strip().strip("()").split(",")]
    except ValueError:
        values = []
    if len(values) != 3 or not np.isfinite(values).all():
        raise ScanError(f"NRRD vector {text!r} is not three numbers (x,y,z); fix the header")
    return values
