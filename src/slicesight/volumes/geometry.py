"""Where in the patient is a voxel, and which stored slice does it come from?

Canonical axes are ZYX and grow toward superior, posterior, patient-left. Stored axes are IJK: I runs along a row of a
slice, J down its columns, K from slice to slice. An orientation word such as "LPS" names where I, J and K grow toward.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
NATURAL_ORIENTATION = ("LPS", "LIP", "PIL")  # how axial, coronal and sagittal slices are usually stored
_CANONICAL_AXIS = {"S": (0, 1), "I": (0, -1), "P": (1, 1), "A": (1, -1), "L": (2, 1), "R": (2, -1)}
_LETTERS = ("SI", "PA", "LR")


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """The place of a canonical voxel grid in the patient and in the file.

    shape: (Z, Y, X); affine_lps: (4, 4) from (z, y, x, 1) to LPS millimetres, None when the file has no geometry.
    slice_positions_mm: (S, 3) centre of each source slice in source order; decides over the affine along the slices.
    first_source_slice: number of the first source slice held.
    """

    shape: tuple[int, int, int]
    affine_lps: NDArray[np.float64] | None
    acquisition_axis: int
    slices_reversed: bool
    slice_positions_mm: NDArray[np.float64] | None
    first_source_slice: int = 0

    def to_mm(self, index_zyx: ArrayLike) -> NDArray[np.float64] | None:
        """LPS millimetres of (..., 3) canonical indices, fractions allowed; None without geometry."""
        if self.affine_lps is None:
            return None
        index = np.asarray(index_zyx, dtype=np.float64)
        if self.slice_positions_mm is None:
            return index @ self.affine_lps[:3, :3].T + self.affine_lps[:3, 3]
        axis = self.acquisition_axis
        offset = index - (np.asarray(self.shape) - 1) / 2
        offset[..., axis] = 0.0
        centres = self.slice_positions_mm[::-1] if self.slices_reversed else self.slice_positions_mm
        below = np.clip(np.floor(index[..., axis]).astype(int), 0, len(centres) - 2)
        fraction = (index[..., axis] - below)[..., None]
        centre = centres[below] * (1 - fraction) + centres[below + 1] * fraction
        return np.asarray(centre + offset @ self.affine_lps[:3, :3].T)

    def source_slices(self, canonical: Sequence[int]) -> tuple[int, ...]:
        """Source slices at these canonical indices along the acquisition axis, in ascending order."""
        first, last = self.first_source_slice, self.shape[self.acquisition_axis] - 1
        return tuple(sorted(first + (last - index if self.slices_reversed else index) for index in canonical))


def slice_centres(
    affine_lps: NDArray[np.float64], shape: tuple[int, int, int], *, axis: int, reversed_: bool
) -> NDArray[np.float64]:
    """(S, 3) centre of every source slice of an evenly spaced volume, in source order."""
    index = np.tile((np.asarray(shape) - 1) / 2, (shape[axis], 1))
    index[:, axis] = np.arange(shape[axis])[::-1] if reversed_ else np.arange(shape[axis])
    return np.asarray(index @ affine_lps[:3, :3].T + affine_lps[:3, 3])


def orientation_of(affine_lps_ijk: NDArray[np.float64]) -> str:
    """The orientation word nearest to an affine that takes stored (i, j, k, 1) to LPS millimetres."""
    directions = affine_lps_ijk[:3, :3] / np.linalg.norm(affine_lps_ijk[:3, :3], axis=0)
    towards_spl = directions[::-1].T  # rows: I, J, K; columns: share along S, P, L
    axes = max(permutations(range(3)), key=lambda order: sum(abs(towards_spl[i, a]) for i, a in enumerate(order)))
    return "".join(_LETTERS[a][int(towards_spl[i, a] < 0)] for i, a in enumerate(axes))


def canonical_view(stored_ijk: NDArray[Any], orientation: str) -> NDArray[Any]:
    """A ZYX view of an array stored in `orientation`; nothing is copied."""
    axes, signs = _axes_and_signs(orientation)
    view = stored_ijk.transpose([axes.index(canonical) for canonical in range(3)])
    return view[tuple(slice(None, None, signs[axes.index(canonical)]) for canonical in range(3))]


def stored_view(canonical_zyx: NDArray[Any], orientation: str) -> NDArray[Any]:
    """An IJK view of a canonical array, as it would be stored in `orientation`; inverse of `canonical_view`."""
    axes, signs = _axes_and_signs(orientation)
    view = canonical_zyx.transpose(axes)
    return view[tuple(slice(None, None, sign) for sign in signs)]


def canonical_affine(
    affine_lps_ijk: NDArray[np.float64], shape_ijk: Sequence[int], orientation: str
) -> NDArray[np.float64]:
    """The affine of `canonical_view`, taking (z, y, x, 1) to LPS millimetres."""
    return np.asarray(affine_lps_ijk @ _ijk_from_zyx(shape_ijk, orientation))


def stored_affine(
    affine_lps_zyx: NDArray[np.float64], shape_ijk: Sequence[int], orientation: str
) -> NDArray[np.float64]:
    """The affine of `stored_view`, taking (i, j, k, 1) to LPS millimetres."""
    return np.asarray(affine_lps_zyx @ np.linalg.inv(_ijk_from_zyx(shape_ijk, orientation)))


def acquisition_of(orientation: str) -> tuple[int, bool]:
    """The canonical axis the stored slices run along, and whether they run against it."""
    axis, sign = _CANONICAL_AXIS[orientation[2]]
    return axis, sign < 0


def is_orientation(word: str) -> bool:
    """Whether the three letters name each body axis once."""
    return len(word) == 3 and set(word) <= set(_CANONICAL_AXIS) and len({_CANONICAL_AXIS[c][0] for c in word}) == 3


def _axes_and_signs(orientation: str) -> tuple[list[int], list[int]]:
    assert is_orientation(orientation), orientation
    return [_CANONICAL_AXIS[letter][0] for letter in orientation], [_CANONICAL_AXIS[c][1] for c in orientation]


def _ijk_from_zyx(shape_ijk: Sequence[int], orientation: str) -> NDArray[np.float64]:
    matrix = np.zeros((4, 4))
    matrix[3, 3] = 1.0
    for stored, (canonical, sign) in enumerate(zip(*_axes_and_signs(orientation), strict=True)):
        matrix[stored, canonical] = sign
        matrix[stored, 3] = 0 if sign > 0 else shape_ijk[stored] - 1
    return matrix
