"""What does `slicesight pull` say before, while and after it fetches a model?"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from slicesight.cli.options import say, stderr
from slicesight.cli.terminal import size

if TYPE_CHECKING:
    from slicesight.models.importers.pull import Hooks, Pull

SECONDS_BETWEEN_LINES = 10.0


def run_pull(
    name: str, *, to: Path | None, source: Path | None, revision: str | None, keep: bool, dry_run: bool
) -> Path | None:
    """Say what will be fetched, then do it; the model's folder, or None where nothing was to be written."""
    from transformers.utils import logging

    from slicesight.models.importers.pull import check_disk, prepare, run
    from slicesight.models.shipped import find_folder

    logging.set_verbosity_error()
    with stderr().status(f"asking the hub about {name}" if source is None else f"looking at {source}"):
        pull = prepare(name, to=to, source=source, revision=revision)
    if pull.is_done():
        say(f"{pull.name} is in {pull.target} already, at commit {pull.main.revision}; nothing to do")
        return None
    for line in describe(pull, keep=keep):
        say(line)
    check_disk(pull)
    if dry_run:
        return None
    try:
        with showing(pull) as hooks:
            folder = run(pull, keep=keep, hooks=hooks)
    except KeyboardInterrupt:
        say("stopped; the same command goes on from here")
        raise
    if pull.layout.config is not None:
        named = pull.name if find_folder(pull.name).resolve() == folder.resolve() else folder
        say(f'use it: slicesight ask scan.nii.gz "Is there a lesion in the liver?" --model {named}')
    return folder


def describe(pull: Pull, *, keep: bool) -> list[str]:
    """What will be fetched, its licence, the room it takes, and whether the model fits this machine."""
    main = pull.main
    lines = [
        f"{pull.name}: {pull.known.summary}" if pull.known else f"{pull.name}: {pull.layout.settings.get('model_type')}"
    ]
    lines.append(f"from     {main.page}, {_commit(main.revision)}")
    lines += [f"and      {part.source.page}, {_commit(part.source.revision)}" for part in pull.parts[1:]]
    if pull.is_download:
        lines.append(f"licence  {main.licence or 'none named on the hub; read its page before you use the model'}")
    number = sum(len(part.paths) for part in pull.parts)
    here = pull.bytes_here() if pull.is_download else 0
    what = f"{number} files, {size(pull.total_bytes)}"
    if here:
        what += f", of which {size(here)} are here from an earlier try"
    lines.append(f"{'fetch' if pull.is_download else 'read':8} {what}")
    if not pull.layout.is_own:
        fate = "kept" if keep or not pull.is_download else "removed"
        lines.append(f"then     convert piece by piece; the originals are {fate}")
    place = next(folder for folder in pull.target.parents if folder.is_dir())
    free = shutil.disk_usage(place).free
    lines.append(f"disk     {size(pull.disk_bytes())} for a while, {size(free)} free; into {pull.target}")
    lines.append(f"memory   {describe_fit(pull)}")
    return lines


def _commit(revision: str | None) -> str:
    return f"commit {revision}" if revision else "commit unknown"


def describe_fit(pull: Pull) -> str:
    """Whether `plan` says that the model fits, in the numbers `load` would take here."""
    import torch

    from slicesight.errors import InputError
    from slicesight.models.med2e3.matching import count_visual_tokens
    from slicesight.planning import plan as planning

    device = "cuda" if torch.cuda.is_available() else "cpu"
    free = planning.find_free_bytes(device)
    if pull.layout.config is None:
        needed = pull.weight_bytes + planning.RUNTIME_BYTES
        verdict = _fits(needed, free)
        return f"about {size(needed)} for weights alone: {verdict} ({size(free)} free on {device})"
    said = []
    try:
        for dtype in ("float32", "bfloat16") if device == "cpu" else ("bfloat16",):
            length = max(768, 256 + count_visual_tokens(pull.layout.config))
            needed = planning.plan(pull.layout.config, dtype=dtype, length=length).peak_bytes
            said.append(f"{size(needed)} in {dtype}: {_fits(needed, free)}")
            if needed <= free:
                break
    except InputError as error:
        return f"plan cannot say ({error})"
    return f"one question needs {', '.join(said)} ({size(free)} free on {device})"


def _fits(needed: int, free: int) -> str:
    return "fits" if needed <= free else "DOES NOT FIT"


@contextmanager
def showing(pull: Pull) -> Iterator[Hooks]:
    """A bar with speed and time left on a terminal; elsewhere a line now and then."""
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    from slicesight.models.importers.pull import Hooks

    console = stderr()
    total = pull.total_bytes
    done = pull.bytes_here() if pull.is_download else 0
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("fetching", total=total, completed=done)
        lines = SparseLines(total=total, done=done)

        def on_bytes(number: int) -> None:
            progress.advance(task, number)
            if not console.is_terminal and (line := lines.after(number)):
                say(line)

        def on_file(path: str) -> None:
            progress.update(task, description=path if len(path) < 40 else f"…{path[-39:]}")

        def on_part(part: str) -> None:
            progress.update(task, description="converting", total=None)
            progress.console.print(f"converting {part}", highlight=False)

        def note(text: str) -> None:
            progress.console.print(f"note: {text}", highlight=False, soft_wrap=True)

        yield Hooks(on_bytes=on_bytes, on_file=on_file, on_part=on_part, note=note)


class SparseLines:
    """How far a transfer is, in a line every ten seconds, with its speed and the time that is left."""

    def __init__(self, *, total: int, done: int) -> None:
        self.total, self.done = total, done
        self.begun = self.said = time.monotonic()
        self.at_begin = done

    def after(self, number: int) -> str | None:
        """The line to say after so many more bytes, or None."""
        self.done += number
        now = time.monotonic()
        if now - self.said < SECONDS_BETWEEN_LINES:
            return None
        self.said = now
        speed = max(1.0, (self.done - self.at_begin) / (now - self.begun))
        left = max(0, self.total - self.done) / speed
        return (
            f"{size(self.done)} of {size(self.total)}, {speed / 2**20:.1f} MiB/s, "
            f"{f'{left / 60:.0f} min' if left >= 90 else f'{left:.0f} s'} left"
        )
