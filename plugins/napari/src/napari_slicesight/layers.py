"""How does a layer of napari become a scan with its place in the patient, and how does the viewer go to a slice of it?

A layer's array is (K, J, I). One read by `reader.py` knows its matrix; of any other a person says where its three axes
grow toward, in letters such as SPL (superior, posterior, left): guessed, left and right would change places unseen.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np

from .answers import ScanAnswer, ScoredSlice
from .masks import Structure
from .reader import METADATA_KEY
from .scan_file import FLIP_XY, ScreenScan, ViewerError

AXES = {"L": (0, 1), "R": (0, -1), "P": (1, 1), "A": (1, -1), "S": (2, 1), "I": (2, -1)}
"""Letter -> (LPS axis, direction)."""
USUAL_AXES = ("SPL", "IPL", "SAL", "SPR", "SAR", "IAR", "PIL", "LIP")
_IJK_TO_ZYX = np.array([[0, 0, 1, 0], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1.0]])


def layer_scan(layer: Any, *, axes: str = "", unit: str = "") -> ScreenScan:
    """The layer's voxels and their place.

    Args:
        axes: where the array's axes 0, 1 and 2 grow toward; of a layer that knows its place nothing is needed.

    Raises:
        ViewerError: no image of one channel and three axes, or nobody says where its axes grow toward.
    """
    if layer is None:
        raise ViewerError("no scan is chosen; open one and choose its layer.")
    if getattr(layer, "rgb", False):
        raise ViewerError(f"{layer.name} is a colour picture; expected a scan of one channel.")
    data = layer.data[0] if getattr(layer, "multiscale", False) else layer.data
    voxels = np.asarray(data)
    volume = _own_volume(layer)
    if volume is not None and not axes:
        matrix = FLIP_XY @ volume.affine_lps @ _IJK_TO_ZYX
        kept = volume if voxels is volume.voxels and not unit else None
        if kept is None and not unit and volume.unit == "HU":
            unit = "HU"
    else:
        matrix, kept = _stated_matrix(layer, axes), None
    changed = zlib.crc32(np.ascontiguousarray(voxels).tobytes())  # a voxel painted over is another scan
    key = f"{id(layer)} {changed} {np.asarray(matrix).tobytes().hex()}"
    return ScreenScan(voxels, matrix, name=layer.name, key=key, unit=unit, volume=kept)


def knows_its_place(layer: Any) -> bool:
    """Whether nothing need be said of the layer's axes."""
    return layer is not None and _own_volume(layer) is not None


def jump_to(viewer: Any, layer: Any, scan: ScreenScan, answer: ScanAnswer, slice_: ScoredSlice) -> bool:
    """Show a scored slice: its plane on screen, upright, at its place; False where it has none."""
    plane = [one for one in answer.slices if one.plane == slice_.plane]
    if any(one.position_mm is None for one in plane):
        return False
    places_KJI = np.array([scan.ijk_at(one.position_mm)[::-1] for one in plane])  # type: ignore[arg-type]  # seen above
    here = places_KJI[plane.index(slice_)]
    along = int(np.argmax(np.abs(places_KJI[-1] - places_KJI[0]))) if len(plane) > 1 else 0
    before = viewer.dims.ndim - layer.ndim  # axes of other layers, in front of this one's
    rows, columns = (axis for axis in range(3) if axis != along)
    viewer.dims.ndisplay = 2
    viewer.dims.order = (*range(before), *(before + axis for axis in (along, rows, columns)))
    world = layer.data_to_world(tuple(here))
    for axis in range(3):
        viewer.dims.set_point(before + axis, world[axis])
    camera = viewer.scene.camera if hasattr(viewer, "scene") else viewer.camera  # since 0.9
    if hasattr(camera, "orientation2d"):  # since 0.6
        up = "up" if _direction(scan, rows) in "SA" else "down"
        camera.orientation2d = (up, "left" if _direction(scan, columns) in "RA" else "right")
    return True


def add_masks(viewer: Any, layer: Any, labels_KJI: Any, structures: list[Structure]) -> Any:
    """A labels layer exactly over its image; the status bar names what the mouse is on."""
    import pandas as pd

    if labels_KJI.shape != layer.data.shape:
        raise ViewerError(f"the mask is {labels_KJI.shape}, the layer {layer.data.shape}; expected one grid.")
    names = pd.DataFrame({"index": [one.value for one in structures], "structure": [one.name for one in structures]})
    place = {name: getattr(layer, name) for name in ("scale", "translate", "rotate", "shear", "affine")}
    return viewer.add_labels(labels_KJI, name=f"{layer.name} masks", features=names, opacity=0.5, **place)


def _own_volume(layer: Any) -> Any:
    volume = getattr(layer, "metadata", {}).get(METADATA_KEY)
    if volume is None or volume.affine_lps is None:
        return None
    return volume if tuple(volume.voxels.shape) == tuple(getattr(layer.data, "shape", ())) else None


def _stated_matrix(layer: Any, axes: str) -> Any:
    """RAS from IJK by letters and the layer's scale, counted in mm from its first voxel."""
    letters = axes.strip().upper()
    if len(letters) != 3 or {AXES[letter][0] for letter in letters if letter in AXES} != {0, 1, 2}:
        found = f"{axes!r} names no three body axes" if letters else "does not say where its axes grow toward"
        raise ViewerError(
            f"{layer.name} {found}; open the scan's file with slicesight's reader, or give three letters for axes 0, 1 "
            "and 2, such as SPL (superior, posterior, left)."
        )
    lps_from_ijk = np.eye(4)
    lps_from_ijk[:3, :3] = 0
    for number, letter in enumerate(letters):
        axis, sign = AXES[letter]
        lps_from_ijk[axis, 2 - number] = sign * float(layer.scale[number])
    return FLIP_XY @ lps_from_ijk


def _direction(scan: ScreenScan, axis_KJI: int) -> str:
    """The letter nearest to where an axis of the array grows toward."""
    column = scan.lps_from_ijk[:3, 2 - axis_KJI]
    axis = int(np.argmax(np.abs(column)))
    return next(letter for letter, (at, sign) in AXES.items() if at == axis and sign * column[axis] > 0)
