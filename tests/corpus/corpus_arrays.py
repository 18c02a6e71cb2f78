"""NumPy arrays, picture slices and zips (numpy.lib.format; PNG and JPEG; APPNOTE.TXT of the zip format)."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from corpus_cases import RAS, Odd, Read, Refused, values
from corpus_dicom import PLAIN as CT
from corpus_dicom import slices, write
from corpus_nifti import nifti
from PIL import Image

NPY = "numpy.lib.format"
STACK = values("u1", shape=(12, 10, 8))  # (i, j, k): column, row, slice
PICTURES = Read(STACK)


def array(
    name: str, odd: str, right: Read | Refused, made: np.ndarray | bytes, *, file: str = "scan.npy", **more: Any
) -> Odd:
    """A .npy file; `made` is stored as it stands, (slice, row, column)."""

    def build(folder: Path) -> Path:
        if isinstance(made, bytes):
            (folder / file).write_bytes(made)
        else:
            np.save(folder / file, made, allow_pickle=True)
        return folder / file

    return Odd(f"npy-{name}", odd, NPY, right, build, **more)


def _saved(stored: np.ndarray, version: tuple[int, int] | None = None) -> bytes:
    written = io.BytesIO()
    np.lib.format.write_array(written, stored, version=version)
    return written.getvalue()


def _arrays() -> list[Odd]:
    hu = values("f4", low=-900, high=1200)
    zyx = hu.transpose(2, 1, 0)
    unit = ((zyx + 900) / 2100).astype("f4")
    nan = zyx.copy()
    nan[0, 0, 0] = np.nan
    right, short = Read(hu), Refused("byte|short|trunc|end|cut|damaged|voxels")
    whole = _saved(zyx)
    packed, several = io.BytesIO(), io.BytesIO()
    np.savez(packed, zyx)
    np.savez(several, a=zyx, b=zyx)
    fake = whole.replace(b"(8, 10, 12)", b"(8, 10, 99)")
    huge = whole.replace(b"'shape': (8, 10, 12), }          ", b"'shape': (80000, 100000, 12), } ")
    return [
        array("float32", "values as HU", right, zyx),
        array("unit", "values in [0, 1], as M3D writes them", Read((hu + 900) / 2100, atol=1e-5), unit),
        array("int16", "int16", right, zyx.astype("i2")),
        array("uint8", "uint8", Read(STACK), STACK.transpose(2, 1, 0)),
        array("float64", "float64", right, zyx.astype("f8")),
        array("float16", "float16", right, zyx.astype("f2")),
        array("bool", "bool: 0 and 1", Read(hu > 0), zyx > 0),
        array("big-endian", "big endian", right, zyx.astype(">f4")),
        array("fortran", "Fortran order", right, np.asfortranarray(zyx)),
        array("leading-1", "(1, N, H, W), as M3D writes them", right, zyx[None]),
        array("trailing-1", "(N, H, W, 1)", Refused("shape|dimension|4"), zyx[..., None]),
        array("4d", "(2, N, H, W)", Refused("shape|dimension|4|time"), np.stack([zyx, zyx])),
        array("2d", "(H, W)", Refused("shape|dimension|2"), zyx[0]),
        array("0d", "one number", Refused("shape|dimension|0"), np.float32(3)),
        array("zero-size", "no slices", Refused("shape|size|0|empty"), zyx[:0]),
        array("nan", "one NaN", Refused("NaN"), nan),
        array("complex", "complex", Refused("complex|voxels are"), zyx.astype("c8")),
        array("objects", "pickled objects", Refused("object|pickle"), np.array([{"a": 1}], dtype=object)),
        array("structured", "named fields", Refused("expected integers or floats"), np.zeros((8, 10, 12), [("a", "f4"), ("b", "f4")])),
        array("text", "text", Refused("voxels are|text|str|<U"), np.full((8, 10, 12), "a")),
        array("dates", "dates", Refused("voxels are|date"), np.zeros((8, 10, 12), "M8[s]")),
        array("version-2", "header version 2", right, _saved(zyx, (2, 0))),
        array("version-3", "header version 3", right, _saved(zyx, (3, 0))),
        array("version-9", "header version 9", Refused("version"), whole[:6] + b"\x09" + whole[7:]),
        array("truncated", "voxels are missing", short, whole[:-40]),
        array("longer", "bytes behind the voxels", Refused("found 3844 bytes"), whole + b"more"),
        array("header-cut", "the header is cut off", Refused("."), whole[:40]),
        array("claims-more", "the shape claims more than there is", short, fake),
        array("claims-huge", "the shape claims 96 G voxels", Refused("limit|byte|voxels|header"), huge),
        array("npz", "an .npz of one array", right, packed.getvalue(), file="scan.npz"),
        array("npz-two", "an .npz of two arrays", Refused("npz|npy|array|scan"), several.getvalue(), file="scan.npz"),
        array("named-nii", "an array under the name .nii", right, whole, file="scan.nii"),
    ]  # fmt: skip


def pictures(
    name: str, odd: str, right: Read | Refused, make: Callable[[int, np.ndarray], tuple[str, Image.Image]], **more: Any
) -> Odd:
    """A folder of one picture a slice."""

    def build(folder: Path) -> Path:
        place = folder / "slices"
        place.mkdir()
        for k in range(8):
            file, picture = make(k, np.ascontiguousarray(STACK[:, :, k].T))
            picture.save(place / file)
        return place

    return Odd(f"pictures-{name}", odd, "PNG 3rd edition; JPEG (T.81)", right, build, **more)


def _pictures() -> list[Odd]:
    grey = Image.fromarray
    sixteen = Read(STACK.astype(float) * 257)
    lightness = 0.587 * STACK[:, ::-1] + 0.413 * STACK  # ITU-R 601, as PIL has it

    def coloured(k: int, a: np.ndarray) -> tuple[str, Image.Image]:
        return f"{k:03}.png", grey(np.stack([a, a[::-1], a], -1))

    return [
        pictures("png", "8-bit PNG", PICTURES, lambda k, a: (f"{k:03}.png", grey(a))),
        pictures("numbers", "1.png, 2.png, ... 10.png: by number, not by letter", PICTURES, lambda k, a: (f"{k + 5}.png", grey(a))),
        pictures("rgb-grey", "RGB whose channels agree", PICTURES, lambda k, a: (f"{k:03}.png", grey(a).convert("RGB"))),
        pictures("rgba", "RGBA, opaque", PICTURES, lambda k, a: (f"{k:03}.png", grey(a).convert("RGBA"))),
        pictures("palette-grey", "a grey palette", PICTURES, lambda k, a: (f"{k:03}.png", grey(a).convert("P"))),
        pictures("16-bit", "16-bit PNG", sixteen, lambda k, a: (f"{k:03}.png", grey(a.astype("u2") * 257))),
        pictures("colour", "colour: read as grey, and said", Read(lightness, note="colour", atol=1), coloured),
        pictures("sizes", "one picture of another size", Refused("size|differ|×"), lambda k, a: (f"{k:03}.png", grey(a[:5] if k == 3 else a))),
        pictures("bits-1", "black and white", Read((STACK > 60) * 255.0), lambda k, a: (f"{k:03}.png", grey(a > 60))),
    ]  # fmt: skip


def zipped(
    name: str,
    odd: str,
    right: Read | Refused,
    made: dict[str, bytes],
    *,
    change: Callable[[bytes], bytes] = lambda content: content,
    **more: Any,
) -> Odd:
    def build(folder: Path) -> Path:
        written = io.BytesIO()
        with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as archive:
            for file, content in made.items():
                archive.writestr(file, content)
        (folder / "scan.zip").write_bytes(change(written.getvalue()))
        return folder / "scan.zip"

    return Odd(f"zip-{name}", odd, "APPNOTE.TXT 6.3", right, build, **more)


def _zips() -> list[Odd]:
    scan = nifti(values())
    plain = Read(values(), RAS)

    def dicom(folder: Path) -> Path:
        place = write(folder, slices())
        with zipfile.ZipFile(folder / "scan.zip", "w") as archive:
            for file in sorted(place.iterdir()):
                archive.write(file, f"study/series/{file.name}")
        return folder / "scan.zip"

    def encrypted(content: bytes) -> bytes:
        local, central = content.index(b"PK\3\4"), content.index(b"PK\1\2")
        made = bytearray(content)
        made[local + 6] |= 1
        made[central + 8] |= 1
        return bytes(made)

    def claiming(content: bytes) -> bytes:
        made = bytearray(content)
        struct.pack_into("<I", made, content.index(b"PK\1\2") + 24, 0xFFFFFFF0)
        return bytes(made)

    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("scan.nii", scan)
    return [
        Odd("zip-dicom", "a series", "APPNOTE.TXT 6.3", CT, dicom),
        zipped("nifti", "one file", plain, {"scan.nii": scan}),
        zipped("mac", "with what a Mac leaves", plain, {"scan.nii": scan, "__MACOSX/._scan.nii": b"\0\5\x16\7", ".DS_Store": b"x"}),
        zipped("readme", "with a text", plain, {"scan.nii": scan, "readme.txt": b"hello"}),
        zipped("two", "two scans", Refused("2|two|several"), {"a.nii": scan, "b.nii": scan}),
        zipped("inner", "a zip in a zip", Refused("zip|no scan|none"), {"inner.zip": inner.getvalue()}),
        zipped("empty", "nothing in it", Refused("empty|no file|none|no scan"), {}),
        zipped("text", "only a text", Refused("none|no scan|text"), {"readme.txt": b"hello"}),
        zipped("outside", "a name that leads outside", Refused("path|outside|name|unsafe"), {"../scan.nii": scan}),
        zipped("encrypted", "with a password", Refused("password|encrypt"), {"scan.nii": scan}, change=encrypted),
        zipped("cut", "cut off", Refused("damaged|zip|trunc"), {"scan.nii": scan}, change=lambda content: content[:-30]),
        zipped("claims", "4 GB claimed", Refused("byte|GB|GiB|large|size|claim|damaged"), {"scan.nii": scan}, change=claiming),
        zipped("flipped", "a damaged byte", Refused("damaged|CRC|zip"), {"scan.nii": scan}, change=lambda c: c[:400] + bytes([c[400] ^ 255]) + c[401:]),
    ]  # fmt: skip


def _others() -> list[Odd]:
    def written(name: str, content: bytes) -> Callable[[Path], Path]:
        def build(folder: Path) -> Path:
            (folder / name).write_bytes(content)
            return folder / name

        return build

    def nothing(folder: Path) -> Path:
        return folder / "scan.nii"

    def empty_folder(folder: Path) -> Path:
        (folder / "series").mkdir()
        return folder / "series"

    wild = "what people drag into a window"
    return [
        Odd("other-missing", "no such file", wild, Refused("no such file"), nothing),
        Odd("other-empty-folder", "an empty folder", wild, Refused("no file|empty|none"), empty_folder),
        Odd("other-text", "a text", wild, Refused("text"), written("report.txt", b"no findings")),
        Odd("other-pdf", "a PDF", wild, Refused("PDF|known|expected"), written("report.pdf", b"%PDF-1.7\n")),
        Odd("other-html", "an error page named .nii.gz", wild, Refused("text|HTML|expected"), written("scan.nii.gz", b"<!doctype html><html></html>")),
        Odd("other-one-byte", "the one byte 0x80, a pickle's first", "found by fuzzing", Refused("."), written("scan", b"\x80")),
        Odd("other-pickle", "a pickle", wild, Refused("pickle|expected"), written("scan.pkl", b"\x80\4N.")),
        Odd("other-noise", "noise", wild, Refused("."), written("scan.nii", np.random.default_rng(3).bytes(3000))),
    ]  # fmt: skip


CASES = [*_arrays(), *_pictures(), *_zips(), *_others()]
