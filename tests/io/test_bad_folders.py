"""Is every damaged or lying DICOM series, archive or folder refused in one line, without harm?"""

from __future__ import annotations

import os
import shutil
import stat
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

Change = Callable[[Dataset, int], None]
LARGE = ("65535", "9000", "frames", "bomb", "lies", "half")  # cases in which a header asks for memory
FIELDS = (
    "Rows", "Columns", "BitsAllocated", "PixelRepresentation", "PhotometricInterpretation", "SamplesPerPixel",
    "PixelData", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing",
)  # fmt: skip


def without(keyword: str, *, only: int | None = None) -> Change:
    def edit(dataset: Dataset, index: int) -> None:
        if only is None or index == only:
            delattr(dataset, keyword)

    return edit


def with_values(*, only: int | None = None, **values: object) -> Change:
    def edit(dataset: Dataset, index: int) -> None:
        if only is None or index == only:
            for keyword, value in values.items():
                if not isinstance(value, bytes):
                    setattr(dataset, keyword, value)
                    continue
                tag = dataset.data_element(keyword).tag  # bytes that no writer would let through
                dataset._dict[tag] = RawDataElement(tag, dataset[tag].VR, len(value), value, 0, False, True)

    return edit


def claims(syntax: str) -> Change:
    """Stored plain, declared compressed."""

    def edit(dataset: Dataset, index: int) -> None:
        dataset.PixelData = pydicom.encaps.encapsulate([dataset.PixelData])
        dataset["PixelData"].is_undefined_length = True
        dataset.file_meta.TransferSyntaxUID = syntax

    return edit


def codestream_lies(syntax: str, at: int) -> Change:
    """A compressed frame whose own header claims 60928 rows; decoders would ask for that memory."""

    def edit(dataset: Dataset, index: int) -> None:
        dataset.Rows, dataset.Columns = 40, 36
        dataset.PixelData = np.random.default_rng(index).integers(0, 999, (40, 36)).astype("<i2").tobytes()
        dataset.compress(syntax, generate_instance_uid=False)
        frame = bytearray(pydicom.encaps.get_frame(dataset.PixelData, 0, number_of_frames=1))
        start = frame.index(b"\xff\xf7" if syntax == JPEGLSLossless else b"\xff\x51")
        frame[start + at] = 238
        dataset.PixelData = pydicom.encaps.encapsulate([bytes(frame)])

    return edit


def short_pixels(dataset: Dataset, index: int) -> None:
    dataset.PixelData = dataset.PixelData[: len(dataset.PixelData) // 2]


def second_series(dataset: Dataset, index: int) -> None:
    dataset.SeriesInstanceUID = f"1.2.{index // 3}"


def turned(dataset: Dataset, index: int) -> None:
    if index > 2:
        dataset.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]


def enhanced(**wrong: object) -> Change:
    """Every file an enhanced object whose frames do not fit."""

    def edit(dataset: Dataset, index: int) -> None:
        place = Dataset()
        position = Dataset()
        position.ImagePositionPatient = wrong.get("position", [0, 0, 0])
        place.PlanePositionSequence = Sequence([position] if "position" in wrong else [])
        dataset.PerFrameFunctionalGroupsSequence = Sequence([place] * int(wrong.get("num_groups", 2)))
        dataset.NumberOfFrames = wrong.get("num_frames", 2)

    return edit


