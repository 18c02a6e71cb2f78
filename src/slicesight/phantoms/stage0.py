"""Stage 0 of a run: teach the language model and both encoders before any question about a scan.

It stands in for what the paper downloads (SigLIP, M3D-CLIP, Phi-3). The language model answers questions about imagined
scans: in the volume's place stand bags of words, tokens that are sums of the embeddings of the words for what a cell
would show, weak or strong, with noise, and the words of what is asked stronger than the rest, as slices chosen by the
question would show them. So it learns to read and to answer, and what is left for later is that real tokens come to
look like such bags, which pretrain_encoders.py begins. B prompts, S visual tokens, D its width, W words.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from slicesight.data.manifest import Conversation
from slicesight.models.med2e3 import Med2E3ForConditionalGeneration, Med2E3Processor
from slicesight.models.med2e3.loss import next_token_loss
from slicesight.models.med2e3.matching import place_visual_tokens
from slicesight.models.med2e3.vision2d import measure_slice_tokens
from slicesight.phantoms.anatomy import ORGANS, PhantomTruth
from slicesight.phantoms.dataset import PhantomSet
from slicesight.phantoms.pretrain_encoders import (
    LabelWords,
    WordMatch,
    one_cycle,
    slice_batches,
    train_encoder,
    volume_batches,
    with_average,
)
from slicesight.phantoms.texts import conversation_rng, location_phrase, phantom_conversations
from slicesight.training.checkpointing import CheckpointPolicy
from slicesight.training.loop import train_loop
from slicesight.training.recipe import STAGE0_SECTIONS, LanguageRun, Recipe
from slicesight.training.run_folder import Log, RunFolder

NOISE = 0.3
REPORT_EVERY = 4
QUESTION_ORDER = (1, 2, 3, 3, 4, 4, 5, 5, 6, 7, 8, 8, 9, 9, 10, 10)  # plane and phase are learnt at once: fewer of them


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
            slice_batches(phantoms, size=settings.batch_size, cells=cells, coarse=coarse, rng=rng),
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
            volume_batches(phantoms, size=settings.batch_size, cells=fine, coarse=pooled, rng=rng),
            rng=rng,
            width=shape.hidden_size,
            run=settings,
            **section(2),
        )


def sample_texts(phantoms: PhantomSet, *, count: int, seed: int) -> Iterator[str]:
    """Prompts and answers in the order the model reads them, for the tokenizer."""
    rng = np.random.default_rng([seed, 11])
    for report in (True, False):
        for _, conversation in _draw(phantoms, rng, count, report=report):
            yield f"{conversation.prompt} Answer: {conversation.target}"


def train_language(
    language_model: Any,
    processor: Med2E3Processor,
    phantoms: PhantomSet,
    run: LanguageRun,
    *,
    checkpoints: CheckpointPolicy,
    seed: int,
    shape: tuple[int, int],
    target: Callable[[Conversation], str],
    log: Log,
) -> None:
    """Train with AdamW and a one-cycle learning rate; the answers count.

    shape: visual tokens of the 3D branch and of the 2D branch.
    """
    rng = np.random.default_rng([seed, 12])
    words = LabelWords(processor.tokenizer)
    optimizer = torch.optim.AdamW(
        language_model.parameters(), lr=run.learning_rate, betas=(0.9, 0.95), weight_decay=0.01
    )
    embed = language_model.get_input_embeddings()

    def batches_from(done: int) -> Iterator[list[tuple[PhantomTruth, Conversation]]]:
        for step in count(done + 1):
            yield list(_draw(phantoms, rng, run.batch_size, report=step % REPORT_EVERY == 0))

    def loss_of(asked: list[tuple[PhantomTruth, Conversation]]) -> Tensor:
        prompts = ((conversation.prompt, target(conversation)) for _, conversation in asked)
        rows = [processor.encode_prompt(prompt, answer=answer, num_volumes=1) for prompt, answer in prompts]
        batch = processor.pad_prompts(rows, "right")
        bags = np.stack([imagine(truth, question, words, shape, rng) for truth, question in asked])
        visual_BSD = torch.from_numpy(bags) @ embed.weight.detach()[words.ids]
        visual_BSD = visual_BSD + NOISE * embed.weight.detach().std() * torch.randn_like(visual_BSD)
        is_visual = batch["input_ids"] == processor.placeholder_token_id
        embedded = place_visual_tokens(embed(batch["input_ids"]), is_visual, visual_BSD)
        logits = language_model(inputs_embeds=embedded, attention_mask=batch["attention_mask"]).logits
        return next_token_loss(logits, batch["labels"], 0)

    language_model.train()
    train_loop(
        loss_of,
        batches_from,
        steps=run.steps,
        optimizer=optimizer,
        scheduler=one_cycle(optimizer, run.learning_rate, run.steps),
        checkpoints=checkpoints,
        log=lambda facts: log({**facts, "loss": round(facts["loss"], 4)}),
        rng=rng,
    )
    language_model.eval()


def imagine(
    truth: PhantomTruth, conversation: Conversation, words: LabelWords, shape: tuple[int, int], rng: np.random.Generator
) -> NDArray[np.float32]:
    """How much of each word S imagined tokens hold -> (S, W).

    3D tokens show everything faintly; 2D tokens show what is asked, and the rest of the scan by accident.
    """
    num_3d, num_2d = shape
    bags = np.zeros((num_3d + num_2d, len(words)), dtype=np.float32)
    in_3d, in_2d = np.arange(num_3d), np.arange(num_3d, num_3d + num_2d)

    def add(near: NDArray[np.int64], strength: float, *names: str) -> None:
        for name in names:
            bags[near[:, None], words.of_label[name]] += strength

    for name in (truth.plane, truth.phase):
        bags[:, words.of_label[name]] += rng.uniform(0.2, 0.9)
    for organ in ORGANS:
        add(rng.permutation(in_3d)[:1], rng.uniform(0.1, 0.7), organ.name)
        if rng.random() < 0.4:
            add(rng.permutation(in_2d)[: rng.integers(1, 3)], rng.uniform(0.1, 0.8), organ.name)
    for finding in truth.findings:
        names = (finding.abnormality, location_phrase(finding.organ, finding.part))
        add(rng.permutation(in_3d)[:1], rng.uniform(0.0, 0.5), *names)
        if finding.abnormality in conversation.question or finding.organ in conversation.question:
            strength = rng.uniform(0.4, 1.4)
        elif conversation.task == "report":
            strength = rng.uniform(0.3, 1.0)
        else:
            strength = rng.uniform(0.0, 0.6) * (rng.random() < 0.6)
        add(rng.permutation(in_2d)[: rng.integers(1, 3)], strength, *names)
    return bags


def _draw(
    phantoms: PhantomSet, rng: np.random.Generator, count: int, *, report: bool
) -> Iterator[tuple[PhantomTruth, Conversation]]:
    """Questions about random scans, or the report of a fifth as many."""
    for case in rng.integers(len(phantoms), size=count // 5 if report else count):
        wording = conversation_rng(phantoms.seed, int(case), int(rng.integers(1, 2**31)))
        truth = phantoms.truths[case]
        pairs = phantom_conversations(truth, wording, num_slices=phantoms.num_source_slices[case])
        yield truth, pairs[0] if report else pairs[QUESTION_ORDER[rng.integers(len(QUESTION_ORDER))]]
