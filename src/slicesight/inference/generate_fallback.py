"""How is a question answered by the library's own `generate`? For beams and for unusual language models only.

B questions, T prompt tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch

from slicesight.errors import InputError
from slicesight.inference.choice_decoding import ChoiceTree
from slicesight.inference.prompts import TokenizedQuestion, collate_prompts, score_rows, text_config
from slicesight.inference.sampling import DEFAULT_TOP_K
from slicesight.inference.scheduler import Scheduler
from slicesight.models.med2e3 import Med2E3Processor, VolumeFeatures
from slicesight.planning.memory import GIB, block_bytes, questions_at_once


def answer_by_generate(
    scheduler: Scheduler,
    processor: Med2E3Processor,
    features: VolumeFeatures | None,
    tokenized: Sequence[TokenizedQuestion],
    *,
    batch_size: int,
    max_new_tokens: int,
    options: dict[str, Any],
    trees: Sequence[ChoiceTree | None] = (),
) -> Iterator[tuple[list[int], tuple[float, ...]]]:
    """(new token ids, slice scores) of each question, batch by batch; a batch is what memory holds.

    Raises:
        InputError: one question alone does not fit into memory.
    """
    model = scheduler.model
    settings = {"do_sample": False, "max_new_tokens": max_new_tokens} | options
    seed = settings.pop("seed", None)
    if settings["do_sample"]:
        settings.setdefault("top_k", DEFAULT_TOP_K)
    beams = int(settings.get("num_beams") or 1)
    start = 0
    while start < len(tokenized):
        batch = tokenized[start : start + batch_size]
        length = max(map(len, batch)) + max_new_tokens
        working = block_bytes(model.config, model.dtype, num_tokens=length, num_keys=length, num_logits=beams)
        each = beams * 2 * length * scheduler.bytes_per_token + working  # the library's cache is copied as it grows
        usable = scheduler.usable_bytes()
        fits = questions_at_once(usable, bytes_per_question=each, working_bytes=0, at_most=len(batch))
        if not fits:
            raise InputError(
                f"question {start + 1} with {length} tokens needs {each / GIB:.2f} GiB, but {usable / GIB:.2f} GiB may "
                "be used; shorten it, lower max_new_tokens, or free memory."
            )
        batch = batch[:fits]
        inputs = collate_prompts(processor, batch, has_volume=features is not None).to(model.device)
        num_prompt = inputs["input_ids"].shape[1]
        held: dict[str, Any] = {}
        if any(tree is not None for tree in trees):
            every = list(range(int(text_config(model.config).vocab_size)))
            rows = trees[start : start + fits]
            held["prefix_allowed_tokens_fn"] = partial(_allowed, rows, num_prompt, every)
        if seed is not None:
            torch.manual_seed(int(seed) + start)
        with torch.inference_mode(), scheduler.lock:  # beams repeat the prompts, so they are scored beforehand
            scores_BMN = None if features is None else model.score_slices(features, **inputs)
            generated_BT = model.generate(**inputs, volume_features=features, **settings, **held)
        new_ids = generated_BT[:, num_prompt:].tolist()
        yield from zip(new_ids, score_rows(scores_BMN, len(batch)), strict=True)
        start += len(batch)


def _allowed(
    trees: Sequence[ChoiceTree | None], num_prompt: int, every: list[int], row: int, token_ids: torch.Tensor
) -> list[int]:
    """What may follow in a row, as `generate` asks it."""
    tree = trees[row]
    return every if tree is None else tree.allowed(token_ids[num_prompt:].tolist())
