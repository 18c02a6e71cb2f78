"""Which files lie in a folder and how do they begin?"""

from __future__ import annotations

import os
from pathlib import Path

from slicesight.errors import VolumeError

HEAD_BYTES = 512
_MAX_FILES = 100_000


def files_below(folder: Path) -> list[Path]:
    """Regular files of the folder and its subfolders in name order; links to folders are not followed."""
    files: list[Path] = []
    for place, subfolders, names in os.walk(folder, followlinks=False, onerror=_raise):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith((".", "__MACOSX")))
        for file_name in sorted(names):
            file = Path(place) / file_name
            if file_name.startswith(".") or file_name == "DICOMDIR" or not file.is_file():
                continue
            files.append(file)
            if len(files) > _MAX_FILES:
                raise VolumeError(f"{folder}: more than {_MAX_FILES} files; point at the folder of one study")
    return files


def head_of(file: Path) -> bytes:
    """The first bytes, by which formats are told apart."""
    with file.open("rb") as stream:
        return stream.read(HEAD_BYTES)


def _raise(error: OSError) -> None:
    raise error
