"""Stage 0 of the language model: answer questions about imagined scans (the stand-in for a trained Phi-3).

No picture is shown. In the volume's place stand bags of words: tokens that are sums of the embeddings of the words for
what a cell would show, weak or strong, with noise, and the words of what is asked stronger than the rest, as slices
chosen by the question would show them. So the language model learns to read and to answer, and what is left for later
is that real tokens come to look like such bags (vocabulary.py). B prompts, S visual tokens, D its width, W words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from slicesight.data.manifest import Conversation
from slicesight.models.med2e3 import Med2E3Processor
from slicesight.models.med2e3.loss import next_token_loss
from slicesight.models.med2e3.matching import place_visual_tokens
from slicesight.phantoms.anatomy import ORGANS
from slicesight.phantoms.grid_set import PhantomSet
from slicesight.phantoms.pretrain_encoders import one_cycle
from slicesight.phantoms.rendering import PhantomTruth
from slicesight.phantoms.texts import conversation_rng, location_phrase, phantom_conversations
from slicesight.phantoms.vocabulary import LabelWords
from slicesight.training.checkpointing import CheckpointPolicy
from slicesight.training.loop import train_loop
from slicesight.training.recipe import LanguageRun
from slicesight.training.run_folder import Log

NOISE = 0.3
REPORT_EVERY = 4
QUESTION_ORDER = (1, 2, 3, 3, 4, 4, 5, 5, 6, 7, 8, 8, 9, 9, 10, 10)  # plane and phase are learnt at once: fewer of them


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
        rows = [
            processor.encode_prompt(conversation.prompt, answer=target(conversation), num_volumes=1)
            for _, conversation in asked
        ]
        batch = processor.pad_prompts(rows, "right")
        bags = np.stack([imagine(truth, question, words, shape, rng) for truth, question in asked])
        visual_BSD = torch.from_numpy(bags) @ embed.weight.detach()[words.ids]
        visual_BSD = visual_BSD + NOISE * embed.weight.detach().std() * torch.randn_like(visual_BSD)
        is_visual = batch["input_ids"] == processor.placeholder_token_id
        embedded = embed(batch["input_ids"])
        embedded = place_visual_tokens(embedded, is_visual, visual_BSD)
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
    for name in (truth.plane, truth.phase):
        bags[:, words.of_label[name]] += rng.uniform(0.2, 0.9)
    for organ in ORGANS:
        _add(bags, words, rng.permutation(in_3d)[:1], (organ.name,), rng.uniform(0.1, 0.7))
        if rng.random() < 0.4:
            _add(bags, words, rng.permutation(in_2d)[: rng.integers(1, 3)], (organ.name,), rng.uniform(0.1, 0.8))
    for finding in truth.findings:
        names = (finding.abnormality, location_phrase(finding.organ, finding.part))
        _add(bags, words, rng.permutation(in_3d)[:1], names, rng.uniform(0.0, 0.5))
        is_asked = finding.abnormality in conversation.question or finding.organ in conversation.question
        if is_asked:
            strength = rng.uniform(0.4, 1.4)
        elif conversation.task == "report":
            strength = rng.uniform(0.3, 1.0)
        else:
            strength = rng.uniform(0.0, 0.6) * (rng.random() < 0.6)
        _add(bags, words, rng.permutation(in_2d)[: rng.integers(1, 3)], names, strength)
    return bags


def _add(
    bags: NDArray[np.float32], words: LabelWords, near: NDArray[np.int64], names: tuple[str, ...], strength: float
) -> None:
    for name in names:
        bags[near[:, None], words.of_label[name]] += strength


def _draw(
    phantoms: PhantomSet, rng: np.random.Generator, count: int, *, report: bool
) -> Iterator[tuple[PhantomTruth, Conversation]]:
    """Questions about random scans, or the report of a fifth as many."""
    for case in rng.integers(len(phantoms), size=count // 5 if report else count):
        wording = conversation_rng(phantoms.seed, int(case), int(rng.integers(1, 2**31)))
        truth = phantoms.truths[case]
        pairs = phantom_conversations(truth, wording, num_slices=phantoms.num_source_slices[case])
        yield truth, pairs[0] if report else pairs[QUESTION_ORDER[rng.integers(len(QUESTION_ORDER))]]
