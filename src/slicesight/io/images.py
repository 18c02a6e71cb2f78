"""How does a folder of PNG or JPEG slices (M3D-Cap's <Series>/<n>.png) become a scan?

The pictures carry no geometry: slices are taken in the order of the numbers in their names, positions stay unknown.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from slicesight.errors import VolumeError
from slicesight.io.assemble import assemble, check_shape
from slicesight.io.options import ReadOptions
from slicesight.volumes.volume import Volume

_FORMATS = ("PNG", "JPEG")
_UNREADABLE = (
    UnidentifiedImageError, OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError,
    Image.DecompressionBombWarning, IndexError, OverflowError, TypeError, AttributeError,
)  # what Pillow raises on damaged pictures  # fmt: skip


def is_picture(head: bytes) -> bool:
    """Whether a file starts like PNG or JPEG."""
    return head[:8] == b"\x89PNG\r\n\x1a\n" or head[:3] == b"\xff\xd8\xff"


def read_images(folder: Path, files: Sequence[Path], options: ReadOptions) -> Volume:
    """The pictures as the slices of one scan; colour is turned to grey."""
    name = folder.name or str(folder)
    ordered = sorted(files, key=lambda file: _natural(file.name))
    width, height, is_deep = _size(ordered[0])
    check_shape(name, (width, height, len(ordered)))
    stack = np.empty((len(ordered), height, width), np.uint16 if is_deep else np.uint8)
    for index, file in enumerate(ordered):
        stack[index] = _grey(file, (width, height), is_deep)
    return assemble(
        name,
        stack.transpose(2, 1, 0),
        None,
        options,
        unit="arbitrary",
        display_range=None if is_deep else (0.0, 255.0),
        warnings=[
            "unknown side: pictures carry no geometry, slice order follows the file names, positions are unknown"
        ],
        source={"format": "pictures", "stored_type": str(stack.dtype)},
    )


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Sort key by which 2.png comes before 10.png."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", name) if part]


def _size(file: Path) -> tuple[int, int, bool]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file, formats=_FORMATS) as picture:
                return picture.width, picture.height, picture.mode.startswith("I")
    except _UNREADABLE as error:
        raise _damaged(file, error) from None


def _grey(file: Path, size: tuple[int, int], is_deep: bool) -> np.ndarray[tuple[int, int], np.dtype[np.integer]]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file, formats=_FORMATS) as picture:
                if picture.size != size or picture.mode.startswith("I") != is_deep:
                    raise VolumeError(
                        f"{file.name}: this slice is {picture.width}×{picture.height} {picture.mode}, the first is "
                        f"{size[0]}×{size[1]}; expected one size and depth, separate the series"
                    )
                return np.asarray(picture if is_deep else picture.convert("L"))
    except VolumeError:
        raise
    except _UNREADABLE as error:
        raise _damaged(file, error) from None


def _damaged(file: Path, error: Exception) -> VolumeError:
    reason = str(error).splitlines()[0][:80] if str(error) else type(error).__name__
    return VolumeError(
        f"{file.name}: the picture cannot be read ({reason.replace(str(file), file.name)}); copy it again"
    )
