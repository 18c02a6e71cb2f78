"""Which parts of stage 0 does a run train, on what, and in which order? Language model, slice encoder, volume encoder.

What is taught comes from a `Stage0Source`: phantoms that know all about themselves, or prepared scans with label maps.
S visual tokens, W words.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from slicesight.data.manifest import Conversation
from slicesight.models.med2e3 import Med2E3ForConditionalGeneration, Med2E3Processor
from slicesight.models.med2e3.vision2d import measure_slice_tokens
from slicesight.training.augmentation import Augmentation
from slicesight.training.checkpointing import CheckpointPolicy
from slicesight.training.recipe import STAGE0_SECTIONS, Recipe
from slicesight.training.run_folder import Log, RunFolder
from slicesight.training.stage0.encoders import train_encoder, with_average
from slicesight.training.stage0.labels import EncoderBatch, LabelScheme, LabelWords, WordMatch
from slicesight.training.stage0.language import train_language

Cells = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class TokenGrids:
    """The cells that the visual tokens of one prompt stand for, (depth, rows, columns), row-major, 3D before 2D.

    None where a branch is missing; a slice token's depth is 1.
    """

    deep: Cells | None
    flat: Cells | None

    @property
    def num_deep(self) -> int:
        return 0 if self.deep is None else math.prod(self.deep)

    @property
    def num_flat(self) -> int:
        return 0 if self.flat is None else math.prod(self.flat)


class Stage0Source(Protocol):
    """What stage 0 learns from. All endless; every draw comes from the generator given."""

    @property
    def scheme(self) -> LabelScheme:
        """The labels of cells and of whole scans."""

    def slice_batches(
        self, *, size: int, cells: Cells, coarse: Cells, rng: np.random.Generator, augment: Augmentation
    ) -> Iterator[EncoderBatch]:
        """Single slices."""

    def volume_batches(
        self, *, size: int, cells: Cells, coarse: Cells, rng: np.random.Generator, augment: Augmentation
    ) -> Iterator[EncoderBatch]:
        """Whole volumes."""

    def draw(self, rng: np.random.Generator, count: int, *, report: bool) -> Sequence[tuple[Any, Conversation]]:
        """`count` scans with one question each, or reports of some."""

    def imagine(
        self, scan: Any, conversation: Conversation, words: LabelWords, grids: TokenGrids, rng: np.random.Generator
    ) -> NDArray[np.float32]:
        """How much of each word the tokens of an imagined scan hold -> (S, W)."""


def pretrain(
    source: Stage0Source,
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

    words = LabelWords(processor.tokenizer, source.scheme)
    config: Any = model.config
    if recipe.pretrain_language and not run.is_behind(0):
        language_rng, grids = np.random.default_rng([recipe.seed, 12]), token_grids(model)
        train_language(
            model.language_model,
            processor,
            words,
            recipe.pretrain_language,
            draw=lambda count, report: source.draw(language_rng, count, report=report),
            imagine=lambda scan, question: source.imagine(scan, question, words, grids, language_rng),
            rng=language_rng,
            target=recipe.target,
            **section(0),
        )
    embed: Any = model.get_input_embeddings()
    if recipe.pretrain_slices and model.vision2d is not None and not run.is_behind(1):
        settings, vision2d, rng = recipe.pretrain_slices, model.vision2d, np.random.default_rng(recipe.seed)
        width, pool, coarse = measure_slice_tokens(model.config)[1], config.slice_pool, token_grids(model).flat
        assert coarse is not None
        cells = (1, coarse[1] * pool, coarse[2] * pool)
        train_encoder(
            lambda slices: with_average(vision2d.encode_grid(slices), cells, coarse),
            vision2d,
            model.get_submodule("projector_2d"),
            WordMatch(words, embed.weight),
            source.slice_batches(
                size=settings.batch_size, cells=cells, coarse=coarse, rng=rng, augment=settings.augment
            ),
            rng=rng,
            width=width,
            run=settings,
            **section(1),
        )
    if recipe.pretrain_volumes and model.vision3d is not None and not run.is_behind(2):
        settings, rng = recipe.pretrain_volumes, np.random.default_rng(recipe.seed)
        encoder, shape = model.vision3d.encoder, config.vision3d_config
        fine, pooled = shape.token_grid, shape.pooled_grid
        train_encoder(
            lambda volumes: with_average(encoder(volumes).flatten(1, 3), fine, pooled),
            encoder,
            model.get_submodule("projector_3d"),
            WordMatch(words, embed.weight),
            source.volume_batches(
                size=settings.batch_size, cells=fine, coarse=pooled, rng=rng, augment=settings.augment
            ),
            rng=rng,
            width=shape.hidden_size,
            run=settings,
            **section(2),
        )


def token_grids(model: Med2E3ForConditionalGeneration) -> TokenGrids:
    """The cells of a model's visual tokens."""
    config: Any = model.config
    flat = None
    if config.needs_2d:
        num_tokens, _ = measure_slice_tokens(model.config)
        _, height, width = config.image_size
        rows = round(math.sqrt(num_tokens * height / width))
        flat = (1, rows, num_tokens // rows)
        assert math.prod(flat) == num_tokens, (flat, num_tokens)
    num_deep = model.num_visual_tokens - (0 if flat is None else math.prod(flat))
    deep = config.vision3d_config.pooled_grid if num_deep else None
    assert num_deep == (0 if deep is None else math.prod(deep)), (num_deep, deep)
    return TokenGrids(deep=deep, flat=flat)
