"""The verb that trains."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from slicesight.cli.options import ChangesOption, say, stderr
from slicesight.errors import InputError


def train(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A YAML file of recipes/.", show_default=False)],
    changes: ChangesOption = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last complete checkpoint of this recipe's output_dir.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a run or a model that is already in output_dir.")
    ] = False,
) -> None:
    """Train a model from a recipe; its folder ends with the model, its log and its loss curves."""
    from importlib.util import find_spec

    from slicesight.training.recipe import read_recipe

    plan_of_run = read_recipe(recipe, tuple(changes or ()))

    if find_spec("accelerate") is None:
        raise InputError(
            "training needs the package accelerate, which is not installed: pip install 'slicesight[train]'"
        )
    from slicesight.reports.terminal import progress_bar
    from slicesight.training.distributed import find_process_group
    from slicesight.training.run import run_recipe

    console = stderr()
    console.quiet = not find_process_group().is_main  # torchrun starts this command several times
    with stoppable(Path(plan_of_run.output_dir)), progress_bar(console, "training") as progress:
        folder = run_recipe(plan_of_run, console=console, resume=resume, overwrite=overwrite, progress=progress)
    console.print(f"wrote {folder}; ask it: slicesight ask SCAN --model {folder}", highlight=False, soft_wrap=True)


@contextmanager
def stoppable(folder: Path) -> Iterator[None]:
    """On Ctrl-C one line says how the run in this folder goes on; the libraries' own bars stay away."""
    from transformers.utils import logging

    from slicesight.training.run_folder import how_to_go_on

    logging.disable_progress_bar()
    try:
        yield
    except KeyboardInterrupt:
        say(how_to_go_on(folder))
        raise typer.Exit(130) from None
