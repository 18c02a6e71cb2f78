"""What does a trained segmenter outline in one scan, how sure is it, and what did its encoder make of the scan?

Windows overlap and are weighed by a Gaussian (MONAI's sliding window). Small ones go through the network several at a
time. A network that asks for each structure by itself does not look at windows of nothing but air, any other looks at
one of them, and it works in bfloat16 where it learnt so and the processor can. With
`mirror_average` the logits are the mean of the scan's and of its mirror image's, sides exchanged: so a mirrored scan
has mirrored labels, whatever the network says. B crops of N x H x W voxels, K structures, C memory channels.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from slicesight.inference.cpu.processor import read_processor
from slicesight.models.encoders3d.monai import import_monai
from slicesight.models.med3dinsight import Segmenter
from slicesight.models.med3dinsight.preparation import PreparedScan, prepare_scan
from slicesight.volumes.foreground import Box
from slicesight.volumes.volume import Volume

BLOCK_SLICES = 16
MOST_WINDOWS, WINDOW_VOXELS = 4, 2 * 64**3
"""Windows at a time and their voxels together. For one window of 32³ PyTorch on a CPU takes a plain convolution without
oneDNN, 3.4 times as slow as for two; from four on nothing is gained."""
ABSENT = -20.0
"""Logit of every structure where a window holds only air."""
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Segmentation:
    """labels: values (Z, Y, X) on the scan's own canonical voxels. likely: by structure, the mean probability of the
    network's voxels that have its label, None where there is none or the network does not ask for each by itself.
    memory: (2C,) mean and standard deviation of the encoder's memory, where it was asked for. prepared: the scan as the
    network saw it."""

    labels: NDArray[np.int32]
    likely: dict[str, float | None]
    memory: NDArray[np.float64] | None
    prepared: PreparedScan


def segment_volume(
    segmenter: Segmenter, volume: Volume, *, name: str, progress: Progress | None = None
) -> NDArray[np.int32]:
    """Label values (Z, Y, X) on the scan's own canonical voxels."""
    return segment_scan(segmenter, volume, name=name, progress=progress).labels


@torch.inference_mode()
def segment_scan(
    segmenter: Segmenter, volume: Volume, *, name: str, keeps_memory: bool = False, progress: Progress | None = None
) -> Segmentation:
    """Outline every structure; logits are interpolated to the scan's voxels, then the highest wins."""
    size = segmenter.backbone.spec.image_size
    scan = prepare_scan(volume, segmenter.preparation, image_size=size, name=name)
    segmenter.eval()  # type: ignore[no-untyped-call]
    windows = _Windows(segmenter, scan.voxels.shape, progress)
    voxels = torch.from_numpy(scan.voxels)[None, None].to(next(segmenter.parameters()).device)
    logits_KNHW = windows.slide(voxels, keeps_memory=keeps_memory)
    if segmenter.config.mirror_average:
        mirrored = windows.slide(voxels.flip(4)).flip(3)
        logits_KNHW = (logits_KNHW + mirrored[list(segmenter.mirrored_classes)]) / 2
    if segmenter.config.least_piece:
        drop_small_pieces(logits_KNHW, float(segmenter.config.least_piece))
    labels = to_scan_voxels(logits_KNHW, segmenter.values, box=scan.box, shape=volume.shape, progress=progress)
    return Segmentation(labels, _likely(logits_KNHW, segmenter), windows.memory() if keeps_memory else None, scan)


