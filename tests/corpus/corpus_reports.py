"""Inputs after public bug reports of other readers: what a scanner, an archive or a converter really wrote."""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from corpus_cases import RAS, Odd, Read, Refused
from corpus_dicom import ARRAY, PLAIN, Edit, series, setting
from corpus_dicom import RAS as LPS_RAS
from corpus_nifti import header, raw, simple
from corpus_text_headers import BYTES, META_PLAIN, META_RAS, NRRD_RULES, files, meta, meta_header, nrrd
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, generate_uid

from dicom_items import item

NIFTI_PLAIN = Read(ARRAY, RAS)


def _stored(array: np.ndarray, kind: str = "<i2", **elements: Any) -> Edit:
    def edit(dataset: Dataset, k: int) -> None:
        dataset.PixelData = np.ascontiguousarray(array[:, :, k].T).astype(kind).tobytes()
        setting(**elements)(dataset, k)

    return edit


def _packed(syntax: str, array: np.ndarray, kind: str, *, said: dict[str, Any], **elements: Any) -> Edit:
    """Packed as `elements` say, and then called `said`."""

    def edit(dataset: Dataset, k: int) -> None:
        _stored(array, kind, **elements)(dataset, k)
        dataset.compress(syntax, generate_instance_uid=False)
        setting(**said)(dataset, k)

    return edit


def _codecs() -> list[Odd]:
    large = np.tile(ARRAY, (8, 8, 1))  # OpenJPEG packs nothing smaller in six resolutions
    twelve = large % 4096
    signed = twelve - 2048
    below, j2k = {"BitsStored": 12, "HighBit": 11}, JPEG2000Lossless
    return [
        series("j2k-sign-lost", "the codestream is unsigned, the header signed", Read(large, LPS_RAS), _packed(j2k, large, "<i2", said={"PixelRepresentation": 1}, PixelRepresentation=0), syntax=j2k, array=large, source="pydicom #1149"),
        series("j2k-12-signed", "12 bits with a sign in JPEG 2000", Read(signed, LPS_RAS), _packed(j2k, signed, "<i2", said={}, **below), syntax=j2k, array=large, source="pydicom #1149", oracle="pydicom"),
        series("j2k-16-called-12", "the codestream has 16 bits, the header says 12", Read(twelve, LPS_RAS), _packed(j2k, twelve, "<u2", said=below, PixelRepresentation=0), syntax=j2k, array=large, source="pydicom #2073"),
        series("jpegls-12-signed", "12 bits with a sign in JPEG-LS, which knows none", Read(signed, LPS_RAS), _packed(JPEGLSLossless, signed, "<i2", said={}, **below), syntax=JPEGLSLossless, array=large, source="pydicom #2009"),
    ]  # fmt: skip


