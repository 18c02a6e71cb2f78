"""What does the language model learn from? The next-token loss, from only those logits that are supervised.

B prompts of T tokens; labels (B, T) are token ids, -100 where nothing is to be learnt.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

IGNORED = -100


def find_supervised(labels_BT: Tensor, *, is_shifted: bool = False) -> Tensor:
    """Positions whose next token is supervised in any prompt, sorted; at least one, so that logits are not empty."""
    positions = ((labels_BT if is_shifted else labels_BT[:, 1:]) != IGNORED).any(dim=0).nonzero().squeeze(-1)
    return positions if len(positions) else torch.zeros(1, dtype=torch.long, device=labels_BT.device)


def next_token_loss(
    logits: Tensor,
    labels_BT: Tensor,
    logits_to_keep: int | Tensor,
    *,
    num_items_in_batch: Tensor | int | None = None,
    is_shifted: bool = False,
) -> Tensor:
    """Cross-entropy of each supervised token given those before it, in float32.

    logits_to_keep: the positions the logits hold, or how many of the last. The mean over supervised tokens, or their
    sum divided by num_items_in_batch when the trainer accumulates gradients. is_shifted: each label stands at the
    position before its token already, as sequence-parallel training gives them.
    """
    next_labels_BT = labels_BT if is_shifted else functional.pad(labels_BT, (0, 1), value=IGNORED)[:, 1:]
    if isinstance(logits_to_keep, Tensor):
        next_labels_BT = next_labels_BT[:, logits_to_keep]
    elif logits_to_keep > 0:
        next_labels_BT = next_labels_BT[:, -logits_to_keep:]
    targets = next_labels_BT.flatten().to(logits.device)
    total = functional.cross_entropy(logits.float().flatten(0, 1), targets, ignore_index=IGNORED, reduction="sum")
    count = (targets != IGNORED).sum().clamp(min=1) if num_items_in_batch is None else num_items_in_batch
    return total / (count.to(total.device) if isinstance(count, Tensor) else count)
