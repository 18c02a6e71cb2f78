"""From a recipe to a trained model folder: build, stage 0 for each part, then the paper's two stages.

Stage 0 stands in for what the paper downloads (SigLIP, M3D-CLIP, Phi-3); stage 1 aligns the connectors on reports;
stage 2 trains on all eleven pairs. What each stage trains is a list of part names in the recipe.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from transformers import set_seed

from slicesight.errors import InputError
from slicesight.model import Med2E3ForConditionalGeneration, Med2E3Processor

from .curve import draw_losses
from .engines import Engine, find_engine, join, leave
from .keeping import Keeper
from .phantom_set import open_phantom_set
from .recipe import Recipe
from .resume import Run, disk_errors
from .stage0 import SECTIONS, pretrain
from .starts import build, load_start
from .trainer import train_stage
from .weights import read_weights

Log = Callable[[dict[str, Any]], None]


def run_recipe(
    recipe: Recipe, *, console: Console | None = None, resume: bool = False, overwrite: bool = False
) -> Path:
    """Train everything the recipe asks for; returns the folder with the model, log.jsonl and the resolved recipe.

    resume: go on from the last complete checkpoint in the recipe's output_dir. overwrite: replace a run that is there.

    Raises:
        InputError: the recipe, its folder, the disk or the processes do not allow it.
    """
    if recipe.init and not Path(recipe.init).is_dir():
        raise InputError(f"init: {recipe.init} is no folder; name a model folder, or leave init out to start anew")
    engine = find_engine()
    if recipe.pretrains and engine.num_processes > 1:
        raise InputError("stage 0 trains in one process; run it alone, then start the stages from its folder with init")
    if engine.is_sharded and recipe.save_every is None:
        raise InputError(f"save_every is null; {engine.kind} needs checkpoints, whose weights start the next stage")
    if console is None or not engine.is_main:
        console = Console(stderr=True, quiet=not engine.is_main)
    join(engine)
    try:
        with disk_errors(Path(recipe.output_dir)):
            return run_in_folder(recipe, engine, console, resume=resume, overwrite=overwrite)
    finally:
        leave(engine)


def run_in_folder(recipe: Recipe, engine: Engine, console: Console, *, resume: bool, overwrite: bool) -> Path:
    """The run itself, section after section, without those that a resumed run has behind it."""
    folder = Path(recipe.output_dir)
    say = functools.partial(console.print, highlight=False, soft_wrap=True)
    run = Run(folder, recipe.to_dict(), resume=resume, overwrite=overwrite, is_main=engine.is_main, say=say)
    if run.is_finished:
        say(f"{folder} is finished already")
        return folder / "model"
    set_seed(recipe.seed)
    if engine.is_main:
        write_json(folder / "recipe.json", recipe.to_dict())
    log = show_lines(run, console)
    once = log if run.start is None else lambda facts: None
    if not engine.is_main:
        engine.wait()  # until the main process has made the phantoms
    phantoms = open_phantom_set(
        recipe.data.folder,
        seed=recipe.data.seed,
        count=recipe.data.count,
        grid=recipe.grid,
        progress=lambda done, count: once({"stage": "phantoms", "step": done}) if done % 200 == 0 else None,
    )
    if engine.is_main:
        engine.wait()
    model, processor = load_start(recipe) if recipe.init else build(recipe, phantoms)
    once({"stage": "build", "step": 0, "parameters": sum(p.numel() for p in model.parameters())})
    keep = functools.partial(Keeper, run, processor=processor, save_every=recipe.save_every, engine=engine)
    first = len(SECTIONS)
    if recipe.pretrains:
        pretrain(recipe, model, processor, phantoms, log, run=run, keep=keep)
        if not run.is_behind(first - 1):
            save(model, processor, recipe, folder / "stage0", dtype=torch.float32)
    for number, stage in enumerate(recipe.stages):
        if run.is_behind(first + number):
            continue
        set_trainable(model, stage.trainable)
        keeper = keep(section=first + number, name=stage.name, model=model)
        seed = recipe.seed + number
        train_stage(model, processor, phantoms, stage, recipe, log=log, seed=seed, keeper=keeper, engine=engine)
        if engine.is_sharded:
            model = whole_model(model, keeper.last.path)
    set_trainable(model, ())
    if engine.is_main:
        draw_losses(folder / "log.jsonl", folder / "loss.png")
        save(model, processor, recipe, folder / "model", dtype=torch.bfloat16, minutes=run.seconds / 60)
    engine.wait()
    run.finish()
    return folder / "model"


def whole_model(model: Med2E3ForConditionalGeneration, checkpoint: Path) -> Med2E3ForConditionalGeneration:
    """A model of the same shape with all weights of a checkpoint, in place of one that holds only a share of them."""
    whole = Med2E3ForConditionalGeneration(model.config)
    whole.generation_config = model.generation_config
    read_weights(whole, checkpoint)
    return whole


def set_trainable(model: Med2E3ForConditionalGeneration, parts: tuple[str, ...]) -> None:
    """Exactly these children of the model learn.

    Raises:
        InputError: a name that is no part of this model.
    """
    children = dict(model.named_children()) | {
        name: parameter for name, parameter in model.named_parameters() if "." not in name
    }
    for part in parts:
        if part not in children:
            raise InputError(f"trainable: {part!r} is no part of this model; its parts are {', '.join(children)}")
    for name, part in children.items():
        part.requires_grad_(name in parts)


def save(
    model: Med2E3ForConditionalGeneration,
    processor: Med2E3Processor,
    recipe: Recipe,
    folder: Path,
    *,
    dtype: torch.dtype,
    minutes: float | None = None,
) -> None:
    """The model with its processor and card, under a temporary name until complete."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.to(dtype).save_pretrained(partial)
    processor.save_pretrained(partial)
    card = {"name": recipe.name, **recipe.card, "seed": recipe.seed}
    if minutes is not None:
        card["training_minutes"] = round(minutes, 1)
    write_json(partial / "card.json", card)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(partial, folder)


def show_lines(run: Run, console: Console) -> Log:
    """A function that appends one line per call to the run's log and shows it."""

    def log(facts: dict[str, Any]) -> None:
        line = run.write_line(facts)
        console.print("  ".join(f"{key} {value}" for key, value in line.items()), highlight=False, soft_wrap=True)

    return log


def write_json(path: Path, content: Any) -> None:
    """Write under a temporary name, then rename."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    os.replace(partial, path)
