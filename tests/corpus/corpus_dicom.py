"""DICOM inputs: a small axial CT in one file a slice, each time with one thing odd (PS3.3, PS3.5, PS3.10)."""

from __future__ import annotations

import base64
import io
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from corpus_cases import Odd, Read, Refused, values
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
    MRImageStorage,
    PositronEmissionTomographyImageStorage,
    RLELossless,
    generate_uid,
)

from dicom_items import item

FIXTURES = Path(__file__).parents[1] / "fixtures"
ARRAY = values()  # (i, j, k): column, row, slice
LPS = np.array([[2.0, 0, 0, -11], [0, 1.5, 0, -7], [0, 0, 3.0, 40], [0, 0, 0, 1]])
RAS = np.diag([-1.0, -1, 1, 1]) @ LPS
PLAIN = Read(ARRAY, RAS, unit="HU")
Edit = Callable[[Dataset, int], None]


def slices(array: np.ndarray = ARRAY, *, modality: str = "CT") -> list[FileDataset]:
    """One dataset a slice."""
    study, series, frame = (generate_uid(entropy_srcs=[word]) for word in ("study", "series", "frame"))
    kind = {"CT": CTImageStorage, "MR": MRImageStorage, "PT": PositronEmissionTomographyImageStorage}[modality]
    made = []
    for k in range(array.shape[2]):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = kind, ExplicitVRLittleEndian
        meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[f"slice {k}"])
        dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
        dataset.SOPClassUID, dataset.SOPInstanceUID = kind, meta.MediaStorageSOPInstanceUID
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.FrameOfReferenceUID = study, series, frame
        dataset.Modality, dataset.PatientID, dataset.PatientName = modality, "P1", "Odd^One"
        dataset.InstanceNumber, dataset.SeriesNumber, dataset.AcquisitionNumber = k + 1, 1, 1
        dataset.Rows, dataset.Columns = array.shape[1], array.shape[0]
        dataset.PixelSpacing, dataset.SliceThickness = [1.5, 2.0], 3.0
        dataset.ImagePositionPatient, dataset.ImageOrientationPatient = [-11, -7, 40 + 3 * k], [1, 0, 0, 0, 1, 0]
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 1
        dataset.RescaleSlope, dataset.RescaleIntercept = 1, 0
        if modality == "CT":
            dataset.RescaleType = "HU"
        dataset.PixelData = np.ascontiguousarray(array[:, :, k].T).astype("<i2").tobytes()
        made.append(dataset)
    return made


def write(folder: Path, datasets: list[FileDataset], *, syntax: str = ExplicitVRLittleEndian) -> Path:
    """Files in a folder of their own."""
    place = folder / "series"
    place.mkdir(exist_ok=True)
    for number, dataset in enumerate(datasets):
        dataset.file_meta.TransferSyntaxUID = syntax
        if syntax == ExplicitVRBigEndian:
            dataset.PixelData = np.frombuffer(dataset.PixelData, "<i2").astype(">i2").tobytes()
        pydicom.dcmwrite(
            place / f"{number:03}.dcm",
            dataset,
            implicit_vr=syntax == ImplicitVRLittleEndian,
            little_endian=syntax != ExplicitVRBigEndian,
            enforce_file_format=True,
        )
    return place


def series(
    name: str,
    odd: str,
    right: Read | Refused,
    edit: Edit | None = None,
    *,
    source: str,
    modality: str = "CT",
    array: np.ndarray = ARRAY,
    syntax: str = ExplicitVRLittleEndian,
    after: Callable[[Path], Path | None] | None = None,
    order: list[int] | None = None,
    **more: Any,
) -> Odd:
    """The usual series, edited slice by slice; `after` may change the written folder or open another path."""

    def build(folder: Path) -> Path:
        datasets = slices(array, modality=modality)
        for k, dataset in enumerate(datasets):
            if edit is not None:
                edit(dataset, k)
        datasets = [datasets[k] for k in order] if order is not None else datasets
        place = write(folder, datasets, syntax=syntax)
        return (after(place) if after is not None else None) or place

    return Odd(f"dicom-{name}", odd, source, right, build, **more)


def setting(**wanted: Any) -> Edit:
    """The same elements in every slice; None takes one out."""

    def edit(dataset: Dataset, k: int) -> None:
        for keyword, value in wanted.items():
            if value is None:
                delattr(dataset, keyword)
            else:
                setattr(dataset, keyword, value(k) if callable(value) else value)

    return edit