class _Windows:
    """The sliding window over one scan of some shape; counts windows and keeps the sums of the encoder's memory."""

    def __init__(self, segmenter: Segmenter, shape: Sequence[int], progress: Progress | None) -> None:
        self.segmenter, self.progress, self.done = segmenter, progress, 0
        self.size, self.overlap = segmenter.backbone.spec.image_size, float(segmenter.config.overlap)
        passes = 2 if segmenter.config.mirror_average else 1
        self.total = passes * count_windows(shape, self.size, self.overlap)
        self.at_a_time = min(MOST_WINDOWS, max(1, WINDOW_VOXELS // math.prod(self.size)))
        self.of_air: Tensor | None = None
        self.cells, self.sums = 0, torch.zeros(2, segmenter.backbone.memory_width, dtype=torch.float64)
        self.keeps_memory = False
        device = next(segmenter.parameters()).device
        self.autocast = functools.partial(
            torch.autocast, device.type, torch.bfloat16, enabled=bool(segmenter.config.bf16) and multiplies_bf16(device)
        )

    def slide(self, voxels_11NHW: Tensor, *, keeps_memory: bool = False) -> Tensor:
        """Logits (1 + K, N, H, W)."""
        self.keeps_memory = keeps_memory
        found: Tensor = import_monai("monai.inferers").sliding_window_inference(
            voxels_11NHW, self.size, self.at_a_time, self._look, overlap=self.overlap, mode="gaussian"
        )
        return found[0]

    def memory(self) -> NDArray[np.float64]:
        """Mean and standard deviation of the memory's cells -> (2C,)."""
        mean, square = self.sums / max(1, self.cells)
        return torch.cat([mean, (square - mean.square()).clamp(min=0).sqrt()]).numpy()

    def _look(self, window_B1NHW: Tensor) -> Tensor:
        self.done += len(window_B1NHW)
        if self.progress is not None:
            self.progress("segmenting", self.done, self.total)
        is_shown = window_B1NHW.flatten(1).any(dim=1)
        if is_shown.all() or (self.keeps_memory and not self.segmenter.is_independent):
            return self._logits(window_B1NHW)
        if self.of_air is None:
            self.of_air = self._air(window_B1NHW[~is_shown][:1])
        logits = self.of_air.expand(len(window_B1NHW), -1, -1, -1, -1).clone()
        if is_shown.any():
            logits[is_shown] = self._logits(window_B1NHW[is_shown])
        return logits

    def _air(self, window_11NHW: Tensor) -> Tensor:
        """The logits of a window that is 0 everywhere."""
        if not self.segmenter.is_independent:
            return self._logits(window_11NHW)
        logits = window_11NHW.expand(-1, len(self.segmenter.values) + 1, -1, -1, -1).clone()
        logits[:, 1:] = ABSENT
        return logits

    def _logits(self, window_B1NHW: Tensor) -> Tensor:
        with self.autocast():
            if not self.keeps_memory:
                found: Tensor = self.segmenter(window_B1NHW)
                return found.float()
            found, memory = self.segmenter.with_memory(window_B1NHW)
        cells = memory.double().cpu().transpose(0, 1).flatten(1)
        self.cells += cells.shape[1]
        self.sums += torch.stack([cells.sum(dim=1), cells.square().sum(dim=1)])
        return found.float()


@functools.cache
def multiplies_bf16(device: torch.device) -> bool:
    """Whether convolutions in bfloat16 are quicker there: on a GPU, and on a CPU with instructions for them."""
    return device.type == "cuda" or (device.type == "cpu" and read_processor().has_bf16)


def drop_small_pieces(logits_KNHW: Tensor, least: float) -> None:
    """Take from every structure the pieces smaller than this share of its largest one; pieces touch by a face."""
    from scipy import ndimage

    fullest = logits_KNHW.argmax(dim=0).cpu().numpy()
    for number in range(1, len(logits_KNHW)):
        pieces, count = ndimage.label(fullest == number)
        if count > 1:
            sizes = np.bincount(pieces.ravel())[1:]
            small = 1 + np.flatnonzero(sizes < least * sizes.max())
            logits_KNHW[number][torch.from_numpy(np.isin(pieces, small)).to(logits_KNHW.device)] = ABSENT


def to_scan_voxels(
    logits_KNHW: Tensor,
    values: Sequence[int],
    *,
    box: Box,
    shape: tuple[int, int, int],
    progress: Progress | None = None,
) -> NDArray[np.int32]:
    """Label values (Z, Y, X) of logits that cover the box of a scan of this shape."""
    labels = np.zeros(shape, np.int32)
    inside = labels[tuple(slice(*part) for part in box)]
    for first in range(0, len(inside), BLOCK_SLICES):
        block = inside[first : first + BLOCK_SLICES]
        block[...] = fullest_values(logits_KNHW, values, first, inside.shape, len(block))
        if progress is not None:
            progress("bringing labels to the scan's voxels", first + len(block), len(inside))
    return labels


def _likely(logits_KNHW: Tensor, segmenter: Segmenter) -> dict[str, float | None]:
    if not segmenter.is_independent:
        return dict.fromkeys(segmenter.names)
    fullest = logits_KNHW.argmax(dim=0)
    found: dict[str, float | None] = {}
    for number, name in enumerate(segmenter.names, start=1):
        own = logits_KNHW[number][fullest == number]
        found[name] = round(float(own.sigmoid().mean()), 4) if len(own) else None
    return found


def fullest_values(
    logits_KNHW: Tensor, values: Sequence[int], first: int, shape_ZYX: tuple[int, ...], count: int
) -> NDArray[np.int32]:
    """The value of the highest logit in `count` slices from the first on, trilinearly interpolated to the shape.

    The planes around the slices are interpolated first, then between two of them slice by slice, as torch's trilinear
    mode does for all at once; so only a few planes are ever there at full size, and a slice stays in the cache.
    """
    num_planes, depth = logits_KNHW.shape[1], shape_ZYX[0]
    at = ((torch.arange(first, first + count) + 0.5) * (num_planes / depth) - 0.5).clamp(min=0)
    below = at.long().clamp(max=num_planes - 1)
    above = (below + 1).clamp(max=num_planes - 1)
    planes_KPYX = functional.interpolate(
        logits_KNHW[:, below[0] : above[-1] + 1], size=shape_ZYX[1:], mode="bilinear", align_corners=False
    )
    classes_CYX = torch.zeros((count, *shape_ZYX[1:]), dtype=torch.int32, device=logits_KNHW.device)
    shares = (at - below).tolist()
    for classes_YX, under, over, share in zip(
        classes_CYX, (below - below[0]).tolist(), (above - below[0]).tolist(), shares, strict=True
    ):
        best = torch.lerp(planes_KPYX[0, under], planes_KPYX[0, over], share)
        for number, value in enumerate(values, start=1):
            fine = torch.lerp(planes_KPYX[number, under], planes_KPYX[number, over], share)
            classes_YX.masked_fill_(fine > best, value)
            torch.maximum(best, fine, out=best)
    found: NDArray[np.int32] = classes_CYX.cpu().numpy()
    return found


def count_windows(shape: Sequence[int], window: Sequence[int], overlap: float) -> int:
    """How many windows the sliding window has to look at."""
    steps = [1 if size <= side else math.ceil((size - side) / max(1, int(side * (1 - overlap)))) + 1
             for size, side in zip(shape, window, strict=True)]  # fmt: skip
    return math.prod(steps)
