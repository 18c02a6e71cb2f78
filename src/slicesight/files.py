"""How is a file or folder written so that a crash, a full disk or a second run never leaves half of it?"""

from __future__ import annotations

import errno
import json
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from slicesight.errors import InputError

if sys.platform != "win32":
    import fcntl

LOCK = ".lock"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` on success, remove it on any failure.

    The temporary name keeps the suffix, for writers that choose a format by it.
    """
    checked_place(path)
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
    except OSError as error:
        raise InputError(f"{path}: cannot write there ({error.strerror}); choose a folder you may write to.") from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def checked_place(path: Path) -> Path:
    """The path itself, or an InputError where no file can be written there."""
    if path.is_dir():
        raise InputError(f"{path} is a folder; name a file to write.")
    if not path.parent.is_dir():
        raise InputError(f"{path}: the folder {path.parent} does not exist; create it or write elsewhere.")
    return path


def write_text(path: Path, *, text: str) -> None:
    """Write UTF-8 text in one step; what no encoding holds, such as the bytes of a broken file name, is escaped."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def append_lines(path: Path, lines: Iterable[str]) -> None:
    """Add lines to a file and see them on disk; a killed run's half line before them is ended, and stays half."""
    text = "".join(f"{line}\n" for line in lines)
    if not text:
        return
    with path.open("a+b") as file:
        end = file.seek(0, os.SEEK_END)
        if end:
            file.seek(end - 1)
            if file.read(1) != b"\n":
                text = "\n" + text
        file.write(text.encode())
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def only_run_in(folder: Path, *, doing: str = "preparing volumes") -> Iterator[Path]:
    """Make the folder and hold it for this process alone; the lock ends with the process, however it ends."""
    with plain_disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / LOCK).open("w", encoding="utf-8")
    with lock:
        if sys.platform != "win32":
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(f"{folder}: another run is {doing} here; wait until it ends") from None
        yield folder


@contextmanager
def plain_disk_errors(folder: Path) -> Iterator[None]:
    """Turn what the disk refuses into one line."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            reason = "the disk is full; make room and run the same again, it continues where it stopped"
            raise InputError(f"{folder}: {reason}") from error
        place = error.filename or folder
        raise InputError(f"{place}: {error.strerror or error}; choose a folder you may read and write") from error


def read_json_object(path: Path, *, error: type[InputError] = InputError) -> dict[str, Any]:
    """The object in a JSON file; raises `error` in one line where there is none: empty, cut off, too deep, a list."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as reason:
        why = "nested too deep" if isinstance(reason, RecursionError) else str(reason)
        raise error(f"{path}: not valid JSON ({why}); expected a JSON object, copy the file again") from reason
    except OSError as reason:
        why = reason.strerror or str(reason)
        raise error(f"{path}: cannot be read ({why}); expected a JSON file that you may read") from reason
    if not isinstance(found, dict):
        raise error(f"{path}: holds a {type(found).__name__}; expected a JSON object, copy the file again")
    return found


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
