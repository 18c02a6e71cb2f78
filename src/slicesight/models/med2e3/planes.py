"""How does one volume give slices of three planes, and which 3D tokens lie around each? (docs/method.md, planes)

V volumes (V, 1, N, H, W) stacked axially: axis N grows superior, H posterior, W patient-left. Every plane gives N
slices of H x W pixels as upright radiological pictures: axial rows grow posterior, columns left; coronal rows inferior,
columns left; sagittal rows inferior, columns posterior. Slices grow superior, posterior, left. S = planes * N slices,
K depth bins of P 3D tokens, L 2D tokens per slice, D language-model width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import initialization as init

from slicesight.models.med2e3.slice_scoring import describe_slices

PLANE_AXES = {"axial": 0, "coronal": 1, "sagittal": 2}  # the volume axis along which the plane's slices are stacked


def cut_planes(volumes_V1NHW: Tensor, planes: list[str] | tuple[str, ...]) -> Tensor:
    """Slices of every plane in the order given -> (V, planes * N, H, W).

    A plane other than the stacked one has H or W positions: neighbours are averaged to N of them, and the N stacked
    slices become H or W rows by linear interpolation.
    """
    volume_VNHW = volumes_V1NHW.squeeze(1)
    num_slices, height, width = volume_VNHW.shape[1:]
    cut = []
    for plane in planes:
        if plane == "axial":
            cut.append(volume_VNHW)
            continue
        upright = (
            volume_VNHW.flip(1).permute(0, 2, 1, 3) if plane == "coronal" else volume_VNHW.flip(1).permute(0, 3, 1, 2)
        )
        pictures = functional.interpolate(
            average_positions(upright, num_slices), size=(height, width), mode="bilinear", align_corners=False
        )
        cut.append(pictures)
    return torch.cat(cut, dim=1)


def average_positions(pictures_VSRC: Tensor, num_slices: int) -> Tensor:
    """S positions to num_slices: neighbours averaged, or repeated where there are fewer -> (V, N, rows, columns)."""
    num_volumes, positions, rows, columns = pictures_VSRC.shape
    if positions == num_slices:
        return pictures_VSRC
    flat = pictures_VSRC.permute(0, 2, 3, 1).reshape(num_volumes, rows * columns, positions)
    pooled = functional.adaptive_avg_pool1d(flat, num_slices)
    return pooled.reshape(num_volumes, rows, columns, num_slices).permute(0, 3, 1, 2)


def regroup_bins(tokens_3d_VKPD: Tensor, grid: tuple[int, int, int], plane: str) -> Tensor:
    """The 3D tokens grouped along a plane's axis: its bins first, the rest of the grid inside -> (V, bins, rest, D)."""
    cells_VdhwD = tokens_3d_VKPD.unflatten(2, grid[1:])
    axis = PLANE_AXES[plane] + 1
    bins: Tensor = cells_VdhwD.movedim(axis, 1).flatten(2, 3)
    return bins


def describe_planes(
    tokens_3d_VKPD: Tensor | None,
    tokens_2d_VSLD: Tensor | None,
    *,
    planes: list[str] | tuple[str, ...],
    grid: tuple[int, int, int] | None,
    num_slices: int,
) -> Tensor:
    """Eq. 4 for the slices of every plane, each with the bins along its own axis -> (V, planes * N, D) float32.

    Slice j of N lies in bin j * bins // N, which is Algorithm 1 where the bins divide N and goes on where they do not.
    """
    described = []
    for number, plane in enumerate(planes):
        bins = None
        if tokens_3d_VKPD is not None:
            assert grid is not None
            bins = regroup_bins(tokens_3d_VKPD, grid, plane)
            lies_in = torch.arange(num_slices, device=bins.device) * bins.shape[1] // num_slices
            bins = bins[:, lies_in]
        own = None if tokens_2d_VSLD is None else tokens_2d_VSLD[:, number * num_slices : (number + 1) * num_slices]
        described.append(describe_slices(bins, own, num_slices=num_slices))
    return torch.cat(described, dim=1)


class PlaneEmbedding(nn.Module):
    """Tells the tokens of a slice its plane and its position in it: one vector each, added to all its tokens."""

    def __init__(self, num_planes: int, num_slices: int, width: int) -> None:
        super().__init__()
        self.num_planes, self.num_slices = num_planes, num_slices
        self.plane = nn.Parameter(torch.empty(num_planes, width))
        self.position = nn.Parameter(torch.empty(num_slices, width))

    def reset_parameters(self, std: float) -> None:
        """Small, so that the slices' own content decides at first."""
        init.normal_(self.plane, std=std)
        init.normal_(self.position, std=std)

    def forward(self, tokens_VSLD: Tensor) -> Tensor:
        """Add them to tokens (V, planes * N, L, D)."""
        where_SD = self.plane.repeat_interleave(self.num_slices, dim=0) + self.position.repeat(self.num_planes, 1)
        return tokens_VSLD + where_SD.unsqueeze(1)
