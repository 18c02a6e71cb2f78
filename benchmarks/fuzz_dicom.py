"""Which valid DICOM files does fuzzing start from, how are they changed and stay DICOM, and who else reads them?

Bytes changed at random seldom get past a DICOM header. `mutated` takes a file apart into its elements (explicit VR,
little endian, sequences of defined length), changes, drops, copies or exchanges some, and puts it together again with
the right lengths; a file that cannot be taken apart is left to libFuzzer's own mutations.
"""

from __future__ import annotations

import io
import random
import struct
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

sys.path[:0] = [str(Path(__file__).parents[1] / "tests" / part) for part in (".", "corpus")]
LONG = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
BODY = 132
ITEM, UNDEFINED = b"\xfe\xff\x00\xe0", 0xFFFFFFFF
TEXTS = (b"", b"0", b"-1", b"1", b"2", b"1e400", b"nan", b"0,5", b"1\\2", b"1\\0\\0\\0\\1\\0", b"99999999999",
         b"MOSAIC", b"LOCALIZER", b"MONOCHROME1", b"PALETTE COLOR", b"RGB", b"MR", b"PT", b"CT", b"SEG", b"BQML",
         b"GML", b"CNTS", b"ADMIN", b"START", b"20200230", b"20200101250000", b"20200101120000+1400",
         b"-0500", b"\xff\xfe", b"\\\\", b" ")  # fmt: skip
BINARY = tuple(struct.pack("<H", n) for n in (0, 1, 2, 7, 8, 12, 16, 32, 64, 0x7FFF, 0x8000, 0xFFFF))
READERS = ("dicom", "dicom implicit", "dicom deflated", "dicom enhanced", "dicom pet", "dicom echoes", "dicom rle",
           "dicom jpeg", "dicom jpeg-ls", "dicom jpeg 2000")  # fmt: skip


def seeds(reader: str) -> list[bytes]:
    """Two slices of one series, or the one file of an enhanced object."""
    import corpus_dicom as corpus
    from fuzz_readers import jpeg_lossless

    if reader == "dicom enhanced":
        return [_enhanced()]
    made = corpus.slices(np.abs(corpus.ARRAY) * 5.0, modality="PT") if reader == "dicom pet" else corpus.slices()
    for k, dataset in enumerate(made[:2]):
        if reader == "dicom pet":
            _as_pet(dataset)
        if reader == "dicom echoes":  # two places of two echoes each: four files, of which the last is mutated
            dataset.EchoTime, dataset.EchoNumbers, dataset.Modality = 10 + 70 * k, k + 1, "MR"
            dataset.AcquisitionTime, dataset.TemporalPositionIdentifier = f"1000{k:02d}", k + 1
    packing = {
        "dicom jpeg 2000": JPEG2000Lossless,
        "dicom jpeg-ls": JPEGLSLossless,
        "dicom rle": RLELossless,
    }.get(reader)
    stored = []
    for dataset in made[:2]:
        if packing is not None:
            dataset.compress(packing, generate_instance_uid=False)
        if reader == "dicom implicit":
            dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
        if reader == "dicom deflated":
            dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
        stream = io.BytesIO()
        dataset.save_as(stream, enforce_file_format=True)
        stored.append(stream.getvalue())
    return [jpeg_lossless(content) for content in stored] if reader == "dicom jpeg" else stored


def _enhanced() -> bytes:
    import tempfile

    import corpus_dicom as corpus

    (case,) = [case for case in corpus.CASES if case.name == "dicom-enhanced"]
    with tempfile.TemporaryDirectory() as folder:
        return case.build(Path(folder)).read_bytes()


def _as_pet(dataset: pydicom.Dataset) -> None:
    from dicom_items import item

    dataset.Units, dataset.DecayCorrection, dataset.CorrectedImage = "BQML", "START", ["DECY", "ATTN"]
    dataset.PatientWeight, dataset.SeriesDate, dataset.SeriesTime = 70, "20200101", "110000"
    dataset.AcquisitionDate, dataset.AcquisitionTime, dataset.TimezoneOffsetFromUTC = "20200101", "110000", "+0100"
    dose = item(RadionuclideTotalDose=3.7e8, RadionuclideHalfLife=6586.2, RadiopharmaceuticalStartTime="100000")
    dose.RadiopharmaceuticalStartDateTime = "20200101100000+0100"
    dataset.RadiopharmaceuticalInformationSequence = pydicom.Sequence([dose])


@dataclass
class Element:
    """One element; `items` instead of a value where it is a sequence."""

    tag: bytes
    vr: bytes
    value: bytes
    items: list[list[Element]] | None = None


