"""How are voxel bytes read from a plain or packed file without trusting the size its header claims?

The claim is checked against the file's own size before anything is allocated, and packed data go straight into the
array, so a file can never make us hold more than it claims and never claims more than it can hold.
"""

from __future__ import annotations

import bz2
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from slicesight.io.files import ScanError

try:  # unpacks in 60 % of the time; wheels do not exist for every platform
    from isal import isal_zlib as deflate
except ImportError:
    import zlib as deflate  # type: ignore[no-redef]

GZIP_MAGIC = b"\x1f\x8b"
_CHUNK = 1 << 20
_MAX_RATIO = {
    "plain": 1,
    "gzip": 1032,
    "zlib": 1032,
    "bzip2": 50_000,
    "text": 8,
    "hex": 1,
}  # what the packing can reach at most
_SUSPICIOUS_BYTES = 1 << 28
_SUSPICIOUS_RATIO = 100  # scans pack 2 to 20 times, empty label maps of this size up to 1000 times
_DAMAGED: Any = (deflate.error, OSError, ValueError, EOFError)


class Unpacked:
    """Sequential reads from a gzip, zlib or bzip2 stream; damage and an early end are errors."""

    def __init__(self, stream: BinaryIO, packing: str) -> None:
        self._stream, self._packing = stream, packing
        self._inflate = self._new()
        self._pending = b""

    def read(self, size: int, /) -> bytes:
        """At most `size` unpacked bytes."""
        buffer = bytearray(size)
        return bytes(buffer[: self.readinto(memoryview(buffer))])

    def readinto(self, buffer: Any, /) -> int:
        """Fill the buffer with unpacked bytes, as far as there are any."""
        filled = 0
        while filled < len(buffer):
            data = self._inflated(min(len(buffer) - filled, 4 * _CHUNK))
            if not data:
                break
            buffer[filled : filled + len(data)] = data
            filled += len(data)
        return filled

    def finish(self) -> None:
        """Read past the end of the data, so that the checksum behind it is verified."""
        self._inflated(16)

    def _new(self) -> Any:
        if self._packing == "bzip2":
            return bz2.BZ2Decompressor()
        return deflate.decompressobj(31 if self._packing == "gzip" else 15)

    def _inflated(self, at_most: int) -> bytes:
        while not self._inflate.eof:
            packed = self._next_packed()
            try:
                data: bytes = self._inflate.decompress(packed, at_most)
            except _DAMAGED as error:
                raise ScanError(f"the {self._packing} data are damaged ({error}); copy the file again") from None
            if self._packing != "bzip2":
                self._pending = self._inflate.unconsumed_tail
            if self._inflate.eof and self._packing == "gzip":
                self._start_next_member()
            if data:
                return data
        return b""

    def _next_packed(self) -> bytes:
        if self._packing == "bzip2" and not self._inflate.needs_input:
            return b""
        packed = self._pending or self._stream.read(_CHUNK)
        if not packed:
            raise ScanError(f"the {self._packing} data end too early; the file is truncated, copy it again")
        return packed

    def _start_next_member(self) -> None:
        rest = self._inflate.unused_data or self._stream.read(_CHUNK)
        if rest[:2] == GZIP_MAGIC:
            self._pending = rest
            self._inflate = self._new()


ByteSource = BinaryIO | Unpacked


def byte_source(stream: BinaryIO, packing: str) -> ByteSource:
    """Sequential reads of what a "gzip", "zlib" or "bzip2" file holds; of any other the stream itself."""
    return Unpacked(stream, packing) if packing in ("gzip", "zlib", "bzip2") else stream


def check_claim(path: Path, shape: Sequence[int], num_bytes: int, packing: str) -> None:
    """Refuse a header that claims more voxels than the file can hold."""
    held = path.stat().st_size
    claim = f"the header claims {'×'.join(map(str, shape))} voxels ({num_bytes} bytes)"
    if num_bytes > held * _MAX_RATIO[packing]:
        raise ScanError(f"{claim}, more than its {held} bytes can hold; the file is truncated or its header is wrong")
    if num_bytes > _SUSPICIOUS_BYTES and num_bytes > held * _SUSPICIOUS_RATIO:
        raise ScanError(f"{claim} packed into {held}, as a zip bomb would; expected at most {_SUSPICIOUS_RATIO} times")


def skip(source: ByteSource, num_bytes: int) -> None:
    """Read and drop."""
    while num_bytes > 0:
        dropped = len(source.read(min(num_bytes, _CHUNK)))
        if not dropped:
            raise ScanError("the file ends before its voxels begin; the file is truncated or its header is wrong")
        num_bytes -= dropped


def read_voxels(source: ByteSource, shape_ijk: Sequence[int], dtype: np.dtype[Any]) -> NDArray[Any]:
    """(I, J, K) voxels stored with I fastest; the claim must have been checked."""
    num_bytes = int(np.prod(shape_ijk, dtype=np.int64)) * dtype.itemsize
    buffer = np.empty(num_bytes, np.uint8)
    filled = source.readinto(buffer.data)  # type: ignore[union-attr]  # an open file has it
    if filled < num_bytes:
        raise ScanError(f"found {filled} bytes of voxels, expected {num_bytes}; the file is truncated")
    if isinstance(source, Unpacked):
        source.finish()
    voxels: NDArray[Any] = buffer.view(dtype).reshape(shape_ijk, order="F")
    return voxels
