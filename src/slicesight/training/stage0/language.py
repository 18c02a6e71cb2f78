"""How does stage 0 teach the language model to read tokens and to answer, without a picture?

It answers questions about imagined scans: in the volume's place stand bags of words, tokens that are sums of the
embeddings of the words for what a cell would show, weak or strong, with noise, and the words of what is asked stronger
than the rest, as slices chosen by the question would show them. What is left for later is that real tokens come to look
like such bags, which encoders.py begins. B prompts, S visual tokens, W words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from slicesight.data.manifest import Conversation
from slicesight.models.med2e3 import Med2E3Processor
from slicesight.models.med2e3.loss import next_token_loss
from slicesight.models.med2e3.matching import place_visual_tokens
from slicesight.training.checkpointing import CheckpointPolicy
from slicesight.training.loop import train_loop
from slicesight.training.recipe import LanguageRun
from slicesight.training.run_folder import Log
from slicesight.training.stage0.encoders import one_cycle
from slicesight.training.stage0.labels import LabelWords

NOISE = 0.3
REPORT_EVERY = 4
Scan = TypeVar("Scan")


def train_language(
    language_model: Any,
    processor: Med2E3Processor,
    words: LabelWords,
    run: LanguageRun,
    *,
    draw: Callable[[int, bool], Sequence[tuple[Scan, Conversation]]],
    imagine: Callable[[Scan, Conversation], NDArray[np.float32]],
    rng: np.random.Generator,
    checkpoints: CheckpointPolicy,
    target: Callable[[Conversation], str],
    log: Log,
) -> None:
    """Train with AdamW and a one-cycle learning rate; the answers count.

    Args:
        draw: (batch size, whether reports are wanted) -> scans with one question each.
        imagine: how much of each word the imagined tokens of a scan hold -> (S, W).
        rng: what both draw from, so that a resumed run draws on.
        target: the words to answer with.
    """
    optimizer = torch.optim.AdamW(
        language_model.parameters(), lr=run.learning_rate, betas=(0.9, 0.95), weight_decay=0.01
    )
    embed = language_model.get_input_embeddings()

    def batches_from(done: int) -> Iterator[Sequence[tuple[Scan, Conversation]]]:
        for step in count(done + 1):
            yield draw(run.batch_size, step % REPORT_EVERY == 0)

    def loss_of(asked: Sequence[tuple[Scan, Conversation]]) -> Tensor:
        prompts = ((conversation.prompt, target(conversation)) for _, conversation in asked)
        rows = [processor.encode_prompt(prompt, answer=answer, num_volumes=1) for prompt, answer in prompts]
        batch = processor.pad_prompts(rows, "right")
        bags = np.stack([imagine(scan, question) for scan, question in asked])
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
