"""How is a folder that was downloaded by other means read in the hub's place? (`slicesight pull --from FOLDER`)

`hf download --local-dir` leaves a small file per file in `.cache/huggingface/download/`, a line each: commit,
ETag, time; a snapshot of the hub's cache is named by its commit. Where either is there, commit and checksums are taken
from it (huggingface_hub's `_local_folder.py` and "Understand caching" in its manual describe both).
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from slicesight.errors import InputError, ModelError

CHUNK = 8 * 2**20
COMMIT = re.compile(r"[0-9a-f]{40}")
METADATA = Path(".cache", "huggingface", "download")


@dataclass(frozen=True, kw_only=True)
class LocalFile:
    """A file of the folder: its size in bytes."""

    path: str
    size: int


@dataclass(frozen=True, kw_only=True)
class Downloaded:
    """A folder in the hub's layout."""

    folder: Path
    files: dict[str, LocalFile]
    revision: str | None = None
    endpoint: str | None = None
    licence: str | None = None

    @property
    def hub(self) -> str:
        """How errors and the card call it."""
        return str(self.folder)

    @property
    def page(self) -> str:
        """Where it is."""
        return str(self.folder)

    @classmethod
    def of(cls, folder: Path) -> Downloaded:
        """Look at a folder; InputError where there is none."""
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder; --from expects a model's folder, as downloaded from the hub")
        files = {}
        for path in sorted(folder.rglob("*")):
            inner = path.relative_to(folder)
            if path.is_file() and not any(part.startswith(".") for part in inner.parts):
                files[inner.as_posix()] = LocalFile(path=inner.as_posix(), size=path.stat().st_size)
        return cls(folder=folder, files=files, revision=cls._revision_of(folder))

    @staticmethod
    def _revision_of(folder: Path) -> str | None:
        if COMMIT.fullmatch(folder.resolve().name):
            return folder.resolve().name
        for path in sorted((folder / METADATA).rglob("*.metadata")):
            commit = path.read_text(encoding="utf-8").split("\n")[0].strip()
            if COMMIT.fullmatch(commit):
                return commit
        return None

    def read(self, path: str) -> bytes:
        """A settings file."""
        return (self.folder / path).read_bytes()

    def beside(self, hub: str) -> Downloaded:
        """Another repository that was downloaded into or beside this folder, under its own name.

        Raises:
            ModelError: it is in neither place.
        """
        owner, name = hub.split("/")
        places = [self.folder / name, self.folder.resolve().parent / name]
        places += [place.with_name(f"{owner}--{name}") for place in places]
        for place in places:
            if (place / "vocab.txt").is_file() or (place / "tokenizer.json").is_file():
                return Downloaded.of(place)
        raise ModelError(
            f"{self.folder}: the question's vocabulary (vocab.txt of {hub}) is neither in {places[0]} nor in "
            f"{places[1]}; download it there too"
        )

    def bring(self, path: str, destination: Path, *, on_bytes: Callable[[int], None]) -> str:
        """Link the file to its place among the originals; its SHA-256, which is the download's own where that is known.

        Raises:
            ModelError: the file has another checksum than the download recorded.
        """
        origin = (self.folder / path).resolve()
        digest = hashlib.sha256()
        with origin.open("rb") as content:
            while piece := content.read(CHUNK):
                digest.update(piece)
                on_bytes(len(piece))
        recorded = self._recorded_etag(path)
        if recorded and len(recorded) == 64 and recorded != digest.hexdigest():
            raise ModelError(f"{origin}: damaged since it was downloaded (its SHA-256 is another); download it again")
        destination.parent.mkdir(parents=True, exist_ok=True)
        os.symlink(origin, destination)
        return digest.hexdigest()

    def _recorded_etag(self, path: str) -> str | None:
        record = self.folder / METADATA / f"{path}.metadata"
        lines = record.read_text(encoding="utf-8").split("\n") if record.is_file() else []
        return lines[1].strip() if len(lines) > 1 else None
