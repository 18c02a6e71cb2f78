"""How do N slices become one set of 2D tokens? (docs/method.md, Table 4) One function per aggregation.

A function takes the model's `SliceScorer`, the encoded volumes, volume_index (B, M) and the question, and returns
scores (B, M, N) float32, each volume's sum to one, and either None, for the sum of the slices weighted by them, or
the tokens (B, M, L, D) themselves. A new one needs a line in `configuration.AGGREGATIONS`, or an entry point.
B prompts, M volumes per prompt, V volumes, N slices, L 2D tokens per slice, D language-model width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from slicesight.models.med2e3 import slice_scoring
from slicesight.models.med2e3.planes import describe_planes

if TYPE_CHECKING:
    from slicesight.models.med2e3.slice_scorer import Question, SliceScorer, VolumeFeatures

Aggregated = tuple[Tensor, Tensor | None]


def take_maximum(_: SliceScorer, features: VolumeFeatures, volume_index: Tensor, question: Question) -> Aggregated:
    """The element-wise maximum over the slices; a slice's score is the share of the maxima it supplies."""
    assert features.tokens_2d_VNLD is not None
    tokens_BMLD, scores_BMN = slice_scoring.take_slice_maximum(features.tokens_2d_VNLD, volume_index)
    return scores_BMN, tokens_BMLD


def score_alike(_: SliceScorer, features: VolumeFeatures, volume_index: Tensor, question: Question) -> Aggregated:
    """Every slice the same score."""
    assert features.tokens_2d_VNLD is not None
    num_slices = features.tokens_2d_VNLD.shape[1]
    alike_BMN = torch.zeros(*volume_index.shape, num_slices, device=volume_index.device)
    return slice_scoring.normalise_scores(alike_BMN, volume_index), None


def score_at_random(
    scorer: SliceScorer, features: VolumeFeatures, volume_index: Tensor, question: Question
) -> Aggregated:
    """Random scores: fresh ones in training, in evaluation those that follow from random_seed and the question."""
    assert features.tokens_2d_VNLD is not None
    assert question.input_ids is not None
    question_ids_BT = question.input_ids
    if question.mask is not None:
        question_ids_BT = question_ids_BT.masked_fill(~question.mask.bool(), -1)
    seed = None if scorer.training else scorer.config.random_seed
    num_slices = features.tokens_2d_VNLD.shape[1]
    return slice_scoring.draw_random_scores(question_ids_BT, volume_index, num_slices, seed=seed), None


def score_by_question(
    scorer: SliceScorer, features: VolumeFeatures, volume_index: Tensor, question: Question
) -> Aggregated:
    """TG-IS: softmax over the slices of how each relates to the question (eq. 4-6); a Linear where it is not read."""
    config = scorer.config
    assert features.tokens_2d_VNLD is not None
    num_slices = features.tokens_2d_VNLD.shape[1]
    tokens_3d_VKPD = features.tokens_3d_VKPD if "3d" in config.scoring_inputs else None
    tokens_2d_VNLD = features.tokens_2d_VNLD if "2d" in config.scoring_inputs else None
    if config.planes is None:
        slices_VND = slice_scoring.describe_slices(tokens_3d_VKPD, tokens_2d_VNLD, num_slices=num_slices)
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
        relevance_VN = scorer.slice_linear(slices_VND.to(scorer.slice_linear.weight.dtype)).squeeze(-1)
        return slice_scoring.normalise_scores(relevance_VN[volume_index.clamp(min=0)], volume_index, scale=scale), None
    question_BD = scorer.embed(question)
    if scorer.narrow_question is not None and scorer.narrow_slice is not None:
        question_BD = scorer.narrow_question(question_BD.to(scorer.narrow_question.weight.dtype))
        slices_VND = scorer.narrow_slice(slices_VND.to(scorer.narrow_slice.weight.dtype))
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
