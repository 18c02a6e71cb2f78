"""NIfTI inputs, written field by field (NIfTI-1 standard, nifti1.h; offsets of its header)."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from corpus_cases import RAS, SHAPE, Odd, Read, Refused, values

_CODES = {
    "u1": 2,
    "i2": 4,
    "i4": 8,
    "f4": 16,
    "c8": 32,
    "f8": 64,
    "i1": 256,
    "u2": 512,
    "u4": 768,
    "i8": 1024,
    "u8": 1280,
    "c16": 1792,
}


def header(array: np.ndarray, **fields: Any) -> bytearray:
    """A NIfTI-1 header of an (i, j, k, ...) array; fields replace single values by name."""
    order = fields.pop("order", "<")
    kind = array.dtype.str[1:]
    dim = [array.ndim, *array.shape, *[1] * (7 - array.ndim)]
    wanted = {
        "sizeof_hdr": (0, "i", [348]),
        "dim": (40, "8h", dim),
        "intent_code": (68, "h", [0]),
        "datatype": (70, "h", [_CODES.get(kind, 0)]),
        "bitpix": (72, "h", [array.dtype.itemsize * 8]),
        "pixdim": (76, "8f", [1, 2.0, 1.5, 3.0, 1, 1, 1, 1]),
        "vox_offset": (108, "f", [352]),
        "scl_slope": (112, "f", [1]),
        "scl_inter": (116, "f", [0]),
        "xyzt_units": (123, "b", [2]),
        "descrip": (148, "80s", [b""]),
        "qform_code": (252, "h", [0]),
        "sform_code": (254, "h", [1]),
        "quatern": (256, "3f", [0, 0, 0]),
        "qoffset": (268, "3f", [-11, -7, 40]),
        "srow": (280, "12f", RAS[:3].ravel()),
        "magic": (344, "4s", [b"n+1\0"]),
    }
    made = bytearray(348)
    for name, (offset, form, default) in wanted.items():
        given = fields.pop(name, default)
        struct.pack_into(order + form, made, offset, *(given if isinstance(given, list | np.ndarray) else [given]))
    assert not fields, fields
    return made


def nifti(array: np.ndarray, **fields: Any) -> bytes:
    """A single-file NIfTI-1 image."""
    order = fields.get("order", "<")
    stored = array.astype(array.dtype.newbyteorder(order)).tobytes(order="F")
    extension = fields.pop("extension", b"\0\0\0\0")
    return bytes(header(array, **fields)) + extension + stored


def nifti2(array: np.ndarray, order: str) -> bytes:
    """A single-file NIfTI-2 image (nifti2.h)."""
    made = bytearray(540)
    dim = [array.ndim, *array.shape, *[1] * (7 - array.ndim)]
    struct.pack_into(order + "i8s", made, 0, 540, b"n+2\0\r\n\x1a\n")
    struct.pack_into(order + "hh8q", made, 12, _CODES[array.dtype.str[1:]], array.dtype.itemsize * 8, *dim)
    struct.pack_into(order + "8d", made, 104, 1, 2, 1.5, 3, 1, 1, 1, 1)
    struct.pack_into(order + "qdd", made, 168, 544, 1, 0)
    struct.pack_into(order + "ii", made, 344, 0, 1)
    struct.pack_into(order + "12d", made, 400, *RAS[:3].ravel())
    struct.pack_into(order + "i", made, 500, 2)
    return bytes(made) + b"\0\0\0\0" + array.astype(array.dtype.newbyteorder(order)).tobytes(order="F")


def file(content: bytes, name: str = "scan.nii") -> Callable[[Path], Path]:
    def build(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return build


def _turned(degrees: float, axis: int = 2) -> np.ndarray:
    """RAS turned about one axis through the origin of the scan."""
    angle = np.deg2rad(degrees)
    turn = np.eye(4)
    first, second = [a for a in range(3) if a != axis]
    turn[first, first] = turn[second, second] = np.cos(angle)
    turn[first, second], turn[second, first] = -np.sin(angle), np.sin(angle)
    return turn @ RAS


ARRAY = values()
FLOAT = ARRAY.astype("f4")
PLAIN = Read(ARRAY, RAS)
H = "NIfTI-1 (nifti1.h)"


def simple(name: str, odd: str, right: Read | Refused, source: str = H, **fields: Any) -> Odd:
    """A file of the usual array with other header fields."""
    oracle = fields.pop("oracle", "arithmetic")
    options, pending, array = fields.pop("options", {}), fields.pop("pending", None), fields.pop("array", ARRAY)
    return Odd(f"nifti-{name}", odd, source, right, file(nifti(array, **fields)), oracle, options, pending)


def raw(name: str, odd: str, content: bytes, right: Read | Refused, source: str = H, **more: Any) -> Odd:
    place = more.pop("place", "scan.nii")
    return Odd(f"nifti-{name}", odd, source, right, file(content, place), **more)


def _types() -> list[Odd]:
    cases = []
    for kind in ("u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"):
        array = values(kind)
        for order in "<>":
            word = "little" if order == "<" else "big"
            cases.append(
                simple(
                    f"{kind}-{word}",
                    f"{kind}, {word} endian",
                    Read(array, RAS),
                    array=array,
                    order=order,
                    oracle="sitk",
                )
            )
    both = "complex numbers have no grey value"
    cases += [
        simple(kind, both, Refused("complex|type"), array=ARRAY.astype(kind), source=f"{H}, DT_COMPLEX")
        for kind in ("c8", "c16")
    ]
    rgb = np.stack([values("u1")] * 3, axis=-1)
    content = (
        bytes(header(ARRAY, datatype=128, bitpix=24))
        + b"\0" * 4
        + np.moveaxis(rgb, (0, 1, 2, 3), (2, 1, 0, 3)).tobytes()
    )
    cases.append(raw("rgb24-grey", "RGB24 whose three channels agree", content, Refused("colour"), f"{H}, DT_RGB24"))
    other = rgb.copy()
    other[..., 1] = other[..., 1][::-1]
    content = (
        bytes(header(ARRAY, datatype=128, bitpix=24))
        + b"\0" * 4
        + np.moveaxis(other, (0, 1, 2, 3), (2, 1, 0, 3)).tobytes()
    )
    cases.append(raw("rgb24-colour", "RGB24 in colour", content, Refused("colour"), f"{H}, DT_RGB24"))
    cases += [
        simple("binary", "DT_BINARY, one bit a voxel", Refused("voxels are"), datatype=1, bitpix=1),
        simple("float128", "DT_FLOAT128", Refused("voxels are"), datatype=1536, bitpix=128),
        simple("datatype-0", "DT_UNKNOWN", Refused("voxels are"), datatype=0),
        simple("bitpix-wrong", "bitpix contradicts datatype", Refused("int16 has 16 bits, not 8"), bitpix=8),
    ]
    return cases


def _geometry() -> list[Odd]:
    oblique, sheared = _turned(20), RAS.copy()
    sheared[0, 2] = 1.2
    mirrored = RAS @ np.diag([-1, 1, 1, 1])
    lps = np.diag([-1.0, -1, 1, 1]) @ RAS
    coronal = np.array([[2.0, 0, 0, 3], [0, 0, 3.0, 5], [0, 1.5, 0, 7], [0, 0, 0, 1]])
    sagittal = np.array([[0, 0, 3.0, 3], [2.0, 0, 0, 5], [0, 1.5, 0, 7], [0, 0, 0, 1]])
    flipped_k = RAS @ np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1.0, 7], [0, 0, 0, 1]])
    left_handed = RAS.copy()
    left_handed[2, 2] = -3
    tiny = RAS.copy()
    tiny[:3] /= 1000
    q = {"sform_code": 0, "qform_code": 1}
    good_q = {"qform_code": 1, "sform_code": 1}
    half = float(np.sin(np.deg2rad(10)))
    return [
        simple("plain", "nothing", PLAIN, oracle="sitk"),
        simple(
            "sform-oblique", "turned by 20 degrees", Read(ARRAY, oblique), srow=oblique[:3].ravel(), oracle="nibabel"
        ),
        simple(
            "sform-oblique-x",
            "turned about x",
            Read(ARRAY, _turned(-15, 0)),
            srow=_turned(-15, 0)[:3].ravel(),
            oracle="nibabel",
        ),
        simple(
            "sform-sheared", "a gantry tilt as shear", Read(ARRAY, sheared), srow=sheared[:3].ravel(), oracle="nibabel"
        ),
        simple("sform-mirrored", "left-handed", Read(ARRAY, mirrored), srow=mirrored[:3].ravel(), oracle="nibabel"),
        simple("sform-lps", "stored LPS", Read(ARRAY, lps), srow=lps[:3].ravel(), oracle="nibabel"),
        simple("sform-coronal", "stored coronal", Read(ARRAY, coronal), srow=coronal[:3].ravel(), oracle="nibabel"),
        simple("sform-sagittal", "stored sagittal", Read(ARRAY, sagittal), srow=sagittal[:3].ravel(), oracle="nibabel"),
        simple(
            "sform-flipped-k",
            "slices from head to foot",
            Read(ARRAY, flipped_k),
            srow=flipped_k[:3].ravel(),
            oracle="nibabel",
        ),
        simple(
            "sform-over-qform",
            "both, and they differ: the sform goes first",
            Read(ARRAY, oblique),
            srow=oblique[:3].ravel(),
            oracle="nibabel",
            **{**good_q, "sform_code": 2},
        ),
        simple("qform", "qform alone", PLAIN, **q, oracle="sitk"),
        simple(
            "qform-turned",
            "a quaternion of 20 degrees",
            Read(ARRAY, _turned_about_origin(20)),
            **q,
            quatern=[0, 0, half],
            oracle="sitk",
        ),
        simple(
            "qform-qfac-minus",
            "qfac -1 flips the third axis",
            Read(ARRAY, left_handed),
            **q,
            pixdim=[-1, 2, 1.5, 3, 1, 1, 1, 1],
            oracle="sitk",
        ),
        simple(
            "qform-qfac-0",
            "qfac 0 counts as 1 (nifti1.h, METHOD 2)",
            PLAIN,
            **q,
            pixdim=[0, 2, 1.5, 3, 1, 1, 1, 1],
        ),
        simple(
            "sform-zero-good-qform",
            "sform code 1 of zeros, a good qform",
            PLAIN,
            **good_q,
            srow=[0.0] * 12,
        ),
        simple("sform-nan", "NaN in the sform, no qform", Refused("NaN|affine|spacing"), srow=[np.nan] * 12),
        simple(
            "sform-singular",
            "two columns are equal, no qform",
            Refused("affine|spacing|singular|volume"),
            srow=[2, 2, 0, 0, 0, 0, 1.5, 0, 0, 0, 3, 0],
        ),
        simple(
            "no-codes",
            "no codes: the spacing alone (METHOD 1)",
            Read(ARRAY, spacing_mm=(3, 1.5, 2)),
            sform_code=0,
            qform_code=0,
        ),
        simple(
            "no-codes-pixdim-0",
            "no codes and no spacing: unknown, not 0",
            Read(ARRAY, has_spacing=False),
            sform_code=0,
            qform_code=0,
            pixdim=[0] * 8,
        ),
        simple("pixdim-0-good-sform", "pixdim 0, a good sform", PLAIN, pixdim=[1] + [0] * 7, oracle="nibabel"),
        simple(
            "pixdim-negative-good-sform",
            "negative pixdim, a good sform",
            PLAIN,
            pixdim=[1, -2, -1.5, -3, 1, 1, 1, 1],
            oracle="nibabel",
        ),
        simple(
            "pixdim-contradicts-sform",
            "pixdim says 1 mm, the sform 2: the sform goes first",
            PLAIN,
            pixdim=[1, 1, 1, 1, 1, 1, 1, 1],
            oracle="nibabel",
        ),
        simple(
            "units-metre",
            "xyzt_units 1: metres",
            PLAIN,
            srow=tiny[:3].ravel(),
            pixdim=[1, 0.002, 0.0015, 0.003, 1, 1, 1, 1],
            xyzt_units=1,
        ),
        simple(
            "units-micron",
            "xyzt_units 3: microns",
            PLAIN,
            srow=(RAS[:3] * 1000).ravel(),
            pixdim=[1, 2000, 1500, 3000, 1, 1, 1, 1],
            xyzt_units=3,
        ),
        simple("units-unknown", "xyzt_units 0: taken as mm, as every reader does", PLAIN, xyzt_units=0, oracle="sitk"),
        simple(
            "far-away", "origin at 1e5 mm", Read(ARRAY, _moved(1e5)), srow=_moved(1e5)[:3].ravel(), oracle="nibabel"
        ),
        simple("descrip-not-utf8", "latin-1 in descrip", PLAIN, descrip=b"H\xf6hle", oracle="sitk"),
    ]


def _turned_about_origin(degrees: float) -> np.ndarray:
    turned = _turned(degrees)
    turned[:3, 3] = RAS[:3, 3]
    return turned


def _moved(by: float) -> np.ndarray:
    moved = RAS.copy()
    moved[:3, 3] += by
    return moved


def _scaling() -> list[Odd]:
    nan, inf = float("nan"), float("inf")
    scaled = Read(ARRAY * 2.0 - 1024, RAS)
    cut = FLOAT.copy()
    cut[0, 0, 0] = nan
    endless = FLOAT.copy()
    endless[0, 0, 0] = inf
    return [
        simple("slope", "slope 2, intercept -1024", scaled, scl_slope=2, scl_inter=-1024, oracle="nibabel"),
        simple("slope-0", "slope 0: no scaling", PLAIN, scl_slope=0, scl_inter=7, oracle="nibabel"),
        simple("slope-nan", "slope NaN: no scaling", PLAIN, scl_slope=nan, scl_inter=nan, oracle="nibabel"),
        simple("slope-negative", "slope -1", Read(-ARRAY.astype(float), RAS), scl_slope=-1, oracle="nibabel"),
        simple("slope-tiny", "slope 1e-3", Read(ARRAY * 1e-3, RAS, atol=1e-5), scl_slope=1e-3, oracle="nibabel"),
        simple("slope-inf", "slope infinite: no scaling, as nibabel has it", PLAIN, scl_slope=inf, oracle="nibabel"),
        simple("slope-1-inter-nan", "intercept NaN", Refused("inter|scl|NaN"), scl_slope=1, scl_inter=nan),
        simple("voxel-nan", "one NaN", Refused("NaN"), array=cut),
        simple("voxel-inf", "one infinity", Refused("inf|NaN|finite"), array=endless),
        simple("all-nan", "NaN everywhere", Refused("NaN"), array=np.full(SHAPE, nan, "f4")),
        simple("constant", "one value everywhere", Refused("every voxel is 0"), array=np.zeros(SHAPE, "i2")),
        simple(
            "hu-plus-1024",
            "a CT as HU + 1024 in uint16: not HU, or said",
            Read(values("u2", low=0, high=3000), RAS, unit="arbitrary"),
            array=values("u2", low=0, high=3000),
        ),
    ]


def _shapes() -> list[Odd]:
    series = values(shape=(*SHAPE, 3))
    vector = values("f4", shape=(*SHAPE, 1, 3))
    flat = values(shape=(12, 10))
    dim = [3, *SHAPE, 1, 1, 1, 1]
    huge = nifti(ARRAY, dim=[3, 30000, 30000, 30000, 1, 1, 1, 1])
    return [
        simple("4d-one", "4D of one time", PLAIN, array=ARRAY[..., None], oracle="nibabel"),
        simple(
            "4d-chosen",
            "4D, time 1 chosen",
            Read(series[..., 1], RAS),
            array=series,
            options={"time_point": 1},
            oracle="nibabel",
        ),
        simple("4d-past-end", "4D of 3, time 3 asked for", Refused("time"), array=series, options={"time_point": 3}),
        simple("4d-unchosen", "4D, no time chosen", Refused("time"), array=series),
        simple(
            "5d-vector",
            "a vector of 3 at each voxel",
            Refused("5D|vector|channel|component"),
            array=vector,
            intent_code=1007,
        ),
        simple("7d-of-ones", "seven dimensions, four of them 1", PLAIN, dim=[7, *SHAPE, 1, 1, 1, 1], oracle="nibabel"),
        simple("2d", "a single 2D slice", Refused("2D|slice|dim"), array=flat),
        simple("dim-0", "dim[0] is 0", Refused("dim"), dim=[0, *dim[1:]]),
        simple("dim-8", "dim[0] is 8", Refused("dim|NIfTI|byte"), dim=[8, *dim[1:]]),
        simple("dim-negative", "a negative size", Refused("dim|size"), dim=[3, -12, 10, 8, 1, 1, 1, 1]),
        simple("dim-zero-size", "a size of 0", Refused("dim|size|0"), dim=[3, 12, 0, 8, 1, 1, 1, 1]),
        raw("dim-huge", "27 T voxels claimed in a small file", huge, Refused("above the limit")),
    ]


def _containers() -> list[Odd]:
    plain = nifti(ARRAY)
    extended = nifti(
        ARRAY, vox_offset=352 + 32, extension=b"\1\0\0\0" + struct.pack("<ii", 32, 6) + b"a comment".ljust(24, b"\0")
    )
    packed = gzip.compress(plain, mtime=0)
    half = len(plain) // 2
    members = gzip.compress(plain[:half], mtime=0) + gzip.compress(plain[half:], mtime=0)
    pair = bytes(header(ARRAY, magic=b"ni1\0", vox_offset=0))
    short = Refused("byte|short|trunc|end|cut|damaged")

    def two_files(folder: Path, *, opened: str, data: bytes | None = ARRAY.tobytes(order="F")) -> Path:
        (folder / "scan.hdr").write_bytes(pair)
        if data is not None:
            (folder / "scan.img").write_bytes(data)
        return folder / opened

    return [
        raw("extension", "an extension of 32 bytes", extended, PLAIN, f"{H}, extensions", oracle="nibabel"),
        raw("offset-0", "vox_offset 0 in a single file: 352", nifti(ARRAY, vox_offset=0), PLAIN),
        raw("offset-beyond", "vox_offset beyond the file", nifti(ARRAY, vox_offset=1e6), short),
        raw("offset-nan", "vox_offset NaN", nifti(ARRAY, vox_offset=float("nan")), Refused("offset")),
        raw("gz", "gzip", packed, PLAIN, place="scan.nii.gz", oracle="sitk"),
        raw("gz-members", "gzip of two members", members, PLAIN, "RFC 1952, 2.2", place="scan.nii.gz", oracle="nibabel"),
        raw("gz-named-nii", "gzip under the name .nii", packed, PLAIN, place="scan.nii"),
        raw("nii-named-gz", "plain under the name .nii.gz", plain, PLAIN, place="scan.nii.gz"),
        raw("gz-truncated", "gzip cut off", packed[:-700], short, place="scan.nii.gz"),
        raw("gz-flipped-bit", "a damaged byte in the middle", packed[:900] + bytes([packed[900] ^ 255]) + packed[901:], Refused("damaged|gzip|crc|CRC|trunc"), "RFC 1952, CRC32", place="scan.nii.gz"),
        raw("gz-zeros-behind", "zeros behind the last member, as tapes leave them", packed + bytes(512), PLAIN, "gzip(1): trailing zeros", place="scan.nii.gz", oracle="nibabel"),
        raw("truncated", "the file ends in the voxels", plain[:-100], short),
        raw("header-only", "nothing behind the header", plain[:352], short),
        raw("header-cut", "100 bytes of header", plain[:100], Refused(".")),
        raw("empty", "an empty file", b"", Refused("empty|0 bytes")),
        raw("longer", "bytes behind the voxels", plain + b"more", PLAIN, oracle="nibabel"),
        raw("sizeof-hdr", "sizeof_hdr 349", nifti(ARRAY, sizeof_hdr=349), Refused(".")),
        raw("nifti2", "NIfTI-2", nifti2(ARRAY, "<"), PLAIN, "nifti2.h", oracle="nibabel"),
        raw("nifti2-big", "NIfTI-2, big endian", nifti2(ARRAY, ">"), PLAIN, "nifti2.h", oracle="nibabel"),
        Odd("nifti-pair-hdr", ".hdr and .img, the header opened", H, PLAIN, lambda f: two_files(f, opened="scan.hdr"), "sitk"),
        Odd("nifti-pair-img", ".hdr and .img, the voxels opened", H, PLAIN, lambda f: two_files(f, opened="scan.img"), "sitk"),
        Odd("nifti-pair-alone", ".hdr without .img", H, Refused("img"), lambda f: two_files(f, opened="scan.hdr", data=None)),
    ]  # fmt: skip


CASES = [*_types(), *_geometry(), *_scaling(), *_shapes(), *_containers()]
