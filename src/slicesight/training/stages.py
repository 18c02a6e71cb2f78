"""From a recipe to a trained model folder: build, stage 0 for each part, then the paper's two stages.

Stage 0 stands in for what the paper downloads (SigLIP, M3D-CLIP, Phi-3); stage 1 aligns the connectors on reports;
stage 2 trains on all eleven pairs. What each stage trains is a list of part names in the recipe.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from transformers import set_seed

from slicesight.errors import InputError
from slicesight.model import Med2E3ForConditionalGeneration, Med2E3Processor

from .curve import draw_losses
from .phantom_set import open_phantom_set
from .recipe import Recipe
from .stage0 import pretrain
from .starts import build, load_start
from .trainer import train_stage

Log = Callable[[dict[str, Any]], None]


def run_recipe(recipe: Recipe, *, console: Console | None = None) -> Path:
    """Train everything the recipe asks for; returns the folder with the model, log.jsonl and the resolved recipe."""
    if recipe.init and not Path(recipe.init).is_dir():
        raise InputError(f"init: {recipe.init} is no folder; name a model folder, or leave init out to start anew")
    console = console or Console(stderr=True)
    started = time.time()
    set_seed(recipe.seed)
    folder = Path(recipe.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "recipe.json", recipe.to_dict())
    log = open_log(folder / "log.jsonl", console)
    phantoms = open_phantom_set(
        recipe.data.folder,
        seed=recipe.data.seed,
        count=recipe.data.count,
        grid=recipe.grid,
        progress=lambda done, count: log({"stage": "phantoms", "step": done}) if done % 200 == 0 else None,
    )
    model, processor = load_start(recipe) if recipe.init else build(recipe, phantoms)
    log({"stage": "build", "step": 0, "parameters": sum(p.numel() for p in model.parameters())})
    if recipe.pretrains:
        pretrain(recipe, model, processor, phantoms, log)
        save(model, processor, recipe, folder / "stage0", dtype=torch.float32)
    for number, stage in enumerate(recipe.stages):
        set_trainable(model, stage.trainable)
        train_stage(model, processor, phantoms, stage, recipe, log=log, seed=recipe.seed + number)
    draw_losses(folder / "log.jsonl", folder / "loss.png")
    set_trainable(model, ())
    save(model, processor, recipe, folder / "model", dtype=torch.bfloat16, minutes=(time.time() - started) / 60)
    return folder / "model"


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


def open_log(path: Path, console: Console) -> Log:
    """A function that appends one JSON line per call and shows it."""
    file = path.open("w", encoding="utf-8")
    started = time.time()

    def log(facts: dict[str, Any]) -> None:
        line = {**facts, "seconds": round(time.time() - started, 1)}
        file.write(json.dumps(line) + "\n")
        file.flush()
        console.print("  ".join(f"{key} {value}" for key, value in line.items()), highlight=False, soft_wrap=True)

    return log


def write_json(path: Path, content: Any) -> None:
    """Write under a temporary name, then rename."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    os.replace(partial, path)
