"""What can be wrong with the folder a long run writes to: another run in it, no permission, a full disk?"""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from slicesight.errors import InputError

if sys.platform != "win32":
    import fcntl

LOCK = ".lock"


@contextmanager
def only_run_in(folder: Path) -> Iterator[Path]:
    """Make the folder and hold it for this process alone; the lock ends with the process, however it ends."""
    with plain_disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / LOCK).open("w")
    with lock:
        if sys.platform != "win32":
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(f"{folder}: another run is preparing volumes here; wait until it ends") from None
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
