"""How do DICOM pixel data become measured values: decoding, rescale, padding, inverted greys, SUV?

Decoders ask for memory by the codestream's own size, so one flipped bit there can cost gigabytes; it is compared first.
S slices, R rows, C columns. Oracle: SimpleITK for decoding and rescale; PS3.3 C.7.6.3 and C.8.9 for the rest.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.encaps import generate_frames
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_modality_lut
from pydicom.uid import RLELossless

from slicesight.io.assemble import check_shape
from slicesight.io.dicom.frames import Frame
from slicesight.io.dicom.suv import suv_factor
from slicesight.io.dicom.values import text_of, value_of, whole_number
from slicesight.io.files import ScanError, damage_as, one_line

_LARGE_FRAME_BYTES = 16 << 20
_MAX_FRAME_RATIO = 1000
_JPEG_START, _J2K_START = b"\xff\xd8", b"\xff\x4f\xff\x51"
_JPEG_SIZES = frozenset({*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC})  # SOF0-15 and JPEG-LS
_NO_LENGTH = frozenset({0x01, *range(0xD0, 0xDA)})
_SCAN_START = 0xDA
_HU_TYPES = ("", "HU", "HU_MOD", "US")  # US: unspecified
_NEWER_SYNTAXES = {
    "1.2.840.10008.1.2.4.110": "JPEG XL Lossless",
    "1.2.840.10008.1.2.4.111": "JPEG XL JPEG Recompression",
    "1.2.840.10008.1.2.4.112": "JPEG XL",
}  # names that pydicom does not know yet
_SAFE_DECODER = {RLELossless: "pydicom"}  # pylibjpeg-rle panics on damaged data


@dataclass(frozen=True, kw_only=True)
class Pixels:
    """(S, R, C) measured values, their unit, and facts for the receipt."""

    values: NDArray[np.float32]
    unit: str
    facts: dict[str, Any] = field(default_factory=dict)


def decoded_stack(frames: list[Frame], notes: list[str]) -> Pixels:
    """Decode every frame and turn stored into measured values."""
    rows, columns = frames[0].shape
    check_shape((columns, rows, len(frames)))
    _check_claim(frames[0])
    stack = np.empty((len(frames), rows, columns), np.float32)
    padded: NDArray[np.bool_] | None = None
    decoded_file: tuple[int, NDArray[Any]] | None = None
    for index, frame in enumerate(frames):
        if decoded_file is None or decoded_file[0] != id(frame.header):
            decoded_file = (id(frame.header), _decoded(frame))
        stored = decoded_file[1] if decoded_file[1].ndim == 2 else decoded_file[1][frame.number]
        if stored.shape != (rows, columns):
            raise ScanError(
                f"a slice decodes to {stored.shape}; expected {rows}×{columns} grey values, export it again"
            )
        is_padding = _is_padding(frame, stored)
        if is_padding is not None:
            if padded is None:
                padded = np.zeros(stack.shape, np.bool_)
            padded[index] = is_padding
        _rescale(frame, stored, stack[index])
    if padded is not None and padded.any() and not padded.all():
        least = float(stack[~padded].min())
        stack[padded] = least
        notes.append(f"{padded.mean():.0%} of the voxels are padding; they take the lowest measured value, {least:g}")
    return _with_unit(frames, stack, notes)


def raw_pixels(frame: Frame) -> bytes:
    """A frame's stored bytes, to tell copies from different images; unique for frames of one file."""
    data = value_of(frame.header, "PixelData") or b""
    return bytes(data) if frame.number == 0 else bytes(data) + str(frame.number).encode()


def _with_unit(frames: list[Frame], stack: NDArray[np.float32], notes: list[str]) -> Pixels:
    first = frames[0].header
    modality = text_of(first, "Modality")
    facts: dict[str, Any] = {"transfer_syntax": _transfer_syntax(first)}
    rescale_type = next((text for item in frames[0].items if (text := text_of(item, "RescaleType").upper())), "")
    if modality == "CT" and rescale_type not in _HU_TYPES:
        notes.append(f"the CT's RescaleType is {rescale_type}, not HU; values are taken in that unit, not as HU")
        return Pixels(values=stack, unit="arbitrary", facts=facts | {"rescale_type": rescale_type})
    if modality == "CT":
        if all(frame.slope is None for frame in frames) and "ModalityLUTSequence" not in first:
            notes.append("the CT header has no rescale; stored values are taken as HU")
        if text_of(first, "PhotometricInterpretation") == "MONOCHROME1":
            notes.append(
                "MONOCHROME1: the file asks for an inverted display; HU are measured values and stay as they are"
            )
        return Pixels(values=stack, unit="HU", facts=facts)
    if text_of(first, "PhotometricInterpretation") == "MONOCHROME1":
        np.subtract(float(stack.min()) + float(stack.max()), stack, out=stack)
        notes.append("MONOCHROME1: greys are inverted so that higher values are brighter")
    if modality == "PT":
        factor, reason = suv_factor([frame.header for frame in frames])
        if factor is not None:
            stack *= np.float32(factor)
            facts |= {"suv_factor": factor}
            notes.append(f"PET values are SUV by body weight (factor {factor:.6g})")
        else:
            notes.append(f"PET values are not SUV: {reason}")
        return Pixels(values=stack, unit="SUV" if factor is not None else "arbitrary", facts=facts)
    return Pixels(values=stack, unit="arbitrary", facts=facts)


