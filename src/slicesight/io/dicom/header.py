"""How is a DICOM header read without giving memory for every length that it claims?

An element says how long it is, in up to 32 bits; pydicom asks for as many bytes at once, be the file 1 kB. And the data
set of a deflated file is unpacked whole, whatever comes out.
"""

from __future__ import annotations

import io
import os
import zlib
from pathlib import Path
from typing import Any

import pydicom
from pydicom.uid import UID

from slicesight.io.files import SUSPICIOUS_BYTES, SUSPICIOUS_RATIO, ScanError

_SMALL_BYTES = 1 << 16
_CHUNK = 1 << 20


class BoundedFile(io.BufferedReader):
    """A file opened for reading whose `read` asks for no more memory than the rest of the file needs."""

    def __init__(self, path: str | Path, mode: str = "rb") -> None:
        super().__init__(io.FileIO(str(path), mode))

    def read(self, size: int | None = -1, /) -> bytes:
        """As of any file; what is read to the end, which pydicom does with a deflated data set alone, is no bomb."""
        if size is None or size < 0:
            packed = super().read()
            _check_deflated(packed)
            return packed
        if size > _SMALL_BYTES:
            size = min(size, max(0, os.fstat(self.fileno()).st_size - self.tell()))
        return super().read(size)


def read_header(file: str | Path, **options: Any) -> pydicom.FileDataset:
    """The data set as of `pydicom.dcmread(file, force=True, **options)`; what is deferred is read as carefully.

    Raises:
        ScanError: a deflated data set that would swell as a bomb does, or a transfer syntax that is no UID.
        Exception: whatever pydicom raises on damaged bytes (`files.DAMAGED`).
    """
    with BoundedFile(file) as stream:
        header = pydicom.dcmread(stream, force=True, **options)
    header.filename, header.fileobj_type = str(file), BoundedFile
    if not isinstance(syntax := header.file_meta.get("TransferSyntaxUID", UID("")), UID):
        raise ScanError(f"TransferSyntaxUID is {str(syntax)[:60]!r}; expected one UID, export the file again")
    return header


def _check_deflated(packed: bytes) -> None:
    """Refuse what unpacks to more than a scan would; damage is left for the reader to find."""
    most, found, unpack = max(SUSPICIOUS_BYTES, SUSPICIOUS_RATIO * len(packed)), 0, zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        while packed and not unpack.eof:
            found += len(unpack.decompress(packed, _CHUNK))
            packed = unpack.unconsumed_tail
            if found > most:
                raise ScanError(
                    f"a deflated data set unpacks to more than {most} bytes, as a bomb would; export it uncompressed"
                )
    except zlib.error:
        return
