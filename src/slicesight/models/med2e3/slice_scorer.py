"""Which weight does each slice get for this question, and how do N slices become one? (docs/method.md, Table 4)

One function per aggregation: it takes the model's `SliceScorer`, the encoded volumes, volume_index (B, M) and the
question, and returns scores (B, M, N) float32, each volume's sum to one, and either None, for the sum of the slices
weighted by them, or the tokens (B, M, L, D) themselves. A new one needs a line in `configuration.AGGREGATIONS`, or an
entry point.
B prompts of T tokens, Q text-encoder tokens, M volumes per prompt, V volumes, N slices, L 2D tokens per slice, D
language-model width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModel
from transformers import initialization as init
from transformers.utils.generic import ModelOutput

from slicesight.data.plugins import find_plugin
from slicesight.errors import ModelError
from slicesight.models.med2e3 import slice_scoring
from slicesight.models.med2e3.configuration import AGGREGATION_ENTRY_POINTS, AGGREGATIONS, Med2E3Config
from slicesight.models.med2e3.planes import describe_planes

Aggregated = tuple[Tensor, Tensor | None]


@dataclass
class VolumeFeatures(ModelOutput):
    """What the model keeps of V volumes: 3D tokens (V, K, P, D), 2D tokens (V, N, L, D), projected; None if unused."""

    tokens_3d_VKPD: Tensor | None = None  # noqa: N815
    tokens_2d_VNLD: Tensor | None = None  # noqa: N815

    @property
    def slices_VNLD(self) -> Tensor:
        """The 2D tokens, for what only a model with slices does."""
        assert self.tokens_2d_VNLD is not None
        return self.tokens_2d_VNLD


@dataclass(frozen=True, kw_only=True)
class Question:
    """The question as the scores may need it.

    input_ids, mask: (B, T), mask True on the bare question. embeds: (B, T, D) token embeddings of input_ids.
    encoder_ids, encoder_mask: (B, Q) for a text encoder.
    """

    input_ids: Tensor | None = None
    mask: Tensor | None = None
    embeds: Tensor | None = None
    encoder_ids: Tensor | None = None
    encoder_mask: Tensor | None = None


class SliceScorer(nn.Module):
    """Scores N slices of every volume of every prompt; holds whatever parameters the configured scores need."""

    def __init__(self, config: Med2E3Config) -> None:
        super().__init__()
        self.config = config
        self.aggregate: Any = find_plugin(config.aggregation, AGGREGATIONS, AGGREGATION_ENTRY_POINTS)
        width = config.text_width
        uses_text = config.uses_scores and "text" in config.scoring_inputs
        has_encoder = uses_text and config.question_source == "text_encoder"
        self.text_encoder = AutoModel.from_config(config.text_encoder_config) if has_encoder else None
        self.question_projection = nn.Linear(config.text_encoder_config.hidden_size, width) if has_encoder else None
        self.slice_linear = nn.Linear(width, 1) if config.uses_scores and not uses_text else None
        narrows = uses_text and config.score_dim is not None
        narrow = (config.score_dim or 0) * config.score_heads
        self.narrow_question = nn.Linear(width, narrow, bias=False) if narrows else None
        self.narrow_slice = nn.Linear(width, narrow, bias=False) if narrows else None
        learns_scale = config.uses_scores and config.learn_score_scale
        self.log_scale = nn.Parameter(torch.empty(())) if learns_scale else None

    def reset_parameters(self) -> None:
        """Initial values of the parameters a plain Linear initialisation does not fit."""
        for layer in (self.narrow_question, self.narrow_slice):
            if layer is not None:
                init.normal_(layer.weight, std=layer.in_features**-0.5)
        if self.log_scale is not None:
            init.constant_(self.log_scale, math.log(self.config.score_scale))

    def forward(
        self, features: VolumeFeatures, volume_index: Tensor, question: Question
    ) -> tuple[Tensor | None, Tensor | None]:
        """One set of 2D tokens per volume of every prompt (B, M, L, D), and the scores behind it (B, M, N).

        Both are None without a 2D branch. Dropout on the scores acts on the weights, not on the returned scores.
        """
        if features.tokens_2d_VNLD is None:
            return None, None
        scores_BMN, slices_BMLD = self.aggregate(self, features, volume_index, question)
        if slices_BMLD is None:
            weights_BMN = functional.dropout(scores_BMN, self.config.score_dropout, self.training)
            slices_BMLD = slice_scoring.weigh_slices(weights_BMN, features.tokens_2d_VNLD, volume_index)
        return slices_BMLD, scores_BMN

    def score(self, features: VolumeFeatures, volume_index: Tensor, question: Question) -> Tensor:
        """Slice scores (B, M, N) float32, without dropout."""
        return cast(Tensor, self.aggregate(self, features, volume_index, question)[0])

    def embed(self, question: Question) -> Tensor:
        """The question as one vector (B, D): its mean token embedding (paper) or the text encoder's pooled output."""
        if self.text_encoder is not None:
            if question.encoder_ids is None:
                raise ModelError(
                    "this model reads the question with its text encoder, but question_ids is missing; "
                    "take the inputs from its own processor."
                )
            with torch.set_grad_enabled(torch.is_grad_enabled() and not is_frozen(self.text_encoder)):
                encoded = self.text_encoder(input_ids=question.encoder_ids, attention_mask=question.encoder_mask)
            assert self.question_projection is not None
            return cast(Tensor, self.question_projection(encoded.pooler_output))
        if question.mask is None:
            raise ModelError(
                "text-guided scores need question_mask, which marks the question inside input_ids; "
                "take the inputs from the processor."
            )
        assert question.embeds is not None
        return slice_scoring.average_question(question.embeds, question.mask)


