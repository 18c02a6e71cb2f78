"""How do stored voxels, a header and what the caller says become a checked, canonical Volume?

The last step of every reader. What is wrong is raised as a `ScanError`, which gets the file's name at the door.

Stored axes are IJK (row, column, slice); `affine_lps_ijk` takes (i, j, k, 1) to LPS millimetres.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from slicesight.errors import InputError, check_type
from slicesight.io.files import ScanError
from slicesight.volumes.geometry import acquisition_of, canonical_affine, canonical_view, orientation_of, slice_centres
from slicesight.volumes.receipt import doubts, looks_like_shifted_hu
from slicesight.volumes.volume import Volume

MAX_VOXELS = 2**30
MAX_MM = 1e6
_MAX_VALUE = 1e30
_MIN_CONTRAST = 1e-30
_LOWEST_AIR_HU = -200.0  # a scan with values below this holds air or fat measured in HU
_SURE_AIR_HU = -900.0
_HIGHEST_HU = 4096.0  # 12 bits, as most scanners store them; above it there is metal, and then there is air as well


Unit = Literal["HU", "arbitrary"]
Fill = Literal["LOWEST"] | float


def checked_fill(word: str | float | None) -> Fill | None:
    """What takes the place of NaN and infinity: "LOWEST" for the lowest value of the scan, or a number."""
    if word is None or (isinstance(word, str) and word.upper() == "LOWEST"):
        return None if word is None else "LOWEST"
    try:
        number = float(word)
    except (TypeError, ValueError):
        number = np.nan
    if not abs(number) <= _MAX_VALUE:
        raise InputError(f"fill is {word!r}; expected LOWEST or a number such as -1000")
    return number


def checked_unit(word: str | None) -> Unit | None:
    """The unit a caller names, or an InputError."""
    if word not in (None, "HU", "arbitrary"):
        raise InputError(f"unit is {word!r}; expected 'HU' or 'arbitrary'")
    return "HU" if word == "HU" else "arbitrary" if word == "arbitrary" else None


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """The keyword arguments of `read_volume`, checked."""

    series_uid: str | None = None
    spacing_mm: tuple[float, float, float] | None = None
    time_point: int | None = None
    unit: Unit | None = None
    may_be_blank: bool = False
    fill: Fill | None = None

    def __post_init__(self) -> None:
        if self.spacing_mm is not None and not _is_spacing(self.spacing_mm):
            raise InputError(f"spacing_mm is {self.spacing_mm!r}; expected three sizes z, y, x above 0 mm")
        checked_unit(self.unit)
        checked_fill(self.fill)
        if self.time_point is not None:
            check_type(self.time_point, int, name="time point", expected="0 or more")
            if self.time_point < 0:
                raise InputError(f"time point is {self.time_point}; expected 0 or more")


def _is_spacing(sizes: object) -> bool:
    try:
        z, y, x = (float(size) for size in sizes)  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        return False
    return all(0 < size < 1000 for size in (z, y, x))


def check_shape(shape: Sequence[int]) -> None:
    """Refuse what cannot be a 3D scan before anything is allocated."""
    text = "×".join(str(size) for size in shape)
    if len(shape) != 3:
        raise ScanError(f"found {len(shape)}D data ({text}); expected a 3D scan")
    if min(shape) < 1:
        raise ScanError(f"found an empty shape {text}; expected at least 2 voxels along every axis")
    if min(shape) == 1:
        raise ScanError(f"found a single 2D slice ({text}); expected a 3D scan of at least 2 slices")
    if np.prod([float(size) for size in shape]) > MAX_VOXELS:
        raise ScanError(f"the header claims {text} voxels, above the limit of 1024³; fix the header or crop the scan")


def chosen_volume(shape: Sequence[int], options: ReadOptions, notes: list[str]) -> tuple[tuple[int, ...], int]:
    """The checked 3D shape within one that may have further axes, and how many volumes lie before the wanted one."""
    skipped = 0
    if len(shape) > 3 and set(shape[3:]) == {1}:
        notes.append(f"stored as {len(shape)}D with single extra axes; read as 3D")
        shape = shape[:3]
    if len(shape) == 4:
        if options.time_point is None:
            raise ScanError(
                f"found 4D data ({'×'.join(map(str, shape))}); expected a 3D scan, "
                f"choose one volume with --time-point 0…{shape[3] - 1}"
            )
        if options.time_point >= shape[3]:
            raise ScanError(f"time point {options.time_point} does not exist; the file holds 0…{shape[3] - 1}")
        skipped = options.time_point
        notes.append(f"4D file of {shape[3]} volumes; read number {skipped} (from 0)")
        shape = shape[:3]
    check_shape(shape)
    return tuple(shape), skipped


def assemble(
    stored_ijk: NDArray[Any],
    affine_lps_ijk: NDArray[np.float64] | None,
    options: ReadOptions,
    *,
    scale: tuple[float, float] = (1.0, 0.0),
    orientation: str = "LPS",
    slice_positions_mm: NDArray[np.float64] | None = None,
    modality: str = "unknown",
    unit: str | None = None,
    spacing_ijk: Sequence[float] | None = None,
    warnings: Sequence[str] = (),
    source: dict[str, Any] | None = None,
    sop_instance_uids: tuple[str, ...] = (),
    frame_numbers: tuple[int, ...] = (),
    display_range: tuple[float, float] | None = None,
    is_synthetic: bool = False,
) -> Volume:
    """Permute and flip to canonical axes, scale to float32, check the values, and set unit and spacing.

    Args:
        scale: (slope, intercept) turning stored values into measured ones.
        orientation: the stored axes' directions when there is no affine.
        unit: the unit the header states; None where it has to be inferred from the values.
    """
    check_shape(stored_ijk.shape)
    notes = list(warnings)
    affine = None if affine_lps_ijk is None else checked_affine(affine_lps_ijk, options)
    if affine is not None:
        orientation = orientation_of(affine)
        spacing_ijk = np.linalg.norm(affine[:3, :3], axis=0).tolist()
    axis, is_reversed = acquisition_of(orientation)
    voxels = measured(canonical_view(stored_ijk, orientation), *scale)
    if options.fill is not None:
        _fill(voxels, options.fill, notes)
    low = _checked_lowest(voxels, may_be_blank=options.may_be_blank)
    spacing = options.spacing_mm
    if spacing is None and spacing_ijk is not None:
        spacing = _to_canonical(spacing_ijk, orientation)
    shape = voxels.shape
    affine_zyx = None if affine is None else canonical_affine(affine, stored_ijk.shape, orientation)
    if affine_zyx is not None and slice_positions_mm is None:
        slice_positions_mm = slice_centres(affine_zyx, (shape[0], shape[1], shape[2]), axis=axis, reversed_=is_reversed)
    unit, modality = _unit_and_modality(unit, modality, voxels, low, options, notes)
    notes.extend(doubts(voxels, spacing, unit=unit, num_slices=shape[axis]))
    return Volume(
        voxels=voxels,
        affine_lps=affine_zyx,
        spacing_mm=spacing,
        acquisition_axis=axis,
        slices_reversed=is_reversed,
        slice_positions_mm=slice_positions_mm if affine_zyx is not None else None,
        sop_instance_uids=sop_instance_uids,
        frame_numbers=frame_numbers,
        modality=modality,
        unit="HU" if unit == "HU" else "SUV" if unit == "SUV" else "arbitrary",
        display_range=display_range,
        is_synthetic=is_synthetic,
        warnings=tuple(notes),
        source={**(source or {}), "stored_orientation": orientation},
    )


def _fill(voxels: NDArray[np.float32], fill: Fill, notes: list[str]) -> None:
    is_bad = ~np.isfinite(voxels)
    if not is_bad.any() or is_bad.all():
        return
    value = float(voxels[~is_bad].min()) if isinstance(fill, str) else fill
    voxels[is_bad] = value
    notes.append(f"{int(is_bad.sum())} voxels were NaN or infinite; they take the value {value:g} (fill)")


def measured(stored: NDArray[Any], slope: float, intercept: float) -> NDArray[np.float32]:
    """slope · stored + intercept as contiguous float32, computed in double precision where stored values are wide."""
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is refused by the value check
        if (slope, intercept) == (1.0, 0.0):
            return np.ascontiguousarray(stored, dtype=np.float32)
        voxels = np.empty(stored.shape, np.float32)
        for index, plane in enumerate(stored):
            if stored.dtype.itemsize <= 2:
                np.multiply(plane, np.float32(slope), out=voxels[index], casting="unsafe")
                voxels[index] += np.float32(intercept)
            else:
                voxels[index] = plane.astype(np.float64) * slope + intercept
        return voxels


def checked_affine(affine_lps_ijk: NDArray[np.float64], options: ReadOptions) -> NDArray[np.float64]:
    """The affine, with the caller's spacing where one is given; an error when it is singular or absurd."""
    affine = np.asarray(affine_lps_ijk, dtype=np.float64)
    if not np.abs(affine).max() < MAX_MM:
        raise ScanError("the header's position matrix holds NaN, infinity or more than 1 km; fix the header")
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if options.spacing_mm is not None:
        affine = _with_spacing(affine, options.spacing_mm)
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
    for axis, size in zip(("column", "row", "slice"), spacing, strict=True):
        if not 1e-3 <= size <= 1e3:
            raise ScanError(f"{axis} spacing is {size:g} mm; fix the header or pass --spacing-mm")
    if abs(np.linalg.det(affine[:3, :3] / spacing)) < 1e-2:
        raise ScanError("the header's axes lie in one plane (a singular position matrix); fix the header")
    return affine