def _encodings() -> list[Odd]:
    def packed(name: str, odd: str, syntax: str) -> Odd:
        def build(folder: Path) -> Path:
            place = folder / "series"
            place.mkdir()
            for k, dataset in enumerate(slices()):
                dataset.compress(syntax, generate_instance_uid=False)
                dataset.save_as(place / f"{k:03}.dcm", enforce_file_format=True)
            return place

        return Odd(f"dicom-{name}", odd, "PS3.5, annex A", PLAIN, build, "pydicom")

    def htj2k(name: str, odd: str, syntax: str, right: Read | Refused = PLAIN, *, cut: int | None = None) -> Odd:
        def build(folder: Path) -> Path:
            place = folder / "series"
            place.mkdir()
            stored = json.loads((FIXTURES / "htj2k.json").read_text())["slices"]
            for k, dataset in enumerate(slices()):
                dataset.file_meta.TransferSyntaxUID = UID(syntax) if UID(syntax).is_transfer_syntax else HTJ2KLossless
                dataset.PixelData = encapsulate([base64.b64decode(stored[k])[: cut if k == 3 else None]])
                dataset["PixelData"].VR = "OB"
                file = place / f"{k:03}.dcm"
                dataset.save_as(file, enforce_file_format=True)
                file.write_bytes(
                    file.read_bytes().replace(dataset.file_meta.TransferSyntaxUID.encode(), syntax.encode())
                )
            return place

        return Odd(f"dicom-{name}", odd, "PS3.5, 8.2.14 and annex A.4; made by OpenJPH", right, build)

    def bare(implicit: bool) -> Callable[[Path], None]:
        def strip(place: Path) -> None:
            for file in sorted(place.iterdir()):
                dataset = pydicom.dcmread(file)
                written = io.BytesIO()
                plain = Dataset(dict(dataset._dict))
                pydicom.dcmwrite(written, plain, implicit_vr=implicit, little_endian=True, enforce_file_format=False)
                file.write_bytes(written.getvalue())

        return strip

    def no_preamble(place: Path) -> None:
        for file in sorted(place.iterdir()):
            file.write_bytes(file.read_bytes()[128:])

    def cut(place: Path) -> None:
        file = place / "003.dcm"
        file.write_bytes(file.read_bytes()[:-50])

    def wrong_syntax(place: Path) -> None:
        for file in sorted(place.iterdir()):
            content = file.read_bytes()
            file.write_bytes(content.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.9.9.9\0"))

    rules = "PS3.5, chapter 7 and annex A"
    return [
        series("plain", "nothing", PLAIN, source=rules, oracle="sitk"),
        series("implicit", "implicit VR", PLAIN, source=rules, syntax=ImplicitVRLittleEndian, oracle="sitk"),
        series("big", "big endian, retired", PLAIN, source=rules, syntax=ExplicitVRBigEndian, oracle="pydicom"),
        series("deflated", "deflated", PLAIN, source=rules, syntax=DeflatedExplicitVRLittleEndian, oracle="pydicom"),
        packed("rle", "RLE", RLELossless),
        packed("jpegls", "JPEG-LS, lossless", JPEGLSLossless),
        htj2k("htj2k", "high-throughput JPEG 2000, lossless", "1.2.840.10008.1.2.4.201"),
        htj2k("htj2k-rpcl", "the same, in order of resolution", "1.2.840.10008.1.2.4.202"),
        htj2k("htj2k-any", "the same where it may be lossy", "1.2.840.10008.1.2.4.203"),
        htj2k("htj2k-cut", "one codestream cut off", "1.2.840.10008.1.2.4.201", Refused("decoded"), cut=60),
        htj2k("jpeg-xl", "JPEG XL, which nothing here decodes: named", "1.2.840.10008.1.2.4.110", Refused("JPEG XL")),
        series("no-meta-implicit", "no meta header, implicit VR", PLAIN, source="PS3.10, 7.1; pydicom force=True", after=bare(True), oracle="sitk"),
        series("no-meta-explicit", "no meta header, explicit VR", PLAIN, source="PS3.10, 7.1; pydicom force=True", after=bare(False), oracle="sitk"),
        series("no-preamble", "the prefix DICM without the 128 bytes before it", Refused("none of them a scan"), source="PS3.10, 7.1", after=no_preamble),
        series("cut", "one file ends in the pixels", Refused("byte|trunc|end|cut|short|pixel"), source=rules, after=cut),
        series("syntax-unknown", "a transfer syntax nobody knows", Refused("syntax"), source=rules, after=wrong_syntax),
        series("one-file", "one file of a series", Refused("2D|slice|one"), source="PS3.3, C.7.6.2", after=lambda place: place / "000.dcm"),
    ]  # fmt: skip


def _files() -> list[Odd]:
    rules = "a folder as scanners and people leave it"

    def spoil(content: bytes, count: int) -> Callable[[Path], None]:
        def after(place: Path) -> None:
            for file in sorted(place.iterdir())[2 : 2 + count]:
                file.write_bytes(content)

        return after

    def beside(**made: bytes) -> Callable[[Path], None]:
        def after(place: Path) -> None:
            for name, content in made.items():
                (place / name.replace("_", ".")).write_bytes(content)

        return after

    def subfolders(place: Path) -> None:
        for number, file in enumerate(sorted(place.iterdir())):
            (place / f"{number % 2}").mkdir(exist_ok=True)
            file.rename(place / f"{number % 2}" / file.name)

    def no_suffix(place: Path) -> None:
        for file in sorted(place.iterdir()):
            file.rename(place / file.stem)

    def copies(place: Path) -> None:
        for file in sorted(place.iterdir()):
            (place / f"copy{file.name}").write_bytes(file.read_bytes())

    short = Read(np.delete(ARRAY, [2, 3, 4], axis=2), None, note="002.dcm")
    return [
        series("names-reversed", "file names run against the slices", PLAIN, source=rules, order=[*range(7, -1, -1)], oracle="sitk"),
        series("names-random", "file names say nothing", PLAIN, source=rules, order=[3, 0, 7, 1, 6, 2, 5, 4], oracle="sitk"),
        series("no-suffix", "no .dcm", PLAIN, source=rules, after=no_suffix, oracle="sitk"),
        series("subfolders", "slices in two folders below", PLAIN, source=rules, after=subfolders),
        series("copies", "every file twice", Read(ARRAY, RAS, note="duplicate"), source=rules, after=copies),
        series("empty-files", "3 of 8 files are empty", short, source=rules, after=spoil(b"", 3)),
        series("html-files", "3 of 8 files are error pages", short, source=rules, after=spoil(b"<html><body>404</body></html>", 3)),
        series("text-beside", "a readme beside the slices", Read(ARRAY, RAS), source=rules, after=beside(README_txt=b"hello")),
        series("ds-store", "what a Mac leaves", PLAIN, source=rules, after=beside(_DS_Store=b"\0\0\0\1Bud1")),
        series("dicomdir", "a file called DICOMDIR that is empty", PLAIN, source=rules, after=beside(DICOMDIR=b"")),
    ]  # fmt: skip


def _order() -> list[Odd]:
    rules = "PS3.3, C.7.6.2: the position orders slices, not the number"
    missing = [0, 1, 2, 4, 5, 6, 7]

    def shifted(dataset: Dataset, k: int) -> None:
        if 4 <= k <= 6:
            dataset.ImagePositionPatient = [19, -7, 40 + 3 * k]

    def second_pass(dataset: Dataset, k: int) -> None:
        half = k >= 4
        dataset.AcquisitionNumber = 1 + half
        dataset.ImagePositionPatient = [-11, -7, 40 + 6 * (k - 4 * half) + (1.5 if half else 0)]

    def twice(**wanted: Any) -> Edit:
        def edit(dataset: Dataset, k: int) -> None:
            dataset.ImagePositionPatient = [-11, -7, 40 + 3 * (k % 4)]
            for keyword, value in wanted.items():
                setattr(dataset, keyword, value(k // 4))

        return edit

    def two_stacks(dataset: Dataset, k: int) -> None:
        if k >= 4:
            dataset.ImagePositionPatient = [29, -7, 41.5 + 3 * (k - 4)]

    def tilt(dataset: Dataset, k: int) -> None:
        angle = np.deg2rad(15)
        dataset.ImageOrientationPatient = [1, 0, 0, 0, float(np.cos(angle)), float(-np.sin(angle))]

    tilted = LPS.copy()
    tilted[:3, 1] = 1.5 * np.array([0, np.cos(np.deg2rad(15)), -np.sin(np.deg2rad(15))])

    def oblique(dataset: Dataset, k: int) -> None:
        c, s = float(np.cos(0.3)), float(np.sin(0.3))
        dataset.ImageOrientationPatient = [c, s, 0, -s, c, 0]

    turned = np.eye(4)
    turned[:3, 0], turned[:3, 1] = (
        2 * np.array([np.cos(0.3), np.sin(0.3), 0]),
        1.5 * np.array([-np.sin(0.3), np.cos(0.3), 0]),
    )
    turned[2, 2], turned[:3, 3] = 3, LPS[:3, 3]
    coronal = np.array([[2.0, 0, 0, -11], [0, 0, 3.0, -7], [0, -1.5, 0, 40], [0, 0, 0, 1]])
    sagittal = np.array([[0, 0, 3.0, -11], [2.0, 0, 0, -7], [0, -1.5, 0, 40], [0, 0, 0, 1]])
    flip = np.diag([-1.0, -1, 1, 1])
    down = LPS @ np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1.0, 0], [0, 0, 0, 1]])
    both = Refused("time|echo|group|stack|several|two|images|position|acquisition|b-value|phase")
    return [
        series("numbers-reversed", "InstanceNumber against the position", PLAIN, setting(InstanceNumber=lambda k: 8 - k), source=rules, oracle="sitk"),
        series("numbers-missing", "no InstanceNumber", PLAIN, setting(InstanceNumber=None), source=rules),
        series("numbers-equal", "every InstanceNumber is 1", PLAIN, setting(InstanceNumber=1), source=rules),
        series("head-first", "slices from head to foot", Read(ARRAY, flip @ down), setting(ImagePositionPatient=lambda k: [-11, -7, 40 - 3 * k]), source=rules, oracle="sitk"),
        series("coronal", "coronal", Read(ARRAY, flip @ coronal), setting(ImageOrientationPatient=[1, 0, 0, 0, 0, -1], ImagePositionPatient=lambda k: [-11, -7 + 3 * k, 40]), source=rules, oracle="sitk"),
        series("sagittal", "sagittal", Read(ARRAY, flip @ sagittal), setting(ImageOrientationPatient=[0, 1, 0, 0, 0, -1], ImagePositionPatient=lambda k: [-11 + 3 * k, -7, 40]), source=rules, oracle="sitk"),
        series("oblique", "turned in plane by 17 degrees", Read(ARRAY, flip @ turned), oblique, source=rules, oracle="sitk"),
        series("tilt", "a gantry tilt of 15 degrees", Read(ARRAY, flip @ tilted, note="tilt"), tilt, source="PS3.3, C.8.2.1: GantryDetectorTilt"),
        series("gap", "one slice is missing", Read(np.delete(ARRAY, 3, axis=2), None, note="missing"), source=rules, order=missing),
        series("thickness-wrong", "SliceThickness 1, slices 3 mm apart", PLAIN, setting(SliceThickness=1), source="PS3.3, C.7.6.2.1.1", oracle="sitk"),
        series("thickness-missing", "no SliceThickness", PLAIN, setting(SliceThickness=None), source=rules, oracle="sitk"),
        series("slices-shifted", "slices 4 to 6 lie 30 mm to the side", Refused("line|side|position|shift|stack|several"), shifted, source=rules),
        series("two-passes", "a second pass, shifted half a slice", both, second_pass, source="AcquisitionNumber (0020,0012)"),
        series("two-stacks", "two stacks side by side", both, two_stacks, source="PS3.3, C.7.6.16.2.2.4"),
        series("two-echoes", "every place twice, by echo", both, twice(EchoTime=lambda g: [10, 80][g], EchoNumbers=lambda g: g + 1), modality="MR", source="EchoTime (0018,0081)"),
        series("two-b-values", "every place twice, by b-value", both, twice(DiffusionBValue=lambda g: [0.0, 1000.0][g]), modality="MR", source="DiffusionBValue (0018,9087)"),
        series("two-times", "every place twice, by time", both, twice(TemporalPositionIdentifier=lambda g: g + 1), modality="MR", source="TemporalPositionIdentifier (0020,0100)"),
        series("other-image", "two images at one place", Refused("place|position|time|two|images"), setting(ImagePositionPatient=lambda k: [-11, -7, 40 + 3 * min(k, 6)]), source=rules),
        series("uneven", "slices 3 mm apart, then 6", Read(ARRAY, None, note="missing"), setting(ImagePositionPatient=lambda k: [-11, -7, 40 + 3 * k + 3 * max(0, k - 4)]), source=rules),
        series("other-size", "one slice of another size", Refused("size|rows|Rows|12|differ"), lambda d, k: setting(Rows=5, PixelData=d.PixelData[:120])(d, k) if k == 3 else None, source=rules),
        series("two-series", "two series in one folder", Refused("series"), lambda d, k: setting(SeriesInstanceUID=generate_uid(entropy_srcs=["other"]))(d, k) if k > 3 else None, source=rules),
    ]  # fmt: skip


