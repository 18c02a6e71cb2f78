"""How are a text header's fields read, and the voxels behind it or in the files that it names?

What NRRD and MetaImage share; what their fields mean is `io/itk.py`'s matter.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from slicesight.io.files import ScanError
from slicesight.io.voxel_bytes import byte_source, check_claim, read_voxels, skip

Fields = dict[str, str]
_MAX_LINE_BYTES = 4096
MAX_LINES = 20_000
MAX_HEADER_BYTES = 1 << 26


@dataclass(frozen=True)
class _Stored:
    """How a file holds voxels: packing, type, what lies before them, and how many there are."""

    packing: str
    dtype: np.dtype[Any]
    header_lines: int
    header_bytes: int
    num_voxels: int


def read_data(
    path: Path,
    stream: BinaryIO,
    names: Sequence[str],
    shape: Sequence[int],
    dtype: np.dtype[Any],
    *,
    packing: str,
    header_bytes: int,
    skipped: int,
    num_volumes: int,
    header_lines: int = 0,
) -> NDArray[Any]:
    """The voxels behind the header, or in the data files it names, which share them evenly.

    header_lines, header_bytes: before them in each file; -1 bytes: they end the file.
    """
    num_voxels = int(np.prod(shape, dtype=np.int64))
    share, rest = divmod(num_voxels * num_volumes, max(1, len(names)))
    if rest:
        raise ScanError(f"{len(names)} data files cannot share {num_voxels * num_volumes} voxels evenly; fix the list")
    how = _Stored(packing, dtype, header_lines, header_bytes, share)
    if not names:
        return _read_file(path, stream, shape, how, skipped * num_voxels)
    wanted = (skipped * num_voxels, (skipped + 1) * num_voxels)
    pieces: list[NDArray[Any]] = []
    for index, name in enumerate(names):
        first, last = (min(max(end - index * share, 0), share) for end in wanted)
        if first == last:
            continue
        place = _data_file_beside(path, name)
        with place.open("rb") as file:
            if len(names) == 1:
                return _read_file(place, file, shape, how, first)
            pieces.append(_read_file(place, file, (last - first,), how, first))
    return np.asarray(np.concatenate(pieces).reshape(shape, order="F"))


def _read_file(
    path: Path,
    stream: BinaryIO,
    shape: Sequence[int],
    how: _Stored,
    skipped_voxels: int,
) -> NDArray[Any]:
    skipped_bytes = skipped_voxels * how.dtype.itemsize
    num_bytes = int(np.prod(shape, dtype=np.int64)) * how.dtype.itemsize
    check_claim(path, shape, skipped_bytes + num_bytes, how.packing)
    for _ in range(how.header_lines):
        while (part := stream.readline(_MAX_LINE_BYTES)) and not part.endswith(b"\n"):
            pass
    header_bytes = how.header_bytes
    if header_bytes == -1 and how.packing == "zlib":  # MetaImage's packed voxels begin where they stand
        header_bytes = 0
    elif header_bytes == -1:
        if how.packing != "plain":
            raise ScanError(
                "a header of -1 bytes before packed or written voxels; expected their number, fix the header"
            )
        header_bytes = path.stat().st_size - how.num_voxels * how.dtype.itemsize - stream.tell()
        if header_bytes < 0:
            raise ScanError(
                f"the file is {-header_bytes} bytes too short for its voxels; it is truncated, copy it again"
            )
    elif not 0 <= header_bytes <= MAX_HEADER_BYTES:
        raise ScanError(f"{header_bytes} bytes before the voxels; expected 0 or a little more, fix the header")
    if how.packing in ("text", "hex"):
        skip(stream, header_bytes)
        stream, header_bytes = _written_out(stream, how), 0
    source = byte_source(stream, how.packing)
    skip(source, header_bytes + skipped_bytes)
    return read_voxels(source, shape, how.dtype)


def _written_out(stream: BinaryIO, how: _Stored) -> BinaryIO:
    """The bytes of voxels that are written as decimal numbers or as hexadecimal digits."""
    text = stream.read()
    if how.packing == "hex":
        try:
            return BytesIO(bytes.fromhex(text.decode("latin-1")))
        except ValueError:
            raise ScanError("the voxels are not hexadecimal digits; the file is damaged, copy it again") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # numpy only warns of what is no number
            numbers = np.fromstring(text.replace(b",", b" "), dtype=np.float64, sep=" ")
    except (ValueError, DeprecationWarning):
        raise ScanError("the voxels are not numbers with spaces between; the file is damaged, copy it again") from None
    if how.dtype.kind != "f":
        limits = np.iinfo(how.dtype)
        is_fit = (numbers == np.rint(numbers)) & (numbers >= limits.min) & (numbers <= limits.max)
        if not is_fit.all():
            raise ScanError(f"a voxel is {numbers[~is_fit][0]:g}; expected whole numbers of {how.dtype}, fix the type")
    with np.errstate(over="ignore"):  # `assemble` refuses infinity
        return BytesIO(numbers.astype(how.dtype).tobytes())


def listed_names(text: str) -> list[str]:
    """The data files of one name, or of a pattern with its first, last and step: "slice%03d.raw 1 20 1"."""
    pattern, *numbers = text.split()[:4] if text.split() else [""]
    is_pattern = re.fullmatch(r"[^%]*%0?\d?d[^%]*", pattern) is not None
    if not is_pattern or len(numbers) < 2 or not all(map(str.isdigit, numbers)):
        return [text]
    first, last, step = (int(part) for part in (*numbers, "1")[:3])
    if not (step > 0 and 0 <= last - first < MAX_LINES):
        raise ScanError(f"the data files are {text[:60]!r}; expected a pattern with first, last and step")
    return [pattern % number for number in range(first, last + 1, step)]


def text_lines(stream: BinaryIO, *, ends_at: str, may_end: bool = False) -> list[str]:
    """Header lines up to the one that starts with `ends_at`; for "" up to the empty line, which is dropped."""
    lines: list[str] = []
    while len(lines) < MAX_LINES:
        raw = stream.readline(_MAX_LINE_BYTES)
        if not raw:
            if ends_at == "" and (len(lines) > 1 or may_end):
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


def fields_of(lines: list[str], *, separator: str) -> Fields:
    """The header as keys and values, without the spaces around them."""
    fields: Fields = {}
    for line in lines:
        key, found, value = line.partition(separator)
        if not found:
            raise ScanError(f"header line {line[:40]!r} has no 'field{separator}value'; the header is damaged")
        fields[key.strip()] = value.strip()
    return fields


def numbers_of(fields: Fields, key: str, *, may_be_unknown: bool = False) -> list[float]:
    """The finite numbers of one field, at least one; where they may be unknown, NaN as well."""
    if key not in fields:
        raise ScanError(f"the header has no {key!r}; fix the header or export the scan again")
    try:
        values = [float(part) for part in fields[key].split()]
    except ValueError:
        values = []
    if not values or not (np.isfinite(values) | (may_be_unknown & np.isnan(values))).all():
        raise ScanError(f"{key!r} is {fields[key][:60]!r}; expected numbers, fix the header")
    return values


def whole_numbers_of(fields: Fields, key: str) -> list[int]:
    """The whole numbers of one field, at least one."""
    values = numbers_of(fields, key)
    if any(value != int(value) or abs(value) > 2**40 for value in values):
        raise ScanError(f"{key!r} is {fields[key][:60]!r}; expected whole numbers, fix the header")
    return [int(value) for value in values]


def sizes_of(fields: Fields, key: str) -> list[int]:
    """The whole numbers of one field, each 1 or more."""
    sizes = whole_numbers_of(fields, key)
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
