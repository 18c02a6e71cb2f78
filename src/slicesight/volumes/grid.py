"""What does the model see of a scan, and where in the scan does each of its slices lie?

to_grid: canonical volume -> crop to the foreground -> window to [0, 1] -> anti-aliased resize of each axis (the aspect
is not kept, as in M3D). Grid pixel centres map back exactly: canonical = start + (grid + 1/2) · length / size - 1/2.

N slices, H rows, W columns; grid slices are upright radiological pictures:
| plane | stack grows | rows grow | columns grow |
| axial | superior | posterior | patient-left |
| coronal | posterior | inferior | patient-left |
| sagittal | patient-left | inferior | posterior |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from slicesight.errors import InputError, check_type
from slicesight.volumes.foreground import Box, foreground_box, foreground_threshold, whole_box
from slicesight.volumes.geometry import Geometry
from slicesight.volumes.receipt import grid_receipt
from slicesight.volumes.resize import cut_plane, resize
from slicesight.volumes.volume import PLANES, Plane, Volume
from slicesight.volumes.windows import channel_windows, checked_window, window_bounds, window_for

_ROWS_AND_COLUMNS = ((1, 2), (0, 2), (0, 1))  # canonical axes of a grid slice's rows and columns, per stack axis


@dataclass(frozen=True, kw_only=True)
class GridSpec:
    """What a model wants to be fed."""

    num_slices: int = 32
    height: int = 256
    width: int = 256
    plane: str = "acquired"
    """"acquired" stacks along the scan's own slices; "axial", "coronal" and "sagittal" reformat."""
    window: str = "auto"
    """"auto", "percentile", "min_max", "m3d", a CT window's name, "LO,HI", or three joined by "+" for three channels;
    "A|B" is A for a scan in HU and B for any other."""
    crop_foreground: bool = True
    pick_slices: bool = False
    """Show single slices of the scan, evenly spaced and at most `num_slices`, instead of weighted means of neighbours;
    a scan of fewer slices keeps its own number."""

    def __post_init__(self) -> None:
        for name in ("num_slices", "height", "width"):
            size = getattr(self, name)
            if not (isinstance(size, int) and not isinstance(size, bool) and 1 <= size <= 4096):
                raise InputError(f"grid {name} is {size!r}; it must be a whole number from 1 to 4096")
        for name in ("crop_foreground", "pick_slices"):
            check_type(getattr(self, name), bool, name=f"grid {name}", expected="true or false")
        if self.plane not in ("acquired", *PLANES):
            raise InputError(f"plane {self.plane!r} is unknown; use acquired, {', '.join(PLANES)}")
        object.__setattr__(self, "window", checked_window(self.window))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `from_dict` takes them back. What only guests set is left out where it is not set."""
        return {name: value for name, value in asdict(self).items() if name != "pick_slices" or value}

    @classmethod
    def from_dict(cls, settings: dict[str, Any]) -> GridSpec:
        """The spec of a saved model or recipe; an unknown setting is an error."""
        check_type(settings, dict, name="grid", expected="settings by name, such as {num_slices: 32}")
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(settings) - set(known))
        if unknown:
            raise InputError(f"grid setting {unknown[0]!r} is unknown; the settings are {', '.join(known)}")
        return cls(**settings)


@dataclass(frozen=True, kw_only=True)
class GridSlice:
    """Where one slice of the grid lies.

    source_slices: stored slices whose centres lie in this grid slice's slab, the nearest one if none does; for a
        reformatted plane every stored slice it cuts. 0-based on the file's third stored axis (DICOM: geometric order).
    position_mm: (x, y, z) LPS of the slice's centre; None without geometry.
    plane: where slices of several planes are scored together, this one's; None otherwise. `index` counts within it.
    """

    index: int
    source_slices: tuple[int, ...]
    position_mm: tuple[float, float, float] | None
    sop_instance_uids: tuple[str, ...] = ()
    plane: Plane | None = None


@dataclass(frozen=True, kw_only=True)
class GridVolume:
    """A scan as the model sees it: voxels (N, H, W) float32 in [0, 1], with the exact way back.

    channels: (3, N, H, W) for a window of three parts, whose first is `voxels`; None otherwise.
    spec: as asked, with plane and window resolved; box: the part of the canonical volume that the grid covers.
    planes: those in which the model cuts this axial stack to score all cuts together; empty: it scores `slices`.
    """

    voxels: NDArray[np.float32]
    plane: Plane
    spec: GridSpec
    slices: tuple[GridSlice, ...]
    receipt: dict[str, Any]
    geometry: Geometry
    box: Box
    channels: NDArray[np.float32] | None = None
    planes: tuple[Plane, ...] = ()

    @cached_property
    def stacks(self) -> tuple[GridVolume, ...]:
        """The slices that are scored, one grid of N per plane, in the order of the scores; alone, the grid itself."""
        return tuple(_restack(self, plane) for plane in self.planes) or (self,)

    @property
    def scored_slices(self) -> tuple[GridSlice, ...]:
        """Every slice that is scored, in the order of the scores."""
        return tuple(piece for stack in self.stacks for piece in stack.slices)

    def scored_slice(self, number: int) -> tuple[GridVolume, int]:
        """The stack that holds score `number`, and which of its slices it is."""
        stack, index = divmod(number, len(self.voxels))
        return self.stacks[stack], index

    def to_canonical(self, index_nhw: ArrayLike) -> NDArray[np.float64]:
        """Fractional canonical (z, y, x) indices of (..., 3) grid indices (n, h, w)."""
        index = np.asarray(index_nhw, dtype=np.float64)
        result = np.empty_like(index)
        for grid_axis, (axis, flipped) in enumerate(_grid_axes(self.plane)):
            start, stop = self.box[axis]
            size = self.voxels.shape[grid_axis]
            place = (index[..., grid_axis] + 0.5) * (stop - start) / size - 0.5
            result[..., axis] = stop - 1 - place if flipped else start + place
        return result

    def to_grid_index(self, index_zyx: ArrayLike) -> NDArray[np.float64]:
        """Fractional grid indices of (..., 3) canonical indices; inverse of `to_canonical`."""
        index = np.asarray(index_zyx, dtype=np.float64)
        result = np.empty_like(index)
        for grid_axis, (axis, flipped) in enumerate(_grid_axes(self.plane)):
            start, stop = self.box[axis]
            place = stop - 1 - index[..., axis] if flipped else index[..., axis] - start
            result[..., grid_axis] = (place + 0.5) * self.voxels.shape[grid_axis] / (stop - start) - 0.5
        return result

    def to_mm(self, index_nhw: ArrayLike) -> NDArray[np.float64] | None:
        """LPS millimetres of (..., 3) grid indices; None without geometry."""
        return self.geometry.to_mm(self.to_canonical(index_nhw))

    def grid_slices_of(self, source_slice_indices: ArrayLike) -> tuple[int, ...]:
        """Grid slices that show any of these source slices, in ascending order."""
        wanted = set(np.atleast_1d(np.asarray(source_slice_indices, dtype=int)).tolist())
        return tuple(piece.index for piece in self.slices if not wanted.isdisjoint(piece.source_slices))

    def slices_showing(self, mask_ZYX: NDArray[np.bool_]) -> tuple[int, ...]:
        """Grid slices whose slab holds any voxel of a canonical mask, the nearest layer where it holds no centre.

        Raises:
            InputError: a mask of another shape than the scan.
        """
        if mask_ZYX.shape != self.geometry.shape:
            raise InputError(
                f"the mask is {mask_ZYX.shape}, the scan {self.geometry.shape} (z, y, x); expected one grid"
            )
        axis = PLANES.index(self.plane)
        inside = mask_ZYX[tuple(slice(start, stop) for start, stop in self.box)]
        held: NDArray[np.bool_] = np.asarray(inside.any(axis=tuple(other for other in range(3) if other != axis)))
        num_slices = len(self.voxels)
        return tuple(
            index
            for index in range(num_slices)
            if any(held[layer] for layer in _slab(index, start=0, length=len(held), num_slices=num_slices))
        )


def to_grid(volume: Volume, spec: GridSpec) -> GridVolume:
    """The scan at the grid's size, windowed to [0, 1], with the receipt of what was done to it.

    Raises:
        InputError: not a volume of three axes, or the window does not fit its unit.
    """
    check_type(volume, Volume, name="volume", expected="what slicesight.read_volume(path) gives")
    check_type(spec, GridSpec, name="spec", expected="a GridSpec, such as GridSpec(num_slices=32)")
    if volume.voxels.ndim != 3 or not volume.voxels.size:
        raise InputError(f"the volume has the shape {volume.voxels.shape}; expected (Z, Y, X) of 1 or more")
    stack_axis = volume.acquisition_axis if spec.plane == "acquired" else PLANES.index(spec.plane)
    plane = PLANES[stack_axis]
    threshold = foreground_threshold(volume)
    chosen = window_for(volume, spec.window)
    windows = [window_bounds(volume, word, threshold=threshold) for word in channel_windows(chosen)]
    is_m3d = windows[0].name == "m3d"
    box = whole_box(volume.shape)
    crops = spec.crop_foreground and not volume.keeps_frame
    if crops and is_m3d:
        box = foreground_box(volume.voxels, windows[0].low, min_share=0.0)
    elif crops:
        box = foreground_box(volume.voxels, threshold)
    upright = _upright(volume.voxels[tuple(slice(start, stop) for start, stop in box)], plane)
    num_slices = min(spec.num_slices, len(upright)) if spec.pick_slices else spec.num_slices
    size = (num_slices, spec.height, spec.width)
    if spec.pick_slices:
        upright = upright[[_nearest(index, len(upright), num_slices) for index in range(num_slices)]]
    channels = [resize(upright, size, to_grey=window.to_grey, antialias=not is_m3d) for window in windows]
    grid = GridVolume(
        voxels=channels[0],
        channels=np.stack(channels) if len(channels) > 1 else None,
        plane=plane,
        spec=replace(spec, plane=plane, window="+".join(window.word for window in windows)),
        slices=(),
        receipt=grid_receipt(
            volume, windows=windows, box=box, size=size, plane=plane, antialias=not is_m3d, picked=spec.pick_slices
        ),
        geometry=volume.geometry,
        box=box,
    )
    source = volume.geometry.source_slices(range(*box[volume.acquisition_axis]))
    return replace(
        grid, slices=_grid_slices(grid, source, dict(enumerate(volume.sop_instance_uids, volume.first_source_slice)))
    )


def labels_to_grid(
    labels_ZYX: NDArray[np.integer], *, box: Sequence[Sequence[int]], plane: Plane, size: tuple[int, int, int]
) -> NDArray[Any]:
    """A canonical label map at the pixel centres of a grid of this box, plane and size, by nearest neighbour.

    box, plane, size: as on the grid's receipt (crop_zyx, grid). -> (N, H, W) of the map's type.
    """
    indices: list[NDArray[np.int64]] = [np.zeros(0, dtype=np.int64)] * 3
    for length, (axis, flipped) in zip(size, _grid_axes(plane), strict=True):
        start, stop = box[axis]
        place = (np.arange(length) + 0.5) * (stop - start) / length - 0.5
        place = stop - 1 - place if flipped else start + place
        indices[axis] = np.clip(np.rint(place).astype(np.int64), start, stop - 1)
    sampled = labels_ZYX[np.ix_(*indices)]
    return np.ascontiguousarray(sampled.transpose([axis for axis, _ in _grid_axes(plane)]))


def height_over_width(grid: GridVolume) -> float:
    """The true proportions of a grid slice: the grid squeezes every crop into one shape, a picture should not."""
    num_slices, height, width = grid.voxels.shape
    corners = np.array([[num_slices // 2, 0, 0], [num_slices // 2, height - 1, 0], [num_slices // 2, 0, width - 1]])
    millimetres = grid.to_mm(corners)
    places = grid.to_canonical(corners) if millimetres is None else millimetres
    down, across = np.linalg.norm(places[1] - places[0]), np.linalg.norm(places[2] - places[0])
    return float(down * height / max(height - 1, 1) / (across * width / max(width - 1, 1)))


def _restack(grid: GridVolume, plane: Plane) -> GridVolume:
    """The grid's cuts in a plane, with their own way back."""
    assert grid.plane == "axial", grid.plane
    if plane == grid.plane:
        return replace(grid, planes=(), slices=tuple(replace(piece, plane=plane) for piece in grid.slices))
    other = replace(
        grid,
        voxels=cut_plane(grid.voxels, plane),
        plane=plane,
        spec=replace(grid.spec, plane=plane),
        planes=(),
        slices=(),
    )
    uids = {
        number: uid
        for piece in grid.slices
        for number, uid in zip(piece.source_slices, piece.sop_instance_uids, strict=False)
    }
    source = tuple(sorted({number for piece in grid.slices for number in piece.source_slices}))
    return replace(other, slices=tuple(replace(piece, plane=plane) for piece in _grid_slices(other, source, uids)))


