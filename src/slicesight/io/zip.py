"""How is a .zip opened without letting it write where it likes or swell without end?

Members are checked, then unpacked into a temporary folder that is removed after reading.
"""

from __future__ import annotations

import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from slicesight.errors import VolumeError

_MAX_MEMBERS = 50_000
_MAX_BYTES = 8 << 30
_SUSPICIOUS_BYTES = 1 << 28
_SUSPICIOUS_RATIO = 100
_DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    NotImplementedError,
    RuntimeError,
    ValueError,
    OSError,
    LookupError,
)


def is_zip(head: bytes) -> bool:
    """Whether a file starts like a zip archive."""
    return head[:4] in (b"PK\x03\x04", b"PK\x05\x06")


@contextmanager
def unpacked(path: Path) -> Iterator[Path]:
    """A temporary folder with the archive's files."""
    with tempfile.TemporaryDirectory(prefix="slicesight-") as folder:
        _unpack(path, Path(folder))
        yield Path(folder)


def _unpack(path: Path, folder: Path) -> None:
    name = path.name
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
            _check(name, members)
            for member in members:
                target = folder / member.filename
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(member) as source, target.open("wb") as sink:
                    shutil.copyfileobj(source, sink, 1 << 20)
    except VolumeError:
        raise
    except _DAMAGED as error:
        reason = str(error).splitlines()[0][:80] if str(error) else type(error).__name__
        raise VolumeError(f"{name}: the zip archive cannot be unpacked ({reason}); pack the folder again") from None


def _check(name: str, members: list[zipfile.ZipInfo]) -> None:
    if not members:
        raise VolumeError(f"{name}: the zip archive is empty; expected the files of one scan")
    if len(members) > _MAX_MEMBERS:
        raise VolumeError(
            f"{name}: the zip archive holds {len(members)} files; expected at most {_MAX_MEMBERS}, pack one study"
        )
    for member in members:
        place = PurePosixPath(member.filename.replace("\\", "/"))
        is_link = (member.external_attr >> 16) & 0o170000 == 0o120000
        if place.is_absolute() or ".." in place.parts or ":" in place.parts[0] or is_link or "\0" in member.filename:
            raise VolumeError(
                f"{name}: member {member.filename[:60]!r} would leave the folder; expected plain names, pack it again"
            )
        if member.flag_bits & 1:
            raise VolumeError(f"{name}: the zip archive is encrypted; unpack it first and point at the folder")
    size = sum(member.file_size for member in members)
    packed = sum(member.compress_size for member in members)
    if size > _MAX_BYTES or (size > _SUSPICIOUS_BYTES and size > _SUSPICIOUS_RATIO * packed):
        raise VolumeError(
            f"{name}: {packed} bytes claim to unpack to {size}, as a zip bomb would; expected at most "
            f"{_SUSPICIOUS_RATIO} times and {_MAX_BYTES >> 30} GiB, unpack it first"
        )
