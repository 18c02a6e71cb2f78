"""Is every DICOM series, in whatever state it arrives, read as what its headers say?

Oracles: the written scan, SimpleITK, and arithmetic from ImagePositionPatient where SimpleITK assumes even spacing.
"""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels.decoders.base import get_decoder
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

from dicom_items import item
from slicesight.errors import VolumeError
from slicesight.io.loading import read_volume
from slicesight.volumes.grid import GridSpec, to_grid
from slicesight.volumes.receipt import scan_receipt


def centre_mm(dataset: Dataset) -> np.ndarray:
    """A slice's centre from its own header, in the words of PS3.3 C.7.6.2.1.1."""
    row, column = np.array(dataset.ImageOrientationPatient, dtype=float).reshape(2, 3)
    down, along = (float(size) for size in dataset.PixelSpacing)
    corner = np.array(dataset.ImagePositionPatient, dtype=float)
    return corner + row * along * (dataset.Columns - 1) / 2 + column * down * (dataset.Rows - 1) / 2


def by_uid(folder: Path) -> dict[str, Dataset]:
    return {str(d.SOPInstanceUID): d for d in map(pydicom.dcmread, sorted(folder.rglob("*.dcm")))}


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless])
def test_compressed_series_equal_the_uncompressed_one(dicom_folder, syntax) -> None:
    plain = dicom_folder(name="plain", shape=(3, 40, 36))
    folder = dicom_folder(lambda d, index: d.compress(syntax, generate_instance_uid=False), shape=(3, 40, 36))
    assert pydicom.dcmread(folder / "slice_0001.dcm").file_meta.TransferSyntaxUID == syntax
    np.testing.assert_array_equal(read_volume(folder).voxels, read_volume(plain).voxels)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian])
def test_every_plain_encoding_is_read(scan, dicom_folder, syntax) -> None:
    folder = dicom_folder()
    for file in folder.iterdir():
        dataset = pydicom.dcmread(file)
        if syntax == ExplicitVRBigEndian:
            dataset.PixelData = dataset.pixel_array.byteswap().tobytes()
            dataset["PixelData"].VR = "OW"
            list(dataset.iterall())  # decode every value, so that it is written anew
        dataset.file_meta.TransferSyntaxUID = syntax
        pydicom.dcmwrite(
            file, dataset, implicit_vr=syntax == ImplicitVRLittleEndian, little_endian=syntax != ExplicitVRBigEndian
        )
    np.testing.assert_array_equal(read_volume(folder).voxels, scan.voxels)


@pytest.mark.parametrize(
    ("uid", "name"), [("1.2.840.10008.1.2.4.110", "JPEG XL Lossless"), ("1.2.840.10008.1.2.4.999", r"4\.999")]
)
def test_a_syntax_without_a_decoder_is_named_with_what_to_do(dicom_folder, uid: str, name: str) -> None:
    def declare(dataset: Dataset, index: int) -> None:
        dataset.PixelData = pydicom.encaps.encapsulate([dataset.PixelData])
        dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
        dataset.file_meta.TransferSyntaxUID = HTJ2KLossless

    folder = dicom_folder(declare)
    for file in folder.iterdir():
        content = file.read_bytes()
        assert content.count(HTJ2KLossless.encode()) == 1
        file.write_bytes(content.replace(HTJ2KLossless.encode(), uid.encode()))
    with pytest.raises(VolumeError, match=f"{name}.*not decoded here.*transcode"):
        read_volume(folder)


def test_high_throughput_jpeg_2000_has_a_decoder() -> None:
    """Of the declared dependencies; that what it decodes is right is its own tests' matter."""
    assert get_decoder(HTJ2KLossless).is_available


def test_jpeg_lossless_equals_simpleitk(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for index in range(3):
        image = sitk.GetImageFromArray(rng.integers(0, 4000, (1, 16, 18)).astype(np.uint16))
        image.SetOrigin((1.0, 2.0, 3.0 * index))
        for tag, value in {
            "0008|0060": "MR", "0020|000e": "1.2.3", "0020|0013": str(index), "0020|0032": f"1\\2\\{3 * index}",
            "0020|0037": "1\\0\\0\\0\\1\\0", "0008|0018": f"1.2.3.{index + 1}",
        }.items():  # fmt: skip
            image.SetMetaData(tag, value)
        writer = sitk.ImageFileWriter()
        writer.SetImageIO("GDCMImageIO")
        writer.UseCompressionOn()
        writer.SetCompressor("JPEG")
        writer.KeepOriginalImageUIDOn()
        writer.SetFileName(str(tmp_path / f"{index}.dcm"))
        writer.Execute(image)
    assert "JPEG Lossless" in pydicom.dcmread(tmp_path / "0.dcm").file_meta.TransferSyntaxUID.name
    expected = np.stack([sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / f"{k}.dcm")))[0] for k in range(3)])
    np.testing.assert_array_equal(read_volume(tmp_path).voxels, expected)


