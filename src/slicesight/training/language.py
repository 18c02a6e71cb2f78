"""Stage 0 of the language model: answer questions about imagined scans (the stand-in for a trained Phi-3).

No picture is shown. In the volume's place stand bags of words: tokens that are sums of the embeddings of the words for
what a cell would show, weak or strong, with noise. So the language model learns to read and to answer, and what is left
for later is that real tokens come to look like such bags (words.py). B prompts, S visual tokens, D its width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from slicesight.conversations.phantom_texts import conversation_rng, location_phrase, phantom_conversations
from slicesight.conversations.schema import Conversation
from slicesight.model import Med2E3Processor
from slicesight.model.loss import next_token_loss
from slicesight.model.processing import EncodedPrompt

from slicesight.volumes.anatomy import ORGANS
from slicesight.volumes.phantoms import Truth

from .phantom_set import PhantomSet
from .recipe import LanguageRun
from .words import Words

TURNS = 4
NOISE = 0.5

def sample_texts(phantoms: PhantomSet, *, count: int, seed: int) -> Iterator[str]:
    """Prompts and answers in the order the model reads them, for the tokenizer."""
    for _, conversations in _draw(phantoms, np.random.default_rng([seed, 11]), count // 11 + 1):
        for conversation in conversations:
            yield f"{conversation.prompt} Answer: {conversation.target}"


def train_language(
    language_model: nn.Module,
    processor: Med2E3Processor,
    phantoms: PhantomSet,
    run: LanguageRun,
    *,
    seed: int,
    target: Callable[[Conversation], str],
    log: Callable[[dict[str, float]], None],
) -> None:
    """Train with AdamW and a one-cycle learning rate; the answers count."""
    rng = np.random.default_rng([seed, 12])
    words = Words(processor.tokenizer)
    optimizer = torch.optim.AdamW(language_model.parameters(), lr=run.learning_rate, betas=(0.9, 0.95), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, run.learning_rate, total_steps=run.steps, pct_start=0.1)
    embed = language_model.get_input_embeddings()
    language_model.train()
    for step in range(1, run.steps + 1):
        drawn = list(_draw(phantoms, rng, run.batch_size))
        rows = [imagined_interview(processor, conversations, rng, target) for _, conversations in drawn]
        batch = processor.pad_prompts(rows, "right")
        bags = np.stack([imagine(truth, words, processor.num_visual_tokens, rng) for truth, _ in drawn])
        visual_BSD = torch.from_numpy(bags) @ embed.weight.detach()[words.ids]
        visual_BSD = visual_BSD + NOISE * embed.weight.detach().std() * torch.randn_like(visual_BSD)
        is_visual = batch["input_ids"] == processor.placeholder_token_id
        embedded = embed(batch["input_ids"])
        embedded = embedded.masked_scatter(is_visual.unsqueeze(-1), visual_BSD.to(embedded.dtype))
        logits = language_model(inputs_embeds=embedded, attention_mask=batch["attention_mask"]).logits
        loss = next_token_loss(logits, batch["labels"], 0)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(language_model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 25 == 0 or step == run.steps:
            log({"step": step, "loss": round(loss.item(), 4)})
    language_model.eval()


def imagined_interview(
    processor: Med2E3Processor,
    conversations: tuple[Conversation, ...],
    rng: np.random.Generator,
    target: Callable[[Conversation], str],
) -> EncodedPrompt:
    """A few of a scan's questions as the turns of one conversation, all answers to be learnt."""
    chosen = [conversations[i] for i in rng.permutation(len(conversations))[:TURNS]]
    turns = [(conversation.prompt, target(conversation)) for conversation in chosen]
    *history, (question, answer) = turns
    return processor.encode_prompt(question, answer=answer, history=history, num_volumes=1, supervise="all")


def imagine(truth: Truth, words: Words, num_tokens: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """How much of each word S imagined tokens hold -> (S, W): a finding in one to three of them, healthy organs all over."""
    bags = np.zeros((num_tokens, len(words)), dtype=np.float32)
    for name in (truth.plane, truth.phase):
        bags[:, words.of_label[name]] += rng.uniform(0.2, 1.0) * (rng.random((num_tokens, 1)) < 0.6)
    for organ in ORGANS:
        near = rng.permutation(num_tokens)[: rng.integers(1, 8)]
        bags[np.ix_(near, words.of_label[organ.name])] += rng.uniform(0.2, 1.0)
    for finding in truth.findings:
        near = rng.permutation(num_tokens)[: rng.integers(1, 4)]
        strength = rng.uniform(0.15, 1.2)
        for name in (finding.abnormality, location_phrase(finding.organ, finding.part)):
            bags[np.ix_(near, words.of_label[name])] += strength * rng.uniform(0.7, 1.3)
    return bags


def _draw(
    phantoms: PhantomSet, rng: np.random.Generator, count: int
) -> Iterator[tuple[Truth, tuple[Conversation, ...]]]:
    for case in rng.integers(len(phantoms), size=count):
        wording = conversation_rng(phantoms.seed, int(case), int(rng.integers(1, 2**31)))
        truth = phantoms.truths[case]
        yield truth, phantom_conversations(truth, wording, num_slices=phantoms.num_source_slices[case])
