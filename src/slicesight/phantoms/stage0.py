"""Stage 0 of a run: teach the language model and both encoders before any question about a scan.

It stands in for what the paper downloads (SigLIP, M3D-CLIP, Phi-3): language.py and encoders.py, one after the other.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from slicesight.models.med2e3 import Med2E3ForConditionalGeneration, Med2E3Processor
from slicesight.models.med2e3.vision2d import measure_slice_tokens
from slicesight.phantoms.grid_set import PhantomSet
from slicesight.phantoms.pretrain_encoders import slice_batches, train_encoder, volume_batches, with_average
from slicesight.phantoms.pretrain_language import train_language
from slicesight.phantoms.vocabulary import LabelWords, WordMatch
from slicesight.training.checkpointing import CheckpointPolicy
from slicesight.training.recipe import Recipe
from slicesight.training.resume import RunFolder

SECTIONS = ("language", "slices", "volumes")


def pretrain(
    recipe: Recipe,
    model: Med2E3ForConditionalGeneration,
    processor: Med2E3Processor,
    phantoms: PhantomSet,
    log: Callable[[dict[str, Any]], None],
    *,
    run: RunFolder,
    keep: Callable[..., CheckpointPolicy],
) -> None:
    """Stage 0: whichever of the three parts the recipe names, without those that a resumed run has behind it."""
    if recipe.pretrain_slices and model.vision2d is not None:
        model.vision2d.to(memory_format=torch.channels_last)
    if recipe.pretrain_language and not run.is_behind(0):
        num_2d = measure_slice_tokens(model.config)[0] if model.config.needs_2d else 0
        train_language(
            model.language_model,
            processor,
            phantoms,
            recipe.pretrain_language,
            keeper=keep(section=0, name=SECTIONS[0], model=model),
            seed=recipe.seed,
            shape=(model.num_visual_tokens - num_2d, num_2d),
            target=recipe.target,
            log=lambda facts: log({"stage": "language", **facts}),
        )
    everyone = np.arange(len(phantoms))
    words, embeddings = LabelWords(processor.tokenizer), model.get_input_embeddings().weight
    if recipe.pretrain_slices and model.vision2d is not None and not run.is_behind(1):
        settings, vision2d, rng = recipe.pretrain_slices, model.vision2d, np.random.default_rng(recipe.seed)
        num_tokens, width = measure_slice_tokens(model.config)
        side, pool = math.isqrt(num_tokens), model.config.slice_pool
        train_encoder(
            lambda slices: with_average(vision2d.encode_grid(slices), (1, side * pool, side * pool), (1, side, side)),
            vision2d,
            model.projector_2d,
            WordMatch(words, embeddings),
            slice_batches(
                phantoms,
                everyone,
                size=settings.batch_size,
                cells=(side * pool, side * pool),
                coarse=(side, side),
                seed=rng,
            ),
            rng=rng,
            keeper=keep(section=1, name=SECTIONS[1], model=model),
            width=width,
            steps=settings.steps,
            learning_rate=settings.learning_rate,
            log=lambda facts: log({"stage": "slices", **facts}),
        )
    if recipe.pretrain_volumes and model.vision3d is not None and not run.is_behind(2):
        settings, rng = recipe.pretrain_volumes, np.random.default_rng(recipe.seed)
        encoder, config = model.vision3d.encoder, model.config.vision3d_config
        train_encoder(
            lambda volumes: with_average(encoder(volumes).flatten(1, 3), config.token_grid, config.pooled_grid),
            encoder,
            model.projector_3d,
            WordMatch(words, embeddings),
            volume_batches(
                phantoms,
                everyone,
                size=settings.batch_size,
                cells=config.token_grid,
                coarse=config.pooled_grid,
                seed=rng,
            ),
            rng=rng,
            keeper=keep(section=2, name=SECTIONS[2], model=model),
            width=config.hidden_size,
            steps=settings.steps,
            learning_rate=settings.learning_rate,
            log=lambda facts: log({"stage": "volumes", **facts}),
        )