def test_uneven_slices_keep_the_positions_of_their_headers(dicom_folder) -> None:
    places = [0, 2.5, 5, 9, 12.5, 13.5]

    def edit(dataset: Dataset, index: int) -> None:
        dataset.ImagePositionPatient = [-40.5, 12.25, 100 + places[index]]

    folder = dicom_folder(edit)
    scan = read_volume(folder)
    headers = by_uid(folder)
    for uid, position in zip(scan.sop_instance_uids, scan.slice_positions_mm, strict=True):
        np.testing.assert_allclose(position, centre_mm(headers[uid]), atol=1e-9)
    assert any("uneven" in note for note in scan.warnings)
    grid = to_grid(scan, GridSpec(num_slices=6, height=8, width=8, crop_foreground=False))
    np.testing.assert_allclose([piece.position_mm[2] for piece in grid.slices], np.add(100, places))
    assert [piece.sop_instance_uids[0] for piece in grid.slices] == list(scan.sop_instance_uids)


def test_gantry_tilt_shifts_every_slice_as_its_header_says(dicom_folder) -> None:
    def edit(dataset: Dataset, index: int) -> None:
        angle = np.radians(15)
        dataset.ImageOrientationPatient = [1, 0, 0, 0, float(np.cos(angle)), float(np.sin(angle))]
        dataset.ImagePositionPatient = [-40.5, 12.25, 100 + 2.5 * index]

    folder = dicom_folder(edit)
    scan = read_volume(folder)
    headers = by_uid(folder)
    for uid, position in zip(scan.sop_instance_uids, scan.slice_positions_mm, strict=True):
        np.testing.assert_allclose(position, centre_mm(headers[uid]), atol=1e-4)
    corner = headers[scan.sop_instance_uids[3]].ImagePositionPatient
    np.testing.assert_allclose(scan.geometry.to_mm([3, 0, 0]), np.array(corner, dtype=float), atol=1e-4)
    assert any("gantry tilt of 15.0" in note for note in scan.warnings)


def test_a_missing_slice_is_said(scan, dicom_folder) -> None:
    folder = dicom_folder()
    (folder / "slice_0003.dcm").unlink()
    read = read_volume(folder)
    assert any("about 1 slices are missing" in note for note in read.warnings)
    np.testing.assert_array_equal(read.voxels, np.delete(scan.voxels, 2, axis=0))


@pytest.mark.parametrize("with_new_uid", [False, True])
def test_duplicate_files_are_left_out_with_a_word(scan, dicom_folder, with_new_uid: bool) -> None:
    folder = dicom_folder()
    copy = pydicom.dcmread(folder / "slice_0002.dcm")
    if with_new_uid:
        copy.SOPInstanceUID = copy.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    copy.save_as(folder / "copy.dcm")
    read = read_volume(folder)
    np.testing.assert_array_equal(read.voxels, scan.voxels)
    assert any("left out 1 duplicate" in note for note in read.warnings)


def test_two_different_images_at_one_place_are_refused(dicom_folder) -> None:
    folder = dicom_folder()
    other = pydicom.dcmread(folder / "slice_0002.dcm")
    other.SOPInstanceUID = generate_uid()
    other.PixelData = pydicom.dcmread(folder / "slice_0004.dcm").PixelData
    other.save_as(folder / "other.dcm")
    with pytest.raises(VolumeError, match="1 of 6 slice positions hold more than one image"):
        read_volume(folder)


