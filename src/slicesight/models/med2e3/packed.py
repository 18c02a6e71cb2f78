"""How do prompts that begin alike run as one sequence? What they share once, each prompt's own rest behind it.

    row = [head ; rest of prompt 1 ; rest of prompt 2 ; ...]
    token i sees token j  <=>  j <= i and (j lies in the head or in i's own prompt)

Positions go on after the head in every prompt, so each prompt is computed as if it stood alone.
B prompts of T tokens, R rows of U tokens, D width. places (R, U): where a row's token lies in the B x T prompts,
prompt * T + position, -1 for padding; parts (R, U): 0 in the head, k in the row's k-th prompt, -1 for padding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from slicesight.errors import ModelError
from slicesight.models.med2e3.loss import IGNORED

PADDING = -1
PLAIN_LAYERS = ("full_attention", "sliding_attention")


def gather_rows(values_BT: Tensor, places_RU: Tensor, *, padding: float = 0) -> Tensor:
    """The prompts' values in the order of the rows (R, U, ...), `padding` where a row has ended."""
    rows = values_BT.flatten(0, 1)[places_RU.clamp(min=0)]
    is_padding = (places_RU == PADDING).view(*places_RU.shape, *(1,) * (rows.ndim - 2))
    return rows.masked_fill(is_padding, padding)


def pack(
    language_model: PreTrainedModel,
    inputs_embeds: Tensor,
    labels_BT: Tensor | None,
    places_RU: Tensor,
    parts_RU: Tensor,
) -> dict[str, Any]:
    """What the language model reads instead of B prompts: embeddings (R, U, D), labels, positions and a 4D mask.

    Raises:
        ModelError: its attention cannot take such a mask.
    """
    positions_RU = torch.where(places_RU == PADDING, 0, places_RU % inputs_embeds.shape[1])
    refuse_unpackable(language_model, longest=int(positions_RU.max()) + 1)
    return {
        "inputs_embeds": gather_rows(inputs_embeds, places_RU),
        "labels": None if labels_BT is None else gather_rows(labels_BT, places_RU, padding=IGNORED),
        "position_ids": positions_RU,
        "attention_mask": build_mask(parts_RU, str(language_model.config._attn_implementation), inputs_embeds.dtype),
    }


def own_prompt_mask(parts_RU: Tensor) -> Tensor:
    """Whether token i sees token j -> (R, 1, U, U) bool; padding sees itself, so that no softmax is empty."""
    length = parts_RU.shape[1]
    is_earlier_UU = torch.ones(length, length, dtype=torch.bool, device=parts_RU.device).tril()
    is_own_RUU = parts_RU.unsqueeze(2) == parts_RU.unsqueeze(1)
    return (is_earlier_UU & (is_own_RUU | (parts_RU == 0).unsqueeze(1))).unsqueeze(1)


def build_mask(parts_RU: Tensor, implementation: str, dtype: torch.dtype) -> Any:
    """`own_prompt_mask` as the attention implementation wants it."""
    if implementation == "flex_attention":
        from torch.nn.attention.flex_attention import create_block_mask

        def sees(row: Tensor, head: Tensor, i: Tensor, j: Tensor) -> Tensor:
            return (j <= i) & ((parts_RU[row, j] == 0) | (parts_RU[row, i] == parts_RU[row, j]))

        rows, length = parts_RU.shape
        return create_block_mask(sees, B=rows, H=None, Q_LEN=length, KV_LEN=length, device=str(parts_RU.device))
    sees_R1UU = own_prompt_mask(parts_RU)
    if implementation == "sdpa":
        return sees_R1UU
    return torch.zeros_like(sees_R1UU, dtype=dtype).masked_fill(~sees_R1UU, torch.finfo(dtype).min)


def refuse_unpackable(language_model: PreTrainedModel, *, longest: int) -> None:
    """A mask of its own needs attention that takes one, position_ids and no window shorter than a prompt.

    Raises:
        ModelError: this language model lacks one of them.
    """
    config = language_model.config
    implementation = config._attn_implementation
    kind = config.model_type
    if implementation not in ("sdpa", "eager", "flex_attention"):
        raise ModelError(
            f"packing needs a mask of its own, which {implementation} cannot take; "
            f"load {kind} with attn_implementation sdpa, or train without packing."
        )
    other = sorted(set(getattr(config, "layer_types", None) or ()) - set(PLAIN_LAYERS))
    if other:
        raise ModelError(f"packing needs attention in every layer, but {kind} has {other[0]}; train without packing.")
    window = getattr(config, "sliding_window", None)
    if window is not None and longest > window:
        raise ModelError(
            f"packing leaves out the sliding window of {kind}, {window} tokens, "
            f"which a prompt of {longest} tokens would meet; train without packing."
        )
