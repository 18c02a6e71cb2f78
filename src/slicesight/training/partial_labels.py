"""How does one network learn from label maps in each of which only some structures were drawn?

What nobody drew may be there all the same, so every structure is a question of its own (a sigmoid), asked only of the
crops of scans in which it was drawn. Of each structure, over all its crops of the batch:

    sum of the binary cross-entropies / max(voxels drawn, LEAST_SHARE of all voxels)  +  1 - Dice

and the mean over the structures drawn. The cross-entropy is divided by the structure and not by the crop, as focal loss
is by its positive anchors (Lin et al. 2017): a mean over a crop hardly moves where a few of many voxels are wrong, and
small structures are then never found. What the network says of any other structure changes neither loss nor gradient.

B crops of N x H x W voxels, K structures.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

SMOOTH = 1.0
"""Voxels added above and below in Dice, so that a structure which is rightly not found costs nothing."""
LEAST_SHARE = 0.001
"""Of the voxels, what a cross-entropy is divided by at least: crops may show nothing of a structure."""


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
    entropy_P = functional.binary_cross_entropy_with_logits(logits_PV, truth_PV, reduction="none").sum(dim=1)
    found_PV = logits_PV.sigmoid()
    num_structures = logits_BKNHW.shape[1]

    def of_structure(values_P: Tensor) -> Tensor:
        return values_P.new_zeros(num_structures).index_add(0, structures, values_P)

    voxels_K = of_structure(torch.full_like(entropy_P, truth_PV.shape[1]))
    true_K = of_structure(truth_PV.sum(dim=1))
    shared_K = of_structure((found_PV * truth_PV).sum(dim=1))
    sizes_K = of_structure(found_PV.sum(dim=1)) + true_K
    dice_K = (2 * shared_K + SMOOTH) / (sizes_K + SMOOTH)
    is_drawn_K = voxels_K > 0
    entropy_K = of_structure(entropy_P) / torch.maximum(true_K, LEAST_SHARE * voxels_K).clamp(min=LEAST_SHARE)
    return (entropy_K + 1 - dice_K)[is_drawn_K].mean()
