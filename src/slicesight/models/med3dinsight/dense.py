"""Do the 3D features of a place say what a 2D encoder says of the same place in three planes?

    L = mean over places of (1 − cos(h(f, plane), token)) + smooth L1(h(f, plane), token)

f are the network's features at the centre of a patch of a slice, read between voxels, and averaged over four points of
the patch; h a two-layer perceptron with a learned vector for each plane. What one vector for a whole slice cannot say,
which place of it is bone and which a gland, is here said place by place: dense distillation of frozen patch tokens, as
masked models distil those of CLIP (EVA, Fang et al. 2023; MVP, Wei et al. 2022) and 3D networks those of 2D ones
(OpenScene, Peng et al. 2023). With hidden cells in the input the tokens of what is hidden must be inferred.

B volumes of F feature channels, S slices of each with P patches, C components of a token.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from slicesight.volumes.volume import PLANES

HIDDEN = 128
QUARTERS = ((-0.25, -0.25), (-0.25, 0.25), (0.25, -0.25), (0.25, 0.25))
"""Points of a patch that are read, from its centre, in sides of a patch."""


class DenseHead(nn.Module):
    """From features at a place to the token that the 2D encoder has there.

    Args:
        plane_aware: False leaves out the planes' vectors, as the control without plane and slice does.
    """

    def __init__(self, width: int, size: int, *, plane_aware: bool = True) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(width, HIDDEN), nn.Linear(HIDDEN, size)
        self.planes_RH = nn.Parameter(torch.randn(len(PLANES), HIDDEN) * 0.02) if plane_aware else None

    def forward(self, features_BFDHW: Tensor, planes_BS: Tensor, points_BSP3: Tensor, spread_BS2: Tensor) -> Tensor:
        """Tokens (B, S, P, C) for patches at these points.

        Args:
            points_BSP3: centres as x, y, z from -1 to 1. spread_BS2: a patch's sides along rows and columns, likewise.
        """
        found_BSPF = read_patches(features_BFDHW, planes_BS, points_BSP3, spread_BS2)
        hidden = self.first(found_BSPF)
        if self.planes_RH is not None:
            hidden = hidden + self.planes_RH[planes_BS].unsqueeze(2)
        return cast(Tensor, self.last(functional.gelu(hidden)))


def read_patches(features_BFDHW: Tensor, planes_BS: Tensor, points_BSP3: Tensor, spread_BS2: Tensor) -> Tensor:
    """Features at the patches, each the mean of four points of it -> (B, S, P, F), in float32."""
    shifts = torch.tensor(QUARTERS, device=points_BSP3.device)
    axes = torch.tensor([_axes(plane) for plane in range(len(PLANES))], device=planes_BS.device)[planes_BS]  # (B, S, 2)
    moved = points_BSP3.unsqueeze(3).expand(-1, -1, -1, len(QUARTERS), -1).clone()
    for way in (0, 1):
        step_BSQ = spread_BS2[..., way : way + 1] * shifts[:, way]
        along = functional.one_hot(axes[..., way], 3).to(step_BSQ)
        moved = moved + step_BSQ[:, :, None, :, None] * along[:, :, None, None, :]
    num_slices, num_patches = points_BSP3.shape[1:3]
    places = moved.flatten(1, 3)[:, :, None, None, :]
    read = functional.grid_sample(features_BFDHW.float(), places.float(), mode="bilinear", align_corners=False)
    read_BFSPQ = read[..., 0, 0].unflatten(2, (num_slices, num_patches, len(QUARTERS)))
    found: Tensor = read_BFSPQ.mean(dim=-1).permute(0, 2, 3, 1)
    return found


def dense_loss(found_BSPC: Tensor, tokens_BSPC: Tensor) -> tuple[Tensor, Tensor]:
    """The loss, and the mean cosine for the log; places whose token is NaN show no scan and count for nothing."""
    is_shown = tokens_BSPC.isfinite().all(dim=-1)
    if not is_shown.any():
        return 0 * found_BSPC.sum(), found_BSPC.new_zeros(())
    found, wanted = found_BSPC.float()[is_shown], tokens_BSPC.float()[is_shown]
    cosine = functional.cosine_similarity(found, wanted, dim=-1).mean()
    return 1 - cosine + functional.smooth_l1_loss(found, wanted), cosine.detach()


def _axes(plane: int) -> tuple[int, int]:
    """Which of x, y, z a slice's rows and columns run along."""
    rows, columns = (2 - axis for axis in range(3) if axis != plane)
    return rows, columns


def build_dense_head(backbone: Any, recipe: dict[str, Any], size: int) -> DenseHead:
    """The head for the features that the recipe reads."""
    width = backbone.dense_width if recipe.get("dense_reads", "decoder") == "decoder" else backbone.memory_width
    return DenseHead(width, size, plane_aware=bool(recipe["psat"]["plane_slice"]))
