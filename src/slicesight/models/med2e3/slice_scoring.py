"""Text-guided inter-slice scoring: which slices matter for this question? (docs/method.md, Algorithm 1, eq. 4-8)

B prompts, M volumes per prompt, T prompt tokens, V volumes, N slices, K depth bins, P 3D tokens per bin,
L 2D tokens per slice, D language-model width. Everything here works on plain tensors; scores are float32.
volume_index_BM says which of the V volumes is the m-th of prompt b; -1 is none (its row of scores is zero).
"""

from __future__ import annotations

import zlib

import torch
from torch import Tensor
from torch.nn import functional

from slicesight.errors import ModelError


def repeat_depth_bins(tokens_3d_VKPD: Tensor, num_slices: int) -> Tensor:
    """Give every slice the 3D tokens of the depth bin it lies in (Algorithm 1) -> (V, N, P, D)."""
    num_bins = tokens_3d_VKPD.shape[1]
    if num_slices % num_bins:
        raise ModelError(
            f"{num_slices} slices do not divide into {num_bins} depth bins; "
            f"set the number of slices to a multiple of {num_bins}."
        )
    return tokens_3d_VKPD.repeat_interleave(num_slices // num_bins, dim=1)


def describe_slices(tokens_3d_VKPD: Tensor | None, tokens_2d_VNLD: Tensor | None, *, num_slices: int) -> Tensor:
    """Average each slice's own 2D tokens with its depth bin's 3D tokens (eq. 4) -> (V, N, D) float32.

    Either may be None to leave that branch out of the scores. Equal to the mean over the concatenated tokens, without
    building them: a mean over P and a mean over L, weighted P : L.
    """
    assert tokens_3d_VKPD is not None or tokens_2d_VNLD is not None
    total: Tensor | float = 0.0
    num_tokens = 0
    if tokens_3d_VKPD is not None:
        bins_VK1D = tokens_3d_VKPD.sum(dim=2, keepdim=True, dtype=torch.float32)
        total = total + repeat_depth_bins(bins_VK1D, num_slices).squeeze(2)
        num_tokens += tokens_3d_VKPD.shape[2]
    if tokens_2d_VNLD is not None:
        total = total + tokens_2d_VNLD.sum(dim=2, dtype=torch.float32)
        num_tokens += tokens_2d_VNLD.shape[2]
    assert isinstance(total, Tensor)
    return total / num_tokens


def average_question(text_BTD: Tensor, question_mask_BT: Tensor) -> Tensor:
    """The question's mean token embedding, eq. 5 -> (B, D) float32; zeros without a question."""
    mask_BT1 = question_mask_BT.unsqueeze(-1).to(torch.float32)
    return (text_BTD.float() * mask_BT1).sum(dim=1) / mask_BT1.sum(dim=1).clamp(min=1.0)


def rate_slices(question_BD: Tensor, slices_VND: Tensor, volume_index_BM: Tensor, *, norm: str = "none") -> Tensor:
    """Relevance s_r of every slice to every prompt: the dot product of eq. 5 -> (B, M, N) float32.

    norm "l2" divides both vectors by their length first, so that the relevance is a cosine.
    """
    question_BD, slices_VND = question_BD.float(), slices_VND.float()
    if norm == "l2":
        question_BD, slices_VND = functional.normalize(question_BD, dim=-1), functional.normalize(slices_VND, dim=-1)
    slices_BMND = slices_VND[volume_index_BM.clamp(min=0)]
    return torch.einsum("bd,bmnd->bmn", question_BD, slices_BMND)


def normalise_scores(relevance_BMN: Tensor, volume_index_BM: Tensor, *, scale: Tensor | float = 1.0) -> Tensor:
    """Softmax over the slices of each volume (eq. 6) -> (B, M, N) float32; rows without a volume are zero."""
    scores_BMN = torch.softmax(relevance_BMN.float() * scale, dim=-1)
    return scores_BMN * (volume_index_BM >= 0).unsqueeze(-1)


def weigh_slices(scores_BMN: Tensor, tokens_2d_VNLD: Tensor, volume_index_BM: Tensor) -> Tensor:
    """z_2D: the score-weighted sum of the slices' tokens (eq. 7) -> (B, M, L, D) in the tokens' dtype.

    One matrix product against all volumes with zero weights for the others: the volumes are never copied per question.
    """
    num_volumes, num_slices, num_tokens, width = tokens_2d_VNLD.shape
    is_volume_BMV = volume_index_BM.unsqueeze(-1) == torch.arange(num_volumes, device=volume_index_BM.device)
    weights_BMVN = is_volume_BMV.unsqueeze(-1) * scores_BMN.unsqueeze(2)
    flat = weights_BMVN.flatten(2).to(tokens_2d_VNLD.dtype) @ tokens_2d_VNLD.reshape(num_volumes * num_slices, -1)
    return flat.reshape(*flat.shape[:-1], num_tokens, width)


def take_slice_maximum(tokens_2d_VNLD: Tensor, volume_index_BM: Tensor) -> tuple[Tensor, Tensor]:
    """Aggregation "max" of Table 4: the element-wise maximum over slices -> (B, M, L, D), and scores (B, M, N).

    A maximum has no weights: the score of a slice is the share of the maxima it supplies, so the scores sum to one.
    """
    num_slices = tokens_2d_VNLD.shape[1]
    maximum_VLD, winner_VLD = tokens_2d_VNLD.max(dim=1)
    slices_N1 = torch.arange(num_slices, device=winner_VLD.device).unsqueeze(-1)
    shares_VN = (winner_VLD.flatten(1).unsqueeze(1) == slices_N1).float().mean(dim=-1)
    index_BM, is_given_BM = volume_index_BM.clamp(min=0), volume_index_BM >= 0
    return (
        maximum_VLD[index_BM] * is_given_BM[..., None, None].to(maximum_VLD.dtype),
        shares_VN[index_BM] * is_given_BM.unsqueeze(-1),
    )


def draw_random_scores(input_ids_BT: Tensor, volume_index_BM: Tensor, num_slices: int, *, seed: int | None) -> Tensor:
    """Aggregation "random" of Table 4: softmax of standard normals -> (B, M, N) float32.

    With a seed each prompt's normals follow from the seed and its own question tokens (pass them with everything else
    set to -1), whatever else is in the batch; without one (training) they are fresh draws of torch's global generator.
    """
    num_prompts, num_volumes = volume_index_BM.shape
    if seed is None:
        normals_BMN = torch.randn(num_prompts, num_volumes, num_slices, device=volume_index_BM.device)
    else:
        rows = []
        for ids in input_ids_BT.tolist():
            key = ",".join(str(number) for number in (seed, *(token for token in ids if token >= 0)))
            generator = torch.Generator().manual_seed(zlib.crc32(key.encode()))
            rows.append(torch.randn(num_volumes, num_slices, generator=generator))
        normals_BMN = torch.stack(rows).to(volume_index_BM.device)
    return normalise_scores(normals_BMN, volume_index_BM)


def join_branches(tokens_3d_VKPD: Tensor | None, aggregated_BMLD: Tensor | None, volume_index_BM: Tensor) -> Tensor:
    """z_I = [z_3D ; z_2D] of every prompt's volumes (eq. 8) -> (B, M, K * P + L, D); a branch may be None."""
    branches = []
    if tokens_3d_VKPD is not None:
        branches.append(tokens_3d_VKPD.flatten(1, 2)[volume_index_BM.clamp(min=0)])
    if aggregated_BMLD is not None:
        branches.append(aggregated_BMLD)
    return torch.cat(branches, dim=2)