def _tags() -> list[Odd]:
    plane = "PS3.3, C.7.6.2"
    return [
        series("position-missing", "no ImagePositionPatient", Refused("ImagePositionPatient"), setting(ImagePositionPatient=None), source=plane),
        series("position-one-missing", "one slice has no position", Refused("position|Position"), lambda d, k: delattr(d, "ImagePositionPatient") if k == 3 else None, source=plane),
        series("orientation-missing", "no ImageOrientationPatient", Refused("ImageOrientationPatient"), setting(ImageOrientationPatient=None), source=plane),
        series("orientation-zero", "an orientation of zeros", Refused("rientation"), setting(ImageOrientationPatient=[0] * 6), source=plane),
        series("orientation-not-square", "axes at 60 degrees", Refused("rientation"), setting(ImageOrientationPatient=[1, 0, 0, 0.5, 0.866, 0]), source=plane),
        series("orientation-one-differs", "one slice is turned", Refused("rientation"), lambda d, k: setting(ImageOrientationPatient=[0, 1, 0, -1, 0, 0])(d, k) if k == 3 else None, source=plane),
        series("spacing-missing", "no PixelSpacing", Refused("PixelSpacing|spacing"), setting(PixelSpacing=None), source="PS3.3, 10.7.1"),
        series("spacing-zero", "PixelSpacing 0", Refused("PixelSpacing|spacing"), setting(PixelSpacing=[0, 0]), source="PS3.3, 10.7.1"),
        series("spacing-negative", "PixelSpacing below 0", Refused("PixelSpacing|spacing"), setting(PixelSpacing=[-1.5, 2]), source="PS3.3, 10.7.1"),
        series("spacing-comma", r"PixelSpacing 1,5\2,0 with commas", PLAIN, source="PS3.5, 6.2: DS; a known fault of exporters", after=_commas),
        series("rescale-missing", "a CT without rescale: as stored", Read(ARRAY, RAS), setting(RescaleSlope=None, RescaleIntercept=None), source="PS3.3, C.11.1"),
        series("rescale", "slope 2, intercept -1024", Read(ARRAY * 2.0 - 1024, RAS, unit="HU"), setting(RescaleSlope=2, RescaleIntercept=-1024), source="PS3.3, C.11.1", array=ARRAY, oracle="sitk"),
        series("rescale-by-slice", "each slice has its own slope", Read(ARRAY * np.arange(1.0, 9), RAS), setting(RescaleSlope=lambda k: k + 1), source="PS3.3, C.11.1", modality="PT", oracle="sitk"),
        series("rescale-zero", "slope 0", Refused("lope"), setting(RescaleSlope=0), source="PS3.3, C.11.1"),
        series("rescale-mgml", "RescaleType MGML: no HU", Read(ARRAY, RAS, unit="arbitrary"), setting(RescaleType="MGML"), source="PS3.3, C.11.1.1.2"),
        series("rescale-us", "RescaleType US: unspecified", Read(ARRAY, RAS), setting(RescaleType="US"), source="PS3.3, C.11.1.1.2"),
        series("window-odd", "WindowWidth 0", PLAIN, setting(WindowCenter=40, WindowWidth=0), source="PS3.3, C.11.2", oracle="sitk"),
        series("charset", "a name in latin-1 under UTF-8", PLAIN, lambda d, k: d.add_new(0x00104000, "LT", b"H\xf6hle"), source="PS3.3, C.12.1.1.2"),
        series("private", "a private block", PLAIN, lambda d, k: d.private_block(0x0029, "ODD", create=True).add_new(1, "OB", b"\0\1"), source="PS3.5, 7.8", oracle="sitk"),
        series("modality-missing", "no Modality", Read(ARRAY, RAS), setting(Modality=None), source="PS3.3, C.7.3.1"),
        series("instance-uid-missing", "no SOPInstanceUID", PLAIN, setting(SOPInstanceUID=None), source="PS3.3, C.12.1"),
    ]  # fmt: skip


