"""Which part of a prompt does no question change, and which is each question's own?

head | z_3D | z_2D | question, cue: the head is the template's, z_3D the volume's; z_2D is weighted for the question, so
it and everything behind it differ (where z_2D does not depend on the question, it is shared too). A conversation goes
on with the same prefix: its volume stands in the first turn, and z_2D there follows the latest question.
B questions, T tokens of a prompt, P of them shared, N slices, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from slicesight.errors import InputError
from slicesight.models.med2e3 import Med2E3ForConditionalGeneration, Med2E3Processor, VolumeFeatures
from slicesight.models.med2e3.configuration import Med2E3Config

History = Sequence[tuple[str, str]]
EMBEDDED_AT_ONCE = 8192
"""Tokens whose embeddings are made together, padding included."""


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One question's tokens and what it weighs: scores are empty for a model that weighs no slices."""

    question: str
    token_ids: tuple[int, ...]
    embeds_TD: Tensor = field(repr=False)  # noqa: N815
    num_shared: int
    scores: tuple[float, ...]


def count_shared(
    config: Med2E3Config, token_ids: Sequence[int], *, num_visual_tokens: int, num_slice_tokens: int
) -> int:
    """P, the tokens of a prompt that are the same for every question about its volume."""
    placeholder = config.placeholder_token_id
    if placeholder not in token_ids:
        return 0
    shared_visual = num_visual_tokens
    if config.needs_2d and weighs_by_question(config):
        shared_visual -= num_slice_tokens
    return token_ids.index(placeholder) + shared_visual


def text_config(config: Med2E3Config) -> PreTrainedConfig:
    """The language model's own configuration."""
    assert isinstance(config.text_config, PreTrainedConfig)
    return config.text_config.get_text_config()


def weighs_by_question(config: Med2E3Config) -> bool:
    """Whether another question gives other slice weights."""
    return config.aggregation == "random" or (config.uses_scores and "text" in (config.scoring_inputs or ()))


def longest_text(config: Med2E3Config) -> int | None:
    """Tokens the language model was made to read; None where its configuration does not say."""
    found = getattr(text_config(config), "max_position_embeddings", None)
    return None if found is None else int(found)


def check_lengths(
    processor: Med2E3Processor, questions: Sequence[str], *, history: History, longest: int | None
) -> list[int]:
    """Tokens of every prompt.

    Raises:
        InputError: a prompt is longer than the model was made for.
    """
    lengths = []
    for number, question in enumerate(questions, start=1):
        length = len(processor.encode_prompt(question, history=history).input_ids)
        if longest is not None and length >= longest:
            raise InputError(
                f"question {number} makes a prompt of {length} tokens, but this model reads fewer than {longest}; "
                f"shorten it: {question[:60]!r}"
            )
        lengths.append(length)
    return lengths


def split_questions(lengths: Sequence[int], *, at_once: int) -> Iterator[range]:
    """Neighbouring questions whose padded prompts are at most EMBEDDED_AT_ONCE tokens together, at least one."""
    start = 0
    while start < len(lengths):
        stop, longest = start + 1, lengths[start]
        while stop < len(lengths) and stop - start < at_once:
            longest = max(longest, lengths[stop])
            if longest * (stop + 1 - start) > EMBEDDED_AT_ONCE:
                break
            stop += 1
        yield range(start, stop)
        start = stop


@torch.inference_mode()
def embed_prompts(
    model: Med2E3ForConditionalGeneration,
    processor: Med2E3Processor,
    features: VolumeFeatures,
    questions: Sequence[str],
    *,
    history: History,
) -> list[Prompt]:
    """The embeddings of every prompt about one volume, its visual tokens in place, without padding."""
    inputs = processor(list(questions), volume_index=[0] * len(questions), history=[history] * len(questions))
    inputs = inputs.to(model.device)
    is_real_BT = inputs["attention_mask"].bool()
    scores_BMN = model.score_slices(features, **inputs)
    embeds_BTD, _ = model.embed_prompts(volume_features=features, **inputs)
    scores = [()] * len(questions) if scores_BMN is None else scores_BMN[:, 0].double().cpu().tolist()
    num_slice_tokens = 0 if features.tokens_2d_VNLD is None else int(features.tokens_2d_VNLD.shape[2])
    prompts = []
    for row, question in enumerate(questions):
        token_ids = tuple(inputs["input_ids"][row][is_real_BT[row]].tolist())
        prompts.append(
            Prompt(
                question=question,
                token_ids=token_ids,
                embeds_TD=embeds_BTD[row][is_real_BT[row]],
                num_shared=count_shared(
                    model.config,
                    token_ids,
                    num_visual_tokens=model.num_visual_tokens,
                    num_slice_tokens=num_slice_tokens,
                ),
                scores=tuple(scores[row]),
            )
        )
    return prompts
