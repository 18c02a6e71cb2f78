"""Does a compressed frame claim the size its DICOM header claims?

Decoders ask for memory by the codestream's own size, so one flipped bit there can cost gigabytes; it is compared first.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydicom.encaps import generate_frames

_JPEG_START, _J2K_START = b"\xff\xd8", b"\xff\x4f\xff\x51"
_JPEG_SIZES = frozenset({*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC})  # SOF0-15 and JPEG-LS
_NO_LENGTH = frozenset({0x01, *range(0xD0, 0xDA)})
_SCAN_START = 0xDA


def frame_sizes(dataset: Any, num_frames: int) -> Iterator[tuple[int, int, int] | None]:
    """(rows, columns, components) each encapsulated frame claims; None where it is no JPEG codestream."""
    for frame in generate_frames(dataset.PixelData, number_of_frames=num_frames):
        yield codestream_size(frame)


def codestream_size(frame: bytes) -> tuple[int, int, int] | None:
    """(rows, columns, components) of a JPEG, JPEG-LS or JPEG 2000 codestream."""
    start = frame.find(_J2K_START, 0, 4096)
    if start >= 0:
        return _j2k_size(frame[start + 4 : start + 42])
    return _jpeg_size(frame) if frame[:2] == _JPEG_START else None


def _j2k_size(segment: bytes) -> tuple[int, int, int] | None:
    """From the SIZ segment: Lsiz, Rsiz, Xsiz, Ysiz, XOsiz, YOsiz, four tile sizes, Csiz."""
    if len(segment) < 38:
        return None
    x, y, x0, y0 = (int.from_bytes(segment[4 + 4 * k : 8 + 4 * k], "big") for k in range(4))
    return y - y0, x - x0, int.from_bytes(segment[36:38], "big")


def _jpeg_size(frame: bytes) -> tuple[int, int, int] | None:
    at = 2
    while at + 9 < len(frame):
        if frame[at] != 0xFF:
            return None
        marker = frame[at + 1]
        if marker == 0xFF:
            at += 1
        elif marker in _JPEG_SIZES:
            rows, columns = int.from_bytes(frame[at + 5 : at + 7], "big"), int.from_bytes(frame[at + 7 : at + 9], "big")
            return rows, columns, frame[at + 9]
        elif marker == _SCAN_START:
            return None
        elif marker in _NO_LENGTH:
            at += 2
        else:
            at += 2 + int.from_bytes(frame[at + 2 : at + 4], "big")
    return None
