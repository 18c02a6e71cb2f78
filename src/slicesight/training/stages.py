"""From a recipe to a trained model folder: build, stage 0 for each part, then the paper's two stages.

Stage 0 stands in for what the paper downloads (SigLIP, M3D-CLIP, Phi-3); stage 1 aligns the connectors on reports;
stage 2 trains on all eleven pairs. What each stage trains is a list of part names in the recipe.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from transformers import AutoProcessor, set_seed

from slicesight.errors import InputError
from slicesight.model import Med2E3Config, Med2E3ForConditionalGeneration, Med2E3Processor
from slicesight.model.vision2d import measure_slice_tokens

from .curve import draw_losses
from .encoders import slice_batches, train_encoder, volume_batches, with_average
from .language import train_language
from .phantom_set import PhantomSet, open_phantom_set
from .recipe import Recipe
from .tokenizer import train_tokenizer
from .trainer import train_stage
from .words import WordMatch, Words

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


def build(recipe: Recipe, phantoms: PhantomSet) -> tuple[Med2E3ForConditionalGeneration, Med2E3Processor]:
    """A random model and the processor whose tokenizer was learnt from the training texts."""
    from .language import sample_texts

    tokenizer = train_tokenizer(sample_texts(phantoms, count=4000, seed=recipe.seed), vocab_size=recipe.vocab_size)
    grid = recipe.grid
    settings = dict(recipe.model)
    settings["text_config"] = {
        **settings["text_config"],
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": None,
    }
    config = Med2E3Config(image_size=[grid.num_slices, grid.height, grid.width], **settings)
    processor = Med2E3Processor.for_model(config, tokenizer, grid=grid.to_dict(), template=recipe.template)
    model = Med2E3ForConditionalGeneration(config)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model, processor


def load_start(recipe: Recipe) -> tuple[Med2E3ForConditionalGeneration, Med2E3Processor]:
    """The model folder named by `init`, with the recipe's model words laid over its configuration."""
    assert recipe.init is not None
    config = Med2E3Config.from_pretrained(recipe.init)
    for key, value in recipe.model.items():
        if not key.endswith("_config"):
            setattr(config, key, value)
    model = Med2E3ForConditionalGeneration.from_pretrained(recipe.init, config=config, dtype=torch.float32)
    return model, AutoProcessor.from_pretrained(recipe.init)


def pretrain(
    recipe: Recipe,
    model: Med2E3ForConditionalGeneration,
    processor: Med2E3Processor,
    phantoms: PhantomSet,
    log: Log,
) -> None:
    """Stage 0: whichever of the three parts the recipe names."""
    if recipe.pretrain_language:
        num_2d = measure_slice_tokens(model.config)[0] if model.config.needs_2d else 0
        train_language(
            model.language_model,
            processor,
            phantoms,
            recipe.pretrain_language,
            seed=recipe.seed,
            shape=(model.num_visual_tokens - num_2d, num_2d),
            target=recipe.target,
            log=lambda facts: log({"stage": "language", **facts}),
        )
    everyone = np.arange(len(phantoms))
    words, embeddings = Words(processor.tokenizer), model.get_input_embeddings().weight
    if recipe.pretrain_slices and model.vision2d is not None:
        run, vision2d = recipe.pretrain_slices, model.vision2d
        num_tokens, width = measure_slice_tokens(model.config)
        side, pool = math.isqrt(num_tokens), model.config.slice_pool
        vision2d.to(memory_format=torch.channels_last)
        train_encoder(
            lambda slices: with_average(vision2d.encode_grid(slices), (1, side * pool, side * pool), (1, side, side)),
            vision2d,
            model.projector_2d,
            WordMatch(words, embeddings),
            slice_batches(
                phantoms,
                everyone,
                size=run.batch_size,
                cells=(side * pool, side * pool),
                coarse=(side, side),
                seed=recipe.seed,
            ),
            width=width,
            steps=run.steps,
            learning_rate=run.learning_rate,
            log=lambda facts: log({"stage": "slices", **facts}),
        )
    if recipe.pretrain_volumes and model.vision3d is not None:
        run, encoder, config = recipe.pretrain_volumes, model.vision3d.encoder, model.config.vision3d_config
        train_encoder(
            lambda volumes: with_average(encoder(volumes).flatten(1, 3), config.token_grid, config.pooled_grid),
            encoder,
            model.projector_3d,
            WordMatch(words, embeddings),
            volume_batches(
                phantoms,
                everyone,
                size=run.batch_size,
                cells=config.token_grid,
                coarse=config.pooled_grid,
                seed=recipe.seed,
            ),
            width=config.hidden_size,
            steps=run.steps,
            learning_rate=run.learning_rate,
            log=lambda facts: log({"stage": "volumes", **facts}),
        )


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
