"""What does a 2D encoder say of every place of a slice, kept small enough for thousands of slices?

    token = (patch token − mean) · the first C principal components / their common size

tokens/NAME.npy holds (T, G, G, C) float16 for the T slices of a scan or crop, NaN where a patch shows no scan; the
basis, fitted once on tokens of scans spread over the list, lies beside them. Principal components of patch tokens keep
what tells parts of a body from one another (Amir et al. 2021; Oquab et al. 2023); 64 of 384 cut the folder to a sixth.

T slices, P picture pixels, G x G patches, O components of a patch token, C of them kept.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from slicesight.errors import InputError
from slicesight.files import replacing
from slicesight.models.med3dinsight.descriptions import SlicePlace
from slicesight.volumes.volume import PLANES

FITTED_ON = 32
"""Scans or crops whose tokens the basis is fitted on, at most."""
LEAST_GREY = 0.02
"""Mean grey of a patch below which it shows only air."""


@dataclass(frozen=True, eq=False)
class TokenBasis:
    """mean: (O,). components: (O, C), of common size: the kept components of a token have a mean square of 1."""

    mean: NDArray[np.float32]
    components: NDArray[np.float32]

    def project(self, tokens: NDArray[np.float32]) -> NDArray[np.float32]:
        """(..., O) -> (..., C)."""
        found: NDArray[np.float32] = np.asarray((tokens - self.mean) @ self.components, dtype=np.float32)
        return found

    def save(self, file: Path) -> None:
        """Write it whole."""
        with replacing(file) as temporary:
            save_file({"mean": self.mean, "components": np.ascontiguousarray(self.components)}, temporary)


def read_basis(file: Path) -> TokenBasis:
    """What `save` wrote."""
    found = load_file(file)
    return TokenBasis(found["mean"], found["components"])


def fit_basis(tokens_NO: Iterable[NDArray[np.float32]], count: int) -> TokenBasis:
    """The `count` first principal components of tokens that come in parts (N, O).

    Raises:
        InputError: more components are asked for than a token has.
    """
    number, total, squares = 0, None, None
    for part in tokens_NO:
        wide = part.astype(np.float64)
        number += len(wide)
        total = wide.sum(axis=0) if total is None else total + wide.sum(axis=0)
        squares = wide.T @ wide if squares is None else squares + wide.T @ wide
    assert total is not None, "no token was given"
    assert squares is not None
    if count > len(total):
        raise InputError(f"dense_components is {count}; the image encoder's patch tokens have {len(total)} components")
    mean = total / number
    sizes, vectors = np.linalg.eigh(squares / number - np.outer(mean, mean))
    kept = vectors[:, ::-1][:, :count] / np.sqrt(max(float(sizes[::-1][:count].mean()), 1e-12))
    return TokenBasis(mean.astype(np.float32), kept.astype(np.float32))


def shown_patches(pictures_TPP: NDArray[np.uint8], grid: int) -> NDArray[np.bool_]:
    """Which patches show more than air or padding -> (T, G, G)."""
    edges = np.linspace(0, pictures_TPP.shape[1], grid + 1).astype(int)
    rows = np.add.reduceat(pictures_TPP.astype(np.float64), edges[:-1], axis=1)
    sums = np.add.reduceat(rows, edges[:-1], axis=2)
    sizes = np.diff(edges)
    shown: NDArray[np.bool_] = sums / np.outer(sizes, sizes) / 255 >= LEAST_GREY
    return shown


def packed(tokens_TGGO: NDArray[np.float32], pictures_TPP: NDArray[np.uint8], basis: TokenBasis) -> NDArray[np.float16]:
    """What is kept of a scan's tokens -> (T, G, G, C), NaN where nothing is shown."""
    found = basis.project(tokens_TGGO)
    found[~shown_patches(pictures_TPP, tokens_TGGO.shape[1])] = np.nan
    return found.astype(np.float16)


def patch_points(place: SlicePlace, *, shape: tuple[int, int], side: int, grid: int) -> NDArray[np.float32]:
    """Where the patches of a slice's picture lie in the cube -> (G * G, 3) for `grid_sample`: x, y, z from -1 to 1.

    Args:
        shape: rows and columns of the picture that are no padding; the rest of its `side` is put round them evenly.

    Patch centres in the padding lie beyond 1, as their slice's axis has no voxel there.
    """
    centres = (np.arange(grid) + 0.5) / grid * side
    axis = PLANES.index(place.plane)
    rows_axis, columns_axis = (other for other in range(3) if other != axis)
    points = np.empty((grid, grid, 3), np.float64)
    points[..., axis] = (place.index + 0.5) / place.count
    for own, length, is_rows in ((rows_axis, shape[0], True), (columns_axis, shape[1], False)):
        along = (centres - (side - length) // 2) / length
        if own == 0:  # pictures are upright: their rows run down, the cube's slices up
            along = 1 - along
        points[..., own] = along[:, None] if is_rows else along[None, :]
    return (2 * points[..., ::-1] - 1).reshape(-1, 3).astype(np.float32)
