"""Where on this disk is a scan that lies in an object store, while it is read? In a folder that ends with the process.

A scan that is asked for again soon (first its content, then its voxels) is copied once: up to
SLICESIGHT_DOWNLOADS_GB (4) are kept, those used last; each use asks the store whether it is still the same.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from slicesight.errors import InputError, VolumeError
from slicesight.io.object_store import StoredFile, download, is_remote, joined, list_files, remote_url

ROOM_VARIABLE = "SLICESIGHT_DOWNLOADS_GB"
_HEADERS = (".mhd", ".nhdr", ".hdr", ".hdr.gz", ".img", ".img.gz")
_MAX_HEADER_BYTES = 1 << 20
_AT_ONCE = 8
_Key = tuple[str, tuple[tuple[str, int, str], ...]]


@contextmanager
def on_disk(place: str | os.PathLike[str]) -> Iterator[Path]:
    """The place itself, or a copy of what it names in a store, with the files that belong to a header.

    Raises:
        VolumeError: nothing is there, it does not come, or there is no room for it here.
    """
    if not is_remote(place):
        yield Path(place)
        return
    url = remote_url(place)
    copy = _DOWNLOADS.take(url, list_files(url))
    try:
        yield copy.place
    finally:
        _DOWNLOADS.give_back(copy)


def stay_on_disk(place: str | os.PathLike[str]) -> Path:
    """As `on_disk`, for as long as the process runs."""
    if not is_remote(place):
        return Path(place)
    return _DOWNLOADS.take(remote_url(place), list_files(place)).place


@dataclass
class _Copy:
    folder: Path
    place: Path
    num_bytes: int
    users: int = 0


class _Downloads:
    """Copies of one process; threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._root: Path | None = None
        self._owner = 0
        self._number = 0
        self._copies: OrderedDict[_Key, _Copy] = OrderedDict()

    def take(self, url: str, files: list[StoredFile]) -> _Copy:
        key = url, tuple((file.name, file.size, file.stamp) for file in files)
        with self._lock:
            self._begin()
            if key not in self._copies:
                self._make_room(sum(file.size for file in files), url)
                self._copies[key] = self._fetch(url, files)
            self._copies.move_to_end(key)
            self._copies[key].users += 1
            return self._copies[key]

    def give_back(self, copy: _Copy) -> None:
        with self._lock:
            copy.users -= 1

    def _begin(self) -> None:
        """A folder of this process alone: a forked one starts its own."""
        if self._root is None or self._owner != os.getpid():
            self._root, self._owner = Path(tempfile.mkdtemp(prefix="slicesight-")), os.getpid()
            self._copies.clear()
            atexit.register(_remove, self._root, self._owner)

    def _make_room(self, num_bytes: int, url: str) -> None:
        limit = room_in_bytes()
        for key, copy in list(self._copies.items()):
            if sum(one.num_bytes for one in self._copies.values()) + num_bytes <= limit:
                break
            if not copy.users:
                shutil.rmtree(copy.folder, ignore_errors=True)
                del self._copies[key]
        assert self._root is not None
        if num_bytes > (free := shutil.disk_usage(self._root).free):
            raise VolumeError(
                f"{url}: {num_bytes / 1e9:.1f} GB do not fit into {tempfile.gettempdir()} ({free / 1e9:.1f} GB free); "
                "make room, or name another folder in TMPDIR"
            )

    def _fetch(self, url: str, files: list[StoredFile]) -> _Copy:
        assert self._root is not None
        self._number += 1
        folder = self._root / str(self._number)
        name = url.rsplit("/", 1)[1]
        is_one = len(files) == 1 and files[0].name == name and files[0].path.rstrip("/").endswith(url.split("//", 1)[1])
        try:
            with ThreadPoolExecutor(_AT_ONCE) as pool:  # a series is hundreds of small objects
                targets = (folder / name if is_one else folder / name / file.name for file in files)
                list(pool.map(lambda pair: download(url, *pair), zip(files, targets, strict=True)))
            if is_one:
                _fetch_neighbours(url, folder / name)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return _Copy(folder=folder, place=folder / name, num_bytes=sum(file.size for file in files))


def room_in_bytes() -> int:
    """How much is kept for a further use; InputError where the variable is no number."""
    text = os.environ.get(ROOM_VARIABLE, "4")
    try:
        return int(float(text) * 1e9)
    except ValueError:
        raise InputError(f"{ROOM_VARIABLE} is {text!r}; expected gigabytes, for instance 4") from None


def _fetch_neighbours(url: str, header: Path) -> None:
    """The objects beside a header that it names, or that have its name with another ending."""
    if not header.name.endswith(_HEADERS):
        return
    folder = url.rsplit("/", 1)[0]
    stem = header.name.split(".")[0]
    with header.open("rb") as stream:
        text = stream.read(_MAX_HEADER_BYTES)
    for file in list_files(folder):
        if "/" in file.name or file.name == header.name:
            continue
        if file.name.split(".")[0] == stem or file.name.encode() in text:
            download(str(joined(folder, file.name)), file, header.with_name(file.name))


def _remove(root: Path, owner: int) -> None:
    if os.getpid() == owner:
        shutil.rmtree(root, ignore_errors=True)


_DOWNLOADS = _Downloads()
