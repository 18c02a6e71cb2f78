"""What does a 3D network learn without any 2D model, by telling volumes apart? The baseline SimCLR, in 3D.

Two random views of every volume: a part of it (random place, each side LEAST_SIDE to 1 of the volume's) enlarged to the
whole size, mirrored, with other contrast, brightness and noise. Their memories, averaged and sent through a small
perceptron, must be nearer to one another than to all other views of the step:

    L = mean over the 2B views of −log( exp(z·z⁺ / τ) / Σ_{others} exp(z·z′ / τ) ),  τ = 0.1

(Chen et al. 2020, NT-Xent; for 3D scans Taleb et al. 2020.) B volumes of D x H x W voxels, C memory channels.
"""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

TEMPERATURE = 0.1
LEAST_SIDE = 0.6
JITTER, NOISE = 0.3, 0.03
OUTPUT = 64


class VolumeContrast(nn.Module):
    """The perceptron behind the averaged memory, and the loss."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(width, width), nn.Linear(width, OUTPUT)

    def forward(self, memory_BCdhw: Tensor) -> Tensor:
        """One vector per view -> (B, OUTPUT), float32."""
        pooled = memory_BCdhw.float().mean(dim=(2, 3, 4))
        return cast(Tensor, self.last(functional.relu(self.first(pooled))))


def nt_xent(first_BO: Tensor, second_BO: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """Normalised temperature-scaled cross-entropy of two views of each of B volumes."""
    views = functional.normalize(torch.cat([first_BO, second_BO]).float(), dim=-1)
    logits = views @ views.T / temperature
    logits = logits.masked_fill(torch.eye(len(views), dtype=torch.bool, device=views.device), float("-inf"))
    partner = torch.arange(len(views), device=views.device).roll(len(first_BO))
    return functional.cross_entropy(logits, partner)


def draw_view(cube_DHW: NDArray[np.float32], rng: np.random.Generator) -> Tensor:
    """A random view of a volume -> (1, D, H, W) in [0, 1]."""
    sides = [max(4, round(size * rng.uniform(LEAST_SIDE, 1))) for size in cube_DHW.shape]
    starts = [int(rng.integers(size - side + 1)) for size, side in zip(cube_DHW.shape, sides, strict=True)]
    part = cube_DHW[tuple(slice(start, start + side) for start, side in zip(starts, sides, strict=True))]
    part = part[tuple(slice(None, None, -1 if rng.random() < 0.5 else 1) for _ in range(3))]
    whole = functional.interpolate(
        torch.from_numpy(np.ascontiguousarray(part))[None, None], size=cube_DHW.shape, mode="trilinear"
    )[0]
    contrast, brightness = rng.uniform(-JITTER, JITTER, 2)
    noise = torch.from_numpy(rng.standard_normal(whole.shape, dtype=np.float32)) * NOISE
    view: Tensor = ((whole - 0.5) * (1 + contrast) + 0.5 + brightness / 2 + noise).clamp(0, 1)
    return view