def _series() -> list[Odd]:
    def bed(dataset: Dataset, k: int) -> None:
        setting(FrameReferenceTime=[7000.5, 190000.25][k % 2], AcquisitionTime=["100700", "101000"][k % 2])(dataset, k)

    def icon(dataset: Dataset, k: int) -> None:
        small = item(Rows=4, Columns=4, BitsAllocated=8, BitsStored=8, HighBit=7, PixelRepresentation=0, SamplesPerPixel=1, PhotometricInterpretation="MONOCHROME2", PixelData=bytes(16))  # fmt: skip
        dataset.IconImageSequence = Sequence([small])

    def localizer(dataset: Dataset, k: int) -> None:
        if k == 0:
            setting(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"], ImageOrientationPatient=[1, 0, 0, 0, 0, -1])(
                dataset, k
            )

    def spaced_uid(place: Path) -> None:
        for number, name in enumerate(sorted(place.iterdir())):
            dataset = pydicom.dcmread(name)
            uid = dataset.SeriesInstanceUID.encode()
            content = name.read_bytes()
            padded = uid + (b"\0" if len(uid) % 2 else b"")
            assert content.count(padded)
            if number % 2 and len(uid) % 2:
                name.write_bytes(content.replace(padded, uid + b" "))

    def trailing(place: Path) -> None:
        for name in place.iterdir():
            with name.open("ab") as stream:
                stream.write(b"\xfc\xff\xfc\xffOB\0\0" + struct.pack("<I", 6) + bytes(6))

    def wrong_group_length(place: Path) -> None:
        for name in place.iterdir():
            content = bytearray(name.read_bytes())
            content[140:144] = struct.pack("<I", 12345)
            name.write_bytes(bytes(content))

    def as_ob(place: Path) -> None:
        for name in place.iterdir():
            content = name.read_bytes()
            assert content.count(b"\xe0\x7f\x10\0OW") == 1
            name.write_bytes(content.replace(b"\xe0\x7f\x10\0OW", b"\xe0\x7f\x10\0OB"))

    def nuclear(place: Path) -> Path:
        first = pydicom.dcmread(place / "000.dcm")
        first.NumberOfFrames, first.Modality = 8, "NM"
        first.PixelData = b"".join(np.ascontiguousarray(ARRAY[:, :, k].T).tobytes() for k in range(8))
        first.save_as(place.parent / "nm.dcm")
        return place.parent / "nm.dcm"

    def lut(dataset: Dataset, k: int) -> None:
        table = Dataset()
        table.add_new("LUTDescriptor", "US", [2101, 0, 16])
        table.add_new("LUTData", "OW", (np.arange(2101, dtype="<u2") * 2).tobytes())
        dataset.ModalityLUTSequence = Sequence([table])
        setting(RescaleSlope=None, RescaleIntercept=None, RescaleType=None, PixelRepresentation=0)(dataset, k)

    unsigned, large = ARRAY + 900, ARRAY.astype(int) * 1000
    air = ARRAY.astype(float)
    air[:2] = ARRAY[2:].min()
    padded = ARRAY.copy()
    padded[:2] = -2000
    ranged = padded.copy()
    ranged[0] = -1990
    mixed = "PS3.3, C.7.4.1: positions count within one frame of reference"
    return [
        series("number-missing", "no InstanceNumber", PLAIN, setting(InstanceNumber=None), source="dcm2niix #341", oracle="sitk"),
        series("position-jitter", "positions off by a third of a micrometre", Read(ARRAY, LPS_RAS), setting(ImagePositionPatient=lambda k: [-11, -7, 40 + 3 * k - 0.0003 * (k % 2)]), source="dcm2niix #539"),
        series("positions-as-text", "positions of more than 16 characters, and with exponents", PLAIN, setting(), source="PS3.5, 6.2: DS", after=_long_positions),
        series("orientation-jitter", "directions that differ in the fifth digit", Read(ARRAY, LPS_RAS), setting(ImageOrientationPatient=lambda k: [1, 0, 1e-5 * (k % 2), 0, 1, 0]), source="dcm2niix #539"),
        series("spacing-jitter", "pixel spacings that differ in the sixth digit", Read(ARRAY, LPS_RAS), setting(PixelSpacing=lambda k: [1.5, 2.0 + 1e-6 * (k % 2)]), source="SimpleITK: non uniform sampling"),
        series("spacing-between-wrong", "SpacingBetweenSlices contradicts the positions", PLAIN, setting(SpacingBetweenSlices=-9), source="PS3.3, C.8.3.1", modality="CT"),
        series("imager-spacing", "ImagerPixelSpacing alone, which is the detector's", Refused("PixelSpacing"), setting(PixelSpacing=None, ImagerPixelSpacing=[0.1, 0.1]), source="PS3.3, 10.7.1.3; dwv #1011"),
        series("pet-frame-times", "a PET whose bed positions have their own frame times: one volume", Read(np.abs(ARRAY) * 1.0, LPS_RAS), bed, modality="PT", array=np.abs(ARRAY) * 1, source="dcm2niix #698"),
        series("own-times", "every slice has its own time", PLAIN, setting(AcquisitionTime=lambda k: f"1000{k:02}", ContentTime=lambda k: f"1100{k:02}"), source="PS3.3, C.7.6.1", oracle="sitk"),
        series("echo-jitter", "echo times that differ in the fifth digit", Read(ARRAY, LPS_RAS), setting(EchoTime=lambda k: 2.32 + 1e-4 * (k % 2)), modality="MR", source="dcm2niix #289"),
        series("two-patients", "slices of two patients under one series UID", Refused("patient"), setting(PatientID=lambda k: f"P{k // 4}"), source="PS3.3, A.1.2: a series is of one patient"),
        series("two-frames-of-reference", "two frames of reference under one series UID", Refused("reference"), setting(FrameOfReferenceUID=lambda k: generate_uid(entropy_srcs=[str(k // 4)])), source=mixed),
        series("frame-of-reference-missing", "no FrameOfReferenceUID anywhere", PLAIN, setting(FrameOfReferenceUID=None), source=mixed),
        series("patient-missing", "an emptied PatientID, as anonymisers leave it", PLAIN, setting(PatientID=""), source="PS3.15, annex E"),
        series("localizer-inside", "a localizer within the series", Read(ARRAY[:, :, 1:], None, note="localizer"), localizer, source="PS3.3, C.7.6.1.1.2"),
        series("icon", "a picture in the header with Rows and Columns of its own", PLAIN, icon, source="PS3.3, C.7.6.1.1.6"),
        series("uid-space", "a series UID padded with a space in half of the files", PLAIN, setting(SeriesInstanceUID="1.2.3.456"), source="PS3.5, 6.2: UI ends with NULL; pydicom #1240", after=spaced_uid),
        series("trailing-padding", "DataSetTrailingPadding behind the pixels", PLAIN, source="PS3.5, 7.2", after=trailing),
        series("group-length-wrong", "a wrong length of the meta header", PLAIN, source="PS3.10, 7.1; pydicom #459", after=wrong_group_length),
        series("pixels-as-ob", "16-bit pixels called OB", PLAIN, source="PS3.5, A.2", after=as_ob),
        series("frames-without-place", "eight frames in one file without positions", Refused("position"), source="PS3.3, C.7.6.6", after=nuclear),
        series("padding-other-sign", "PixelPaddingValue stored without its sign", Read(air, LPS_RAS), lambda d, k: (_stored(padded)(d, k), d.add(pydicom.DataElement(0x00280120, "US", 63536))), source="PS3.3, C.7.5.1.1.2; dcmtk #1049"),
        series("padding-range", "PixelPaddingRangeLimit", Read(air, LPS_RAS), lambda d, k: (_stored(ranged, PixelPaddingValue=-2000)(d, k), setting(PixelPaddingRangeLimit=-1990)(d, k)), source="PS3.3, C.7.5.1.1.2"),
        series("modality-lut", "a table instead of a rescale", Read(unsigned * 2.0, LPS_RAS), lambda d, k: (_stored(unsigned, "<u2")(d, k), lut(d, k)), source="PS3.3, C.11.1"),
        series("slope-negative", "RescaleSlope -1", Read(ARRAY * -1.0, LPS_RAS), setting(RescaleSlope=-1), source="PS3.3, C.11.1", oracle="sitk"),
        series("intercept-by-slice", "each slice has its own intercept", Read(ARRAY + 10.0 * np.arange(8), LPS_RAS), setting(RescaleIntercept=lambda k: 10 * k), source="PS3.3, C.11.1", modality="MR"),
        series("bits-32", "32 bits a pixel", Read(large, LPS_RAS), _stored(large, "<i4", BitsAllocated=32, BitsStored=32, HighBit=31), modality="MR", source="PS3.3, C.7.6.3", oracle="pydicom"),
        series("photometric-missing", "no PhotometricInterpretation", Refused("Photometric"), setting(PhotometricInterpretation=None), source="PS3.3, C.7.6.3"),
        series("window-many", "three windows, one of them damaged", PLAIN, setting(WindowCenter=[40, 400, -600], WindowWidth=[400, 0, 1500]), source="PS3.3, C.11.2", oracle="sitk"),
        series("derived-too", "half of the slices are called DERIVED", PLAIN, setting(ImageType=lambda k: [["ORIGINAL", "DERIVED"][k % 2], "PRIMARY", "AXIAL"]), source="a CT joined from two reconstructions"),
        series("number-huge", "InstanceNumber beyond 32 bits", PLAIN, setting(InstanceNumber=lambda k: 2**31 - 9 + k), source="dcm2niix #529"),
    ]  # fmt: skip


def _long_positions(place: Path) -> None:
    for k, name in enumerate(sorted(place.iterdir())):
        dataset = pydicom.dcmread(name)
        del dataset.ImagePositionPatient
        text = f"-1.10000000000000000e+01\\-7.000000000000000000\\{40 + 3 * k:.20f}".encode()
        dataset.add_new(0x00200032, "LO", "x" * (len(text) + len(text) % 2))
        dataset.save_as(name)
        content = name.read_bytes()
        old = b"\x20\0\x32\0LO" + struct.pack("<H", len(text) + len(text) % 2)
        assert content.count(old) == 1
        at = content.index(old)
        end = at + 8 + len(text) + len(text) % 2
        name.write_bytes(content[:at] + old.replace(b"LO", b"DS") + text + b" " * (len(text) % 2) + content[end:])


def _nifti() -> list[Odd]:
    tilted = RAS.copy()
    tilted[:3, 0] += [0, 2e-3, -1e-3]
    tiny = np.float32(0.70710684)
    half = np.array([[-2.0, 0, 0, -11], [0, -1.5, 0, -7], [0, 0, 3.0, 40], [0, 0, 0, 1]])  # half a turn about z
    wide = (ARRAY.astype(int) + 32768).astype("u2")
    analyze = bytearray(header(ARRAY, magic=b"", sform_code=0))
    twice = gzip.compress(gzip.compress(bytes(header(ARRAY)) + bytes(4) + ARRAY.tobytes(order="F")))
    return [
        simple("nearly-orthonormal", "directions off a right angle by a thousandth, which ITK refuses", Read(ARRAY, tilted), source="nnU-Net #756, #2265", srow=tilted[:3].ravel()),
        simple("quaternion-too-long", "a quaternion a little longer than 1", Read(ARRAY, half), source="nibabel #148", sform_code=0, qform_code=1, quatern=[0, 0, np.float32(1.0000001)], pixdim=[1, 2, 1.5, 3, 1, 1, 1, 1], oracle="arithmetic"),
        simple("dims-behind-0", "dim[4] to dim[7] are 0", NIFTI_PLAIN, source="nifti1.h: dim[i] above dim[0] are ignored", dim=[3, 12, 10, 8, 0, 0, 0, 0], oracle="nibabel"),
        simple("4d-one-behind-0", "dim[0] 4, dim[4] 1, the rest 0", NIFTI_PLAIN, source="nifti1.h", dim=[4, 12, 10, 8, 1, 0, 0, 0]),
        simple("units-255", "xyzt_units with every bit", NIFTI_PLAIN, source="nifti1.h: XYZT_TO_SPACE", xyzt_units=-1),
        simple("intent", "an intent code of a statistic", NIFTI_PLAIN, source="nifti1.h", intent_code=5, oracle="nibabel"),
        simple("unsigned-with-offset", "unsigned with scl_inter -32768", Read(ARRAY, RAS), source="FSL, FreeSurfer", array=wide, scl_inter=-32768, oracle="nibabel"),
        simple("slope-0-inter", "scl_slope 0 beside an scl_inter: no scaling", NIFTI_PLAIN, source="LAYNII #26; nifti1.h: scl_slope 0", scl_slope=0, scl_inter=7),
        simple("both-codes-other-scale", "qform and sform with other voxel sizes", Read(ARRAY, RAS, note="sform"), source="ITK: unexpected scales in sform", qform_code=1, pixdim=[1, 1, 1, 1, 1, 1, 1, 1], qoffset=[-11, -7, 40]),
        raw("analyze", "Analyze 7.5: no magic, no sides", bytes(analyze), Refused("."), source="SPM, Analyze 7.5", place="scan.hdr"),
        raw("gz-twice", "packed twice", twice, Refused("."), source="an upload that packs what is packed", place="scan.nii.gz"),
        raw("named-upper", "SCAN.NII", bytes(header(ARRAY)) + bytes(4) + ARRAY.tobytes(order="F"), NIFTI_PLAIN, place="SCAN.NII"),
        Odd("nifti-pair-gz", "a pair of packed files", "nifti1.h: ni1", NIFTI_PLAIN, _packed_pair),
        raw("small-quaternion", "a quarter turn by the quaternion", bytes(header(ARRAY, sform_code=0, qform_code=1, quatern=[0, 0, tiny])) + bytes(4) + ARRAY.tobytes(order="F"), Read(ARRAY, np.array([[0, -1.5, 0, -11], [2.0, 0, 0, -7], [0, 0, 3, 40], [0, 0, 0, 1]]))),
    ]  # fmt: skip


def _packed_pair(folder: Path) -> Path:
    (folder / "scan.hdr.gz").write_bytes(gzip.compress(bytes(header(ARRAY, magic=b"ni1", vox_offset=0)) + bytes(4)))
    (folder / "scan.img.gz").write_bytes(gzip.compress(ARRAY.tobytes(order="F")))
    return folder / "scan.hdr.gz"


def _text_headers() -> list[Odd]:
    bom = b"\xef\xbb\xbf"
    crlf = meta_header().replace(b"\n", b"\r\n")
    return [
        meta("centre-of-rotation", "a CenterOfRotation, which moves nothing", META_PLAIN, CenterOfRotation="5 5 5", oracle="sitk"),
        meta("anatomical-wrong", "AnatomicalOrientation contradicts the matrix, which counts", META_PLAIN, AnatomicalOrientation="LPI", oracle="sitk"),
        meta("packed-size-wrong", "a CompressedDataSize that is wrong", META_PLAIN, zlib.compress(BYTES), CompressedData="True", CompressedDataSize="7"),
        files("meta-crlf", "lines end in CR LF", "a file edited on Windows", META_PLAIN, "scan.mha", {"scan.mha": crlf + BYTES}),
        files("meta-bom", "a byte order mark before the header", "a file edited on Windows", Refused("."), "scan.mha", {"scan.mha": bom + meta_header() + BYTES}),
        files("meta-backslash", "the voxels' file named with a backslash", "a file of Windows", Refused("beside|folder|scan.raw"), "scan.mhd", {"scan.mhd": meta_header(ElementDataFile="C:\\data\\scan.raw"), "scan.raw": BYTES}),
        files("meta-no-spaces", "no spaces round the equals sign", "MetaIO, tag documentation", META_PLAIN, "scan.mha", {"scan.mha": meta_header().replace(b" = ", b"=") + BYTES}, oracle="sitk"),
        meta("4d-one", "four axes, the last of one", Read(ARRAY, META_RAS), NDims="4", DimSize="12 10 8 1", ElementSpacing="2 1.5 3 1", Offset="-11 -7 40 0", TransformMatrix="1 0 0 0 0 1 0 0 0 0 1 0 0 0 0 1"),
        meta("matrix-rounded", "a matrix of three digits", Read(ARRAY, META_RAS), TransformMatrix="1.000 0.000 -0.000 0.000 1.000 0.000 0.000 0.000 1.000", oracle="sitk"),
        nrrd("vector-spaces", "spaces within a vector", Read(ARRAY, RAS), space_directions="( -2, 0, 0 ) ( 0, -1.5, 0 ) ( 0, 0, 3 )"),
        nrrd("space-dimension", "space dimension 3 and no named space: no sides", Read(ARRAY, note="unknown side"), space=None, more="space dimension: 3\n"),
        nrrd("thickness", "thicknesses and spacings of 3D Slicer", Read(ARRAY, RAS), thicknesses="NaN NaN 3"),
        nrrd("measurement-frame", "a measurement frame, which is of vectors", Read(ARRAY, RAS), measurement_frame="(1,0,0) (0,1,0) (0,0,1)", oracle="sitk"),
        nrrd("old-range", "old min and old max, which are of a quantisation", Read(ARRAY, RAS), old_min="0", old_max="1"),
        nrrd("origin-missing", "directions and no origin", Read(ARRAY, note="without an origin"), space_origin=None),
        files("nrrd-bom", "a byte order mark before the header", NRRD_RULES, Refused("."), "scan.nrrd", {"scan.nrrd": bom + b"NRRD0004\n" + BYTES}),
    ]  # fmt: skip


CASES = [*_codecs(), *_series(), *_nifti(), *_text_headers()]
