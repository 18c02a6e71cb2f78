"""How is a checkpoint written so that a kill at any moment leaves a whole one behind?

Everything goes into a hidden folder first; `complete.json`, with the size and SHA-256 of every file, is written last,
and only then the folder gets its name. Without a name or a marker, or with another digest, it is no checkpoint.

    checkpoints/02-instruct-000200/   section 02 of the run, its name, optimizer steps done in it
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slicesight.errors import InputError

MARKER = "complete.json"
WRITING, DROPPED = ".writing-", ".dropped-"
FORMAT = 1
KEEP = 2


class DamagedCheckpointError(InputError):
    """A checkpoint whose files are not those that were written."""


@dataclass(frozen=True, order=True, kw_only=True)
class TrainingPosition:
    """How far a run is: `step` optimizer steps into its section number `section`, called `name`."""

    section: int
    step: int
    name: str

    @property
    def folder_name(self) -> str:
        return f"{self.section:02d}-{self.name}-{self.step:06d}"

    def __str__(self) -> str:
        return f"{self.name}, step {self.step}"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint on disk; `facts` is what its marker says beside the files."""

    path: Path
    place: TrainingPosition
    facts: dict[str, Any]

    def check(self) -> None:
        """Compare every file with what was written; raises DamagedCheckpointError where one is missing or changed."""
        for name, wanted in self.facts["files"].items():
            file, what = self.path / name, f"{self.path.name}: {name}"
            if not file.is_file():
                raise DamagedCheckpointError(f"{what} is missing")
            if (size := file.stat().st_size) != wanted["bytes"]:
                raise DamagedCheckpointError(f"{what} has {size} bytes, {wanted['bytes']} were written")
            if digest(file) != wanted["sha256"]:
                raise DamagedCheckpointError(f"{what} is not what was written (SHA-256 differs)")


class CheckpointFolder:
    """The checkpoints of one run; the last `KEEP` complete ones stay."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def list_complete(self) -> list[Checkpoint]:
        """Every folder with a marker, oldest first; their files are not looked at."""
        found = []
        for path in self.path.glob("[0-9]*"):
            try:
                facts = json.loads((path / MARKER).read_text(encoding="utf-8"))
                place = TrainingPosition(section=facts["section"], step=facts["step"], name=facts["name"])
            except (OSError, ValueError, KeyError, TypeError):
                continue  # no marker, or half of one: it was never complete
            found.append(Checkpoint(path=path, place=place, facts=facts))
        return sorted(found, key=lambda checkpoint: checkpoint.place)

    def begin(self, place: TrainingPosition) -> Path:
        """An empty folder to write a checkpoint into."""
        self.give_up(place)
        self.written(place).mkdir(parents=True)
        return self.written(place)

    def written(self, place: TrainingPosition) -> Path:
        """Where a checkpoint is while it is being written."""
        return self.path / (WRITING + place.folder_name)

    def complete(
        self, place: TrainingPosition, written: Path, facts: dict[str, Any], *, best: tuple[int, int] | None = None
    ) -> Path:
        """Mark what was written below `written` as complete, give it its name, drop what is too old.

        best: section and step of one that stays, however old.
        """
        files = {}
        for file in sorted(path for path in written.rglob("*") if path.is_file()):
            sync(file)
            files[str(file.relative_to(written))] = {"bytes": file.stat().st_size, "sha256": digest(file)}
        marker = {"format": FORMAT, "section": place.section, "name": place.name, "step": place.step, **facts}
        (written / MARKER).write_text(json.dumps({**marker, "files": files}, indent=1) + "\n", encoding="utf-8")
        sync(written / MARKER)
        final = self.path / place.folder_name
        self.drop(final)
        os.replace(written, final)
        sync(self.path)
        self.prune(best=best)
        return final

    def give_up(self, place: TrainingPosition) -> None:
        """Remove what was written of a checkpoint that did not become complete."""
        shutil.rmtree(self.written(place), ignore_errors=True)

    def prune(self, *, best: tuple[int, int] | None = None) -> None:
        """Drop all but the last complete checkpoints and the best, and what a kill left behind."""
        for old in self.list_complete()[:-KEEP]:
            if (old.place.section, old.place.step) != best:
                self.drop(old.path)
        for left in (*self.path.glob(f"{WRITING}*"), *self.path.glob(f"{DROPPED}*")):
            shutil.rmtree(left, ignore_errors=True)

    def drop(self, path: Path) -> None:
        """Remove a checkpoint: its name first, so that a kill never leaves half of one under it."""
        if path.exists():
            dropped = path.with_name(DROPPED + path.name)
            shutil.rmtree(dropped, ignore_errors=True)
            os.replace(path, dropped)
            shutil.rmtree(dropped)

    def drop_all(self) -> None:
        """Remove the whole folder."""
        for checkpoint in self.list_complete():
            self.drop(checkpoint.path)
        shutil.rmtree(self.path, ignore_errors=True)


def digest(file: Path) -> str:
    """SHA-256 of a file."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Bring a file or folder to the disk, so that power loss finds it whole as well."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
