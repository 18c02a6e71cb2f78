"""How do questions become the embeddings that the language model is shown, each scored and tokenised once?

head | z_3D | z_2D | question, cue. What no question changes is at the beginning (`models/med2e3/matching.py`). A
conversation goes on with the same prefix: its volume stands in the first turn, and z_2D there follows the latest
question. B questions, T tokens of a prompt, P of them shared, N slices, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import BatchFeature, PreTrainedConfig

from slicesight.errors import InputError
from slicesight.inference.requests import History as History
from slicesight.models.med2e3 import Med2E3ForConditionalGeneration, Med2E3Processor, VolumeFeatures
from slicesight.models.med2e3.configuration import Med2E3Config
from slicesight.models.med2e3.matching import count_shared_visual_tokens
from slicesight.models.med2e3.processing import EncodedPrompt

EMBEDDED_AT_ONCE = 8192
"""Tokens whose embeddings are made together, padding included."""


@dataclass(frozen=True, kw_only=True)
class TokenizedQuestion:
    """A question and its prompt's tokens."""

    question: str
    prompt: EncodedPrompt

    def __len__(self) -> int:
        return len(self.prompt.input_ids)

    @property
    def prefix_ids(self) -> list[int]:
        """The tokens that begin the answer, as the one who asks wrote it."""
        return self.prompt.input_ids[len(self) - self.prompt.num_prefix :]


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One question's tokens and what it weighs: scores are empty for a model that weighs no slices."""

    question: str
    token_ids: tuple[int, ...]
    embeds_TD: Tensor = field(repr=False)  # noqa: N815
    num_shared: int
    scores: tuple[float, ...]


def text_config(config: Med2E3Config) -> PreTrainedConfig:
    """The language model's own configuration."""
    assert isinstance(config.text_config, PreTrainedConfig)
    return config.text_config.get_text_config()


def longest_text(config: Med2E3Config) -> int | None:
    """Tokens the language model was made to read; None where its configuration does not say."""
    found = getattr(text_config(config), "max_position_embeddings", None)
    return None if found is None else int(found)


def tokenize_questions(
    processor: Med2E3Processor,
    questions: Sequence[str],
    *,
    history: History,
    num_volumes: int,
    longest: int | None,
    system: str | None = None,
    prefix: str = "",
) -> list[TokenizedQuestion]:
    """Every question's prompt, tokenised.

    Args:
        system: stands in place of the template's opening, if not None. prefix: how every answer begins.

    Raises:
        InputError: a prompt is longer than the model was made for.
    """
    tokenized = []
    for number, question in enumerate(questions, start=1):
        prompt = processor.encode_prompt(
            question, history=history, num_volumes=num_volumes, system=system, prefix=prefix
        )
        length = len(prompt.input_ids)
        if longest is not None and length >= longest:
            raise InputError(
                f"question {number} makes a prompt of {length} tokens, but this model reads fewer than {longest}; "
                f"shorten it: {question[:60]!r}"
            )
        tokenized.append(TokenizedQuestion(question=question, prompt=prompt))
    return tokenized


def collate_prompts(
    processor: Med2E3Processor, tokenized: Sequence[TokenizedQuestion], *, has_volume: bool
) -> BatchFeature:
    """The model's inputs for questions about one volume, or about none, as the processor itself would make them."""
    data = processor.pad_prompts([one.prompt for one in tokenized], "left")
    del data["labels"]
    if has_volume:
        data["volume_index"] = torch.zeros(len(tokenized), 1, dtype=torch.long)
    data |= processor.encode_questions([one.question for one in tokenized])
    return BatchFeature(data)


def split_questions(lengths: Sequence[int], *, batch_size: int) -> Iterator[range]:
    """Neighbouring questions whose padded prompts are at most EMBEDDED_AT_ONCE tokens together, at least one."""
    start = 0
    while start < len(lengths):
        stop, longest = start + 1, lengths[start]
        while stop < len(lengths) and stop - start < batch_size:
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
    features: VolumeFeatures | None,
    tokenized: Sequence[TokenizedQuestion],
) -> list[Prompt]:
    """The embeddings of every prompt about one volume, its visual tokens in place, without padding."""
    inputs = collate_prompts(processor, tokenized, has_volume=features is not None).to(model.device)
    is_real_BT = inputs["attention_mask"].bool()
    if features is None:
        embeds_BTD, scores_BMN = model.embed_tokens(inputs["input_ids"]), None
    else:
        embeds_BTD, scores_BMN = model.embed_prompts(volume_features=features, **inputs)
    num_shared_visual = count_shared_visual_tokens(model.config)
    prompts = []
    for row, (one, scores) in enumerate(zip(tokenized, score_rows(scores_BMN, len(tokenized)), strict=True)):
        token_ids = tuple(one.prompt.input_ids)
        num_shared = 0
        if model.config.placeholder_token_id in token_ids:
            num_shared = token_ids.index(model.config.placeholder_token_id) + num_shared_visual
        embeds_TD = embeds_BTD[row][is_real_BT[row]]
        prompts.append(
            Prompt(
                question=one.question, token_ids=token_ids, embeds_TD=embeds_TD, num_shared=num_shared, scores=scores
            )
        )
    return prompts


def score_rows(scores_BMN: Tensor | None, num_prompts: int) -> list[tuple[float, ...]]:
    """Each prompt's slice scores of its one volume; empty where no slices are weighed."""
    if scores_BMN is None:
        return [()] * num_prompts
    return [tuple(row) for row in scores_BMN[:, 0].double().cpu().tolist()]