CHANGES: dict[str, Change] = {
    **{f"no {keyword}": without(keyword) for keyword in FIELDS},
    **{f"no {keyword} in one slice": without(keyword, only=2) for keyword in FIELDS if "Spacing" not in keyword},
    "JPEG 2000 declared on plain pixels": claims(JPEG2000Lossless),
    "JPEG-LS declared on plain pixels": claims(JPEGLSLossless),
    "RLE declared on plain pixels": claims(RLELossless),
    "JPEG declared on plain pixels": claims("1.2.840.10008.1.2.4.70"),
    "MPEG declared": claims("1.2.840.10008.1.2.4.100"),
    "unknown transfer syntax": claims("1.2.3.4.5"),
    "JPEG-LS frame lies about its size": codestream_lies(JPEGLSLossless, 5),
    "JPEG 2000 frame lies about its size": codestream_lies(JPEG2000Lossless, 12),
    "half the pixels": short_pixels,
    "rows 0": with_values(Rows=0),
    "one row": with_values(Rows=1),
    "rows 65535": with_values(Rows=65535),
    "rows and columns 65535": with_values(Rows=65535, Columns=65535),
    "rows and columns 9000, compressed": lambda d, i: (
        claims(RLELossless)(d, i),
        with_values(Rows=9000, Columns=9000)(d, i),
    ),
    "bits allocated 13": with_values(BitsAllocated=13),
    "bits stored 99": with_values(BitsStored=99, BitsAllocated=8),
    "colour": with_values(SamplesPerPixel=3, PhotometricInterpretation="RGB"),
    "spacing 0": with_values(PixelSpacing=[0, 0.75]),
    "spacing negative": with_values(PixelSpacing=[-0.75, 0.75]),
    "spacing huge": with_values(PixelSpacing=[1e7, 0.75]),
    "spacing of one number": with_values(PixelSpacing=b"0.75"),
    "spacing of words": with_values(PixelSpacing=b"wide\\high"),
    "spacing differs": with_values(PixelSpacing=[0.5, 0.5], only=3),
    "position of two numbers": with_values(ImagePositionPatient=b"1\\2"),
    "position of words": with_values(ImagePositionPatient=b"here\\there\\up", only=1),
    "position NaN": with_values(ImagePositionPatient=b"nan\\0\\0", only=1),
    "position infinite": with_values(ImagePositionPatient=b"inf\\0\\0"),
    "all at one position": with_values(ImagePositionPatient=[0, 0, 0]),
    "all run along the rows": lambda d, i: setattr(d, "ImagePositionPatient", [5 * i, 0, 0.001 * i]),
    "orientation of zeros": with_values(ImageOrientationPatient=[0] * 6),
    "orientation not at right angles": with_values(ImageOrientationPatient=[1, 0, 0, 1, 0, 0]),
    "orientation of length 2": with_values(ImageOrientationPatient=[2, 0, 0, 0, 2, 0]),
    "orientation NaN": with_values(ImageOrientationPatient=b"1\\0\\0\\0\\nan\\0"),
    "slope 0": with_values(RescaleSlope=0),
    "slope of words": with_values(RescaleSlope=b"steep"),
    "slope infinite": with_values(RescaleSlope=b"1e999"),
    "intercept NaN": with_values(RescaleIntercept=b"nan"),
    "two series": second_series,
    "two orientations": turned,
    "two sizes": lambda d, i: (
        i > 2 and (setattr(d, "Rows", 6), setattr(d, "PixelData", d.PixelData[: 6 * d.Columns * 2]))
    ),
    "only localizers": with_values(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]),
    "only structure sets": lambda d, i: (setattr(d, "Modality", "RTSTRUCT"), delattr(d, "Rows")),
    "only segmentations": with_values(Modality="SEG"),
    "constant": lambda d, i: setattr(d, "PixelData", bytes(len(d.PixelData))),
    "many frames claimed": with_values(NumberOfFrames=100_000),
    "frames of words": with_values(NumberOfFrames=b"many"),
    "enhanced without positions": enhanced(),
    "enhanced with too few positions": enhanced(num_groups=1, position=[0, 0, 0]),
    "enhanced with a million frames": enhanced(num_frames=1_000_000, position=[0, 0, 0]),
    "enhanced all at one position": enhanced(position=[0, 0, 0]),
    "no object class": lambda d, i: (delattr(d, "SOPClassUID"), delattr(d, "Modality")),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_bad_series_is_refused_in_one_line(name: str, refused, dicom_folder) -> None:
    def edit(dataset: Dataset, index: int) -> None:
        dataset.add_new("NumberOfFrames", "IS", "1")
        CHANGES[name](dataset, index)

    refused(write_raw(dicom_folder, edit), watch_memory=any(word in name for word in LARGE))


def write_raw(dicom_folder, edit: Change) -> Path:
    """Like `dicom_folder`, without pydicom's own checks on what it writes."""
    folder = dicom_folder()
    for index, file in enumerate(sorted(folder.iterdir())):
        dataset = pydicom.dcmread(file)
        edit(dataset, index)
        pydicom.dcmwrite(file, dataset, enforce_file_format=False)
    return folder


@pytest.mark.parametrize("share", [*np.linspace(0.02, 0.98, 17), 0.9999])
def test_a_truncated_slice_is_refused_in_one_line(share: float, refused, dicom_folder) -> None:
    folder = dicom_folder()
    file = folder / "slice_0003.dcm"
    file.write_bytes(file.read_bytes()[: max(140, int(file.stat().st_size * share))])
    refused(folder)


@pytest.mark.parametrize(
    "name", ["cut behind the marker", "one slice alone", "length of an element lies", "noise behind the marker"]
)
def test_a_bad_single_file_is_refused_in_one_line(name: str, refused, dicom_folder, tmp_path: Path) -> None:
    content = (dicom_folder() / "slice_0001.dcm").read_bytes()
    place = content.index(struct.pack("<HH", 0x0028, 0x0030))
    bad = {
        "cut behind the marker": content[:132],
        "one slice alone": content,
        "length of an element lies": content[: place + 6] + b"\xff\xff" + content[place + 8 :],
        "noise behind the marker": content[:132] + np.random.default_rng(0).bytes(3000),
    }[name]
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "scan.dcm").write_bytes(bad)
    refused(tmp_path / "one" / "scan.dcm")