def test_a_4d_series_needs_a_time_point(scan, dicom_folder) -> None:
    folder = dicom_folder()
    for file in sorted(folder.iterdir()):
        later = pydicom.dcmread(file)
        later.SOPInstanceUID = generate_uid()
        later.InstanceNumber += 100
        later.PixelData = (later.pixel_array + 5).astype("<i2").tobytes()
        later.save_as(folder / f"later_{file.name}")
    with pytest.raises(VolumeError, match=r"2 images at every slice position \(4D\); choose one with --time-point 0…1"):
        read_volume(folder)
    np.testing.assert_array_equal(read_volume(folder, time_point=0).voxels, scan.voxels)
    np.testing.assert_array_equal(read_volume(folder, time_point=1).voxels, scan.voxels + 5)


def test_several_series_are_listed_and_chosen_by_uid(scan, dicom_folder, tmp_path: Path) -> None:
    def second(dataset: Dataset, index: int) -> None:
        dataset.SeriesInstanceUID, dataset.SeriesDescription = "1.2.3.4", "thick lung"
        dataset.SOPInstanceUID = generate_uid()

    dicom_folder(name="study/a")
    dicom_folder(second, name="study/b/deeper", shape=(4, 8, 8))
    with pytest.raises(
        VolumeError, match=r"found 2 series.*--series UID.*\(CT, axial synthetic CT, 10×12×6\)"
    ) as caught:
        read_volume(tmp_path / "study")
    assert "1.2.3.4 (CT, thick lung, 8×8×4)" in str(caught.value)
    assert read_volume(tmp_path / "study", series_uid="1.2.3.4").shape == (4, 8, 8)
    with pytest.raises(VolumeError, match=r"series 9\.9 is not there"):
        read_volume(tmp_path / "study", series_uid="9.9")


@pytest.mark.parametrize("kind", ["localizer", "capture", "structure set", "text file", "localizer of its own series"])
def test_what_is_not_a_slice_is_left_out(scan, dicom_folder, kind: str) -> None:
    folder = dicom_folder()
    extra = pydicom.dcmread(folder / "slice_0001.dcm")
    extra.SOPInstanceUID = generate_uid()
    if kind != "localizer":
        extra.SeriesInstanceUID = generate_uid()
    if "localizer" in kind:
        extra.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
        extra.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]
    elif kind == "capture":
        extra.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
        del extra.ImagePositionPatient, extra.ImageOrientationPatient
    elif kind == "structure set":
        extra.Modality = "RTSTRUCT"
        del extra.Rows, extra.Columns, extra.PixelData
    extra.save_as(folder / "extra.dcm")
    if kind == "text file":
        (folder / "extra.dcm").write_text("exported on a Monday")
    read = read_volume(folder)
    np.testing.assert_array_equal(read.voxels, scan.voxels)
    if kind in ("localizer", "capture", "localizer of its own series"):
        assert any("left out 1" in note for note in read.warnings)


def enhanced(folder: Path, target: Path, *, shuffle: bool) -> Dataset:
    """The folder's slices as one enhanced multi-frame CT."""
    slices = [pydicom.dcmread(file) for file in sorted(folder.iterdir())]
    if shuffle:
        slices = [slices[i] for i in (3, 0, 5, 1, 4, 2)]
    whole = slices[0].copy()
    whole.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2.1"
    whole.file_meta = FileMetaDataset()
    whole.file_meta.MediaStorageSOPClassUID = whole.SOPClassUID
    whole.file_meta.MediaStorageSOPInstanceUID = whole.SOPInstanceUID
    whole.file_meta.TransferSyntaxUID = slices[0].file_meta.TransferSyntaxUID
    whole.NumberOfFrames = len(slices)
    whole.PixelData = b"".join(s.PixelData for s in slices)

    shared = item(
        PlaneOrientationSequence=Sequence([item(ImageOrientationPatient=whole.ImageOrientationPatient)]),
        PixelMeasuresSequence=Sequence([item(PixelSpacing=whole.PixelSpacing, SliceThickness=2.5)]),
        PixelValueTransformationSequence=Sequence([item(RescaleSlope=1, RescaleIntercept=-1024, RescaleType="HU")]),
    )
    whole.SharedFunctionalGroupsSequence = Sequence([shared])
    whole.PerFrameFunctionalGroupsSequence = Sequence(
        [item(PlanePositionSequence=Sequence([item(ImagePositionPatient=s.ImagePositionPatient)])) for s in slices]
    )
    for keyword in (
        "ImagePositionPatient",
        "ImageOrientationPatient",
        "PixelSpacing",
        "RescaleSlope",
        "RescaleIntercept",
    ):
        delattr(whole, keyword)
    whole.save_as(target)
    return whole


