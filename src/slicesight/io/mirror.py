"""How does a program that writes a folder write it into an object store, so that a killed run goes on anywhere?

It writes a folder here, as always. What the store holds is copied here first; what is new or changed goes there while
the program runs and when it ends, however it ends: older files before newer ones, so that an index arrives after what
it names, and removals last. A store has no half objects and the same bytes written twice are one, so a run that was
killed or moved finds whole files; its own half lines are its readers' matter, as after any kill.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from slicesight.errors import InputError
from slicesight.io.object_store import MissingError, download, is_remote, joined, list_files, remote_url, remove, upload

EVERY_S = 30.0
"""How often what is new is sent while a run goes on: at most so much work is lost with its machine."""
_MARK = ".slicesight-may-write"
_LOG = logging.getLogger("slicesight.mirror")


@contextmanager
def folder_for(out: str | os.PathLike[str], *, every_s: float = EVERY_S) -> Iterator[Path]:
    """The folder to write: `out` itself, or one here whose files are kept the same as those in the store.

    Raises:
        InputError: the store cannot be read or written; where it fails at the end, the folder here stays and is named.
    """
    if not is_remote(out):
        yield Path(out)
        return
    with _mirrored(remote_url(out), roots=None, every_s=every_s) as folder:
        yield folder


@contextmanager
def file_for(out: str | os.PathLike[str], *, beside: Sequence[str] = (), every_s: float = EVERY_S) -> Iterator[Path]:
    """The file to write, as `folder_for`; `beside` are endings of folders beside it that a later run goes on from."""
    if not is_remote(out):
        yield Path(out)
        return
    url = remote_url(out)
    folder, _, name = url.rpartition("/")
    if folder.endswith((":/", ":")):
        raise InputError(f"{url}: names a bucket; name a file in it, for instance {url}/vectors.parquet")
    with _mirrored(folder, roots=[name + ending for ending in beside], every_s=every_s) as place:
        yield place / name


@contextmanager
def _mirrored(url: str, *, roots: Sequence[str] | None, every_s: float) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="slicesight-out-"))
    mirror = _Mirror(url, folder)
    try:
        mirror.check_writable()
        mirror.pull(roots)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    stop = threading.Event()
    sender = threading.Thread(target=mirror.keep_pushing, args=(stop, every_s), daemon=True)
    sender.start()
    try:
        yield folder
    finally:
        stop.set()
        sender.join()
        mirror.push_or_say_where()
        shutil.rmtree(folder, ignore_errors=True)


class _Mirror:
    """One folder here and its twin in a store."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url, self.folder = url, folder
        self._sent: dict[str, tuple[int, int]] = {}
        """What the store holds, with size and time of the file here at that moment."""

    def check_writable(self) -> None:
        """Say so now, not after hours of work."""
        mark = self.folder / _MARK
        mark.write_bytes(b"")
        upload(mark, f"{self.url}/{_MARK}")
        remove(f"{self.url}/{_MARK}")
        mark.unlink()

    def pull(self, roots: Sequence[str] | None) -> None:
        """Copy what is in the store; roots: only these parts of it."""
        for root in [""] if roots is None else [f"{root}/" for root in roots]:
            place = f"{self.url}/{root}".rstrip("/")
            try:
                files = list_files(place)
            except MissingError:
                continue
            for file in files:
                target = self.folder / root / file.name
                download(place, file, target)
                facts = target.stat()
                self._sent[root + file.name] = facts.st_size, facts.st_mtime_ns

    def push(self) -> None:
        """Send what is new, the oldest first, then remove what is gone."""
        found: list[tuple[int, int, str]] = []
        for place, folders, names in os.walk(self.folder):
            folders[:] = [name for name in folders if not name.startswith(".")]
            for name in names:
                path = Path(place) / name
                if name.startswith("."):
                    continue
                try:
                    facts = path.stat()
                except FileNotFoundError:  # removed meanwhile
                    continue
                found.append((facts.st_mtime_ns, facts.st_size, path.relative_to(self.folder).as_posix()))
        for time_ns, size, name in sorted(found):
            if self._sent.get(name) != (size, time_ns):
                try:
                    upload(self.folder / name, joined(self.url, name))
                except MissingError:
                    if (self.folder / name).exists():
                        raise
                    continue  # removed meanwhile
                self._sent[name] = size, time_ns
        here = {name for _, _, name in found}
        for name in [name for name in self._sent if name not in here]:
            remove(joined(self.url, name))
            del self._sent[name]

    def keep_pushing(self, stop: threading.Event, every_s: float) -> None:
        """Until told to stop; a failure is said once and tried again."""
        has_told = False
        while not stop.wait(every_s):
            try:
                self.push()
            except InputError as error:
                if not has_told:
                    _LOG.warning("%s; the run goes on and tries again", error)
                has_told = True

    def push_or_say_where(self) -> None:
        """The last sending."""
        try:
            self.push()
        except InputError as error:
            raise InputError(f"{error}; everything is kept in {self.folder}, copy it there or run again") from None