def _commas(place: Path) -> None:
    for file in sorted(place.iterdir()):
        content = file.read_bytes()
        old = pydicom.dcmread(file)["PixelSpacing"]
        text = "\\".join(str(v) for v in old.value).encode()
        assert content.count(text) == 1
        file.write_bytes(content.replace(text, text.replace(b".", b",")))


def _pixels() -> list[Odd]:
    rules = "PS3.3, C.7.6.3; PS3.5, 8.1"
    twelve = ARRAY % 4096

    def stored(array: np.ndarray, kind: str = "<u2", **elements: Any) -> Edit:
        def edit(dataset: Dataset, k: int) -> None:
            dataset.PixelData = np.ascontiguousarray(array[:, :, k].T).astype(kind).tobytes()
            setting(**elements)(dataset, k)

        return edit

    overlay = twelve.astype("u2") | np.uint16(0x8000)
    signed12 = (ARRAY % 4096) - 2048
    padded = ARRAY.copy()
    padded[:2] = -2000
    eight = (ARRAY % 250).astype("u1")
    air = padded.astype(float)
    air[:2] = ARRAY[2:].min()
    rgb = {
        "SamplesPerPixel": 3,
        "PhotometricInterpretation": "RGB",
        "PlanarConfiguration": 0,
        "BitsAllocated": 8,
        "BitsStored": 8,
        "HighBit": 7,
        "PixelRepresentation": 0,
        "PixelData": bytes(12 * 10 * 3),
    }
    return [
        series("unsigned", "unsigned", Read(ARRAY % 4096, RAS), stored(twelve, PixelRepresentation=0), source=rules, oracle="sitk"),
        series("bits-12", "12 of 16 bits, signed: the sign is bit 11", Read(signed12, RAS), stored(signed12 & 0xFFF, BitsStored=12, HighBit=11), source=rules, oracle="pydicom"),
        series("bits-8", "8 bits", Read(eight, RAS), stored(eight, "u1", BitsAllocated=8, BitsStored=8, HighBit=7, PixelRepresentation=0), source=rules, modality="MR", oracle="sitk"),
        series("overlay-bits", "an overlay in the unused high bit", Read(twelve, RAS), stored(overlay, BitsStored=12, HighBit=11, PixelRepresentation=0), source="PS3.5, 8.1.2 (retired)", oracle="pydicom"),
        series("high-bit", "HighBit 15 of 12 bits: the values lie high", Refused("bit|Bit"), setting(BitsStored=12, HighBit=15), source="PS3.5, 8.1.1 (retired)"),
        series("monochrome1-mr", "MONOCHROME1 of an MR: inverted", Read((ARRAY % 4096).max() + (ARRAY % 4096).min() - ARRAY % 4096, RAS), stored(twelve, PixelRepresentation=0, PhotometricInterpretation="MONOCHROME1"), source="PS3.3, C.7.6.3.1.2", modality="MR"),
        series("monochrome1-ct", "MONOCHROME1 of a CT in HU: HU stay HU", PLAIN, setting(PhotometricInterpretation="MONOCHROME1"), source="PS3.3, C.7.6.3.1.2"),
        series("rgb", "colour", Refused("colour|RGB"), setting(**rgb), source="PS3.3, C.7.6.3.1.2"),
        series("palette", "palette colour", Refused("PALETTE|palette|colour"), setting(PhotometricInterpretation="PALETTE COLOR"), source="PS3.3, C.7.6.3.1.2"),
        series("padding", "PixelPaddingValue outside the field of view: as air", Read(air, RAS), stored(padded, "<i2", PixelPaddingValue=-2000), source="PS3.3, C.7.5.1.1.2", pending=None),
        series("float", "FloatPixelData", Read(ARRAY.astype("f4"), RAS), lambda d, k: (setting(FloatPixelData=np.ascontiguousarray(ARRAY[:, :, k].T).astype("<f4").tobytes(), BitsAllocated=32, PixelData=None)(d, k)), source="PS3.3, C.7.6.24", oracle="pydicom"),
        series("pixels-missing", "one slice without PixelData", Refused("PixelData|pixel"), lambda d, k: delattr(d, "PixelData") if k == 3 else None, source=rules),
        series("pixels-short", "PixelData shorter than Rows and Columns", Refused("byte|pixel"), lambda d, k: setattr(d, "PixelData", d.PixelData[:-20]), source=rules),
        series("pixels-long", "bytes behind the pixels", PLAIN, lambda d, k: setattr(d, "PixelData", d.PixelData + bytes(16)), source=rules, oracle="pydicom"),
        series("rows-zero", "Rows 0", Refused("Rows|size|0"), setting(Rows=0), source=rules),
        series("frames-1", "NumberOfFrames 1 in every file", PLAIN, setting(NumberOfFrames=1), source="PS3.3, C.7.6.6", oracle="sitk"),
        series("constant", "one value everywhere", Refused("every voxel is"), stored(np.full_like(ARRAY, 7), "<i2"), source="a failed export"),
    ]  # fmt: skip


