"""NRRD and MetaImage inputs: their headers are text (teem.sourceforge.net/nrrd/format.html; ITK's MetaIO documentation)."""

from __future__ import annotations

import bz2
import gzip
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from corpus_cases import RAS, SHAPE, SPACING, Odd, Read, Refused, values

NRRD_RULES = "NRRD 5 format definition"
META_RULES = "MetaIO, tag documentation"
ARRAY = values()
PLAIN = Read(ARRAY, RAS)
BYTES = ARRAY.tobytes(order="F")
LPS_VECTORS = "(-2,0,0) (0,-1.5,0) (0,0,3)"
LPS_ORIGIN = "(11,7,40)"
_FIELDS = {
    "type": "short",
    "dimension": "3",
    "space": "left-posterior-superior",
    "sizes": "12 10 8",
    "space directions": LPS_VECTORS,
    "endian": "little",
    "encoding": "raw",
    "space origin": LPS_ORIGIN,
}


def nrrd_header(*, magic: str = "NRRD0004", end: str = "\n", more: str = "", **fields: str | None) -> bytes:
    """The usual header with other fields; None leaves one out, _ in a name is a space."""
    wanted: dict[str, str | None] = {**_FIELDS, **{name.replace("_", " "): value for name, value in fields.items()}}
    lines = [magic, *(f"{name}: {value}" for name, value in wanted.items() if value is not None)]
    return (end.join(lines) + end + more + end).encode("latin-1")


def nrrd(name: str, odd: str, right: Read | Refused, data: bytes = BYTES, **fields: Any) -> Odd:
    oracle, options, pending = (
        fields.pop(key, default) for key, default in (("oracle", "arithmetic"), ("options", {}), ("pending", None))
    )
    content = nrrd_header(**fields) + data

    def build(folder: Path) -> Path:
        (folder / "scan.nrrd").write_bytes(content)
        return folder / "scan.nrrd"

    return Odd(f"nrrd-{name}", odd, NRRD_RULES, right, build, oracle, options, pending)


def files(
    name: str, odd: str, source: str, right: Read | Refused, opened: str, made: dict[str, bytes], **more: Any
) -> Odd:
    def build(folder: Path) -> Path:
        for file, content in made.items():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_bytes(content)
        return folder / opened

    return Odd(name, odd, source, right, build, **more)


