"""What does the volume hold in this slice of this plane? The Plane-Slice-Aware Transformer (docs/method.md, PSAT).

    p = E[plane, bin(slice)]         queries = Q + p         z = W · read(PSAT(queries, memory))

corrected: memory + 3D positions, the queries alone carry p, the mean of K = 32 queries is read, FFN of 4 C.
released: p on the memory and on the queries, query 0 of 300 is read, FFN of 8, as the authors' snapshot computes.
Both: 6 post-norm layers (self-attention over queries, cross-attention to the memory, ReLU FFN), 8 heads.

B volumes, S slices asked of each, M = d * h * w memory tokens of width C, K queries, R = 3 planes, J = 128 bins, O
output components, T = B * S.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from slicesight.errors import InputError
from slicesight.volumes.volume import PLANES

Variant = Literal["released", "corrected"]
NUM_BINS = 128
NUM_QUERIES = {"released": 300, "corrected": 32}
RELEASED_FFN = 8
EMBEDDING_STD = 0.02


def slice_bins(index: Tensor, num_slices: Tensor, *, variant: Variant = "corrected") -> Tensor:
    """The row of E for slice `index` of `num_slices`: floor(128 · index / n), or index // 2 as released.

    Raises:
        InputError: a released bin beyond the table, which has 128.
    """
    if variant == "corrected":
        return NUM_BINS * index // num_slices
    bins = index // 2
    if int(bins.max()) >= NUM_BINS:
        raise InputError(
            f"slice {int(index.max())} has bin {int(bins.max())}, the released variant's table ends at {NUM_BINS - 1}; "
            "use variant: corrected, or cubes of at most 256"
        )
    return bins


class PlaneSliceTransformer(nn.Module):
    """Reads one vector per plane and slice out of a backbone's memory.

    Args:
        width: C. outputs: O of each Linear by name; one for both targets, or one for image and text each.
        num_queries, ffn_width: None takes the variant's own.
        plane_slice: False leaves out E, for the control without plane–slice embeddings.
    """

    def __init__(
        self,
        width: int,
        outputs: dict[str, int],
        *,
        variant: Variant = "corrected",
        num_queries: int | None = None,
        num_layers: int = 6,
        num_heads: int = 8,
        ffn_width: int | None = None,
        dropout: float = 0.1,
        plane_slice: bool = True,
    ) -> None:
        super().__init__()
        if width % num_heads:
            raise InputError(f"psat: the width {width} does not divide into {num_heads} heads; change psat.num_heads")
        self.variant = variant
        num_queries = NUM_QUERIES[variant] if num_queries is None else num_queries
        if ffn_width is None:
            ffn_width = RELEASED_FFN if variant == "released" else 4 * width
        self.queries_KC = nn.Parameter(torch.randn(num_queries, width) * EMBEDDING_STD)
        table = torch.randn(len(PLANES), NUM_BINS, width) * EMBEDDING_STD if plane_slice else None
        self.plane_slice_RJC = nn.Parameter(table) if table is not None else None
        self.layers = nn.ModuleList(
            nn.TransformerDecoderLayer(width, num_heads, ffn_width, dropout, activation="relu", batch_first=True)
            for _ in range(num_layers)
        )
        self.outputs = nn.ModuleDict({name: nn.Linear(width, size) for name, size in outputs.items()})

    def forward(self, memory_BCdhw: Tensor, planes_BS: Tensor, bins_BS: Tensor) -> dict[str, Tensor]:
        """One vector per volume, slice and output -> {name: (B, S, O)}, not normalised."""
        num_slices = planes_BS.shape[1]
        grid = memory_BCdhw.shape[2:]
        memory_BMC = memory_BCdhw.flatten(2).transpose(1, 2)
        if self.variant == "corrected":
            memory_BMC = memory_BMC + position_codes(tuple(grid), memory_BMC.shape[-1]).to(memory_BMC)
        memory_TMC = memory_BMC.repeat_interleave(num_slices, dim=0)  # T = B * S
        queries_TKC = self.queries_KC.expand(len(memory_TMC), -1, -1)
        if self.plane_slice_RJC is not None:
            place_T1C = self.plane_slice_RJC[planes_BS, bins_BS].flatten(0, 1).unsqueeze(1)
            queries_TKC = queries_TKC + place_T1C
            if self.variant == "released":
                memory_TMC = memory_TMC + place_T1C
        for layer in self.layers:
            queries_TKC = layer(queries_TKC, memory_TMC)
        read_TC = queries_TKC[:, 0] if self.variant == "released" else queries_TKC.mean(dim=1)
        return {name: output(read_TC).unflatten(0, (-1, num_slices)) for name, output in self.outputs.items()}


def position_codes(grid: tuple[int, ...], width: int) -> Tensor:
    """Fixed sines and cosines of the place along each axis, a third of the width each -> (M, C), depth-major.

    What does not divide by six stays zero. The wavelengths run from one cell to ten thousand, as in transformers.
    """
    num_waves = width // 6
    codes = torch.zeros(*grid, width)
    speeds = torch.exp(-math.log(10_000.0) * torch.arange(num_waves) / max(1, num_waves))
    for axis, size in enumerate(grid):
        angles = torch.arange(size)[:, None] * speeds
        waves = torch.cat([angles.sin(), angles.cos()], dim=-1)
        shape = [1, 1, 1, 2 * num_waves]
        shape[axis] = size
        first = axis * 2 * num_waves
        codes[..., first : first + 2 * num_waves] = waves.view(shape)
    return codes.flatten(0, 2)
