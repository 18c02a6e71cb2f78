"""Stage 0 of a run: teach the language model and both encoders before any question about a scan.

It stands in for what the paper downloads (SigLIP, M3D-CLIP, Phi-3): pretrain_language.py and pretrain_encoders.py, one
after the other.
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
from slicesight.training.recipe import STAGE0_SECTIONS, Recipe
from slicesight.training.run_folder import Log, RunFolder


def pretrain(
    phantoms: PhantomSet,
    recipe: Recipe,
    model: Med2E3ForConditionalGeneration,
    processor: Med2E3Processor,
    log: Log,
    *,
    run: RunFolder,
    checkpoints_of: Callable[..., CheckpointPolicy],
) -> None:
    """Stage 0: whichever of the three parts the recipe names, without those that a resumed run has behind it."""
    if recipe.pretrain_slices and model.vision2d is not None:
        model.vision2d.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def section(number: int) -> dict[str, Any]:
        name = STAGE0_SECTIONS[number]
        checkpoints = checkpoints_of(section=number, name=name)
        return {"checkpoints": checkpoints, "log": lambda facts: log({"stage": name, **facts})}

    if recipe.pretrain_language and not run.is_behind(0):
        num_2d = measure_slice_tokens(model.config)[0] if model.config.needs_2d else 0
        train_language(
            model.language_model,
            processor,
            phantoms,
            recipe.pretrain_language,
            seed=recipe.seed,
            shape=(model.num_visual_tokens - num_2d, num_2d),
            target=recipe.target,
            **section(0),
        )
    everyone = np.arange(len(phantoms))
    words = LabelWords(processor.tokenizer)
    embed: Any = model.get_input_embeddings()
    config: Any = model.config
    if recipe.pretrain_slices and model.vision2d is not None and not run.is_behind(1):
        settings, vision2d, rng = recipe.pretrain_slices, model.vision2d, np.random.default_rng(recipe.seed)
        num_tokens, width = measure_slice_tokens(model.config)
        side, pool = math.isqrt(num_tokens), config.slice_pool
        cells, coarse = (side * pool, side * pool), (side, side)
        train_encoder(
            lambda slices: with_average(vision2d.encode_grid(slices), (1, *cells), (1, *coarse)),
            vision2d,
            model.get_submodule("projector_2d"),
            WordMatch(words, embed.weight),
            slice_batches(phantoms, everyone, size=settings.batch_size, cells=cells, coarse=coarse, seed=rng),
            rng=rng,
            width=width,
            run=settings,
            **section(1),
        )
    if recipe.pretrain_volumes and model.vision3d is not None and not run.is_behind(2):
        settings, rng = recipe.pretrain_volumes, np.random.default_rng(recipe.seed)
        encoder, fine, pooled = (
            model.vision3d.encoder,
            config.vision3d_config.token_grid,
            config.vision3d_config.pooled_grid,
        )
        train_encoder(
            lambda volumes: with_average(encoder(volumes).flatten(1, 3), fine, pooled),
            encoder,
            model.get_submodule("projector_3d"),
            WordMatch(words, embed.weight),
            volume_batches(phantoms, everyone, size=settings.batch_size, cells=fine, coarse=pooled, seed=rng),
            rng=rng,
            width=config.vision3d_config.hidden_size,
            run=settings,
            **section(2),
        )
