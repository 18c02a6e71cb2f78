"""How is a question answered by the library's own `generate`? For what the engine does not do, and as its yardstick.

B questions, T prompt tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch

from slicesight.errors import InputError
from slicesight.inference.prompts import History
from slicesight.inference.sampling import DEFAULT_TOP_K
from slicesight.models.med2e3 import Med2E3Processor, VolumeFeatures
from slicesight.planning.memory import GIB, block_bytes, questions_at_once

if TYPE_CHECKING:
    from slicesight.inference.scheduler import Scheduler

OWN_WORDS = ("seed",)
"""Options of the reader that `generate` does not know."""


def answer_by_generate(
    engine: Scheduler,
    processor: Med2E3Processor,
    features: VolumeFeatures,
    questions: Sequence[str],
    *,
    history: History,
    batch_size: int,
    max_new_tokens: int,
    options: dict[str, Any],
) -> Iterator[tuple[list[int], tuple[float, ...]]]:
    """(new token ids, slice scores) of each question, batch by batch; a batch is what memory holds.

    Raises:
        InputError: one question alone does not fit into memory.
    """
    model = engine.model
    settings = {"do_sample": False, "max_new_tokens": max_new_tokens} | options
    settings = {name: value for name, value in settings.items() if name not in OWN_WORDS}
    if settings["do_sample"]:
        settings.setdefault("top_k", DEFAULT_TOP_K)
    beams = int(settings.get("num_beams") or 1)
    start = 0
    while start < len(questions):
        batch = list(questions[start : start + batch_size])
        inputs = processor(batch, volume_index=[0] * len(batch), history=[history] * len(batch))
        length = inputs["input_ids"].shape[1] + max_new_tokens
        working = block_bytes(model.config, model.dtype, num_tokens=length, num_keys=length, num_logits=beams)
        each = beams * 2 * length * engine.bytes_per_token + working  # the library's cache is copied as it grows
        fits = questions_at_once(engine.usable_bytes(), bytes_per_question=each, working_bytes=0, at_most=len(batch))
        if not fits:
            raise InputError(
                f"question {start + 1} with {length} tokens needs {each / GIB:.2f} GiB, but "
                f"{engine.usable_bytes() / GIB:.2f} GiB may be used; shorten it, lower max_new_tokens, or free memory."
            )
        if fits < len(batch):
            batch = batch[:fits]
            inputs = processor(batch, volume_index=[0] * len(batch), history=[history] * len(batch))
        inputs = inputs.to(model.device)
        if "seed" in options:
            torch.manual_seed(int(options["seed"]) + start)
        with torch.inference_mode(), engine.turn:
            scores_BMN = model.score_slices(features, **inputs)
            generated = model.generate(**inputs, volume_features=features, **settings)
        rows = [()] * len(batch) if scores_BMN is None else scores_BMN[:, 0].double().cpu().tolist()
        for token_ids, scores in zip(generated[:, inputs["input_ids"].shape[1] :].tolist(), rows, strict=True):
            yield token_ids, tuple(scores)
        start += len(batch)