@pytest.mark.parametrize("shuffle", [False, True])
def test_enhanced_multi_frame_equals_single_files(scan, dicom_folder, tmp_path: Path, shuffle: bool) -> None:
    enhanced(dicom_folder(), tmp_path / "enhanced.dcm", shuffle=shuffle)
    read = read_volume(tmp_path / "enhanced.dcm")
    np.testing.assert_array_equal(read.voxels, scan.voxels)
    np.testing.assert_allclose(read.affine_lps, scan.affine_lps, atol=1e-6)
    assert len(read.sop_instance_uids) == 6
    assert len(set(read.sop_instance_uids)) == 1


def test_monochrome1_is_inverted_for_mr_and_left_for_hu(scan, dicom_folder) -> None:
    def inverted(dataset: Dataset, index: int) -> None:
        dataset.PhotometricInterpretation = "MONOCHROME1"

    def mr(dataset: Dataset, index: int) -> None:
        inverted(dataset, index)
        dataset.Modality = "MR"

    ct = read_volume(dicom_folder(inverted, name="ct"))
    np.testing.assert_array_equal(ct.voxels, scan.voxels)
    assert any("MONOCHROME1" in note for note in ct.warnings)
    np.testing.assert_array_equal(read_volume(dicom_folder(mr, name="mr")).voxels, 700 - 1010 - scan.voxels)


@pytest.mark.parametrize("is_signed", [True, False])
@pytest.mark.parametrize("written_as", ["signed", "unsigned"])
def test_padding_becomes_air_whatever_its_signedness(scan, dicom_folder, is_signed: bool, written_as: str) -> None:
    padding = -2000 if is_signed else 63536

    def edit(dataset: Dataset, index: int) -> None:
        pixels = dataset.pixel_array.astype(np.int32) if is_signed else dataset.pixel_array.astype(np.int32) & 0xFFFF
        pixels[0, :3] = padding
        dataset.PixelRepresentation = int(is_signed)
        dataset.PixelData = pixels.astype("<i2" if is_signed else "<u2").tobytes()
        number = padding if (written_as == "signed") == is_signed else padding + (65536 if is_signed else -65536)
        dataset.add_new("PixelPaddingValue", "SS" if written_as == "signed" else "US", number)

    read = read_volume(dicom_folder(edit))
    np.testing.assert_array_equal(read.voxels[:, 1:], scan.voxels[:, 1:])
    assert (read.voxels[:, 0, :3] == read.voxels[:, 1:].min()).all()
    assert any("padding" in note for note in read.warnings)


def test_rescale_may_differ_from_slice_to_slice_and_equals_simpleitk(dicom_folder) -> None:
    def edit(dataset: Dataset, index: int) -> None:
        dataset.Modality, dataset.RescaleSlope, dataset.RescaleIntercept = "MR", 1.5 + index, -3.25

    folder = dicom_folder(edit)
    expected = [sitk.GetArrayFromImage(sitk.ReadImage(str(f)))[0] for f in sorted(folder.iterdir())]
    np.testing.assert_allclose(read_volume(folder).voxels, np.stack(expected), rtol=1e-6)


@pytest.mark.parametrize(("correction", "elapsed_s"), [("START", 3600.0), ("ADMIN", 0.0)])
def test_pet_becomes_suv(scan, dicom_folder, correction: str, elapsed_s: float) -> None:
    def edit(dataset: Dataset, index: int) -> None:
        dataset.Modality, dataset.Units, dataset.DecayCorrection, dataset.PatientWeight = "PT", "BQML", correction, 70
        dataset.SeriesTime, dataset.CorrectedImage = "003000.00", ["ATTN", "DECY"]
        tracer = Dataset()
        tracer.RadionuclideTotalDose, tracer.RadionuclideHalfLife = 3.5e8, 6586.2
        tracer.RadiopharmaceuticalStartTime = "233000"  # an hour before, across midnight
        dataset.RadiopharmaceuticalInformationSequence = Sequence([tracer])

    read = read_volume(dicom_folder(edit))
    factor = 70_000 / (3.5e8 * 0.5 ** (elapsed_s / 6586.2))
    np.testing.assert_allclose(read.voxels, scan.voxels * factor, rtol=1e-5)
    assert (read.unit, read.modality) == ("SUV", "PT")