def zip_of(place: Path, members: dict[str, bytes], *, compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(place, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return place


def link_member(place: Path) -> Path:
    with zipfile.ZipFile(place, "w") as archive:
        member = zipfile.ZipInfo("link.nii")
        member.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(member, "/etc/passwd")
    return place


def damaged(place: Path, at: float) -> Path:
    rng = np.random.default_rng(0)
    zip_of(place, {"a.nii": rng.bytes(4000), "b.nii": rng.bytes(4000)})
    content = bytearray(place.read_bytes())
    content[int(len(content) * at)] ^= 0xFF
    place.write_bytes(content)
    return place


def encrypted(place: Path) -> Path:
    content = bytearray(zip_of(place, {"a.nii": b"x" * 50}).read_bytes())
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    place.write_bytes(content)
    return place


def lying_size(place: Path) -> Path:
    content = bytearray(zip_of(place, {"a.nii": b"x" * 50}).read_bytes())
    start = content.index(b"PK\x01\x02") + 24
    content[start : start + 4] = struct.pack("<I", 0xFFFFFFF0)
    place.write_bytes(content)
    return place


ARCHIVES: dict[str, Callable[[Path], Path]] = {
    "empty": lambda place: zip_of(place, {}),
    "only text": lambda place: zip_of(place, {"readme.txt": b"nothing"}),
    "path traversal": lambda place: zip_of(place, {"../../evil.nii": b"x"}),
    "windows path traversal": lambda place: zip_of(place, {"..\\..\\evil.nii": b"x"}),
    "absolute path": lambda place: zip_of(place, {"/tmp/evil.nii": b"x"}),
    "drive letter": lambda place: zip_of(place, {"C:/evil.nii": b"x"}),
    "link": link_member,
    "zip in zip": lambda place: zip_of(place, {"inner.zip": b"PK\x05\x06" + bytes(18)}),
    "bomb": lambda place: zip_of(place, {"scan.nii": bytes(300 << 20)}),
    "size lies": lying_size,
    "encrypted": encrypted,
    "member and folder of one name": lambda place: zip_of(place, {"a": b"x", "a/b": b"x"}),
    "name with NUL": lambda place: zip_of(place, {"a\0.nii": b"x"}),
    "name too long": lambda place: zip_of(place, {"a" * 3000: b"x"}),
    **{f"damaged at {at:.0%}": lambda place, at=at: damaged(place, at) for at in (0.0, 0.2, 0.7, 0.97, 0.985)},
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_a_bad_archive_is_refused_in_one_line(name: str, refused, tmp_path: Path) -> None:
    line = refused(ARCHIVES[name](tmp_path / "scan.zip"), watch_memory=any(word in name for word in LARGE))
    if name in ("path traversal", "windows path traversal", "absolute path", "drive letter", "link"):
        assert "would leave the folder" in line
    if name in ("bomb", "size lies"):
        assert "zip bomb" in line


@pytest.mark.parametrize("share", np.linspace(0.05, 0.98, 10))
def test_a_truncated_archive_is_refused_in_one_line(share: float, refused, dicom_folder, tmp_path: Path) -> None:
    archive = Path(shutil.make_archive(str(tmp_path / "study"), "zip", dicom_folder()))
    archive.write_bytes(archive.read_bytes()[: int(archive.stat().st_size * share)])
    refused(archive)


PLACES = (
    "nothing there", "empty folder", "folder of empty folders", "folder linked into itself", "file linked to itself",
    "broken link", "pipe", "device", "name too long", "empty files",
)  # fmt: skip


@pytest.mark.parametrize("kind", PLACES)
def test_a_bad_place_is_refused_in_one_line(kind: str, refused, tmp_path: Path) -> None:
    place = tmp_path / "scan"
    if kind in ("empty folder", "folder of empty folders", "folder linked into itself", "empty files"):
        place.mkdir()
    if kind == "folder of empty folders":
        (place / "a" / "b").mkdir(parents=True)
    elif kind == "folder linked into itself":
        (place / "again").symlink_to(place)
    elif kind == "file linked to itself":
        place.symlink_to(place)
    elif kind == "broken link":
        place.symlink_to(tmp_path / "gone")
    elif kind == "pipe":
        os.mkfifo(place)
    elif kind == "device":
        place.symlink_to("/dev/zero")
    elif kind == "name too long":
        place = tmp_path / ("x" * 300)
    elif kind == "empty files":
        (place / "a.dcm").touch()
    refused(place)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("what", ["folder", "file"])
def test_no_permission_is_refused_in_one_line(what: str, refused, dicom_folder) -> None:
    folder = dicom_folder()
    place = folder if what == "folder" else folder / "slice_0001.dcm"
    place.chmod(0)
    try:
        assert "permission" in refused(folder)
    finally:
        place.chmod(0o755)


def test_no_permission_is_said_even_to_root(refused, dicom_folder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = dicom_folder()

    def forbidden(self: Path, *args: object, **kwargs: object) -> object:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", forbidden)
    assert "no permission to read it; change its permissions" in refused(folder)