def _multiframe() -> list[Odd]:
    def enhanced(*, drop: str | None = None, order: list[int] | None = None) -> Callable[[Path], Path]:
        def build(folder: Path) -> Path:
            dataset = slices()[0]
            dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = EnhancedCTImageStorage
            for keyword in (
                "ImagePositionPatient",
                "ImageOrientationPatient",
                "PixelSpacing",
                "SliceThickness",
                "RescaleSlope",
                "RescaleIntercept",
                "RescaleType",
            ):
                delattr(dataset, keyword)
            frames = order or list(range(8))
            dataset.NumberOfFrames = 8
            dataset.PixelData = b"".join(np.ascontiguousarray(ARRAY[:, :, k].T).tobytes() for k in frames)
            shared = item(
                PixelMeasuresSequence=Sequence([item(PixelSpacing=[1.5, 2.0], SliceThickness=3.0)]),
                PlaneOrientationSequence=Sequence([item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])]),
                PixelValueTransformationSequence=Sequence([item(RescaleSlope=1, RescaleIntercept=0, RescaleType="HU")]),
            )
            if drop is not None:
                delattr(shared, drop)
            dataset.SharedFunctionalGroupsSequence = Sequence([shared])
            dataset.PerFrameFunctionalGroupsSequence = Sequence(
                [
                    item(PlanePositionSequence=Sequence([item(ImagePositionPatient=[-11, -7, 40 + 3 * k])]))
                    for k in frames
                ]
            )
            dataset.save_as(folder / "scan.dcm", enforce_file_format=True)
            return folder / "scan.dcm"

        return build

    rules = "PS3.3, A.38 and C.7.6.16"
    return [
        Odd("dicom-enhanced", "one file of eight frames", rules, PLAIN, enhanced(), "sitk"),
        Odd("dicom-enhanced-shuffled", "frames in any order", rules, PLAIN, enhanced(order=[5, 1, 7, 0, 2, 6, 3, 4])),
        Odd("dicom-enhanced-no-orientation", "frames without orientation", rules, Refused("ImageOrientationPatient"), enhanced(drop="PlaneOrientationSequence")),
        Odd("dicom-enhanced-no-spacing", "frames without spacing", rules, Refused("spacing|Spacing"), enhanced(drop="PixelMeasuresSequence")),
    ]  # fmt: skip


