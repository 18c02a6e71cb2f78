"""How is a bare .npy array read: M3D's (1, 32, 256, 256) grey values or any (Z, Y, X) array without geometry?"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from slicesight.errors import VolumeError
from slicesight.volumes.readers.assemble import assemble, check_shape
from slicesight.volumes.readers.options import ReadOptions
from slicesight.volumes.volume import Volume


def read_npy(path: Path, options: ReadOptions) -> Volume:
    """A .npy file; axes are taken as (slice, row, column) and positions stay unknown."""
    name = path.name
    with path.open("rb") as stream:
        try:
            version = np.lib.format.read_magic(stream)
            read_header = (
                np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            )
            shape, _, dtype = read_header(stream, max_header_size=4096)
        except (ValueError, EOFError, SyntaxError) as error:
            raise VolumeError(
                f"{name}: the .npy header is broken ({_first_line(error)}); save the array again"
            ) from None
        start = stream.tell()
    if dtype.hasobject:
        raise VolumeError(
            f"{name}: holds pickled Python objects, which can run code; save a plain number array instead"
        )
    if dtype.kind not in "iufb":
        raise VolumeError(f"{name}: holds {dtype} values; expected integers or floats")
    if len(shape) == 4 and shape[0] == 1:
        shape = shape[1:]
    check_shape(name, shape)
    expected = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    found = path.stat().st_size - start
    if found != expected:
        raise VolumeError(
            f"{name}: found {found} bytes of voxels, expected {expected} for {shape}; copy the file again"
        )
    voxels = np.load(path, mmap_mode="r", allow_pickle=False).reshape(shape)
    is_grey = dtype.kind == "f" and float(voxels.min()) >= 0.0 and float(voxels.max()) <= 1.0
    return assemble(
        name,
        voxels.transpose(2, 1, 0),
        None,
        options,
        display_range=(0.0, 1.0) if is_grey else None,
        warnings=("no geometry in the file: slice order and sides are taken as stored, positions are unknown",),
        source={"format": "npy"},
    )


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:100] if str(error) else type(error).__name__