def _rescale(frame: Frame, stored: NDArray[Any], out: NDArray[np.float32]) -> None:
    if frame.slope is None and "ModalityLUTSequence" in frame.header:
        out[...] = apply_modality_lut(stored, frame.header)
    elif stored.dtype.itemsize <= 2:
        np.multiply(stored, np.float32(1.0 if frame.slope is None else frame.slope), out=out, casting="unsafe")
        out += np.float32(frame.intercept)
    else:
        out[...] = stored.astype(np.float64) * (1.0 if frame.slope is None else frame.slope) + frame.intercept


def _is_padding(frame: Frame, stored: NDArray[Any]) -> NDArray[np.bool_] | None:
    """Which pixels are filler outside the scanned field; the header may state the value in the wrong signedness."""
    if value_of(frame.header, "PixelPaddingValue") is None or stored.dtype.kind not in "iu":
        return None
    ends = []
    for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit"):
        if value_of(frame.header, keyword) is not None:
            number = whole_number(frame.header, keyword, default=0)
            bits = 8 * stored.dtype.itemsize
            number &= (1 << bits) - 1
            ends.append(number - (1 << bits) if stored.dtype.kind == "i" and number >> (bits - 1) else number)
    return np.asarray((stored >= min(ends)) & (stored <= max(ends)))


def _decoded(frame: Frame) -> NDArray[Any]:
    try:
        get_decoder(frame.header.file_meta.TransferSyntaxUID)
    except NotImplementedError:
        raise ScanError(
            f"the pixels are in the transfer syntax {_transfer_syntax(frame.header)}, which is not decoded here; "
            "expected uncompressed, RLE, JPEG, JPEG-LS or JPEG 2000, export or transcode the series to one of them"
        ) from None
    finding = f"the pixels ({_transfer_syntax(frame.header)}) cannot be decoded"
    with damage_as(finding, "copy the files again or export them uncompressed"):
        _check_codestreams(frame)
        plugin = _SAFE_DECODER.get(frame.header.file_meta.TransferSyntaxUID, "")
        frame.header.pixel_array_options(decoding_plugin=plugin)
        pixels: NDArray[Any] = frame.header.pixel_array
    frame.header._pixel_array = None  # pydicom keeps what it decoded; the stack is the only copy needed
    return pixels


def _check_claim(frame: Frame) -> None:
    """Refuse a large claimed frame that the compressed bytes can hardly hold, before a decoder asks for the memory."""
    rows, columns = frame.shape
    num_bytes = rows * columns * 2
    held = len(raw_pixels(frame))
    if num_bytes > _LARGE_FRAME_BYTES and num_bytes > held * _MAX_FRAME_RATIO:
        raise ScanError(f"{held} bytes claim to hold {columns}×{rows} pixels; the header is wrong, copy the file again")


def _check_codestreams(frame: Frame) -> None:
    syntax = frame.header.file_meta.TransferSyntaxUID
    if not syntax.is_encapsulated or syntax == RLELossless:
        return
    num_frames = whole_number(frame.header, "NumberOfFrames", default=1)
    for codestream in generate_frames(frame.header.PixelData, number_of_frames=num_frames):
        size = _codestream_size(codestream)
        if size != (*frame.shape, 1):
            claimed = "no size" if size is None else f"{size[1]}×{size[0]} pixels of {size[2]} colours"
            raise ValueError(f"the compressed frame claims {claimed}, the header {frame.shape[1]}×{frame.shape[0]}")


def _transfer_syntax(header: Any) -> str:
    uid = getattr(getattr(header, "file_meta", None), "TransferSyntaxUID", None)
    if uid is None:
        return "unnamed transfer syntax"
    return _NEWER_SYNTAXES.get(str(uid)) or one_line(str(getattr(uid, "name", uid)))


def _codestream_size(frame: bytes) -> tuple[int, int, int] | None:
    """(rows, columns, components) that a JPEG, JPEG-LS or JPEG 2000 codestream claims."""
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
