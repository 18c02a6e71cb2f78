"""Where does a run begin: anew, or where the last complete checkpoint stands?

A run is a row of sections: the parts of stage 0, then the stages. Its folder holds recipe.yaml, log.jsonl, checkpoints/
while it runs and model/ when it is done. A resumed run cuts log.jsonl back to where the checkpoint was written, so that
every step stands in it once.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from slicesight.errors import InputError
from slicesight.training.checkpoints import Checkpoint, CheckpointFolder, DamagedCheckpointError
from slicesight.training.recipe import STAGE0_SECTIONS

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_WAY = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG)
LOG_FILE, LOSS_PICTURE = "log.jsonl", "loss.png"
VAL_LOSS = "val_loss"
SET_ASIDE, REPLACED = ("model", "adapter", "checkpoints", LOG_FILE), ".replaced"
FREE_TO_CHANGE = ("output_dir", "save_every", "card")
Log = Callable[[dict[str, Any]], None]
Progress = Callable[[int, int], None]
"""Called with how many are done and how many there are in all."""


class RunFolder:
    """One run of a recipe in its folder; every process has one, only the main process writes.

    start: the checkpoint to go on from, None for a run from the beginning. is_finished: its model is there already.
    best: by section, the step whose weights were chosen by their validation loss, and that loss.
    """

    def __init__(
        self,
        folder: Path,
        recipe: dict[str, Any],
        *,
        resume: bool = False,
        overwrite: bool = False,
        is_main: bool = True,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.folder, self.recipe, self.is_main = folder, plain(recipe), is_main
        self.checkpoints = CheckpointFolder(folder / "checkpoints")
        self.start: Checkpoint | None = None
        self.is_finished = resume and (folder / "model").is_dir()
        if resume and overwrite:
            raise InputError("--resume goes on with a run and --overwrite replaces it; give one of them")
        if self.is_finished:
            self._sweep()
        elif resume:
            self.start = self._find_start(say)
        elif not overwrite:
            self._refuse_existing()
        elif is_main:
            self._set_aside()
        facts = {} if self.start is None else self.start.facts
        self.best: dict[str, dict[str, Any]] = dict(facts.get("best", {}))
        self.started = time.time() - float(facts.get("seconds", 0))
        if is_main and not self.is_finished:
            folder.mkdir(parents=True, exist_ok=True)
            # unbuffered: nothing is left to write when the disk is full
            self.log_file = (folder / LOG_FILE).open("ab", buffering=0)
            self.log_file.truncate(int(facts.get("log_bytes", 0)))

    @property
    def seconds(self) -> float:
        """Seconds spent on this run, those before an interruption included, lost work left out."""
        return time.time() - self.started

    def write_line(self, facts: dict[str, Any]) -> dict[str, Any]:
        """Append one JSON line to log.jsonl -> what was written."""
        line = {**facts, "seconds": round(self.seconds, 1)}
        if self.is_main:
            self.log_file.write(f"{json.dumps(line)}\n".encode())
        return line

    def lines_of(self, stage: str) -> list[dict[str, Any]]:
        """What the log says of one section so far."""
        return [line for line in read_log(self.folder / LOG_FILE) if line.get("stage") == stage]

    def facts(self) -> dict[str, Any]:
        """What a checkpoint has to know of the run beside the training state."""
        os.fsync(self.log_file.fileno())
        log_bytes = (self.folder / LOG_FILE).stat().st_size
        return {"log_bytes": log_bytes, "seconds": round(self.seconds, 1), "best": self.best, "recipe": self.recipe}

    def is_behind(self, section: int) -> bool:
        """Whether the checkpoint to go on from lies after this section, which then need not run."""
        return self.start is not None and section < self.start.place.section

    def start_of(self, section: int) -> Checkpoint | None:
        """The checkpoint to go on from, if it lies in this section."""
        return self.start if self.start is not None and self.start.place.section == section else None

    def finish(self) -> None:
        """The model is in its place: nothing is left to go on with."""
        if self.is_main:
            self.log_file.close()
        self._sweep()

    def begin(self) -> None:
        """Nothing was refused: of a run that this one replaces only the model is still kept."""
        if self.is_main:
            self._drop_set_aside("checkpoints", LOG_FILE)

    def withdraw(self) -> None:
        """Undo what a run wrote that is refused before its first step; what it set aside is back in its place."""
        if not self.is_main or self.start is not None or self.is_finished:
            return
        self.log_file.close()
        (self.folder / LOG_FILE).unlink()
        for name in SET_ASIDE:
            if (self.folder / f"{name}{REPLACED}").exists():
                os.replace(self.folder / f"{name}{REPLACED}", self.folder / name)
        with suppress(OSError):  # phantoms may lie in it
            self.folder.rmdir()

    def _find_start(self, say: Callable[[str], None]) -> Checkpoint:
        complete = self.checkpoints.list_complete()
        for checkpoint in reversed(complete):
            refuse_other_recipe(checkpoint, self.recipe, self.folder)
            try:
                if not (self.folder / LOG_FILE).is_file():
                    raise DamagedCheckpointError(f"{self.folder / LOG_FILE} is missing")
                checkpoint.check()
            except DamagedCheckpointError as error:
                say(f"checkpoint {error}; going back to the one before")
                continue
            say(f"resuming at {checkpoint.place} ({checkpoint.path})")
            return checkpoint
        what = "no checkpoint is whole any more" if complete else "there is no complete checkpoint"
        raise InputError(f"{self.folder}: {what}, so nothing can be resumed; start anew without --resume")

    def _sweep(self) -> None:
        """Remove what a run with its model in place no longer needs."""
        if self.is_main:
            self.checkpoints.drop_all()
            self._drop_set_aside(*SET_ASIDE)

    def _set_aside(self) -> None:
        """Keep what the run to be replaced left beside: all of it until this one begins, its model until the end."""
        for name in SET_ASIDE:
            if (self.folder / name).exists():
                self._drop_set_aside(name)
                os.replace(self.folder / name, self.folder / f"{name}{REPLACED}")

    def _drop_set_aside(self, *names: str) -> None:
        for path in (self.folder / f"{name}{REPLACED}" for name in names):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def _refuse_existing(self) -> None:
        ways = "give another folder with --set output_dir=DIR, or replace it with --overwrite"
        if (self.folder / "model").exists():
            raise InputError(f"{self.folder} holds a trained model; {ways}")
        if complete := self.checkpoints.list_complete():
            raise InputError(
                f"{self.folder} holds a run that stopped at {complete[-1].place}; go on with --resume, {ways}"
            )


def can_resume(folder: Path) -> bool:
    """Whether a run in this folder left a model or a complete checkpoint; one killed before its first did not."""
    return (folder / "model").is_dir() or bool(CheckpointFolder(folder / "checkpoints").list_complete())


def how_to_go_on(folder: Path) -> str:
    """What to do about a run in this folder that was stopped just now."""
    if (folder / "model").is_dir():
        return f"stopped; {folder} holds a trained model"
    if complete := CheckpointFolder(folder / "checkpoints").list_complete():
        return f"stopped; the last checkpoint is at {complete[-1].place}: give the same command with --resume to go on"
    return f"stopped before the first checkpoint of {folder}; give the same command to start anew"


def refuse_other_recipe(checkpoint: Checkpoint, now: dict[str, Any], folder: Path) -> None:
    """A run goes on with the recipe it began with, but for stages that had not begun at the checkpoint.

    Raises InputError where another value that matters differs.
    """
    before, after = flatten(checkpoint.facts.get("recipe", {})), flatten(now)
    begun = checkpoint.place.section - len(STAGE0_SECTIONS)
    for key in sorted(before.keys() | after.keys()):
        first, second, *_ = [*key.split("."), ""]
        has_not_begun = first == "stages" and second.isdecimal() and int(second) > begun
        if first not in FREE_TO_CHANGE and not has_not_begun and before.get(key) != after.get(key):
            raise InputError(
                f"{folder}: this run began with {key} {before.get(key)!r}, the recipe now says {after.get(key)!r}; "
                f"resume with the recipe it began with (stages that have not begun may change), "
                f"or give another folder with --set output_dir=DIR"
            )


def flatten(values: Any, prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}, "c": [2]} -> {"a.b": 1, "c.0": 2}."""
    pairs = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    flat: dict[str, Any] = {}
    for key, value in pairs:
        is_nested = isinstance(value, dict | list) and value
        flat |= flatten(value, f"{prefix}{key}.") if is_nested else {f"{prefix}{key}": value}
    return flat


def plain(values: Any) -> Any:
    """Tuples as lists, as JSON and YAML have them."""
    return json.loads(json.dumps(values))


def read_log(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a log; a last one that a crash cut short is left out."""
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1] if line]


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn a full disk or a folder that cannot be written into one line about `folder`; other errors pass.

    Libraries wrap what the system says: safetensors in its own error, torch in a RuntimeError.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = _disk_reason(error)
        if reason is None:
            raise
        place = getattr(error, "filename", None) or folder
        raise InputError(
            f"{place}: {reason}; make room or rights there, then go on with --resume, "
            f"or give another folder with --set output_dir=DIR"
        ) from error


def _disk_reason(error: BaseException) -> str | None:
    if isinstance(error, OSError):
        return error.strerror if error.errno in (*NO_ROOM, *NO_WAY) else None
    text = str(error)
    for code in (*NO_ROOM, *NO_WAY):
        if os.strerror(code) in text or f"os error {code}" in text:
            return os.strerror(code)
    if "PytorchStreamWriter" in text or "file write failed" in text or "unexpected pos" in text:
        return "cannot write (is the disk full?)"
    return None
