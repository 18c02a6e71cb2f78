"""Is every damaged or lying NIfTI, .npy, NRRD, MetaImage or picture refused in one line, without harm?"""

from __future__ import annotations

import gzip
import pickle
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

VOXELS = np.random.default_rng(0).integers(-1000, 1000, (8, 10, 12)).astype(np.int16)  # x, y, z
Build = Callable[[Path], Path]
CASES: dict[str, Build] = {}


def case(name: str, content: bytes, file_name: str) -> None:
    """A case that is one file."""
    assert name not in CASES

    def build(folder: Path) -> Path:
        (folder / file_name).write_bytes(content)
        return folder / file_name

    CASES[name] = build


def cuts(content: bytes, count: int) -> list[int]:
    """Lengths to cut a file to: a few from its start, a few from its end, the rest spread."""
    ends = [1, 3, len(content) - 1, len(content) - 4, len(content) - 9]
    return sorted({*ends, *(len(content) * k // count for k in range(1, count))})


def nifti(voxels: np.ndarray = VOXELS, **fields: object) -> bytes:
    """A NIfTI-1 file with some header fields overwritten after the fact."""
    content = nib.Nifti1Image(voxels, np.diag([-1, -1, 2, 1.0])).to_bytes()
    header = nib.Nifti1Header(content[:348], check=False)
    for name, value in fields.items():
        header[name] = value
    return header.binaryblock + content[348:]


def npy(header: str, data: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    text = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY" + version + struct.pack("<H", len(text)) + text + data


def nrrd(data: bytes | None = None, **fields: str) -> bytes:
    values = {
        "type": "short", "dimension": "3", "sizes": "8 10 12", "endian": "little", "encoding": "gzip",
        "space": "left-posterior-superior", "space directions": "(1,0,0) (0,1,0) (0,0,2)", "space origin": "(0,0,0)",
    } | {key.replace("_", " "): value for key, value in fields.items()}  # fmt: skip
    lines = ["NRRD0004", *(f"{key}: {value}" for key, value in values.items() if value != "absent"), "", ""]
    packed = gzip.compress(VOXELS.tobytes(order="F")) if data is None else data
    return "\n".join(lines).encode() + packed


def mha(data: bytes | None = None, **fields: str) -> bytes:
    values = {
        "ObjectType": "Image", "NDims": "3", "BinaryData": "True", "BinaryDataByteOrderMSB": "False",
        "CompressedData": "True", "TransformMatrix": "1 0 0 0 1 0 0 0 1", "Offset": "0 0 0", "ElementSpacing": "1 1 2",
        "DimSize": "8 10 12", "ElementType": "MET_SHORT", "ElementDataFile": "LOCAL",
    } | fields  # fmt: skip
    lines = [f"{key} = {value}" for key, value in values.items() if value != "absent"]
    return ("\n".join(lines) + "\n").encode() + (zlib.compress(VOXELS.tobytes(order="F")) if data is None else data)


def as_npy(array: np.ndarray) -> bytes:
    import io

    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def png(size: tuple[int, int] = (8, 8), grey: int = 9) -> bytes:
    import io

    stream = io.BytesIO()
    Image.new("L", size, grey).save(stream, "PNG")
    return stream.getvalue()


PLAIN, PACKED = nifti(), gzip.compress(nifti(), mtime=0)
for length in cuts(PACKED, 22):
    case(f"nii.gz cut to {length}", PACKED[:length], "scan.nii.gz")
for length in cuts(PLAIN, 14):
    case(f"nii cut to {length}", PLAIN[:length], "scan.nii")
for kind, whole in {"nrrd": nrrd(), "mha": mha(), "npy": as_npy(VOXELS)}.items():
    for length in cuts(whole, 12):
        case(f"{kind} cut to {length}", whole[:length], f"scan.{kind}")

for name, fields in {
    "dim 0 is 0": {"dim": [0, 8, 10, 12, 1, 1, 1, 1]},
    "dim 0 is 9": {"dim": [9, 8, 10, 12, 1, 1, 1, 1]},
    "dim 0 is -3": {"dim": [-3, 8, 10, 12, 1, 1, 1, 1]},
    "dim 1D": {"dim": [1, 960, 1, 1, 1, 1, 1, 1]},
    "dim 2D": {"dim": [2, 96, 10, 1, 1, 1, 1, 1]},
    "dim one slice": {"dim": [3, 96, 10, 1, 1, 1, 1, 1]},
    "dim 4D": {"dim": [4, 8, 10, 4, 3, 1, 1, 1]},
    "dim 5D": {"dim": [5, 8, 5, 2, 4, 3, 1, 1]},
    "dim 7D": {"dim": [7, 2, 2, 2, 2, 2, 3, 5]},
    "dim has 0": {"dim": [3, 8, 0, 12, 1, 1, 1, 1]},
    "dim negative": {"dim": [3, 8, -10, 12, 1, 1, 1, 1]},
    "dim huge": {"dim": [3, 32767, 32767, 32767, 1, 1, 1, 1]},
    "dim larger than the file": {"dim": [3, 800, 800, 800, 1, 1, 1, 1]},
    "dim one too many": {"dim": [3, 8, 10, 13, 1, 1, 1, 1]},
    "datatype 0": {"datatype": 0},
    "datatype binary": {"datatype": 1},
    "datatype 9999": {"datatype": 9999},
    "datatype complex": {"datatype": 32, "bitpix": 64},
    "datatype RGB": {"datatype": 128, "bitpix": 24},
    "datatype long double": {"datatype": 1536, "bitpix": 128},
    "datatype wider than the data": {"datatype": 64, "bitpix": 64},
    "bitpix lies": {"bitpix": 8},
    "vox_offset NaN": {"vox_offset": np.nan},
    "vox_offset infinite": {"vox_offset": np.inf},
    "vox_offset negative": {"vox_offset": -352},
    "vox_offset inside the header": {"vox_offset": 100},
    "vox_offset beyond the end": {"vox_offset": 1e6},
    "vox_offset 1e30": {"vox_offset": 1e30},
    "vox_offset fraction": {"vox_offset": 352.5},
    "vox_offset a little late": {"vox_offset": 368},
    "scl_inter NaN": {"scl_slope": 1, "scl_inter": np.nan},
    "scl_inter infinite": {"scl_slope": 2, "scl_inter": np.inf},
    "scl_slope overflows": {"scl_slope": 3e38, "scl_inter": 0},
    "sform NaN": {"srow_x": [np.nan, 0, 0, 0]},
    "sform infinite": {"srow_z": [0, 0, np.inf, 0]},
    "sform singular": {"srow_y": [-1, 0, 0, 0]},
    "sform zero": {"srow_x": 0, "srow_y": 0, "srow_z": 0},
    "sform slice spacing 0": {"srow_z": [0, 0, 0, 5]},
    "sform spacing 1e9": {"srow_z": [0, 0, 1e9, 5]},
    "qform broken": {"sform_code": 0, "qform_code": 1, "quatern_b": 3.0},
    "qform NaN": {"sform_code": 0, "qform_code": 1, "qoffset_x": np.nan},
    "qform pixdim 0": {"sform_code": 0, "qform_code": 1, "pixdim": [1, 1, 1, 0, 1, 1, 1, 1]},
    "magic damaged": {"magic": b"xyz"},
    "magic of a pair without its image": {"magic": b"ni1"},
    "header size lies": {"sizeof_hdr": 1234},
}.items():
    case(f"nifti {name}", nifti(**fields), "scan.nii")
    if "late" not in name and "size" not in name:
        case(f"nifti.gz {name}", gzip.compress(nifti(**fields)), "scan.nii.gz")
second = nib.Nifti2Image(VOXELS, np.eye(4)).to_bytes()
for name, sizes in {"huge": [3, 2**40, 2**40, 2**40, 1, 1, 1, 1], "negative": [3, 8, -(2**62), 12, 1, 1, 1, 1]}.items():
    header = nib.Nifti2Header(second[:540], check=False)
    header["dim"] = sizes
    case(f"nifti-2 dim {name}", header.binaryblock + second[540:], "scan.nii")
bomb = gzip.compress(nifti(dim=[3, 1000, 1000, 700, 1, 1, 1, 1])[:352] + np.random.default_rng(0).bytes(2_000_000), 1)
case("nifti.gz bomb", bomb, "scan.nii.gz")

for kind, write in {"nii": nifti, "npy": as_npy}.items():
    for name, value in {"NaN": np.nan, "infinite": np.inf, "minus infinite": -np.inf}.items():
        bad = VOXELS.astype(np.float32)
        bad[3, 4, 5] = value
        case(f"{kind} {name}", write(bad), f"scan.{kind}")
        case(f"{kind} all {name}", write(np.full((5, 5, 5), value, np.float64)), f"scan.{kind}")
    case(f"{kind} constant", write(np.full((5, 5, 5), 7, np.int16)), f"scan.{kind}")
for name, array in {
    "0D": np.array(3.0),
    "1D": np.arange(9.0),
    "2D": np.eye(9),
    "one slice": np.arange(81.0).reshape(1, 9, 9),
    "4D": np.arange(1250.0).reshape(2, 5, 5, 25),
    "5D": np.arange(64.0).reshape(2, 2, 2, 2, 4),
    "empty": np.zeros((0, 4, 4)),
    "complex": np.ones((4, 4, 4), complex),
    "text": np.full((4, 4, 4), "air"),
    "dates": np.zeros((4, 4, 4), "M8[s]"),
    "records": np.zeros((4, 4, 4), "i4,f4"),
    "pickled": np.array([[[{"a": 1}, None]]], dtype=object),
}.items():
    case(f"npy {name}", as_npy(array), "scan.npy")
for name, header in {
    "is huge": "{'descr': '<f4', 'fortran_order': False, 'shape': (100000, 100000, 100000), }",
    "is larger than the file": "{'descr': '<f4', 'fortran_order': False, 'shape': (900, 900, 900), }",
    "is negative": "{'descr': '<f4', 'fortran_order': False, 'shape': (-5, 5, 5), }",
    "is no tuple": "{'descr': '<f4', 'fortran_order': False, 'shape': 'big', }",
    "has no shape": "{'descr': '<f4', 'fortran_order': False, }",
    "is code": "__import__('os').system('true')",
    "is cut": "{'descr': '<f4', 'fortran_ord",
    "has an unknown type": "{'descr': '<q9', 'fortran_order': False, 'shape': (5, 5, 5), }",
    "is deeply nested": "(" * 110,
}.items():
    case(f"npy header {name}", npy(header, bytes(500)), "scan.npy")
case("npy version 9", npy("{}", version=b"\x09\x00"), "scan.npy")

for name, fields in {
    "no type": {"type": "absent"},
    "type block": {"type": "block"},
    "no sizes": {"sizes": "absent"},
    "sizes huge": {"sizes": "99999 99999 99999"},
    "sizes beyond the data": {"sizes": "8 10 13"},
    "sizes of 1e5 the data": {"sizes": "800 1000 1200"},
    "sizes negative": {"sizes": "8 -10 12"},
    "sizes 0": {"sizes": "8 0 12"},
    "sizes fractions": {"sizes": "8 10.5 12"},
    "sizes words": {"sizes": "a b c"},
    "sizes two of three": {"sizes": "8 10"},
    "2D": {"dimension": "2", "sizes": "80 12", "space directions": "absent"},
    "4D": {"dimension": "4", "sizes": "8 10 4 3", "space directions": "absent"},
    "5D": {"dimension": "5", "sizes": "8 10 4 3 1", "space directions": "absent"},
    "colours": {"dimension": "4", "sizes": "3 8 10 4", "kinds": "RGB-color space space space"},
    "encoding text": {"encoding": "ascii"},
    "no encoding": {"encoding": "absent"},
    "no endian": {"endian": "absent"},
    "directions NaN": {"space directions": "(nan,0,0) (0,1,0) (0,0,2)"},
    "directions zero": {"space directions": "(0,0,0) (0,1,0) (0,0,2)"},
    "directions in a plane": {"space directions": "(1,0,0) (0,1,0) (1,1,0)"},
    "directions words": {"space directions": "(a,b) (c) d"},
    "origin cut": {"space origin": "(0,0"},
    "data file elsewhere": {"data file": "../../etc/passwd"},
    "data file absolute": {"data file": "/etc/passwd"},
    "data file missing": {"data file": "lost.raw.gz"},
    "line skip": {"line skip": "3"},
    "byte skip huge": {"byte skip": "99999999999"},
    "byte skip minus": {"byte skip": "-1"},
}.items():
    case(f"nrrd {name}", nrrd(**fields), "scan.nrrd")
WRITTEN = b" ".join(b"%d" % value for value in VOXELS.ravel(order="F"))
for name, fields, data in (
    ("words among the numbers", {"encoding": "ascii"}, WRITTEN.replace(b" ", b" x ", 1)),
    ("numbers beyond the type", {"encoding": "ascii"}, b"70000 " + WRITTEN),
    ("fractions of a whole type", {"encoding": "ascii"}, b"0.5 " + WRITTEN),
    ("too few numbers", {"encoding": "ascii"}, WRITTEN[: len(WRITTEN) // 2]),
    ("hex of other letters", {"encoding": "hex"}, b"xy" * VOXELS.nbytes),
    ("hex cut", {"encoding": "hex"}, VOXELS.tobytes().hex().encode()[:-2]),
    ("byte skip -1 of too few bytes", {"encoding": "raw", "byte skip": "-1"}, VOXELS.tobytes()[:-4]),
    ("line skip beyond the end", {"encoding": "raw", "line skip": "9"}, VOXELS.tobytes().replace(b"\n", b"\0")),
    ("line skip minus", {"encoding": "raw", "line skip": "-2"}, VOXELS.tobytes()),
):
    case(f"nrrd {name}", nrrd(data, **fields), "scan.nrrd")
case("nrrd data damaged", nrrd(gzip.compress(VOXELS.tobytes())[:200] + bytes(400)), "scan.nrrd")
case("nrrd bzip2 damaged", nrrd(b"BZh9" + bytes(500), encoding="bzip2"), "scan.nrrd")
case("nrrd version words", b"NRRDnonsense\n\n" + bytes(99), "scan.nrrd")
case("nrrd endless line", b"NRRD0004\n" + b"type: " + b"x" * 99_999, "scan.nrrd")
case("nrrd endless lines", b"NRRD0004\n" + b"a: b\n" * 9_999, "scan.nrrd")
case("nrrd line without colon", b"NRRD0004\nnothing here\n\n" + bytes(99), "scan.nrrd")

for name, fields in {
    "no DimSize": {"DimSize": "absent"},
    "DimSize huge": {"DimSize": "99999 99999 99999"},
    "DimSize 0": {"DimSize": "8 0 12"},
    "DimSize negative": {"DimSize": "8 -10 12"},
    "DimSize beyond the data": {"DimSize": "8 10 13"},
    "DimSize words": {"DimSize": "x"},
    "DimSize of 1e5 the data": {"DimSize": "800 1000 1200"},
    "2D": {"NDims": "2", "DimSize": "80 12"},
    "4D": {"DimSize": "8 10 4 3"},
    "no type": {"ElementType": "absent"},
    "type array": {"ElementType": "MET_SHORT_ARRAY"},
    "text data": {"BinaryData": "False"},
    "colours": {"ElementNumberOfChannels": "3"},
    "spacing 0": {"ElementSpacing": "1 1 0"},
    "spacing negative": {"ElementSpacing": "1 1 -2"},
    "spacing NaN": {"ElementSpacing": "1 1 nan"},
    "matrix singular": {"TransformMatrix": "1 0 0 0 1 0 0 1 0"},
    "matrix short": {"TransformMatrix": "1 0 0 1"},
    "matrix words": {"TransformMatrix": "a"},
    "offset infinite": {"Offset": "0 0 inf"},
    "data elsewhere": {"ElementDataFile": "../../etc/passwd"},
    "data absolute": {"ElementDataFile": "/etc/passwd"},
    "data list": {"ElementDataFile": "LIST"},
    "data pattern": {"ElementDataFile": "slice%03d.raw 1 9 1"},
    "header size huge": {"HeaderSize": "999999999999"},
    "not compressed after all": {"CompressedData": "False"},
}.items():
    case(f"mha {name}", mha(**fields), "scan.mha")
case("mha data damaged", mha(zlib.compress(VOXELS.tobytes())[:200] + bytes(400)), "scan.mha")
case("mha endless line", b"ObjectType = Image\nComment = " + b"x" * 99_999, "scan.mha")

case("empty file", b"", "scan.nii.gz")
case("text named .nii", b"patient was moving, repeat\n" * 30, "scan.nii")
case("text named .nii.gz", b"patient was moving, repeat\n" * 30, "scan.nii.gz")
case("web page named .dcm", b"<html><body>404</body></html>", "scan.dcm")
case("gzip of text", gzip.compress(b"no scan" * 99), "scan.nii.gz")
case("gzip of nothing", gzip.compress(b""), "scan.nii.gz")
case("pickle", pickle.dumps({"voxels": [1, 2]}), "scan.npy")
case("noise", np.random.default_rng(1).bytes(5000), "scan.nii")
case("one picture", png(), "slice.png")


def pictures(name: str, files: dict[str, bytes]) -> None:
    def build(folder: Path) -> Path:
        for file_name, content in files.items():
            place = folder / "pictures" / file_name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
        return folder / "pictures"

    CASES[name] = build


huge_png = bytearray(png())
huge_png[16:24] = struct.pack(">II", 60_000, 60_000)
huge_png[29:33] = struct.pack(">I", zlib.crc32(huge_png[12:29]))
pictures("folder with one picture", {"1.png": png()})
pictures("pictures of two sizes", {"1.png": png(), "2.png": png((9, 8))})
pictures("pictures in two folders", {"a/1.png": png(), "a/2.png": png(grey=3), "b/1.png": png()})
pictures("pictures all alike", {"1.png": png(), "2.png": png()})
pictures("picture cut", {"1.png": png(), "2.png": png((64, 64))[:60]})
pictures("picture damaged", {"1.png": png()[:30] + b"?" * 60, "2.png": png()})
pictures("picture of 60000x60000", {"1.png": bytes(huge_png), "2.png": bytes(huge_png)})
pictures("picture is text", {"1.png": b"\x89PNG\r\n\x1a\nnot really", "2.png": png()})
pictures("two scans in one folder", {"a.nii": nifti(), "b.nii": nifti()})
pictures("folder of text", {"readme.txt": b"scans follow by post"})


@pytest.mark.parametrize("name", CASES)
def test_a_bad_file_is_refused_in_one_line(name: str, refused, tmp_path: Path) -> None:
    refused(CASES[name](tmp_path), watch_memory=True)


@pytest.mark.parametrize("name", list(CASES)[::20])
def test_the_command_line_ends_with_code_2(name: str, refused_by_command_line, tmp_path: Path) -> None:
    refused_by_command_line(CASES[name](tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_the_command_line_ends_with_code_2_for_every_case(name: str, refused_by_command_line, tmp_path: Path) -> None:
    refused_by_command_line(CASES[name](tmp_path))


SEQUENCE_FOR_TEXT = (  # found by fuzzing: SOPClassUID as a sequence of an unknown kind
    b"DICM\x00\x06DICM\x00\x00\x08\x00\x16\x00SQ\x00\xff\xf7\xff\xff\xff 0 \x00\x00\x00\x00\x00\x00\x00"
    b"\r\x00\x00eel\nminICMpress\x9b\x9cData = Falce\n\x00"
    b'\x00\x00\x00tomic\xa1lO\x17\x17\x17\x17\x17\x17\x17\x170 0"0 1 0 0 0 1'
    b"\nOffset = \xb0 0 0\nCenterOfRD\x00\x00\x17\x17\x17\x17\x17\xfe"
)


def test_one_time_of_voxels_written_as_text_and_microns_without_a_place_are_read(tmp_path: Path) -> None:
    from slicesight.io.loading import read_volume

    fields = {"dimension": "4", "sizes": "8 10 6 2", "encoding": "txt", "units": '"um" "um" "um" ""',
              "spacings": "1000 1000 2000 nan", "space": "absent", "space directions": "absent",
              "space origin": "absent"}  # fmt: skip
    (tmp_path / "scan.nrrd").write_bytes(nrrd(WRITTEN, **fields))
    volume = read_volume(tmp_path / "scan.nrrd", time_point=1)
    np.testing.assert_array_equal(np.sort(volume.voxels, None), np.sort(VOXELS[:, :, 6:], None))
    assert volume.spacing_mm == pytest.approx((2, 1, 1))


def test_packed_metaimage_voxels_with_a_header_size_of_minus_1_are_read(tmp_path: Path) -> None:
    from slicesight.io.loading import read_volume

    (tmp_path / "scan.mha").write_bytes(mha().replace(b"ElementDataFile", b"HeaderSize = -1\nElementDataFile"))
    np.testing.assert_array_equal(np.sort(read_volume(tmp_path / "scan.mha").voxels, None), np.sort(VOXELS, None))


def test_a_dicom_header_with_a_sequence_where_text_belongs_is_refused_in_one_line(refused, tmp_path: Path) -> None:
    (tmp_path / "scan.dcm").write_bytes(bytes(128) + SEQUENCE_FOR_TEXT)
    refused(tmp_path / "scan.dcm")


def test_the_unharmed_files_are_read(tmp_path: Path) -> None:
    """The cases above are refused for their one fault, not because the base file is bad."""
    from slicesight.io.loading import read_volume

    for name, content in {
        "a.nii": PLAIN,
        "b.nii.gz": PACKED,
        "c.nrrd": nrrd(),
        "d.mha": mha(),
        "e.npy": as_npy(VOXELS.T),
    }.items():
        (tmp_path / name).write_bytes(content)
        np.testing.assert_array_equal(np.sort(read_volume(tmp_path / name).voxels, None), np.sort(VOXELS, None))
