"""Are headers that are odd but readable read to the right values and places?

Oracles: SimpleITK for MetaImage and NRRD, nibabel and arithmetic for NIfTI, the written scan for DICOM.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from slicesight.errors import VolumeError
from slicesight.io.loading import read_volume
from slicesight.volumes.receipt import scan_line, scan_receipt

VALUES = np.random.default_rng(0).integers(-900, 900, (5, 6, 7)).astype(np.int16)  # z, y, x


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
def test_dicom_without_its_meta_header_is_read(scan, dicom_folder, syntax) -> None:
    folder = dicom_folder()
    for file in folder.iterdir():
        dataset = pydicom.dcmread(file)
        is_implicit = syntax == ImplicitVRLittleEndian
        bare = pydicom.Dataset(dataset)
        bare.save_as(file, implicit_vr=is_implicit, little_endian=True, enforce_file_format=False)
        assert b"DICM" not in file.read_bytes()[:200]
    np.testing.assert_array_equal(read_volume(folder).voxels, scan.voxels)


def test_a_decimal_comma_is_read_as_a_point(scan, dicom_folder) -> None:
    folder = dicom_folder(lambda dataset, index: setattr(dataset, "PixelSpacing", ["0.7", "0.7"]))
    plain = read_volume(folder)
    assert plain.spacing_mm[1:] == pytest.approx((0.7, 0.7))
    for file in folder.iterdir():
        raw = file.read_bytes()
        assert raw.count(b"0.7\\0.7") == 1
        file.write_bytes(raw.replace(b"0.7\\0.7", b"0,7\\0,7"))
    np.testing.assert_allclose(read_volume(folder).affine_lps, plain.affine_lps)


def test_a_mosaic_is_named_with_what_to_do(dicom_folder) -> None:
    folder = dicom_folder(
        lambda dataset, index: setattr(dataset, "ImageType", ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"])
    )
    with pytest.raises(VolumeError, match=r"Siemens mosaic.*dcm2niix"):
        read_volume(folder)


def nifti(path: Path, *, edit) -> Path:
    affine = np.diag([2.0, 3.0, 4.0, 1.0])
    affine[:3, 3] = 10, 20, 30
    image = nib.Nifti1Image(VALUES.T, affine)
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=1)
    raw = image.to_bytes()
    header = nib.Nifti1Header(raw[:348], check=False)
    edit(header)
    path.write_bytes(header.binaryblock + raw[348:])
    return path


def test_an_empty_sform_gives_way_to_a_good_qform(tmp_path: Path) -> None:
    def edit(header) -> None:
        for axis in "xyz":
            header[f"srow_{axis}"] = 0

    read = read_volume(nifti(tmp_path / "zeros.nii", edit=edit))
    whole = read_volume(nifti(tmp_path / "whole.nii", edit=lambda header: None))
    np.testing.assert_allclose(read.affine_lps, whole.affine_lps, atol=1e-5)
    assert any("the qform is used" in note for note in read.warnings)


def test_a_qfac_of_zero_counts_as_one(tmp_path: Path) -> None:
    def edit(header) -> None:
        header["sform_code"] = 0
        header["pixdim"][0] = 0

    read = read_volume(nifti(tmp_path / "qfac.nii", edit=edit))
    np.testing.assert_allclose(read.affine_lps, read_volume(nifti(tmp_path / "w.nii", edit=lambda h: None)).affine_lps)


def test_a_spacing_of_zero_without_codes_is_unknown(tmp_path: Path) -> None:
    def edit(header) -> None:
        header["sform_code"] = header["qform_code"] = 0
        header["pixdim"][1:4] = [0, 1, 1]

    read = read_volume(nifti(tmp_path / "zero.nii", edit=edit))
    assert read.spacing_mm is None
    assert scan_receipt(read)["spacing_mm_zyx"] is None
    assert "spacing unknown" in scan_line(read)


def slices(folder: Path, count: int) -> list[str]:
    names = [f"part{index:02d}.raw" for index in range(1, count + 1)]
    for name, part in zip(names, np.split(VALUES.reshape(-1), count), strict=True):
        (folder / name).write_bytes(part.tobytes())
    return names


@pytest.mark.parametrize("kind", ["LIST", "pattern", "Local"])
def test_metaimage_finds_its_data_as_itk_does(tmp_path: Path, kind: str) -> None:
    names = slices(tmp_path, 5)
    data = {"LIST": "LIST\n" + "\n".join(names) + "\n", "pattern": "part%02d.raw 1 5 1\n", "Local": "Local\n"}[kind]
    header = (
        "ObjectType = Image\nNDims = 3\nDimSize = 7 6 5\nElementSpacing = 1 2 3\nOffset = 4 5 6\n"
        "TransformMatrix = 1 0 0 0 1 0 0 0 1\nElementType = MET_SHORT\nElementDataFile = "
    )
    path = tmp_path / ("scan.mha" if kind == "Local" else "scan.mhd")
    path.write_bytes((header + data).encode() + (VALUES.tobytes() if kind == "Local" else b""))
    image = sitk.ReadImage(str(path))
    read = read_volume(path)
    np.testing.assert_array_equal(read.voxels, sitk.GetArrayFromImage(image))
    np.testing.assert_array_equal(read.voxels, VALUES)
    np.testing.assert_allclose(read.affine_lps[:3, 3], image.GetOrigin())


def metaimage(path: Path, data: bytes, **fields: str) -> Path:
    named = "".join(f"{key} = {value}\n" for key, value in fields.items())
    header = f"NDims = 3\nDimSize = 7 6 5\n{named}ElementType = MET_SHORT\nElementDataFile = LOCAL\n"
    path.write_bytes(header.encode() + data)
    return path


@pytest.mark.parametrize("key", ["BinaryDataByteOrderMSB", "ElementByteOrderMSB"])
@pytest.mark.parametrize("word", ["True", "true", "T", "1"])
def test_every_way_to_say_true_swaps_the_bytes_of_a_metaimage(tmp_path: Path, key: str, word: str) -> None:
    path = metaimage(tmp_path / "big.mha", VALUES.astype(">i2").tobytes(), **{key: word})
    np.testing.assert_array_equal(read_volume(path).voxels, VALUES)


@pytest.mark.parametrize("word", ["False", "F", "0"])
def test_every_way_to_say_false_makes_a_metaimage_text(tmp_path: Path, word: str) -> None:
    text = " ".join(map(str, VALUES.ravel())).encode()
    np.testing.assert_array_equal(read_volume(metaimage(tmp_path / "a.mha", text, BinaryData=word)).voxels, VALUES)


@pytest.mark.parametrize("key", ["BinaryData", "CompressedData", "BinaryDataByteOrderMSB", "ElementByteOrderMSB"])
def test_neither_true_nor_false_in_a_metaimage_is_refused(tmp_path: Path, key: str) -> None:
    with pytest.raises(VolumeError, match=f"{key} is 'big'; expected True or False"):
        read_volume(metaimage(tmp_path / "odd.mha", VALUES.tobytes(), **{key: "big"}))


def test_packed_voxels_of_a_metaimage_begin_where_they_stand(tmp_path: Path) -> None:
    packed = metaimage(tmp_path / "packed.mha", zlib.compress(VALUES.tobytes()), CompressedData="True", HeaderSize="-1")
    np.testing.assert_array_equal(read_volume(packed).voxels, VALUES)


@pytest.mark.parametrize(("unit", "factor"), [("um", 1e-3), ("mm", 1.0), ("cm", 10.0), ("m", 1e3)])
def test_lengths_of_a_nrrd_become_millimetres(tmp_path: Path, unit: str, factor: float) -> None:
    x, y, z = (size / factor for size in (1, 2, 3))
    path = tmp_path / "units.nrrd"
    header = (
        "NRRD0004\ntype: short\ndimension: 3\nspace: left-posterior-superior\nsizes: 7 6 5\n"
        f'space units: "{unit}" "{unit}" "{unit}"\nspace origin: ({4 * x},0,0)\n'
        f"space directions: ({x},0,0) (0,{y},0) (0,0,{z})\nendian: little\nencoding: raw\n\n"
    )
    path.write_bytes(header.encode() + VALUES.tobytes())
    read = read_volume(path)
    np.testing.assert_allclose(read.spacing_mm, [3, 2, 1])
    np.testing.assert_allclose(read.affine_lps[:3, 3], [4, 0, 0])


@pytest.mark.parametrize(
    ("sizes", "kinds"),
    [
        ("3 7 6 5", "3-vector domain domain domain"),
        ("3 7 6 5", "RGB-color domain domain domain"),
        ("2 7 6 1", "vector domain domain domain"),
        ("5 7 6", "3-color domain domain"),
    ],
)
def test_several_values_at_each_voxel_of_a_nrrd_are_no_volume(tmp_path: Path, sizes: str, kinds: str) -> None:
    path = tmp_path / "color.nrrd"
    numbers = np.arange(np.prod([int(size) for size in sizes.split()]), dtype="<i2")
    header = f"NRRD0004\ntype: short\ndimension: {len(sizes.split())}\nsizes: {sizes}\nkinds: {kinds}\n"
    path.write_bytes(f"{header}endian: little\nencoding: raw\n\n".encode() + numbers.tobytes())
    with pytest.raises(VolumeError, match=rf"every voxel holds {sizes[0]} values"):
        read_volume(path, time_point=0)


@pytest.mark.parametrize("kind", ["LIST", "pattern"])
def test_nrrd_finds_its_data_as_itk_does(tmp_path: Path, kind: str) -> None:
    names = slices(tmp_path, 5)
    data = "data file: part%02d.raw 1 5 1" if kind == "pattern" else "data file: LIST\n" + "\n".join(names)
    path = tmp_path / "scan.nhdr"
    path.write_text(
        "NRRD0004\ntype: short\ndimension: 3\nspace: left-posterior-superior\nsizes: 7 6 5\n"
        "space directions: (1,0,0) (0,2,0) (0,0,3)\nendian: little\nencoding: raw\nspace origin: (4,5,6)\n"
        + data
        + "\n"
    )
    read = read_volume(path)
    np.testing.assert_array_equal(read.voxels, sitk.GetArrayFromImage(sitk.ReadImage(str(path))))
    np.testing.assert_allclose(read.affine_lps[:3, 3], [4, 5, 6])


def test_a_data_file_of_a_list_that_is_missing_is_named(tmp_path: Path) -> None:
    names = slices(tmp_path, 5)
    (tmp_path / names[2]).unlink()
    path = tmp_path / "scan.mhd"
    path.write_text("NDims = 3\nDimSize = 7 6 5\nElementType = MET_SHORT\nElementDataFile = LIST\n" + "\n".join(names))
    with pytest.raises(VolumeError, match=r"scan.mhd: the voxels should be in 'part03.raw' beside it"):
        read_volume(path)


@pytest.mark.parametrize("is_first", [True, False])
def test_a_nrrd_sequence_gives_the_time_that_is_asked_for(tmp_path: Path, is_first: bool) -> None:
    times = np.stack([VALUES, VALUES + 1, VALUES + 2])  # t, z, y, x
    stored = np.moveaxis(times, 0, -1) if is_first else times
    sizes, kinds, directions = "7 6 5", "domain domain domain", "(1,0,0) (0,2,0) (0,0,3)"
    path = tmp_path / "scan.seq.nrrd"
    path.write_bytes(
        (
            f"NRRD0004\ntype: short\ndimension: 4\nspace: left-posterior-superior\n"
            f"sizes: {'3 ' + sizes if is_first else sizes + ' 3'}\n"
            f"space directions: {'none ' + directions if is_first else directions + ' none'}\n"
            f"kinds: {'list ' + kinds if is_first else kinds + ' list'}\n"
            "endian: little\nencoding: raw\nspace origin: (4,5,6)\n\n"
        ).encode()
        + np.ascontiguousarray(stored).tobytes()
    )
    with pytest.raises(VolumeError, match="--time-point 0…2"):
        read_volume(path)
    for number in range(3):
        read = read_volume(path, time_point=number)
        np.testing.assert_array_equal(read.voxels, times[number])
        np.testing.assert_allclose(np.diag(read.affine_lps[:3, :3][:, ::-1]), [1, 2, 3])


def test_a_volume_shows_itself_in_one_short_line(scan) -> None:
    assert repr(scan).startswith("Volume(CT, HU, 6×12×10 (z, y, x), spacing ")
    assert len(repr(scan)) < 100