def is_frozen(part: nn.Module) -> bool:
    """Whether no parameter of this part is trained."""
    return not any(parameter.requires_grad for parameter in part.parameters())


def in_dtype_of(layer: nn.Linear, tensor: Tensor) -> Tensor:
    """The tensor in the dtype of a layer's weight; as it is where the weight is rounded to whole numbers."""
    return tensor.to(layer.weight.dtype) if layer.weight.is_floating_point() else tensor


def take_maximum(_: SliceScorer, features: VolumeFeatures, volume_index: Tensor, question: Question) -> Aggregated:
    """The element-wise maximum over the slices; a slice's score is the share of the maxima it supplies."""
    tokens_BMLD, scores_BMN = slice_scoring.take_slice_maximum(features.slices_VNLD, volume_index)
    return scores_BMN, tokens_BMLD


def score_alike(_: SliceScorer, features: VolumeFeatures, volume_index: Tensor, question: Question) -> Aggregated:
    """Every slice the same score."""
    num_slices = features.slices_VNLD.shape[1]
    alike_BMN = torch.zeros(*volume_index.shape, num_slices, device=volume_index.device)
    return slice_scoring.normalise_scores(alike_BMN, volume_index), None


def score_at_random(
    scorer: SliceScorer, features: VolumeFeatures, volume_index: Tensor, question: Question
) -> Aggregated:
    """Random scores: fresh ones in training, in evaluation those that follow from random_seed and the question."""
    assert question.input_ids is not None
    question_ids_BT = question.input_ids
    if question.mask is not None:
        question_ids_BT = question_ids_BT.masked_fill(~question.mask.bool(), -1)
    seed = None if scorer.training else scorer.config.random_seed
    num_slices = features.slices_VNLD.shape[1]
    return slice_scoring.draw_random_scores(question_ids_BT, volume_index, num_slices, seed=seed), None


def score_by_question(
    scorer: SliceScorer, features: VolumeFeatures, volume_index: Tensor, question: Question
) -> Aggregated:
    """TG-IS: softmax over the slices of how each relates to the question (eq. 4-6); a Linear where it is not read."""
    config = scorer.config
    tokens_3d_VKPD = features.tokens_3d_VKPD if "3d" in config.scoring_inputs else None
    tokens_2d_VNLD = features.tokens_2d_VNLD if "2d" in config.scoring_inputs else None
    if config.planes is None:
        slices_VND = slice_scoring.describe_slices(
            tokens_3d_VKPD, tokens_2d_VNLD, num_slices=features.slices_VNLD.shape[1]
        )
    else:
        slices_VND = describe_planes(
            tokens_3d_VKPD,
            tokens_2d_VNLD,
            planes=config.planes,
            grid=None if tokens_3d_VKPD is None else config.vision3d_config.pooled_grid,
            num_slices=config.num_slices,
        )
    scale = config.score_scale if scorer.log_scale is None else scorer.log_scale.float().exp()
    if scorer.slice_linear is not None:
        relevance_VN = scorer.slice_linear(in_dtype_of(scorer.slice_linear, slices_VND)).squeeze(-1)
        return slice_scoring.normalise_scores(relevance_VN[volume_index.clamp(min=0)], volume_index, scale=scale), None
    question_BD = scorer.embed(question)
    if scorer.narrow_question is not None and scorer.narrow_slice is not None:
        question_BD = scorer.narrow_question(in_dtype_of(scorer.narrow_question, question_BD))
        slices_VND = scorer.narrow_slice(in_dtype_of(scorer.narrow_slice, slices_VND))
    heads = zip(
        question_BD.chunk(config.score_heads, dim=-1), slices_VND.chunk(config.score_heads, dim=-1), strict=True
    )
    by_head = [
        slice_scoring.normalise_scores(
            slice_scoring.rate_slices(question_head, slices, volume_index, norm=config.score_norm),
            volume_index,
            scale=scale,
        )
        for question_head, slices in heads
    ]
    return by_head[0] if config.score_heads == 1 else torch.stack(by_head).mean(dim=0), None
