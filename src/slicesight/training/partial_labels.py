"""How does one network learn from label maps in each of which only some structures were drawn?

What nobody drew may be there all the same, so every structure is a question of its own (a sigmoid), asked only of the
crops of scans in which it was drawn: binary cross-entropy plus 1 - Dice, as Dice and cross-entropy of MONAI's DiceCELoss,
each averaged over the structures drawn in the batch. What the network says of any other structure changes neither the
loss nor its gradient.

B crops of N x H x W voxels, K structures.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

SMOOTH = 1.0
"""Voxels added above and below in Dice, so that a structure which is rightly not found costs nothing."""


def partial_label_loss(logits_BKNHW: Tensor, classes_B1NHW: Tensor, drawn_BK: Tensor) -> Tensor:
    """The loss of a batch, in float32; 0 where no structure was drawn in any crop.

    Args:
        classes_B1NHW: 0 the background, 1 the first structure and so on.
        drawn_BK: which structures were drawn in each crop's scan.
    """
    crops, structures = drawn_BK.nonzero(as_tuple=True)
    if not len(crops):
        return 0 * logits_BKNHW[:0].float().sum()
    logits_PV = logits_BKNHW[crops, structures].float().flatten(1)
    truth_PV = (classes_B1NHW[crops, 0] == (structures + 1).view(-1, 1, 1, 1)).float().flatten(1)
    entropy_P = functional.binary_cross_entropy_with_logits(logits_PV, truth_PV, reduction="none").mean(dim=1)
    found_PV = logits_PV.sigmoid()
    num_structures = logits_BKNHW.shape[1]

    def of_structure(values_P: Tensor) -> Tensor:
        return values_P.new_zeros(num_structures).index_add(0, structures, values_P)

    pairs_K = of_structure(torch.ones_like(entropy_P))
    shared_K = of_structure((found_PV * truth_PV).sum(dim=1))
    sizes_K = of_structure(found_PV.sum(dim=1) + truth_PV.sum(dim=1))
    dice_K = (2 * shared_K + SMOOTH) / (sizes_K + SMOOTH)
    losses_K = of_structure(entropy_P) / pairs_K.clamp(min=1) + 1 - dice_K
    return losses_K[pairs_K > 0].mean()