def _nrrd() -> list[Odd]:
    text = "\n".join(str(v) for v in ARRAY.ravel(order="F")).encode()
    big = ARRAY.astype(">i2").tobytes(order="F")
    ras = {
        "space": "right-anterior-superior",
        "space_directions": "(2,0,0) (0,1.5,0) (0,0,3)",
        "space_origin": "(-11,-7,40)",
    }
    sheared = RAS.copy()
    sheared[0, 2] = 1.2
    color = np.stack([values("u1")] * 3)
    series = values(shape=(*SHAPE, 2))
    slices = {f"slice{k}.raw": ARRAY[:, :, k].tobytes(order="F") for k in range(8)}
    names = "".join(f"slice{k}.raw\n" for k in range(8))
    short = Refused("byte|short|trunc|end|cut|damaged|voxels")
    spaced = {"space": None, "space_directions": None, "space_origin": None}
    types = {
        "signed char": "i1",
        "uchar": "u1",
        "unsigned short int": "u2",
        "int": "i4",
        "uint32": "u4",
        "longlong": "i8",
        "float": "f4",
        "double": "f8",
    }
    cases = [
        nrrd(
            f"type-{word.replace(' ', '-')}",
            f"type {word}",
            Read(values(kind), RAS),
            values(kind).tobytes(order="F"),
            type=word,
            oracle="sitk",
        )
        for word, kind in types.items()
    ]
    cases += [
        nrrd("plain", "nothing", PLAIN, oracle="sitk"),
        nrrd("gzip", "encoding gzip", PLAIN, gzip.compress(BYTES), encoding="gzip", oracle="sitk"),
        nrrd("gz", "encoding gz, its short name", PLAIN, gzip.compress(BYTES), encoding="gz", oracle="sitk"),
        nrrd("bzip2", "encoding bzip2", PLAIN, bz2.compress(BYTES), encoding="bzip2"),
        nrrd("ascii", "numbers as text", PLAIN, text, encoding="ascii", oracle="sitk"),
        nrrd("txt", "numbers as text, by its other name", PLAIN, text, encoding="txt"),
        nrrd("hex", "encoding hex", PLAIN, BYTES.hex().encode(), encoding="hex"),
        nrrd("big", "big endian", PLAIN, big, endian="big", oracle="sitk"),
        nrrd("no-endian", "two bytes a voxel and no endian", Refused("endian"), endian=None),
        nrrd("no-endian-u1", "one byte a voxel needs no endian", Read(values("u1"), RAS), values("u1").tobytes(order="F"), type="uchar", endian=None, oracle="sitk"),
        nrrd("crlf", "lines end in CR LF", PLAIN, end="\r\n", oracle="sitk"),
        nrrd("ras", "space RAS", PLAIN, **ras, oracle="sitk"),
        nrrd("ras-short", "space RAS, by its short name", PLAIN, **{**ras, "space": "RAS"}, oracle="sitk"),
        nrrd("las", "space LAS", PLAIN, space="LAS", space_directions="(-2,0,0) (0,1.5,0) (0,0,3)", space_origin="(11,-7,40)", oracle="sitk"),
        nrrd("case", "field and value in other case", PLAIN, space="Left-Posterior-Superior"),
        nrrd("sheared", "slices shifted as a tilted gantry does", Read(ARRAY, sheared), space_directions="(-2,0,0) (0,-1.5,0) (-1.2,0,3)"),
        nrrd("spacings", "spacings and no space: no place", Read(ARRAY, spacing_mm=(3, 1.5, 2)), **spaced, spacings="2 1.5 3"),
        nrrd("spacings-nan", "spacings nan: unknown", Read(ARRAY, has_spacing=False), **spaced, spacings="nan nan nan"),
        nrrd("no-space-3d-right-handed", "a space that names no patient", Read(ARRAY), space="3D-right-handed"),
        nrrd("centers", "centers cell", PLAIN, centers="cell cell cell", oracle="sitk"),
        nrrd("comment", "comments and a key", PLAIN, more="# H\xf6hle\nkey:=value\n", oracle="sitk"),
        nrrd("kinds", "kinds domain", PLAIN, kinds="domain domain domain", oracle="sitk"),
        nrrd("line-skip", "two lines before the voxels", PLAIN, b"one\ntwo\n" + BYTES, line_skip="2"),
        nrrd("byte-skip", "five bytes before the voxels", PLAIN, b"12345" + BYTES, byte_skip="5"),
        nrrd("byte-skip-minus-1", "byte skip -1: the voxels end the file", PLAIN, b"some header" + BYTES, byte_skip="-1", oracle="sitk"),
        nrrd("old-magic", "NRRD0001 with spacings", Read(ARRAY, spacing_mm=(3, 1.5, 2)), magic="NRRD0001", **spaced, spacings="2 1.5 3"),
        nrrd("vector", "three values at each voxel, the axis first", Refused("vector|colour|component|channel|dim"), color.tobytes(order="F"), type="uchar", dimension="4", sizes="3 12 10 8", kinds="vector domain domain domain", space_directions=f"none {LPS_VECTORS}"),
        nrrd("4d-list", "a Slicer sequence: the list axis first, 1 chosen", Read(series[..., 1], RAS), np.moveaxis(series, 3, 0).tobytes(order="F"), dimension="4", sizes="2 12 10 8", kinds="list domain domain domain", space_directions=f"none {LPS_VECTORS}", options={"time_point": 1}),
        nrrd("4d-time-last", "time as the last axis, 1 chosen", Read(series[..., 1], RAS), series.tobytes(order="F"), dimension="4", sizes="12 10 8 2", kinds="domain domain domain time", space_directions=f"{LPS_VECTORS} none", options={"time_point": 1}),
        nrrd("block", "type block", Refused("type|block"), type="block", more=""),
        nrrd("zero-direction", "a direction of zeros", Refused("direction|spacing|affine"), space_directions="(0,0,0) (0,-1.5,0) (0,0,3)"),
        nrrd("nan-direction", "a direction of NaN", Refused("direction|spacing|affine|nan|NaN"), space_directions="(nan,0,0) (0,-1.5,0) (0,0,3)"),
        nrrd("truncated", "voxels are missing", short, BYTES[:-40]),
        nrrd("gzip-truncated", "gzip cut off", short, gzip.compress(BYTES)[:-300], encoding="gzip"),
        nrrd("sizes-too-few", "two sizes for three dimensions", Refused("size"), sizes="12 10"),
        nrrd("sizes-huge", "a size of 10^9", Refused("limit|byte|voxels"), sizes="1000000000 10 8"),
        nrrd("sizes-zero", "a size of 0", Refused("size|0"), sizes="12 0 8"),
        nrrd("sizes-text", "a size that is no number", Refused("size"), sizes="12 ten 8"),
        nrrd("no-encoding", "no encoding", Refused("encoding"), encoding=None),
        nrrd("encoding-unknown", "encoding zstd", Refused("encoding"), encoding="zstd"),
        nrrd("microns", "space units um", Read(ARRAY, RAS), space_directions="(-2000,0,0) (0,-1500,0) (0,0,3000)", space_origin="(11000,7000,40000)", space_units='"um" "um" "um"'),
        files("nrrd-detached", "the voxels in a file of their own", NRRD_RULES, PLAIN, "scan.nhdr", {"scan.nhdr": nrrd_header(data_file="scan.raw"), "scan.raw": BYTES}, oracle="sitk"),
        files("nrrd-detached-gz", "and packed", NRRD_RULES, PLAIN, "scan.nhdr", {"scan.nhdr": nrrd_header(data_file="scan.raw.gz", encoding="gzip"), "scan.raw.gz": gzip.compress(BYTES)}, oracle="sitk"),
        files("nrrd-detached-missing", "and not there", NRRD_RULES, Refused("scan.raw"), "scan.nhdr", {"scan.nhdr": nrrd_header(data_file="scan.raw")}),
        files("nrrd-detached-outside", "in a folder above", "safety: a header names no file elsewhere", Refused("folder|beside|outside|path"), "in/scan.nhdr", {"in/scan.nhdr": nrrd_header(data_file="../scan.raw"), "scan.raw": BYTES}),
        files("nrrd-list", "data file: LIST", NRRD_RULES, PLAIN, "scan.nhdr", {"scan.nhdr": nrrd_header(data_file="LIST").rstrip() + b"\n" + names.encode(), **slices}),
        files("nrrd-pattern", "data file: slice%d.raw 0 7 1", NRRD_RULES, PLAIN, "scan.nhdr", {"scan.nhdr": nrrd_header(data_file="slice%d.raw 0 7 1"), **slices}),
    ]  # fmt: skip
    return cases


