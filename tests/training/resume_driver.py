"""Runs a recipe in children of its own and kills them with SIGKILL where it is told; used by test_resume.py.

    python resume_driver.py RECIPE FOLDER NAME [NAME ...]

A name is a row of points joined by "+"; every name has a folder of its own. Each point is one run (resumed, but for the
first), and a last run that nothing disturbs follows; "none" is that alone.
    checkpointing.write_weights:2       kill before the second call of that function of slicesight.training
    half-checkpointing.write_weights:2  kill after it, when the last file it wrote is cut in half
    limit:50000                   no file may grow larger, as on a full disk
    damage                        no run: a byte of the last complete checkpoint is changed
Prints one JSON object: the exit statuses of every name's runs, negative for a signal. The libraries are loaded once and
every run is a fork, since loading them takes longer than a tiny run.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import json
import os
import resource
import signal
import sys
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from slicesight.errors import InputError
from slicesight.training import recipe as recipes
from slicesight.training import run as runs
from slicesight.training import start as starts
from slicesight.training.checkpoints import CheckpointFolder


def disturb(point: str, folder: Path) -> None:
    """Replace a function of slicesight.training by one whose n-th call kills this process, or limit file sizes."""
    place, number = point.split(":")
    if place == "limit":
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(number), int(number)))
        return
    is_half = place.startswith("half-")
    module_name, *names = place.removeprefix("half-").split(".")
    owner = importlib.import_module(f"slicesight.training.{module_name}")
    for name in names[:-1]:
        owner = getattr(owner, name)
    function, calls = getattr(owner, names[-1]), 0

    def counted(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == int(number):
            if is_half:
                function(*args, **kwargs)
                files = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".jsonl"]
                newest = max(files, key=lambda path: path.stat().st_mtime_ns)
                os.truncate(newest, newest.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)

    setattr(owner, names[-1], counted)


def damage(folder: Path) -> None:
    """Change one byte of the last complete checkpoint."""
    file = CheckpointFolder(folder / "checkpoints").list_complete()[-1].path / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def run(recipe: recipes.Recipe, *, point: str | None, resume: bool, output: Path) -> int:
    """One run in a child -> its exit status, negative for a signal."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    status = 1
    with output.open("a") as file, contextlib.redirect_stderr(file):
        try:
            if point is not None:
                disturb(point, Path(recipe.output_dir))
            runs.run_recipe(recipe, resume=resume, console=Console(file=file, width=300))
            status = 0
        except InputError as error:
            file.write(f"slicesight: {error}\n")
            status = 2
        except BaseException as error:
            file.write(f"{type(error).__name__}: {error}\n")
            raise
        finally:
            file.flush()
            os._exit(status)


def make_quick() -> None:
    """Leave out what takes a tiny run longest and has no part in going on: most texts of the tokenizer, the picture."""
    train = starts.train_tokenizer
    starts.train_tokenizer = lambda texts, **settings: train(itertools.islice(texts, 200), **settings)
    runs.draw_losses = lambda log, picture: None


def main() -> None:
    """Every name in its own folder."""
    make_quick()
    recipe, folder = recipes.read_recipe(sys.argv[1]), Path(sys.argv[2])
    statuses = {}
    for name in sys.argv[3:]:
        place = replace(recipe, output_dir=str(folder / name))
        output = folder / f"{name}.txt"
        found: list[int] = []
        for point in [] if name == "none" else name.split("+"):
            if point == "damage":
                damage(folder / name)
            else:
                found.append(run(place, point=point, resume=bool(found), output=output))
        found.append(run(place, point=None, resume=bool(found), output=output))
        statuses[name] = found
    print(json.dumps(statuses))


if __name__ == "__main__":
    main()
