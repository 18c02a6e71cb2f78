"""What is measured of a scan to say whether it is like those seen before?

Of the grid that the model sees: grey values and sharpness, a coarse picture of it (for flips, rotations and other
bodies), its size in millimetres (for a wrong spacing). Of what the encoders make of it: the tokens of the whole scan
and of every slice. Facts that are either known or not: modality, unit, plane, window, synthetic.
V = 1 volume, N slices of H x W, K depth bins of P 3D tokens, L 2D tokens per slice, D width, C = COARSE.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slicesight.inference.encoded_scan import EncodedScan
from slicesight.volumes.grid import GridVolume
from slicesight.volumes.volume import PLANES

Floats = NDArray[np.float64]
COARSE = 8
"""Blocks along each axis of the coarse picture."""
SEEN = 0.02
"""Grey above which a voxel counts as body."""
FLIPS: dict[str, Callable[[Floats], Floats]] = {
    "mirrored": lambda coarse: coarse[:, :, ::-1],
    "upside down": lambda coarse: coarse[:, ::-1],
    "slices in reverse": lambda coarse: coarse[::-1],
    "turned by 180°": lambda coarse: coarse[:, ::-1, ::-1],
    "turned by 90°": lambda coarse: np.rot90(coarse, axes=(1, 2)),
    "turned by 270°": lambda coarse: np.rot90(coarse, k=3, axes=(1, 2)),
}
"""How a coarse picture (C, C, C) looks when its scan lies wrongly."""
SIZE = "size"
NUM_SIZES = 7


@dataclass(frozen=True, kw_only=True)
class ScanFeatures:
    """facts: {name: value}, compared as text. vectors: {group: (D,)}; a group that cannot be measured is absent.
    slices: (N, D) of the 2D encoder, None without one."""

    facts: dict[str, str]
    vectors: dict[str, Floats]
    slices: Floats | None = None

    @property
    def plane(self) -> int:
        """The grid's plane by its number."""
        return tuple[str, ...](PLANES).index(self.facts["plane"])

    def all_numbers(self, usual_size: Floats) -> Floats:
        """All vectors in one, by their names' order; a scan without a spacing has the usual size."""
        whole = {SIZE: usual_size, **self.vectors}
        return np.concatenate([whole[name] for name in sorted(whole)])

    def with_spacing(self, between: float, within: float) -> ScanFeatures | None:
        """The same scan with its spacing between and within slices multiplied; None where it has none."""
        size = self.vectors.get(SIZE)
        if size is None:
            return None
        plane = self.plane
        log_between, log_within = float(np.log(between)), float(np.log(within))
        z, y, x = (log_between if axis == plane else log_within for axis in range(3))
        step = np.array([z, y, x, y - x, z - x, z + y + x, 2 * log_within])
        return replace(self, vectors={**self.vectors, SIZE: size + step})


def measure_scan(scan: EncodedScan) -> ScanFeatures:
    """Everything above of one encoded scan."""
    grid = scan.grid
    vectors = {"grey values": grey_values(grid.voxels), "picture": coarse_picture(grid.voxels).ravel()}
    size = body_size(grid)
    if size is not None:
        vectors[SIZE] = size
    pieces, slices = [], None
    tokens_3d, tokens_2d = scan.features.tokens_3d_VKPD, scan.features.tokens_2d_VNLD
    if tokens_3d is not None:
        found = tokens_3d[0].float().cpu().numpy().astype(np.float64)
        flat = found.reshape(-1, found.shape[-1])
        pieces += [flat.mean(axis=0), flat.std(axis=0)]
    if tokens_2d is not None:
        found = tokens_2d[0].float().cpu().numpy().astype(np.float64)
        slices = found.mean(axis=1)
        pieces += [slices.mean(axis=0), slices.std(axis=0), found.std(axis=1).mean(axis=0)]
    if pieces:
        vectors["encoders"] = np.concatenate(pieces)
    return ScanFeatures(facts=scan_facts(grid), vectors=vectors, slices=slices)


def scan_facts(grid: GridVolume) -> dict[str, str]:
    """What is either known or not."""
    receipt = grid.receipt
    window = receipt.get("window", {})
    bounds = f"{window['low']:g} to {window['high']:g} HU" if window.get("unit") == "HU" else "by the scan's own values"
    return {
        "modality": str(receipt.get("modality", "unknown")),
        "unit": str(receipt.get("unit", "arbitrary")),
        "plane": grid.plane,
        "window": bounds,
        "synthetic": "yes" if receipt.get("is_synthetic") else "no",
    }


def coarse_picture(voxels_NHW: NDArray[Any]) -> Floats:
    """The grid's mean grey in C x C x C blocks."""
    coarse = voxels_NHW.astype(np.float64)
    for axis in range(3):
        edges = np.linspace(0, coarse.shape[axis], COARSE + 1)
        starts = np.minimum(edges[:-1].astype(int), coarse.shape[axis] - 1)
        stops = np.maximum(starts + 1, edges[1:].astype(int))
        blocks = [
            coarse.take(range(first, last), axis=axis).mean(axis=axis)
            for first, last in zip(starts, stops, strict=True)
        ]
        coarse = np.stack(blocks, axis=axis)
    return coarse


def grey_values(voxels_NHW: NDArray[Any]) -> Floats:
    """Shares of black and white, quantiles of the rest, the histogram, and how sharp and noisy the grid is."""
    values = voxels_NHW.astype(np.float32)
    body = values[values > SEEN]
    if not body.size:
        body = np.zeros(1, np.float32)
    histogram = np.histogram(body, bins=10, range=(0.0, 1.0))[0] / body.size
    steps = [np.abs(np.diff(values, axis=axis)) for axis in range(3)]
    second = np.abs(np.diff(values, n=2, axis=2))
    facts = [
        float((values <= SEEN).mean()),
        float((values >= 1 - SEEN).mean()),
        float(body.mean()),
        float(body.std()),
        *np.quantile(body, [0.05, 0.25, 0.5, 0.75, 0.95]).tolist(),
        *np.sqrt(histogram).tolist(),
        *[float(np.log(step.mean() + 1e-4)) for step in steps if step.size],
        float(np.log(np.median(second[values[:, :, 2:] > SEEN]) + 1e-4)) if (values[:, :, 2:] > SEEN).any() else -9.0,
        *[float(values[index].mean()) for index in np.linspace(0, len(values) - 1, 4).astype(int)],
    ]
    return np.array(facts, dtype=np.float64)


def body_size(grid: GridVolume) -> Floats | None:
    """Logarithms of the crop's edges in mm along canonical z, y, x, their ratios, and of the body's volume in it."""
    spacing = grid.receipt.get("spacing_mm_zyx")
    if spacing is None:
        return None
    edges = np.array([(stop - start) * step for (start, stop), step in zip(grid.box, spacing, strict=True)])
    if not (edges > 0).all():
        return None
    seen = grid.voxels > SEEN
    share = max(float(seen.mean()), 1e-4)
    area = max(float(seen.mean(axis=(1, 2)).max()), 1e-4)
    z, y, x = np.log(edges).tolist()
    stack = PLANES.index(grid.plane)
    in_plane = z + y + x - [z, y, x][stack]
    volume = z + y + x + float(np.log(share))
    return np.array([z, y, x, y - x, z - x, volume, in_plane + float(np.log(area))])