_META = {
    "ObjectType": "Image",
    "NDims": "3",
    "BinaryData": "True",
    "BinaryDataByteOrderMSB": "False",
    "CompressedData": "False",
    "TransformMatrix": "1 0 0 0 1 0 0 0 1",
    "Offset": "-11 -7 40",
    "ElementSpacing": "2 1.5 3",
    "DimSize": "12 10 8",
    "ElementType": "MET_SHORT",
    "ElementDataFile": "LOCAL",
}
META_RAS = np.diag([-1.0, -1, 1, 1]) @ np.array([[2.0, 0, 0, -11], [0, 1.5, 0, -7], [0, 0, 3, 40], [0, 0, 0, 1]])
META_PLAIN = Read(ARRAY, META_RAS)


def meta_header(**fields: str | None) -> bytes:
    wanted: dict[str, str | None] = {**_META, **fields}
    wanted["ElementDataFile"] = wanted.pop("ElementDataFile")  # it ends the header
    return "".join(f"{name} = {value}\n" for name, value in wanted.items() if value is not None).encode("latin-1")


def meta(name: str, odd: str, right: Read | Refused, data: bytes = BYTES, **fields: Any) -> Odd:
    more = {key: fields.pop(key) for key in ("oracle", "options", "pending") if key in fields}
    return files(f"meta-{name}", odd, META_RULES, right, "scan.mha", {"scan.mha": meta_header(**fields) + data}, **more)