def pet(tracer: dict[str, object] | None = None, **values: object):
    """Edits slices into FDG PET, injected at 10:00, scanned from 11:00 (SeriesTime) on the same day."""

    def edit(dataset: Dataset, index: int) -> None:
        fields = {"Modality": "PT", "Units": "BQML", "DecayCorrection": "START", "CorrectedImage": ["ATTN", "DECY"],
                  "PatientWeight": 70, "SeriesDate": "20240105", "SeriesTime": "110000", "AcquisitionDate": "20240105",
                  "AcquisitionTime": f"1100{index:02d}"}  # fmt: skip
        for keyword, value in (fields | values).items():
            setattr(dataset, keyword, value(index) if callable(value) else value)
        given = {"RadionuclideTotalDose": 3.5e8, "RadionuclideHalfLife": 6586.2,
                 "RadiopharmaceuticalStartTime": "100000"}  # fmt: skip
        dataset.RadiopharmaceuticalInformationSequence = Sequence([item(**(given | (tracer or {})))])

    return edit


def with_private(edit, tag: int, value: str, *, creator: str = "Philips PET Private Group"):
    """The edit, and a private element beside it."""

    def both(dataset: Dataset, index: int) -> None:
        edit(dataset, index)
        if tag >> 16 == 0x7053:  # Philips, whose tags are fixed
            dataset.add_new(0x70530010, "LO", creator)
            dataset.add_new(tag, "DS", value)
        else:
            dataset.private_block(tag >> 16, creator, create=True).add_new(tag & 0xFF, "DT", value)

    return both


def suv(elapsed_s: float, half_life_s: float = 6586.2) -> float:
    return 70_000 / (3.5e8 * 0.5 ** (elapsed_s / half_life_s))


ZR_89 = {"RadionuclideHalfLife": 282_276.0}
AVERAGE_S = 6586.2 / np.log(2) * np.log((x := np.log(2) / 6586.2 * 180) / (1 - np.exp(-x)))


@pytest.mark.parametrize(
    ("edit", "factor"),
    [
        pytest.param(pet(), suv(3600), id="series time"),
        pytest.param(pet(SeriesTime="130000"), suv(3600), id="series made later: earliest acquisition"),
        pytest.param(pet(SeriesDate="20240107"), suv(3600), id="series made on a later day"),
        pytest.param(
            pet(SeriesTime="130000", FrameReferenceTime=600_000.0 + AVERAGE_S * 1000, ActualFrameDuration=180_000),
            suv(3000),
            id="series made later: back from the frame reference time",
        ),
        pytest.param(
            pet({**ZR_89, "RadiopharmaceuticalStartDateTime": "20240101110000.00"}),
            suv(4 * 86_400, 282_276.0),
            id="four days before",
        ),
        pytest.param(pet({"RadiopharmaceuticalStartTime": "233000"}, SeriesTime="003000", AcquisitionTime="003000"),
                     suv(3600), id="after midnight"),
        pytest.param(pet(DecayCorrection="ADMIN"), suv(0), id="corrected to the injection"),
        pytest.param(with_private(pet(Units="CNTS"), 0x70531000, "0.125"), 0.125, id="Philips: from counts to SUV"),
        pytest.param(with_private(pet(Units="CNTS"), 0x70531009, "2.5"), 2.5 * suv(3600), id="Philips: to activity"),
        pytest.param(
            with_private(pet(SeriesTime="130000"), 0x0009000D, "20240105105000.00", creator="GEMS_PETD_01"),
            suv(3000),
            id="GE: its own element says when the scan began",
        ),
        pytest.param(
            pet({"RadiopharmaceuticalStartTime": "", "RadiopharmaceuticalStartDateTime": "20240101100000"},
                SeriesDate="", AcquisitionDate="", StudyDate=""),
            suv(3600),
            id="no dates left but the injection's",
        ),
        pytest.param(pet(Units="GML"), 1.0, id="SUV already"),
        pytest.param(pet(Units="GML", SUVType="BW"), 1.0, id="SUV by body weight already"),
    ],
)  # fmt: skip
def test_suv_follows_the_rule_of_qiba(scan, dicom_folder, edit, factor: float) -> None:
    read = read_volume(dicom_folder(edit))
    assert (read.unit, read.modality) == ("SUV", "PT")
    np.testing.assert_allclose(read.voxels, scan.voxels * factor, rtol=1e-5)


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (pet(DecayCorrection="NONE"), "decay correction is NONE"),
        (pet(CorrectedImage=["DECY"]), "corrected for attenuation"),
        (pet(CorrectedImage=["ATTN"]), "corrected for decay"),
        (pet(PatientWeight=0), "no patient weight"),
        (pet({"RadionuclideTotalDose": 0}), "no injected dose"),
        (pet({"RadiopharmaceuticalStartTime": ""}), "no injection time"),
        (pet(ZR_89), "on which day"),
        (pet({"RadiopharmaceuticalStartDateTime": "20240106110000"}), "injected after the scan began"),
        (pet(SeriesTime="", AcquisitionTime=""), "when the scan began"),
        (pet(Units="CNTS"), "counts without a scale factor"),
        (pet(Units="GML", SUVType="LBM"), "by LBM, expected BW"),
        (pet({"RadiopharmaceuticalStartTime": "110500"}), "13 half-lives after the injection"),
        (pet({"RadiopharmaceuticalStartDateTime": "20140105100000"}), "half-lives after the injection"),
    ],
)
def test_pet_that_the_rule_cannot_convert_is_not_suv_and_says_why(scan, dicom_folder, edit, reason: str) -> None:
    read = read_volume(dicom_folder(edit))
    np.testing.assert_array_equal(read.voxels, scan.voxels)
    assert read.unit == "arbitrary"
    assert any("not SUV" in note and reason in note for note in read.warnings), read.warnings