def _pet() -> list[Odd]:
    def pet(**changes: Any) -> Edit:
        def edit(dataset: Dataset, k: int) -> None:
            dose = {
                "RadionuclideTotalDose": 3.7e8,
                "RadionuclideHalfLife": 6586.2,
                "RadiopharmaceuticalStartTime": "100000",
            }
            wanted = {
                "Units": "BQML",
                "DecayCorrection": "START",
                "CorrectedImage": ["DECY", "ATTN"],
                "PatientWeight": 70,
                "SeriesDate": "20200101",
                "SeriesTime": "110000",
                "AcquisitionDate": "20200101",
                "AcquisitionTime": "110000",
                **changes,
            }
            for keyword, value in wanted.items():
                if keyword in dose or keyword == "RadiopharmaceuticalStartDateTime":
                    dose[keyword] = value
                else:
                    setattr(dataset, keyword, value)
            dataset.RadiopharmaceuticalInformationSequence = Sequence(
                [item(**{k: v for k, v in dose.items() if v is not None})]
            )

        return edit

    positive = np.abs(ARRAY) * 5.0
    factor = 70 * 1000 / (3.7e8 * 2 ** (-3600 / 6586.2))
    suv = Read(positive * factor, RAS, unit="SUV", atol=1e-4)
    stays = Read(positive, RAS, unit="arbitrary")
    qiba = "QIBA, SUV computation; PS3.3, C.8.9.1"
    kept = {"modality": "PT", "array": positive, "source": qiba}
    zones = kept | {"source": "PS3.3, C.12.1.1.8; PS3.5, 6.2: DT"}
    return [
        series("pet", "a PET in Bq/ml becomes SUV", suv, pet(), **kept),
        series("pet-series-later", "SeriesTime later than AcquisitionTime (post-processed): the acquisition counts", suv, pet(SeriesTime="150000"), **kept),
        series("pet-days-before", "the dose was given four days before the scan", Read(positive * 70 * 1000 / (3.7e8 * 2 ** (-(4 * 86400 + 3600) / 282240)), RAS, unit="SUV"), pet(RadiopharmaceuticalStartDateTime="20191228100000", RadionuclideHalfLife=282240), **kept),
        series("pet-no-decay", "decay correction NONE: no SUV", stays, pet(DecayCorrection="NONE"), **kept),
        series("pet-admin", "decay correction ADMIN: to the time of the dose", Read(positive * 70 * 1000 / 3.7e8, RAS, unit="SUV"), pet(DecayCorrection="ADMIN"), **kept),
        series("pet-no-dose", "no dose: no SUV", stays, pet(RadionuclideTotalDose=None), **kept),
        series("pet-no-weight", "no weight: no SUV", stays, pet(PatientWeight=0), **kept),
        series("pet-counts", "Units CNTS: no SUV", stays, pet(Units="CNTS"), **kept),
        series("pet-zone-of-dose", "the dose's time in UTC, the scan's two hours ahead of it", suv, pet(TimezoneOffsetFromUTC="+0200", RadiopharmaceuticalStartDateTime="20200101080000+0000"), **zones),
        series("pet-zone-same", "both in one zone that the dose's time repeats", suv, pet(TimezoneOffsetFromUTC="-0500", RadiopharmaceuticalStartDateTime="20200101100000-0500"), **zones),
        series("pet-zone-of-scan", "the zone of the scan stands in AcquisitionDateTime", suv, pet(AcquisitionDateTime="20200101110000+0200", RadiopharmaceuticalStartDateTime="20200101080000.00+0000"), **zones),
        series("pet-zone-day", "midnight lies between the zones", suv, pet(TimezoneOffsetFromUTC="+1200", RadiopharmaceuticalStartDateTime="20191231220000+0000"), **zones),
        series("pet-zone-unknown", "the dose's time in UTC, the scan's zone not named: no SUV", Read(positive, RAS, unit="arbitrary", note="+0000"), pet(RadiopharmaceuticalStartDateTime="20200101080000+0000"), **zones),
        series("pet-zone-by-clock", "no zone of the scan, but the dose's clock time says that it is the same", suv, pet(RadiopharmaceuticalStartDateTime="20200101100000+0200"), **zones),
        series("pet-zone-damaged", "a zone that is none", suv, pet(TimezoneOffsetFromUTC="CET"), **zones),
        series("pet-no-half-life", "no half-life: no SUV", stays, pet(RadionuclideHalfLife=None), **kept),
    ]  # fmt: skip


def _hostile() -> list[Odd]:
    def sequence_for_text(place: Path) -> Path:
        meta = b"\x02\0\x10\0UI" + struct.pack("<H", 20) + b"1.2.840.10008.1.2.1\0"
        group = b"\x02\0\0\0UL" + struct.pack("<HI", 4, len(meta))
        body = b"\x08\0\x60\0SQ\0\0" + struct.pack("<I", 12) + b"garbage!1234"
        file = place.parent / "odd.dcm"
        file.write_bytes(bytes(128) + b"DICM" + group + meta + body)
        return file

    return [
        series(
            "sequence-for-modality",
            "a sequence where Modality should be",
            Refused("."),
            source="found by fuzzing",
            after=sequence_for_text,
        ),
    ]


CASES = [*_encodings(), *_files(), *_order(), *_tags(), *_pixels(), *_multiframe(), *_pet(), *_hostile()]
