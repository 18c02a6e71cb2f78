"""Stage 0 of the language model: read a report, then answer questions about it (the stand-in for a trained Phi-3).

Text only: the report takes the volume's place in the prompt, so that what the language model has to learn from volumes
later is to see, not to read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import nn

from slicesight.conversations.phantom_texts import conversation_rng, phantom_conversations
from slicesight.conversations.schema import Conversation
from slicesight.model import Med2E3Processor
from slicesight.model.modeling import next_token_loss

from .phantom_set import PhantomSet
from .recipe import LanguageRun

QUESTIONS_PER_REPORT = 4


def sample_texts(phantoms: PhantomSet, *, count: int, seed: int) -> Iterator[str]:
    """Prompts and answers in the order the model reads them, for the tokenizer."""
    for conversations in _draw(phantoms, np.random.default_rng([seed, 11]), count // 11 + 1):
        for conversation in conversations:
            yield f"{conversation.prompt} Answer: {conversation.target}"


def train_language(
    language_model: nn.Module,
    processor: Med2E3Processor,
    phantoms: PhantomSet,
    run: LanguageRun,
    *,
    seed: int,
    log: Callable[[dict[str, float]], None],
) -> None:
    """Train on "report, question, answer" with AdamW and a one-cycle learning rate; every token but the padding counts."""
    rng = np.random.default_rng([seed, 12])
    optimizer = torch.optim.AdamW(language_model.parameters(), lr=run.learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, run.learning_rate, total_steps=run.steps, pct_start=0.1)
    language_model.train()
    for step in range(1, run.steps + 1):
        rows = []
        for conversations in _draw(phantoms, rng, run.batch_size // QUESTIONS_PER_REPORT):
            report, *questions = conversations
            for place in rng.permutation(len(questions))[:QUESTIONS_PER_REPORT]:
                asked = questions[place]
                rows.append(
                    processor.encode_prompt(f"{report.answer}\n{asked.prompt}", answer=asked.target, num_volumes=0)
                )
        batch = processor.pad_prompts(rows, "right")
        logits = language_model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        answers = next_token_loss(logits, batch["labels"], 0)
        everything = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        loss = answers + 0.5 * next_token_loss(logits, everything, 0)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(language_model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 25 == 0 or step == run.steps:
            log({"step": step, "loss": round(loss.item(), 4), "answer_loss": round(answers.item(), 4)})
    language_model.eval()


def _draw(phantoms: PhantomSet, rng: np.random.Generator, count: int) -> Iterator[tuple[Conversation, ...]]:
    for case in rng.integers(len(phantoms), size=count):
        wording = conversation_rng(phantoms.seed, int(case), int(rng.integers(1, 2**31)))
        yield phantom_conversations(
            phantoms.truths[case], wording, num_slices=phantoms.num_source_slices[case]
        )