def _grid_axes(plane: Plane) -> tuple[tuple[int, bool], ...]:
    """Canonical axis of the grid's stack, rows and columns, and whether the grid runs against it."""
    stack = PLANES.index(plane)
    rows, columns = _ROWS_AND_COLUMNS[stack]
    return (stack, False), (rows, rows == 0), (columns, False)


def _upright(voxels_ZYX: NDArray[Any], plane: Plane) -> NDArray[Any]:
    axes = _grid_axes(plane)
    view = voxels_ZYX.transpose([axis for axis, _ in axes])
    return view[tuple(slice(None, None, -1 if flipped else 1) for _, flipped in axes)]


def _grid_slices(grid: GridVolume, source: tuple[int, ...], uids: Mapping[int, str]) -> tuple[GridSlice, ...]:
    """Args: source: every stored slice that the grid cuts. uids: by stored slice, empty where there are none."""
    num_slices, height, width = grid.voxels.shape
    acquisition_axis = grid.geometry.acquisition_axis
    along = np.arange(num_slices, dtype=np.float64)
    if grid.spec.pick_slices:  # where the picked slice itself lies, not the middle of the slab it stands for
        low, high = grid.box[PLANES.index(grid.plane)]
        picked = np.array([_nearest(index, high - low, num_slices) for index in range(num_slices)])
        along = (picked + 0.5) * num_slices / (high - low) - 0.5
    centres = np.stack([along, np.full(num_slices, (height - 1) / 2), np.full(num_slices, (width - 1) / 2)], axis=1)
    positions = grid.to_mm(centres)
    start, stop = grid.box[acquisition_axis]
    slices = []
    for index in range(num_slices):
        shown = source
        if PLANES.index(grid.plane) == acquisition_axis and grid.spec.pick_slices:
            shown = grid.geometry.source_slices([start + _nearest(index, stop - start, num_slices)])
        elif PLANES.index(grid.plane) == acquisition_axis:
            slab = _slab(index, start=start, length=stop - start, num_slices=num_slices)
            shown = grid.geometry.source_slices(slab)
        x, y, z = positions[index].tolist() if positions is not None else (0.0, 0.0, 0.0)
        slices.append(
            GridSlice(
                index=index,
                source_slices=shown,
                position_mm=(x, y, z) if positions is not None else None,
                sop_instance_uids=tuple(uids[number] for number in shown) if uids else (),
            )
        )
    return tuple(slices)


def _slab(index: int, *, start: int, length: int, num_slices: int) -> range:
    """Canonical slices whose centres lie in [index, index + 1) · length / num_slices, or the one nearest its middle.

    Whole-number arithmetic: slice i has its centre at (2 i + 1) / 2, the slab its ends at index · length / num_slices.
    """
    first = -(-(2 * index * length - num_slices) // (2 * num_slices))
    last = -(-(2 * (index + 1) * length - num_slices) // (2 * num_slices))
    if first < last:
        return range(start + first, start + last)
    nearest = _nearest(index, length, num_slices)
    return range(start + nearest, start + nearest + 1)


def _nearest(index: int, length: int, num_slices: int) -> int:
    """Of `length` slices the one nearest the middle of the slab of a grid slice."""
    return (2 * index + 1) * length // (2 * num_slices)