def _with_spacing(affine: NDArray[np.float64], spacing_zyx: tuple[float, float, float]) -> NDArray[np.float64]:
    directions = affine[:3, :3].copy()
    lengths = np.linalg.norm(directions, axis=0)
    known = [axis for axis in range(3) if lengths[axis] > 1e-9]
    if len(known) < 2:
        raise ScanError("the header gives no axis directions; fix the header, --spacing-mm cannot mend that")
    for axis in set(range(3)) - set(known):
        directions[:, axis] = np.cross(directions[:, (axis + 1) % 3], directions[:, (axis + 2) % 3])
    directions /= np.linalg.norm(directions, axis=0)
    result = affine.copy()
    with_directions = np.eye(4)
    with_directions[:3, :3] = directions
    orientation = orientation_of(with_directions)
    for stored, letter in enumerate(orientation):
        result[:3, stored] = directions[:, stored] * spacing_zyx["SIPALR".index(letter) // 2]
    return result


def _to_canonical(per_stored_axis: Sequence[float], orientation: str) -> tuple[float, float, float]:
    by_axis = {
        "SIPALR".index(letter) // 2: float(size) for letter, size in zip(orientation, per_stored_axis, strict=True)
    }
    return by_axis[0], by_axis[1], by_axis[2]


def _checked_lowest(voxels: NDArray[np.float32], *, may_be_blank: bool) -> float:
    low, high = float(voxels.min()), float(voxels.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        num_bad = int(voxels.size - np.count_nonzero(np.isfinite(voxels)))
        raise ScanError(
            f"{num_bad} voxels are NaN or infinite; expected numbers, replace them or pass --fill LOWEST or VALUE"
        )
    if max(-low, high) > _MAX_VALUE:
        raise ScanError(f"values from {low:g} to {high:g}; no scan has such values, check type and scaling")
    if high - low < _MIN_CONTRAST and not may_be_blank:
        raise ScanError(f"every voxel is {low:g}; expected a scan with contrast, check the export")
    return low


def _unit_and_modality(
    unit: str | None,
    modality: str,
    voxels: NDArray[np.float32],
    low: float,
    options: ReadOptions,
    notes: list[str],
) -> tuple[str, str]:
    if options.unit is not None:
        return options.unit, "CT" if options.unit == "HU" and modality == "unknown" else modality
    if unit is not None:
        return unit, modality
    if _SURE_AIR_HU < low <= _LOWEST_AIR_HU and (high := float(voxels.max())) > _HIGHEST_HU:
        notes.append(
            f"values from {low:g} to {high:g} are not taken as HU: a CT with such high ones holds air near -1000; "
            "if it is a CT say --unit HU"
        )
    elif low <= _LOWEST_AIR_HU:
        notes.append(f"the file does not name its modality; read as CT in HU because values reach {low:g}")
        return "HU", "CT"
    if low >= 0 and looks_like_shifted_hu(voxels):
        notes.append(
            "values look like a CT's HU + 1024; they are not taken as HU, if it is a CT save it with 1024 subtracted"
        )
    return "arbitrary", modality
