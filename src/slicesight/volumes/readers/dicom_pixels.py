"""How do DICOM pixel data become measured values: decoding, rescale, padding?"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray

from slicesight.errors import VolumeError
from slicesight.volumes.readers.assemble import check_shape
from slicesight.volumes.readers.dicom_frames import Frame

_DECODING_FAILED = (
    ValueError,
    RuntimeError,
    AttributeError,
    NotImplementedError,
    KeyError,
    TypeError,
    EOFError,
    OSError,
    MemoryError,
    IndexError,
    OverflowError,
)  # what pydicom and its codecs raise on damaged pixels


def decoded_stack(name: str, frames: list[Frame], notes: list[str]) -> tuple[NDArray[np.float32], str]:
    """(slices, rows, columns) measured values and their unit."""
    rows, columns = frames[0].shape
    check_shape(name, (columns, rows, len(frames)))
    stack = np.empty((len(frames), rows, columns), np.float32)
    for index, frame in enumerate(frames):
        stored = _decoded(frame)
        if stored.shape != (rows, columns):
            raise VolumeError(f"{name}: slice {index} decodes to {stored.shape}; expected {rows}×{columns} grey values")
        np.multiply(stored, np.float32(frame.slope), out=stack[index], casting="unsafe")
        stack[index] += np.float32(frame.intercept)
    modality = str(frames[0].header.get("Modality", ""))
    return stack, "HU" if modality == "CT" else "arbitrary"


def _decoded(frame: Frame) -> NDArray[Any]:
    file = str(frame.header.filename)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = pydicom.dcmread(file, force=True)
            pixels: NDArray[Any] = dataset.pixel_array
    except _DECODING_FAILED as error:
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise VolumeError(
            f"{file}: the pixels cannot be decoded ({reason}); export the series uncompressed or again"
        ) from None
    return pixels
