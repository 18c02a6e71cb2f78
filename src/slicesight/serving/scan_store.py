"""Where are scans kept while they are asked, and who takes them away?

    base/lock                     held while runs are swept or begun
    base/run-XXXX/lock            held as long as a server lives; whoever can take it may remove the run
    base/run-XXXX/incoming/...    uploads not yet read
    base/run-XXXX/volumes/vol_.../  scan.json, grid.f32, image.nii.gz, answers/chatcmpl-....json

The disk is the truth, so several servers may share a run; how long ago a scan was used is its scan.json's time. A
server that was killed leaves its lock free, and the next one to start sweeps what it left.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from slicesight.errors import InputError
from slicesight.files import write_text
from slicesight.inference.answers import Answer
from slicesight.serving.refusals import Refusal, no_volume
from slicesight.serving.stored_scan import IMAGE_FILE, SCAN_FILE, StoredScan, read_scan

UPLOAD_FILE = "upload.json"
_MAX_CLIENT_UPLOADS = 8
_UNASKED_S = 60
"""After that a scan that was never asked may have to leave."""
_FREE_BYTES = 256 * 2**20
"""Of the disk that stay free."""
_VOLUME_ID = re.compile(r"vol_[0-9a-f]{32}")
_ANSWER_ID = re.compile(r"chatcmpl-[0-9a-f]{32}")


def new_id(kind: str) -> str:
    """A name nobody can guess: `vol_...` or `chatcmpl-...`."""
    return kind + secrets.token_hex(16)


class _Kept(NamedTuple):
    name: str
    client: str
    num_bytes: int
    last_used: float
    is_asked: bool


class ScanStore:
    """The volumes of one run.

    Args:
        folder: where runs are kept; None is the system's place for temporary files.
        is_shared: all servers of this folder keep their volumes together, until the last one has gone.
        max_client_volumes: of `max_volumes`, by one client; max_bytes: on disk, of all volumes.
    """

    def __init__(
        self,
        *,
        folder: Path | None = None,
        is_shared: bool = False,
        keep_minutes: float = 60,
        max_volumes: int = 200,
        max_client_volumes: int = 100,
        max_bytes: int = 50 * 10**9,
        max_answers: int = 200,
    ) -> None:
        self.keep_s, self.max_answers = keep_minutes * 60, max_answers
        self.max_volumes, self.max_client_volumes, self.max_bytes = max_volumes, max_client_volumes, max_bytes
        base = _own_folder((folder or Path(tempfile.gettempdir())) / f"slicesight-serve-{os.getuid()}")
        with (base / "lock").open("w", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            _sweep(base)
            self.run = base / "run-shared" if is_shared else Path(tempfile.mkdtemp(prefix="run-", dir=base))
            for place in (self.run, self.incoming, self.volumes):
                place.mkdir(mode=0o700, exist_ok=True)
            self._lock: TextIO = (self.run / "lock").open("w", encoding="utf-8")
            fcntl.flock(self._lock, fcntl.LOCK_SH)

    @property
    def incoming(self) -> Path:
        return self.run / "incoming"

    @property
    def volumes(self) -> Path:
        return self.run / "volumes"

    def close(self) -> None:
        """Give the lock back and remove the run, if no other server uses it."""
        self._lock.close()
        with contextlib.suppress(FileNotFoundError), (self.run.parent / "lock").open("w", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            _remove_if_free(self.run)

    @contextmanager
    def receiving(self, client: str = "", *, num_bytes: int = 0) -> Iterator[Path]:
        """A folder for one upload; what `add` has not taken by the end is removed.

        Args:
            client: whose it is; num_bytes: it is said to have.

        Raises:
            Refusal: 429 as many volumes are kept as may be, by this client or by all; 507 the disk is full.
        """
        self._make_room(client, num_bytes)
        folder = Path(tempfile.mkdtemp(prefix=f"{client}-", dir=self.incoming))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _make_room(self, client: str, num_bytes: int) -> None:
        """Let go of scans that nobody has asked anything, of the client that keeps most, until one more has room."""
        own = sum(folder.name.startswith(f"{client}-") for folder in self.incoming.iterdir())
        if own >= _MAX_CLIENT_UPLOADS:
            raise _full(f"{own} scans of yours are on their way already; wait for one", code="client_uploads")
        kept = self._kept()
        while self._count(kept, client) + own >= self.max_client_volumes:
            if not self._evict(kept, client):
                raise _full(
                    f"you keep {self._count(kept, client)} scans, as many as one client may; delete one",
                    code="client_volumes",
                )
        num_incoming = sum(1 for _ in self.incoming.iterdir())
        while len(kept) + num_incoming >= self.max_volumes:
            if not self._evict(kept):
                raise _full(
                    f"{len(kept) + num_incoming} scans are kept, which is all there is room for; delete one or "
                    "come again",
                    code="too_many_volumes",
                )
        while num_bytes + sum(one.num_bytes for one in kept) > self.max_bytes or not self._fits_disk(num_bytes):
            if not self._evict(kept):
                raise Refusal(507, "the disk for scans is full; delete one or come again later.", code="no_space")

    def _kept(self) -> list[_Kept]:
        found = []
        for name in self.volume_ids():
            folder = self.volumes / name
            with contextlib.suppress(FileNotFoundError, NotADirectoryError, ValueError):
                facts = json.loads((folder / UPLOAD_FILE).read_text(encoding="utf-8"))
                used = (folder / SCAN_FILE).stat().st_mtime
                is_asked = any((folder / "answers").iterdir())
                found.append(_Kept(name, facts.get("client", ""), facts.get("disk_bytes", 0), used, is_asked))
        return found

    @staticmethod
    def _count(kept: list[_Kept], client: str) -> int:
        return sum(one.client == client for one in kept)

    def _evict(self, kept: list[_Kept], client: str | None = None) -> bool:
        """Remove what has lain longest unasked, of this client or the one that keeps most; False where all was."""
        idle = [one for one in kept if not one.is_asked and time.time() - one.last_used > _UNASKED_S]
        idle = [one for one in idle if client in (None, one.client)]
        if not idle:
            return False
        doomed = max(idle, key=lambda one: (self._count(kept, one.client), -one.last_used))
        kept.remove(doomed)
        _remove(self.volumes / doomed.name)
        return True

    def _fits_disk(self, num_bytes: int) -> bool:
        return shutil.disk_usage(self.run).free > num_bytes + _FREE_BYTES

    def add(self, folder: Path, facts: dict[str, Any]) -> str:
        """Take a folder that was read as a volume, and give it its name.

        Args:
            facts: of the upload, for its answers: created, bytes, whose it is and where it comes from.
        """
        num_bytes = sum(file.stat().st_size for file in folder.iterdir())
        (folder / UPLOAD_FILE).write_text(json.dumps({**facts, "disk_bytes": num_bytes}), encoding="utf-8")
        (folder / "answers").mkdir()
        volume_id = new_id("vol_")
        folder.rename(self.volumes / volume_id)
        return volume_id

    def find(self, volume_id: str) -> Path:
        """The volume's folder; looking counts as use.

        Raises:
            Refusal: there is none of that name, or it has expired.
        """
        folder = self.volumes / volume_id
        if not _VOLUME_ID.fullmatch(volume_id) or self._has_expired(folder):
            raise no_volume()
        with contextlib.suppress(FileNotFoundError):
            os.utime(folder / SCAN_FILE)
        return folder

    def read(self, volume_id: str) -> tuple[StoredScan, dict[str, Any]]:
        """The volume and the facts of its upload.

        Raises:
            Refusal: there is none of that name.
        """
        folder = self.find(volume_id)
        try:
            return read_scan(folder), json.loads((folder / UPLOAD_FILE).read_text(encoding="utf-8"))
        except FileNotFoundError:  # removed meanwhile
            raise no_volume() from None

    def image(self, volume_id: str) -> Path:
        return self.find(volume_id) / IMAGE_FILE

    def expires_at(self, volume_id: str) -> int | None:
        """Unix seconds; None without an end."""
        if not self.keep_s:
            return None
        try:
            return int((self.volumes / volume_id / SCAN_FILE).stat().st_mtime + self.keep_s)
        except FileNotFoundError:
            raise no_volume() from None

    def delete(self, volume_id: str) -> None:
        """Remove a volume and its answers."""
        _remove(self.find(volume_id))

    def volume_ids(self) -> set[str]:
        """Names of the volumes there are."""
        return {folder.name for folder in self.volumes.iterdir() if _VOLUME_ID.fullmatch(folder.name)}

    def expire(self) -> None:
        """Remove what nobody has used for too long."""
        for name in self.volume_ids():
            if self._has_expired(self.volumes / name):
                _remove(self.volumes / name)

    def add_answer(self, volume_id: str, answer_id: str, answer: Answer) -> None:
        """Keep an answer with its volume; nothing happens where that is gone."""
        record: dict[str, Any] = {"question": answer.question, "text": answer.text, "scores": answer.scores}
        kept = (
            "cut_at",
            "choice",
            "confidence",
            "confidence_note",
            "abstained",
            "would_say",
            "evidence",
            "evidence_note",
        )
        record |= {name: getattr(answer, name) for name in kept}
        record |= {name: said for name in ("system", "prefix") if (said := getattr(answer, name))}
        folder = self.volumes / volume_id / "answers"
        with contextlib.suppress(FileNotFoundError, InputError):
            write_text(folder / f"{answer_id}.json", text=json.dumps(record))
            files = sorted(folder.glob("chatcmpl-*.json"), key=lambda file: file.stat().st_mtime_ns)
            for file in files[: max(0, len(files) - self.max_answers)]:
                file.unlink(missing_ok=True)

    def answers(self, volume_id: str, answer_ids: list[str] | None = None) -> list[dict[str, Any]]:
        """Kept answers in the order they were given, or the named ones in their order.

        Raises:
            Refusal: there is no such volume or answer.
        """
        folder = self.find(volume_id) / "answers"
        if answer_ids is None:
            files = sorted(folder.glob("chatcmpl-*.json"), key=lambda file: file.stat().st_mtime_ns)
        else:
            files = [folder / f"{name}.json" for name in answer_ids if _ANSWER_ID.fullmatch(name)]
        found = []
        for file in files:
            with contextlib.suppress(FileNotFoundError):
                found.append(json.loads(file.read_text(encoding="utf-8")))
        if answer_ids is not None and len(found) != len(answer_ids):
            raise Refusal(404, "there is no such answer about this volume; ask again.", param="answers")
        return found

    def _has_expired(self, folder: Path) -> bool:
        try:
            last_used = (folder / SCAN_FILE).stat().st_mtime
        except (FileNotFoundError, NotADirectoryError):
            return True
        return bool(self.keep_s) and time.time() > last_used + self.keep_s


def _full(what: str, *, code: str) -> Refusal:
    return Refusal(429, f"{what}.", code=code, headers={"Retry-After": "60"})


def _own_folder(folder: Path) -> Path:
    """The folder, ours alone: others could read scans or plant links in it."""
    try:
        folder.mkdir(mode=0o700, exist_ok=True, parents=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot keep scans there ({error.strerror}); choose another folder.") from None
    found = folder.lstat()
    if folder.is_symlink() or found.st_uid != os.getuid():
        raise InputError(f"{folder}: belongs to somebody else; choose a folder of your own to keep scans in.")
    folder.chmod(0o700)
    return folder


def _sweep(base: Path) -> None:
    """Remove what servers that no longer live have left."""
    for run in base.glob("run-*"):
        _remove_if_free(run)
    for half_removed in base.glob(".gone-*"):
        shutil.rmtree(half_removed, ignore_errors=True)


def _remove_if_free(run: Path) -> None:
    try:
        with (run / "lock").open("w", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(run)
    except FileNotFoundError:  # killed before it could lock
        _remove(run)
    except BlockingIOError:
        return


def _remove(folder: Path) -> None:
    """Out of sight in one step, then away."""
    doomed = folder.with_name(f".gone-{secrets.token_hex(8)}")
    with contextlib.suppress(FileNotFoundError):
        folder.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)