def _metaimage() -> list[Odd]:
    packed = zlib.compress(BYTES)
    raw = {"scan.raw": BYTES}
    slices = {f"slice{k}.raw": ARRAY[:, :, k].tobytes(order="F") for k in range(8)}
    names = "".join(f"slice{k}.raw\n" for k in range(8)).encode()
    cos, sin = np.cos(0.35), np.sin(0.35)
    turned = (
        np.diag([-1.0, -1, 1, 1])
        @ np.array([[cos, -sin, 0, -11], [sin, cos, 0, -7], [0, 0, 1, 40], [0, 0, 0, 1]])
        @ np.diag([*SPACING, 1])
    )
    color = np.stack([values("u1")] * 3)
    short = Refused("byte|short|trunc|end|cut|damaged|voxels")
    types = {
        "MET_CHAR": "i1",
        "MET_UCHAR": "u1",
        "MET_USHORT": "u2",
        "MET_INT": "i4",
        "MET_UINT": "u4",
        "MET_LONG_LONG": "i8",
        "MET_FLOAT": "f4",
        "MET_DOUBLE": "f8",
    }
    cases = [
        meta(
            f"type-{word}",
            word,
            Read(values(kind), META_RAS),
            values(kind).tobytes(order="F"),
            ElementType=word,
            oracle="sitk",
        )
        for word, kind in types.items()
    ]

    def mhd(
        name: str, odd: str, right: Read | Refused, made: dict[str, bytes], behind: bytes = b"", **fields: Any
    ) -> Odd:
        more = {key: fields.pop(key) for key in ("oracle", "pending") if key in fields}
        source = fields.pop("source", META_RULES)
        opened = fields.pop("opened", "scan.mhd")
        return files(
            f"meta-{name}", odd, source, right, opened, {opened: meta_header(**fields) + behind, **made}, **more
        )

    cases += [
        meta("plain", "nothing", META_PLAIN, oracle="sitk"),
        meta("big", "big endian", META_PLAIN, ARRAY.astype(">i2").tobytes(order="F"), BinaryDataByteOrderMSB="True", oracle="sitk"),
        meta("big-by-element", "ElementByteOrderMSB, the other name", META_PLAIN, ARRAY.astype(">i2").tobytes(order="F"), BinaryDataByteOrderMSB=None, ElementByteOrderMSB="True", oracle="sitk"),
        meta("compressed", "zlib", META_PLAIN, packed, CompressedData="True", CompressedDataSize=str(len(packed)), oracle="sitk"),
        meta("compressed-no-size", "zlib without its size", META_PLAIN, packed, CompressedData="True"),
        meta("compressed-cut", "zlib cut off", short, packed[:-200], CompressedData="True"),
        meta("truncated", "voxels are missing", short, BYTES[:-40]),
        meta("turned", "a TransformMatrix of 20 degrees, its rows the axes", Read(ARRAY, turned), TransformMatrix=f"{cos} {sin} 0 {-sin} {cos} 0 0 0 1", oracle="sitk"),
        meta("unit-um", "DistanceUnits um: millimetres in thousandths", Read(ARRAY, META_RAS, note="converted to mm"), DistanceUnits="um", ElementSpacing="2000 1500 3000", Offset="-11000 -7000 40000"),
        meta("unit-cm", "DistanceUnits cm, no place", Read(ARRAY, spacing_mm=(30, 15, 20), note="converted to mm"), DistanceUnits="cm", TransformMatrix=None, Offset=None),
        meta("unit-mm", "DistanceUnits mm", META_PLAIN, DistanceUnits="mm", oracle="sitk"),
        meta("unit-unknown", "DistanceUnits ?, as MetaIO writes what it does not know", META_PLAIN, DistanceUnits="?", oracle="sitk"),
        meta("unit-odd", "DistanceUnits that are none", Read(ARRAY, META_RAS, note="DistanceUnits"), DistanceUnits="furlong", oracle="sitk"),
        meta("position", "Position for Offset", META_PLAIN, Offset=None, Position="-11 -7 40", oracle="sitk"),
        meta("origin", "Origin for Offset", META_PLAIN, Offset=None, Origin="-11 -7 40", oracle="sitk"),
        meta("rotation", "Rotation for TransformMatrix", META_PLAIN, TransformMatrix=None, Rotation="1 0 0 0 1 0 0 0 1", oracle="sitk"),
        meta("element-size", "ElementSize beside ElementSpacing: the spacing counts", META_PLAIN, ElementSize="1 1 1", oracle="sitk"),
        meta("anatomical", "AnatomicalOrientation is a comment; the matrix counts", META_PLAIN, AnatomicalOrientation="RPI", oracle="sitk"),
        meta("channels-3", "three channels", Refused("channel|colour|component|vector"), color.tobytes(order="F"), ElementType="MET_UCHAR", ElementNumberOfChannels="3"),
        meta("channels-1", "one channel, said", META_PLAIN, ElementNumberOfChannels="1", oracle="sitk"),
        meta("2d", "two dimensions", Refused("2|dim"), ARRAY[:, :, 0].tobytes(order="F"), NDims="2", DimSize="12 10", TransformMatrix="1 0 0 1", Offset="0 0", ElementSpacing="2 1.5"),
        meta("ascii", "BinaryData False: numbers as text", META_PLAIN, b" ".join(str(v).encode() for v in ARRAY.ravel(order="F")), BinaryData="False"),
        meta("header-size", "HeaderSize -1: the voxels end the file", META_PLAIN, b"some" + BYTES, HeaderSize="-1", oracle="sitk"),
        meta("spacing-0", "a spacing of 0", Refused("spacing"), ElementSpacing="2 0 3"),
        meta("spacing-negative", "a negative spacing", Refused("spacing"), ElementSpacing="2 -1.5 3"),
        meta("matrix-zeros", "a matrix of zeros", Refused("matrix|Matrix|affine|spacing|direction"), TransformMatrix="0 0 0 0 0 0 0 0 0"),
        meta("dims-huge", "sizes beyond the file", Refused("limit|byte|voxels"), DimSize="100000 100000 8"),
        meta("dims-missing", "no DimSize", Refused("DimSize"), DimSize=None),
        meta("type-unknown", "MET_HALF", Refused("type|Type"), ElementType="MET_HALF"),
        meta("local-small", "Local, in small letters", META_PLAIN, ElementDataFile="Local"),
        mhd("detached", "the voxels in a file of their own", META_PLAIN, raw, ElementDataFile="scan.raw", oracle="sitk"),
        mhd("detached-packed", "and packed", META_PLAIN, {"scan.zraw": packed}, ElementDataFile="scan.zraw", CompressedData="True", oracle="sitk"),
        mhd("detached-missing", "and not there", Refused("scan.raw"), {}, ElementDataFile="scan.raw"),
        mhd("detached-skip", "HeaderSize 7 bytes in the voxels' file", META_PLAIN, {"scan.raw": b"1234567" + BYTES}, ElementDataFile="scan.raw", HeaderSize="7", oracle="sitk"),
        mhd("detached-outside", "in a folder above", Refused("folder|beside|outside|path"), raw, ElementDataFile="../scan.raw", opened="in/scan.mhd", source="safety: a header names no file elsewhere"),
        mhd("list", "ElementDataFile = LIST", META_PLAIN, slices, names, ElementDataFile="LIST", oracle="sitk"),
        mhd("pattern", "ElementDataFile = slice%d.raw 0 7 1", META_PLAIN, slices, ElementDataFile="slice%d.raw 0 7 1", oracle="sitk"),
    ]  # fmt: skip
    return cases


CASES = [*_nrrd(), *_metaimage()]
