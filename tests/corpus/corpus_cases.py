"""What is an odd input of the corpus, and does a reading agree with what is right?

The outcome is written down from the format's own rules, never from what the package says. Stored arrays are (i, j, k),
the first axis running fastest in the file, with the affine that takes (i, j, k, 1) to RAS millimetres.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from slicesight.volumes.volume import Volume

SHAPE = (12, 10, 8)
SPACING = (2.0, 1.5, 3.0)
RAS = np.array([[2.0, 0, 0, -11], [0, 1.5, 0, -7], [0, 0, 3.0, 40], [0, 0, 0, 1]])
LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def values(kind: Any = np.int16, *, low: int = -900, high: int = 1200, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """Numbers no two places share by accident, in the range of the type."""
    if np.dtype(kind).kind == "u" or np.dtype(kind).itemsize == 1:
        low, high = max(low, -120 if np.dtype(kind).kind == "i" else 0), 120 if np.dtype(kind).itemsize == 1 else high
    return np.random.default_rng(5).integers(low, high, shape).astype(kind)


@dataclass(frozen=True)
class Read:
    """The scan is read, with these values at these places.

    values: (i, j, k); ras: their affine, None where the file has no geometry (then only the values are compared).
    spacing_mm: (z, y, x) in canonical order, where the file knows its spacing and no place; has_spacing: False where it
    must be unknown. note: what must be said.
    """

    values: np.ndarray
    ras: np.ndarray | None = None
    unit: str | None = None
    spacing_mm: tuple[float, float, float] | None = None
    has_spacing: bool = True
    note: str | None = None
    atol: float = 1e-3


@dataclass(frozen=True)
class Refused:
    """One line that holds these words (a regular expression)."""

    words: str


@dataclass(frozen=True)
class Odd:
    """One input: its name, what is odd, where the rule stands, what is right, and who agrees."""

    name: str
    odd: str
    source: str
    right: Read | Refused
    build: Callable[[Path], Path] = field(repr=False)
    oracle: str = "arithmetic"
    options: dict[str, Any] = field(default_factory=dict)
    pending: str | None = None
    """Why it fails today; the test then has to fail."""


def disagreement(volume: Volume, right: Read) -> str:
    """How the volume differs from what is right; empty where it does not."""
    found = np.sort(volume.voxels.ravel())
    wanted = np.sort(right.values.astype(np.float64).ravel())
    if found.size != wanted.size:
        return f"{found.size} voxels, expected {wanted.size}"
    if not np.allclose(found, wanted, atol=right.atol, rtol=1e-5):
        return f"values from {found[0]:g} to {found[-1]:g}, expected {wanted[0]:g} to {wanted[-1]:g}"
    if right.unit is not None and volume.unit != right.unit:
        return f"unit {volume.unit}, expected {right.unit}"
    if right.spacing_mm is not None and not np.allclose(volume.spacing_mm or np.nan, right.spacing_mm, rtol=1e-4):
        return f"spacing {volume.spacing_mm}, expected {right.spacing_mm}"
    if not right.has_spacing and volume.spacing_mm is not None:
        return f"spacing {volume.spacing_mm}, expected unknown"
    if right.note is not None and not any(right.note in warning for warning in volume.warnings):
        return f"no word about {right.note!r} among {volume.warnings}"
    if right.ras is None:
        return ""
    if volume.affine_lps is None:
        return "no geometry"
    index = np.moveaxis(np.indices(right.values.shape), 0, -1).reshape(-1, 3)
    places = np.c_[index, np.ones(len(index))] @ (LPS_FROM_RAS @ right.ras).T
    held = (places @ np.linalg.inv(volume.affine_lps).T)[:, :3]
    near = np.rint(held).astype(int)
    if np.abs(held - near).max() > 0.02 or near.min() < 0 or (near.max(axis=0) >= volume.shape).any():
        return f"voxels lie elsewhere: the first at {held[0].round(2)} of {volume.shape}"
    if not np.allclose(volume.voxels[tuple(near.T)], right.values.reshape(-1), atol=right.atol, rtol=1e-5):
        return "the right values at wrong places"
    return ""
