"""How is a Volume written so that any other program reads the same voxels at the same places?

Both writers can store it in any of the 48 orientations: the word names where columns, rows and slices grow toward
("LPS": left, posterior, superior).
"""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid

from slicesight.errors import InputError, VolumeError, check_type
from slicesight.files import checked_place, replacing
from slicesight.io.nifti import SYNTHETIC_MARKER
from slicesight.volumes.geometry import LPS_FROM_RAS, NATURAL_ORIENTATION, is_orientation, stored_affine, stored_view
from slicesight.volumes.volume import Volume

_GZIP_LEVEL = 4  # twice as fast as the usual 6 and 3 % larger on a CT
_NEW_IMAGE: Any = nib.Nifti1Image
_OPPOSITE = dict(zip("SIPALR", "ISAPRL", strict=True))


def write_nifti(
    volume: Volume, path: str | Path, *, labels: NDArray[np.integer] | None = None, orientation: str | None = None
) -> None:
    """Write the scan, or a label map over it, as .nii or .nii.gz.

    Args:
        labels: (Z, Y, X) canonical label map to write with the volume's geometry instead of its voxels.
        orientation: how to store it; None keeps the volume's own slice axis and order.
    """
    word = _checked(volume, orientation)
    voxels = volume.voxels if labels is None else labels
    if voxels.shape != volume.voxels.shape:
        raise VolumeError(f"{path}: labels are {voxels.shape}, the volume is {volume.shape}; expected the same shape")
    stored = stored_view(_storable(voxels), word)
    assert volume.affine_lps is not None
    affine_ras = LPS_FROM_RAS @ stored_affine(volume.affine_lps, stored.shape, word)
    image: Any = _NEW_IMAGE(np.asarray(stored), affine_ras)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine_ras, code=1)
    image.set_qform(affine_ras, code=1)
    if volume.is_synthetic:
        image.header["descrip"] = SYNTHETIC_MARKER.encode()
    save_nifti(image, check_nifti_name(Path(path)))


def check_nifti_name(path: Path) -> Path:
    """The path, if a NIfTI can be written there."""
    if not path.name.endswith((".nii", ".nii.gz")):
        raise InputError(f"{path}: expected a name that ends with .nii or .nii.gz")
    return checked_place(path)


def save_nifti(image: Any, path: Path) -> None:
    """Write a nibabel image, packed if its name ends with .gz."""
    content = image.to_bytes()
    if path.suffix == ".gz":
        content = gzip.compress(content, compresslevel=_GZIP_LEVEL, mtime=0)
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_dicom(volume: Volume, folder: str | Path, *, orientation: str | None = None) -> None:
    """Write the scan as one DICOM series, a file per slice, named in stored order.

    CT values are rounded to whole HU; other units are scaled to 16 bits.
    """
    word = _checked(volume, orientation)
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    if any(place.iterdir()):
        raise VolumeError(f"{place}: the folder is not empty; name a new one so that two series do not mix")
    stored = stored_view(volume.voxels, word)
    assert volume.affine_lps is not None
    ijk_to_zyx = np.linalg.inv(volume.affine_lps) @ stored_affine(volume.affine_lps, stored.shape, word)
    corners = volume.geometry.to_mm([(ijk_to_zyx @ (0, 0, k, 1))[:3] for k in range(stored.shape[2])])
    assert corners is not None
    columns = (volume.affine_lps @ ijk_to_zyx)[:3, :3]
    if abs(float(columns[:, 0] @ columns[:, 1])) > 1e-4 * float(np.prod(np.linalg.norm(columns[:, :2], axis=0))):
        raise VolumeError(
            f"{place}: rows and columns stored as {word!r} are not at right angles, which DICOM cannot say; "
            "choose an orientation whose slices run along the tilted axis"
        )
    slope, intercept = (1.0, -1024.0) if volume.unit == "HU" else _scaling(volume.voxels)
    digest = hashlib.sha256(np.ascontiguousarray(volume.voxels).tobytes() + volume.affine_lps.tobytes()).hexdigest()
    common = _series_header(volume, digest, slope, intercept, columns)
    for k in range(stored.shape[2]):
        raw = np.rint((np.asarray(stored[:, :, k]).T - intercept) / slope)
        pixels = np.clip(raw, -32768, 32767).astype("<i2")
        uid = generate_uid(entropy_srcs=[digest, word, "slice", str(k)])
        _write_slice(place / f"slice_{k + 1:04d}.dcm", common, pixels, uid=UID(uid), number=k + 1, corner=corners[k])


