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
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from slicesight.data.dataset import Dataset, open_dataset
from slicesight.errors import InputError
from slicesight.models.med2e3 import Med2E3ForConditionalGeneration, Med2E3Processor
from slicesight.phantoms.stage0 import SECTIONS, pretrain
from slicesight.training.checkpointing import CheckpointPolicy
from slicesight.training.curve import draw_losses
from slicesight.training.distributed import ProcessGroup, find_process_group, join, leave
from slicesight.training.lora import add_adapters, merge_adapters
from slicesight.training.provenance import check_loggers, describe_run, write_recipe
from slicesight.training.recipe import Lora, PreparedData, Recipe
from slicesight.training.resume import RunFolder, disk_errors
from slicesight.training.start import build_start, check_init
from slicesight.training.trainer import Progress, train_stage
from slicesight.training.weights import read_weights

Log = Callable[[dict[str, Any]], None]


def run_recipe(
    recipe: Recipe,
    *,
    console: Console | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress = lambda done, total: None,
) -> Path:
    """Train everything the recipe asks for; returns the folder with the model, log.jsonl and the resolved recipe.

    resume: go on from the last complete checkpoint in the recipe's output_dir. overwrite: replace a run that is there.

    Raises:
        InputError: the recipe, its folder, the disk or the processes do not allow it.
    """
    if recipe.init:
        check_init(recipe.init)
    check_loggers(recipe.report_to)
    engine = find_process_group()
    if recipe.pretrains and engine.num_processes > 1:
        raise InputError("stage 0 trains in one process; run it alone, then start the stages from its folder with init")
    if engine.is_sharded and recipe.save_every is None:
        raise InputError(f"save_every is null; {engine.kind} needs checkpoints, whose weights start the next stage")
    if console is None or not engine.is_main:
        console = Console(stderr=True, quiet=not engine.is_main)
    join(engine)
    try:
        with disk_errors(Path(recipe.output_dir)):
            return run_in_folder(recipe, engine, console, resume=resume, overwrite=overwrite, progress=progress)
    finally:
        leave(engine)


def run_in_folder(
    recipe: Recipe, engine: ProcessGroup, console: Console, *, resume: bool, overwrite: bool, progress: Progress
) -> Path:
    """The run itself, section after section, without those that a resumed run has behind it."""
    folder = Path(recipe.output_dir)
    say = functools.partial(console.print, highlight=False, soft_wrap=True)
    run = RunFolder(folder, recipe.to_dict(), resume=resume, overwrite=overwrite, is_main=engine.is_main, say=say)
    if run.is_finished:
        say(f"{folder} is finished already")
        return folder / "model"
    set_seed(recipe.seed)
    log = show_lines(run, console)
    once = log if run.start is None else lambda facts: None
    try:
        if not engine.is_main:
            engine.wait()  # until the main process has made the phantoms
        source = open_source(recipe, once=once)
        if engine.is_main:
            engine.wait()
        model, processor = build_start(recipe, source)
    except InputError:
        run.withdraw()
        raise
    run.begin()
    if engine.is_main:
        write_record(recipe, engine, folder)
    once({"stage": "build", "step": 0, "parameters": sum(p.numel() for p in model.parameters())})
    keep = functools.partial(CheckpointPolicy, run, processor=processor, save_every=recipe.save_every, engine=engine)
    first = len(SECTIONS)
    if recipe.pretrains:
        pretrain(recipe, model, processor, source.phantoms, log, run=run, keep=keep)
        if not run.is_behind(first - 1):
            save(model, processor, recipe, folder / "stage0", dtype=torch.float32)
    for number, stage in enumerate(recipe.stages):
        if run.is_behind(first + number):
            continue
        seed = recipe.seed + number
        data = source.with_seed(seed)
        set_trainable(model, stage.trainable, frozen_dtype=getattr(torch, recipe.frozen_dtype))
        adapters = add_adapters(model, stage.lora)
        keeper = keep(section=first + number, name=stage.name, model=model)
        train_stage(
            model, processor, data, stage, recipe, log=log, seed=seed, keeper=keeper, engine=engine, progress=progress
        )
        if engine.is_sharded:
            model, adapters = whole_model(model, stage.lora, keeper.last.path)
        merge_adapters(adapters)
    set_trainable(model, (), frozen_dtype=getattr(torch, recipe.frozen_dtype))
    if engine.is_main:
        draw_losses(folder / "log.jsonl", folder / "loss.png")
        save(model, processor, recipe, folder / "model", dtype=torch.bfloat16, minutes=run.seconds / 60)
        write_record(recipe, engine, folder / "model")
    engine.wait()
    run.finish()
    return folder / "model"


def open_source(recipe: Recipe, *, once: Log) -> Dataset:
    """The recipe's data; phantoms that are not there yet are made."""
    data = recipe.data
    if isinstance(data, PreparedData):
        return open_dataset(f"prepared:{data.prepared}", split=data.split, grid=recipe.grid)
    assert recipe.grid is not None
    return open_dataset(
        f"phantoms:{data.seed}:{data.count}",
        grid=recipe.grid,
        folder=data.folder or Path(recipe.output_dir) / "phantoms",
        workers=data.workers,
        progress=lambda done, count: once({"stage": "phantoms", "step": done}) if done % 200 == 0 else None,
    )


def whole_model(
    model: Med2E3ForConditionalGeneration, lora: Lora | None, checkpoint: Path
) -> tuple[Med2E3ForConditionalGeneration, list[Any]]:
    """A model of the same shape with all weights of a checkpoint, in place of one that holds only a share of them.

    Its adapters are in place, not yet merged.
    """
    unset_hf_deepspeed_config()  # under ZeRO-3 the library would build it in shares again
    whole = Med2E3ForConditionalGeneration(model.config)
    whole.generation_config = model.generation_config
    adapters = add_adapters(whole, lora)
    read_weights(whole, checkpoint)
    return whole, adapters


def set_trainable(
    model: Med2E3ForConditionalGeneration, parts: tuple[str, ...], *, frozen_dtype: torch.dtype = torch.float32
) -> None:
    """Exactly these parts of the model learn, in float32; the scorer's text encoder only under its own name.

    Raises:
        InputError: a name that is no part of this model.
    """
    known = model.parts
    for part in parts:
        if part not in known:
            raise InputError(f"trainable: {part!r} is no part of this model; its parts are {', '.join(known)}")
    for name, part in known.items():  # the text encoder, which the scorer holds, comes last
        part.requires_grad_(name in parts)
        part.to(torch.float32 if name in parts else frozen_dtype)


def write_record(recipe: Recipe, engine: ProcessGroup, folder: Path) -> None:
    """The resolved recipe and what it ran with."""
    write_recipe(recipe, folder / "recipe.yaml")
    write_json(folder / "run.json", describe_run(recipe, num_processes=engine.num_processes, engine=engine.kind))


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


def show_lines(run: RunFolder, console: Console) -> Log:
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
