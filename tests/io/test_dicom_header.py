"""A DICOM file makes nobody hold more memory than its own bytes need, whatever lengths it claims."""

from __future__ import annotations

import struct
import tracemalloc
import zlib

import numpy as np
import pydicom
import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian

from slicesight.errors import VolumeError
from slicesight.io.dicom import header
from slicesight.io.dicom.header import BoundedFile, read_header
from slicesight.io.loading import read_volume
from slicesight.io.writers import write_dicom

CLAIM = 0xFFFFFFF0


@pytest.fixture
def series(tmp_path, scan):
    write_dicom(scan, tmp_path / "series")
    return sorted((tmp_path / "series").iterdir())


def longest(name: str) -> bytes:
    return {
        "a sequence's item": b"\x08\0\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\0\xe0\xff\xff\xff\xff"
        b"\x08\0\x55\x11OB\0\0" + struct.pack("<I", CLAIM) + b"12",
        "the pixels": b"\xe0\x7f\x10\0OW\0\0" + struct.pack("<I", CLAIM) + b"12",
        "the meta header": b"\x02\0\x02\x01OB\0\0" + struct.pack("<I", CLAIM) + b"12",
    }[name]


@pytest.mark.parametrize("where", ["a sequence's item", "the pixels", "the meta header"])
def test_a_length_of_4_gib_is_not_asked_for(series, where):
    content = series[1].read_bytes()
    at = {"the meta header": 132, "the pixels": content.index(b"\xe0\x7f\x10\0OW")}.get(where)
    if at is None:
        at = content.index(b"\x08\0\x16\0UI")
    series[1].write_bytes(content[:at] + longest(where) + (b"" if where == "the pixels" else content[at:]))
    tracemalloc.start()
    try:
        with pytest.raises(VolumeError) as caught:
            read_volume(series[0].parent)
        assert tracemalloc.get_traced_memory()[1] < 50 << 20
    finally:
        tracemalloc.stop()
    assert "\n" not in str(caught.value)
    assert "MemoryError" not in str(caught.value)


def test_a_deflated_data_set_that_swells_is_refused_before_it_does(series, monkeypatch):
    dataset = pydicom.dcmread(series[1])
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.save_as(series[1])
    read_volume(series[0].parent)  # an honest one
    content = series[1].read_bytes()
    packed = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    meta = content[: 144 + int.from_bytes(content[140:144], "little")]
    series[1].write_bytes(meta + packed.compress(bytes(8 << 20)) + packed.flush())
    monkeypatch.setattr(header, "SUSPICIOUS_BYTES", 1 << 20)
    with pytest.raises(VolumeError, match=r"unpacks to more than .* bytes, as a bomb would"):
        read_volume(series[0].parent)


def test_a_transfer_syntax_that_is_no_uid_is_one_line(series):
    text = b"1.2.840.10008.1.2.1\\1.2\0"
    meta = b"\x02\0\x10\0UI" + struct.pack("<H", len(text)) + text
    series[1].write_bytes(bytes(128) + b"DICM" + meta + b"\x08\0\x60\0CS\x02\0CT")
    with pytest.raises(VolumeError, match=r"TransferSyntaxUID is .* expected one UID"):
        read_volume(series[0].parent)


def test_a_bounded_file_reads_what_any_file_does(tmp_path):
    content = np.random.default_rng(0).bytes(200_000)
    (tmp_path / "a").write_bytes(content)
    with BoundedFile(tmp_path / "a") as stream:
        assert stream.read(7) + stream.read(100_000) + stream.read(1 << 40) == content
        assert stream.read(1 << 40) == b""
        stream.seek(150_000)
        assert stream.read(1 << 20) == content[150_000:]


def test_values_left_in_the_file_are_read_as_carefully(series):
    found = read_header(series[0], defer_size=64)
    assert found.fileobj_type is BoundedFile
    assert len(found.PixelData) == found.Rows * found.Columns * 2
