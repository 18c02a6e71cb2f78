"""Is a slice's own vector the one that lies nearest to what the volume says of it? Slice retrieval, R@1.

For every slice of a held-out volume, PSAT reads a vector for its plane and place; the frozen vectors of the candidates
are ranked by cosine. Candidates: all slices of the same plane ("plane"), which asks for volume and place, or those of
the same plane of the same volume ("volume"), which asks for the place alone. Equal similarities share the hit, so that
a model that reads all slices alike scores exactly chance.

T slices, O components.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from slicesight.models.med3dinsight import PretrainingModel
from slicesight.models.med3dinsight.psat import NUM_BINS, slice_bins
from slicesight.training.triplets.dataset import Scan

Candidates = Literal["plane", "volume"]
TIE = 1e-6
SLICES_AT_ONCE = 16


@dataclass(frozen=True, eq=False)
class SliceVectors:
    """Slices of several volumes, row by row: whose they are, where they lie, and their vectors (T, O), unit length."""

    scans: NDArray[np.int64]
    patients: tuple[str, ...]
    planes: NDArray[np.int64]
    places: NDArray[np.float64]
    found: NDArray[np.float32]
    own: NDArray[np.float32]


@torch.inference_mode()
def read_slices(model: PretrainingModel, scans: tuple[Scan, ...], *, target: str = "image") -> SliceVectors:
    """What a pre-trained model says of every slice of these scans, beside the slices' own frozen vectors."""
    device = next(model.parameters()).device
    found = []
    for scan in scans:
        cube = torch.from_numpy(scan.load_cube())[None, None].to(device)
        memory = model.backbone.encode(cube).memory
        planes, index, count = (torch.from_numpy(values)[None] for values in (scan.planes, scan.index, scan.count))
        bins = slice_bins(index, count, variant=model.variant)
        parts = [
            model.read_memory(memory, planes[:, first : first + SLICES_AT_ONCE].to(device), part.to(device))[target]
            for first, part in zip(
                range(0, bins.shape[1], SLICES_AT_ONCE), bins.split(SLICES_AT_ONCE, dim=1), strict=True
            )
        ]
        found.append(torch.cat(parts, dim=1)[0].float().cpu().numpy())
    return _collect(scans, found, target)


def guess_by_place(train: tuple[Scan, ...], scans: tuple[Scan, ...], *, target: str = "image") -> SliceVectors:
    """The shortcut: for every slice the mean training vector of its plane and place, whatever the volume shows.

    The mean runs over all training slices of the plane, weighted by a Gaussian of the distance between places of two
    bins' width in 128.
    """
    width = 2 / NUM_BINS
    known = _collect(train, [scan.vectors[target] for scan in train], target)
    found = []
    for scan in scans:
        places = (scan.index + 0.5) / scan.count
        weights = np.exp(-0.5 * ((places[:, None] - known.places[None, :]) / width) ** 2)
        weights = np.maximum(weights, 1e-12) * (scan.planes[:, None] == known.planes[None, :])
        found.append((weights / weights.sum(axis=1, keepdims=True) @ known.own).astype(np.float32))
    return _collect(scans, found, target)


def recall_at_1(vectors: SliceVectors, *, candidates: Candidates = "plane") -> tuple[NDArray[np.float64], float]:
    """Hits of every slice (T,), 1 or a share of 1 where several are equally near, and the mean chance of a hit."""
    hits, chances = np.zeros(len(vectors.scans)), np.zeros(len(vectors.scans))
    groups = vectors.planes if candidates == "plane" else vectors.planes + 3 * vectors.scans
    for group in np.unique(groups):
        rows = np.flatnonzero(groups == group)
        similar = vectors.found[rows] @ vectors.own[rows].T
        nearest = similar >= similar.max(axis=1, keepdims=True) - TIE
        hits[rows] = nearest.diagonal() / nearest.sum(axis=1)
        chances[rows] = 1 / len(rows)
    return hits, float(chances.mean())


def mean_by_patient(hits: NDArray[np.float64], patients: tuple[str, ...]) -> dict[str, float]:
    """The unit of a paired test."""
    owners = np.array(patients)
    return {name: float(hits[owners == name].mean()) for name in sorted(set(patients))}


def _collect(scans: tuple[Scan, ...], found: list[NDArray[np.float32]], target: str) -> SliceVectors:
    return SliceVectors(
        scans=np.concatenate([np.full(len(scan.index), number) for number, scan in enumerate(scans)]),
        patients=tuple(scan.patient for scan in scans for _ in scan.index),
        planes=np.concatenate([scan.planes for scan in scans]),
        places=np.concatenate([(scan.index + 0.5) / scan.count for scan in scans]),
        found=_unit(np.concatenate(found)),
        own=_unit(np.concatenate([scan.vectors[target] for scan in scans])),
    )


def _unit(vectors_TO: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.linalg.norm(vectors_TO, axis=1, keepdims=True)
    return np.asarray(vectors_TO / np.maximum(lengths, 1e-12), dtype=np.float32)
