"""Is this scan still the one that was prepared? Its files' sizes and times say quickly, their bytes say surely.

content = SHA-256 of the file's bytes for a scan in one file (what `sha256sum` prints), else of the sorted lines
"sha256  name" of all its files. Names are relative to the scan, so that a folder may move.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from slicesight.io.downloads import on_disk
from slicesight.io.object_store import is_remote, list_files, remote_url
from slicesight.io.scan_tree import scan_files as scan_files


def stat_fingerprint(path: str | Path) -> str:
    """Changes with the path, the name, the size or the time of any of the scan's files; reads at most where one begins.

    In an object store the object's own tag stands for its time.

    Raises:
        OSError: the scan is not there or may not be looked at (in a store: VolumeError).
    """
    if is_remote(path):
        return _stored_fingerprint(remote_url(path))
    path = Path(path)
    digest = hashlib.sha256(str(path).encode())
    for file in scan_files(path):
        facts = file.stat()
        digest.update(f"\n{file.name if file == path else file}\t{facts.st_size}\t{facts.st_mtime_ns}".encode())
    return digest.hexdigest()[:32]


def content_digest(path: str | Path) -> str:
    """SHA-256 of everything a reader would open for this scan (OSError: a file cannot be read).

    A scan in an object store is copied here for it: its tag there says nothing about the same bytes elsewhere.
    """
    with on_disk(path) as place:
        return _digest_of_files(place)


def _digest_of_files(path: Path) -> str:
    files = scan_files(path)
    if files == [path]:
        return _digest_of(path)
    root = path if path.is_dir() else path.parent
    lines = sorted(f"{_digest_of(file)}  {file.relative_to(root).as_posix()}" for file in files)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def series_digest(files: Iterable[Path]) -> str:
    """SHA-256 of the files' bytes, however they are called and wherever they lie, for a scan whose order is inside.

    Raises:
        OSError: a file cannot be read.
    """
    return hashlib.sha256("\n".join(sorted(_digest_of(file) for file in files)).encode()).hexdigest()


def _stored_fingerprint(url: str) -> str:
    digest = hashlib.sha256(url.encode())
    for file in list_files(url):
        digest.update(f"\n{file.name}\t{file.size}\t{file.stamp}".encode())
    return digest.hexdigest()[:32]


def _digest_of(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