def test_pet_without_dose_stays_as_it_is_and_says_so(scan, dicom_folder) -> None:
    read = read_volume(dicom_folder(lambda d, i: (setattr(d, "Modality", "PT"), setattr(d, "Units", "BQML"))))
    np.testing.assert_array_equal(read.voxels, scan.voxels)
    assert read.unit == "arbitrary"
    assert any("not SUV: the header has no patient weight" in note for note in read.warnings)


def test_a_zip_reads_like_its_folder(scan, dicom_folder, tmp_path: Path) -> None:
    folder = dicom_folder()
    archive = Path(shutil.make_archive(str(tmp_path / "study"), "zip", folder.parent, folder.name))
    renamed = archive.rename(tmp_path / "study.bin")  # told by content
    assert zipfile.is_zipfile(renamed)
    np.testing.assert_array_equal(read_volume(renamed).voxels, scan.voxels)


def test_no_patient_name_id_or_date_reaches_the_receipt(dicom_folder) -> None:
    def edit(dataset: Dataset, index: int) -> None:
        dataset.PatientName, dataset.PatientID = "Mustermann^Erika", "PID99817"
        dataset.StudyDate, dataset.PatientBirthDate = "20240131", "19500607"
        dataset.SeriesDescription = "abdomen MUSTERMANN PID99817 2024-01-31 venous"

    read = read_volume(dicom_folder(edit))
    receipt = json.dumps(scan_receipt(read))
    assert "abdomen" in receipt
    assert "venous" in receipt
    for secret in ("mustermann", "erika", "99817", "2024", "1950"):
        assert secret not in receipt.lower()


def test_one_file_of_a_series_is_called_a_2d_slice(dicom_folder) -> None:
    with pytest.raises(VolumeError, match="single 2D slice"):
        read_volume(dicom_folder() / "slice_0001.dcm")


@pytest.mark.shared_data
@pytest.mark.parametrize(
    "place", ["totalsegmentator/example_ct_dicom", "sts_dicom/STS_002/CT", "sts_dicom/STS_002/MR_T1"]
)
def test_real_series_agree_with_simpleitk(shared_folder: Path, place: str) -> None:
    folder = shared_folder / "data" / place
    read = read_volume(folder)
    images = folder / "image" if (folder / "image").is_dir() else folder
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(images)))
    image = reader.Execute()
    assert not read.slices_reversed
    np.testing.assert_array_equal(read.voxels, sitk.GetArrayFromImage(image))  # both are stored as L, P, S
    for index in ((0, 0, 0), (5, 40, 30)):
        expected = image.TransformIndexToPhysicalPoint(index[::-1])
        np.testing.assert_allclose(read.geometry.to_mm(index), expected, atol=1e-3)
