"""Which files lie in a folder or zip, how do they begin, and how is said what is wrong with one?

A reader raises a `ScanError` without naming the file; `about` puts the name in front, once, at the door.
"""

from __future__ import annotations

import os
import shutil
import struct
import tempfile
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from PIL import Image
from pydicom.errors import BytesLengthException

from slicesight.errors import VolumeError

HEAD_BYTES = 512
DAMAGED = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    BytesLengthException,
    EOFError,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)  # what the libraries and their codecs raise on damaged bytes, found by fuzzing (benchmarks/fuzz_readers.py)
_MAX_FILES = 100_000
_MAX_MEMBERS = 50_000
_MAX_BYTES = 8 << 30
SUSPICIOUS_BYTES = 1 << 28
SUSPICIOUS_RATIO = 100


class ScanError(VolumeError):
    """What was found wrong with a scan, what was expected and what to change, without the scan's name."""


@contextmanager
def about(name: str) -> Iterator[None]:
    """Put the name of the file or folder in front of a ScanError; one that has a name already keeps it."""
    try:
        yield
    except ScanError as fault:
        raise VolumeError(f"{name}: {fault}") from None


@contextmanager
def damage_as(finding: str, advice: str) -> Iterator[None]:
    """Turn whatever a library raises on damaged bytes into a ScanError: what was found, its reason, what to do."""
    try:
        yield
    except (VolumeError, PermissionError):
        raise
    except DAMAGED as error:
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise ScanError(f"{finding} ({one_line(reason)}); {advice}") from None


def one_line(text: str) -> str:
    """The text with every control character and line break shown as a question mark."""
    return "".join(character if character.isprintable() else "?" for character in text)


def head_of(file: Path) -> bytes:
    """The first bytes, by which formats are told apart."""
    with file.open("rb") as stream:
        return stream.read(HEAD_BYTES)


def files_below(folder: Path) -> list[Path]:
    """Regular files of the folder and its subfolders in name order; links to folders are not followed."""
    files: list[Path] = []
    for place, subfolders, names in os.walk(folder, followlinks=False, onerror=_raise):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith((".", "__MACOSX")))
        for file_name in sorted(names):
            file = Path(place) / file_name
            if not file_name.startswith(".") and file_name != "DICOMDIR" and file.is_file():
                files.append(file)
            if len(files) > _MAX_FILES:
                raise VolumeError(f"{folder}: more than {_MAX_FILES} files; point at the folder of one study")
    return files


def _raise(error: OSError) -> None:
    raise error


def is_zip(head: bytes) -> bool:
    """Whether a file starts like a zip archive."""
    return head[:4] in (b"PK\x03\x04", b"PK\x05\x06")


@contextmanager
def unpacked(path: Path) -> Iterator[Path]:
    """A temporary folder with a zip's files, which can neither leave it nor swell without end; removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="slicesight-") as folder:
        with about(path.name), damage_as("the zip archive cannot be unpacked", "pack the folder again"):
            _unpack(path, Path(folder))
        yield Path(folder)


def _unpack(path: Path, folder: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        members = [member for member in archive.infolist() if not member.is_dir()]
        _check(members)
        for member in members:
            target = folder / member.filename
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(member) as source, target.open("wb") as sink:
                shutil.copyfileobj(source, sink, 1 << 20)


def _check(members: list[zipfile.ZipInfo]) -> None:
    if not members:
        raise ScanError("the zip archive is empty; expected the files of one scan")
    if len(members) > _MAX_MEMBERS:
        raise ScanError(f"the zip archive holds {len(members)} files; expected at most {_MAX_MEMBERS}, pack one study")
    for member in members:
        place = PurePosixPath(member.filename.replace("\\", "/"))
        is_link = (member.external_attr >> 16) & 0o170000 == 0o120000
        if place.is_absolute() or ".." in place.parts or ":" in place.parts[0] or is_link or "\0" in member.filename:
            raise ScanError(
                f"member {member.filename[:60]!r} would leave the folder; expected plain names, pack it again"
            )
        if member.flag_bits & 1:
            raise ScanError("the zip archive is encrypted; unpack it first and point at the folder")
    size = sum(member.file_size for member in members)
    packed = sum(member.compress_size for member in members)
    if size > _MAX_BYTES or (size > SUSPICIOUS_BYTES and size > SUSPICIOUS_RATIO * packed):
        raise ScanError(
            f"{packed} bytes claim to unpack to {size}, as a zip bomb would; expected at most {SUSPICIOUS_RATIO} "
            f"times and {_MAX_BYTES >> 30} GiB, unpack it first"
        )