def _checked(volume: Volume, orientation: str | None) -> str:
    check_type(volume, Volume, name="volume", expected="what slicesight.read_volume(path) gives")
    word = orientation or natural_orientation(volume)
    if not is_orientation(word):
        raise VolumeError(f"orientation {word!r} does not name each body axis once; write for example 'LPS' or 'RAS'")
    if volume.affine_lps is None:
        raise VolumeError(
            "the volume has no geometry, so its place in the patient cannot be written; save it with numpy.save"
        )
    return word


def natural_orientation(volume: Volume) -> str:
    """The usual stored orientation for the volume's slice axis and order."""
    word = NATURAL_ORIENTATION[volume.acquisition_axis]
    return word[:2] + _OPPOSITE[word[2]] if volume.slices_reversed else word


def _storable(voxels: NDArray[Any]) -> NDArray[Any]:
    """int16 where nothing is lost, the smallest unsigned type for labels, else float32."""
    low, high = float(voxels.min()), float(voxels.max())
    if voxels.dtype.kind in "iub":
        return voxels.astype(np.uint8 if low >= 0 and high < 256 else np.int16)
    if low >= -32768 and high <= 32767 and bool((voxels == np.rint(voxels)).all()):
        return voxels.astype(np.int16)
    return voxels.astype(np.float32)


def _scaling(voxels: NDArray[np.float32]) -> tuple[float, float]:
    low, high = float(voxels.min()), float(voxels.max())
    if low >= 0 and high <= 32767 and bool((voxels == np.rint(voxels)).all()):
        return 1.0, 0.0
    return float(f"{max(high - low, 1e-6) / 32000:.10e}"), float(f"{low:.10e}")


def _series_header(
    volume: Volume, digest: str, slope: float, intercept: float, columns: NDArray[np.float64]
) -> Dataset:
    is_ct = volume.unit == "HU"
    spacing = np.linalg.norm(columns, axis=0)
    directions = columns / spacing
    header = Dataset()
    header.SOPClassUID = CTImageStorage if is_ct else MRImageStorage
    header.Modality = "CT" if is_ct else "MR"
    header.ImageType = ["DERIVED", "SECONDARY", "AXIAL"] if is_ct else ["DERIVED", "SECONDARY", "OTHER"]
    header.Manufacturer = SYNTHETIC_MARKER if volume.is_synthetic else "slicesight"
    header.PatientName = header.PatientID = "PHANTOM" if volume.is_synthetic else "ANONYMOUS"
    for keyword in ("PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID", "AccessionNumber",
                    "ReferringPhysicianName", "PositionReferenceIndicator", "AcquisitionNumber", "KVP"):  # fmt: skip
        setattr(header, keyword, None)
    header.StudyInstanceUID = generate_uid(entropy_srcs=[digest, "study"])
    header.SeriesInstanceUID = generate_uid(entropy_srcs=[digest, "series"])
    header.FrameOfReferenceUID = generate_uid(entropy_srcs=[digest, "frame"])
    header.SeriesNumber = 1
    header.SeriesDescription = f"{volume.plane} {'synthetic CT' if volume.is_synthetic else 'volume'}"
    if not is_ct:
        header.ScanningSequence, header.SequenceVariant = "RM", "NONE"
        header.ScanOptions = header.MRAcquisitionType = header.EchoTime = header.EchoTrainLength = None
    header.PatientPosition = "HFS"
    header.ImageOrientationPatient = [_decimal(value) for value in (*directions[:, 0], *directions[:, 1])]
    header.PixelSpacing = [_decimal(spacing[1]), _decimal(spacing[0])]
    header.SliceThickness = _decimal(spacing[2])
    header.SamplesPerPixel = 1
    header.PhotometricInterpretation = "MONOCHROME2"
    header.BitsAllocated = header.BitsStored = 16
    header.HighBit = 15
    header.PixelRepresentation = 1
    header.RescaleIntercept, header.RescaleSlope = _decimal(intercept), _decimal(slope)
    header.RescaleType = "HU" if is_ct else "US"
    return header


def _write_slice(
    path: Path, common: Dataset, pixels: NDArray[np.int16], *, uid: UID, number: int, corner: NDArray[np.float64]
) -> None:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = common.SOPClassUID
    meta.MediaStorageSOPInstanceUID = uid
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset(str(path), common, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPInstanceUID = uid
    dataset.InstanceNumber = number
    dataset.ImagePositionPatient = [_decimal(value) for value in corner]
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.PixelData = pixels.tobytes()
    with replacing(path) as temporary:
        dataset.save_as(temporary, enforce_file_format=True)


def _decimal(value: float) -> str:
    """A DICOM decimal string: at most 16 characters."""
    for digits in range(15, 0, -1):
        text = f"{float(value) + 0.0:.{digits}g}"
        if len(text) <= 16:
            return text
    raise AssertionError(value)
