"""How are the text headers of NRRD and MetaImage read: bounded lines, numbers, a data file that stays beside them?"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import numpy as np

from slicesight.errors import VolumeError

_MAX_LINE_BYTES = 4096
_MAX_LINES = 1000


def text_lines(stream: BinaryIO, name: str, *, ends_at: str) -> list[str]:
    """Header lines up to the one that starts with `ends_at`; for "" up to the empty line, which is dropped."""
    lines: list[str] = []
    while len(lines) < _MAX_LINES:
        raw = stream.readline(_MAX_LINE_BYTES)
        if not raw:
            if ends_at == "" and len(lines) > 1:
                return lines  # a detached header may simply end
            raise VolumeError(f"{name}: the header does not end; the file is truncated, copy it again")
        if not raw.endswith(b"\n") and len(raw) == _MAX_LINE_BYTES:
            break
        line = raw.decode("latin-1").strip()
        if line == "" and ends_at == "":
            return lines
        lines.append(line)
        if ends_at and line.startswith(ends_at):
            return lines
    raise VolumeError(f"{name}: the header is longer than any scan's; the file is damaged, copy it again")


def numbers(name: str, fields: dict[str, str], key: str) -> list[float]:
    """The field's finite numbers."""
    if key not in fields:
        raise VolumeError(f"{name}: the header has no {key!r}; fix the header or export the scan again")
    try:
        values = [float(part) for part in fields[key].split()]
    except ValueError:
        values = []
    if not values or not np.isfinite(values).all():
        raise VolumeError(f"{name}: {key!r} is {fields[key][:60]!r}; expected numbers, fix the header")
    return values


def whole_numbers(name: str, fields: dict[str, str], key: str) -> list[int]:
    """The field's whole numbers."""
    values = numbers(name, fields, key)
    if any(value != int(value) or abs(value) > 2**40 for value in values):
        raise VolumeError(f"{name}: {key!r} is {fields[key][:60]!r}; expected whole numbers, fix the header")
    return [int(value) for value in values]


def data_file_beside(header_path: Path, data_name: str) -> Path:
    """The data file a header names, which must lie in the header's own folder."""
    if Path(data_name).name != data_name or data_name in ("", ".", ".."):
        raise VolumeError(
            f"{header_path.name}: the header points to {data_name[:60]!r}; expected a file in its own folder"
        )
    place = header_path.with_name(data_name)
    if not place.is_file():
        raise VolumeError(
            f"{header_path.name}: the voxels should be in {data_name[:60]!r} beside it; put both into one folder"
        )
    return place
