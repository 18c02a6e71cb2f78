"""How is an array of voxels kept on disk: whole or not there, and mapped instead of loaded?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from slicesight.errors import InputError
from slicesight.files import replacing


def save_array(path: Path, values: NDArray[Any]) -> None:
    """Write a .npy in one step."""
    with replacing(path) as temporary:
        np.save(temporary, values, allow_pickle=False)


@contextmanager
def new_array(path: Path, shape: tuple[int, ...], dtype: DTypeLike) -> Iterator[NDArray[Any]]:
    """A mapped array to fill piece by piece; the .npy appears when the block ends without an error."""
    with replacing(path) as temporary:
        array = np.lib.format.open_memmap(temporary, mode="w+", dtype=dtype, shape=shape)
        yield array
        array.flush()


def map_array(path: Path) -> NDArray[Any]:
    """A .npy mapped for reading.

    Raises:
        InputError: it is not there, or is cut off or damaged.
    """
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; make the folder that held it again") from None
    except (EOFError, ValueError) as error:
        reason = " ".join(str(error).split())[:100]
        raise InputError(f"{path}: not a whole array ({reason}); delete it and run the same again") from None