def taken_apart(data: bytes) -> list[Element]:
    """The elements of an explicit little-endian data set; ValueError where it is none."""
    found, at = [], 0
    while at < len(data):
        tag, vr = data[at : at + 4], data[at + 4 : at + 6]
        head = 12 if vr in LONG else 8
        if len(data) < at + head or not vr.isalpha():
            raise ValueError("no explicit VR")
        length = int.from_bytes(data[at + head - (4 if vr in LONG else 2) : at + head], "little")
        end = len(data) if length == UNDEFINED else at + head + length
        if end > len(data):
            raise ValueError("beyond the end")
        value = data[at + head : end]
        items = _items(value) if vr == b"SQ" and length != UNDEFINED else None
        found.append(Element(tag, vr, b"" if items is not None else value, items))
        at = end
    return found


def _items(data: bytes) -> list[list[Element]]:
    found, at = [], 0
    while at < len(data):
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        if data[at : at + 4] != ITEM or at + 8 + length > len(data):
            raise ValueError("no item")
        found.append(taken_apart(data[at + 8 : at + 8 + length]))
        at += 8 + length
    return found


def put_together(elements: list[Element]) -> bytes:
    """The data set's bytes; encapsulated pixels keep their undefined length."""
    parts = []
    for element in elements:
        value = element.value
        if element.items is not None:
            bodies = [put_together(item) for item in element.items]
            value = b"".join(ITEM + len(body).to_bytes(4, "little") + body for body in bodies)
        if element.vr not in LONG:
            value = value[:0xFFFE]
            parts.append(element.tag + element.vr + len(value).to_bytes(2, "little") + value)
            continue
        length = UNDEFINED if value[:4] == ITEM and element.items is None else len(value)
        parts.append(element.tag + element.vr + b"\0\0" + length.to_bytes(4, "little") + value)
    return b"".join(parts)


def _lists(elements: list[Element]) -> Iterator[list[Element]]:
    yield elements
    for element in elements:
        for item in element.items or ():
            yield from _lists(item)


def mutated(content: bytes, max_size: int, seed: int, *, bytewise: Callable[[bytes, int], bytes]) -> bytes:
    """One to three elements changed; one time in four, and where the file cannot be taken apart, bytes instead."""
    rng = random.Random(seed)
    if rng.random() < 0.25:
        return bytewise(content, max_size)
    try:
        elements = taken_apart(content[BODY:])
    except ValueError:
        return bytewise(content, max_size)
    for _ in range(rng.randint(1, 3)):
        holder = rng.choice([one for one in _lists(elements) if one] or [elements])
        if holder:
            _change(holder, rng, bytewise)
    return (content[:BODY] + put_together(elements))[:max_size]


def _change(holder: list[Element], rng: random.Random, bytewise: Callable[[bytes, int], bytes]) -> None:
    place = rng.randrange(len(holder))
    element, kind = holder[place], rng.randrange(9)
    if kind == 0:
        del holder[place]
    elif kind == 1:
        holder.insert(place, Element(element.tag, element.vr, element.value, element.items))
    elif kind == 2:
        other = rng.choice(holder)
        element.value, other.value = other.value, element.value
    elif kind == 3:
        element.vr = rng.choice([b"DS", b"IS", b"LO", b"US", b"UN", b"OW", b"FD", b"SQ", b"UI", b"AT", b"ZZ"])
    elif kind == 4 and element.items is not None:
        element.items = element.items[1:] if rng.random() < 0.5 else element.items * 2
    elif kind <= 6 and element.items is None:
        value = rng.choice(BINARY if element.vr in (b"US", b"SS", b"UL", b"OW", b"OB") else TEXTS)
        element.value = value + (b" " if len(value) % 2 else b"")
    elif element.items is None and len(element.value) < 4096:
        value = bytewise(element.value, len(element.value) + 16)
        element.value = value + b"\0" * (len(value) % 2)


def with_pydicom(files: list[Path]) -> np.ndarray | None:
    """Rescaled values of single-frame files, None where a rule of ours stands between them and a volume."""
    stack = []
    for file in files:
        dataset = pydicom.dcmread(file, force=True)
        own = ("PixelPaddingValue", "ModalityLUTSequence", "PerFrameFunctionalGroupsSequence", "FloatPixelData")
        if any(keyword in dataset for keyword in own) or dataset.get("Modality") == "PT":
            return None
        if dataset.get("PhotometricInterpretation") != "MONOCHROME2":
            return None
        slope, intercept = dataset.get("RescaleSlope"), dataset.get("RescaleIntercept")
        values = dataset.pixel_array.astype(np.float64)
        stack.append(values * float(1 if slope is None else slope) + float(intercept or 0))
    return np.stack(stack)
