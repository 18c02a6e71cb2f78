"""How is a label map read and written so that it lies exactly on its scan? NIfTI, and DICOM SEG to write.

A NIfTI mask of a NIfTI scan has the scan's own axes, shape and every geometry field of its header, byte for byte; only
an sform of zeros is switched off. A mask of any other scan is stored in the scan's orientation with its affine. A
DICOM SEG refers to the series' images.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
from numpy.typing import NDArray

from slicesight import __version__
from slicesight.errors import InputError, VolumeError
from slicesight.files import checked_place, replacing
from slicesight.io.dicom.frames import frames_of
from slicesight.io.dicom.source import headers_of
from slicesight.io.dicom.values import quiet_pydicom
from slicesight.io.files import head_of, is_zip
from slicesight.io.loading import read_volume
from slicesight.io.nifti import has_void_sform
from slicesight.io.writers import check_nifti_name, save_nifti, write_nifti
from slicesight.volumes.foreground import foreground_threshold
from slicesight.volumes.geometry import canonical_view, is_orientation, stored_affine, stored_view
from slicesight.volumes.volume import Volume

GEOMETRY_FIELDS = ("pixdim", "xyzt_units", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d",
                   "qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z")  # fmt: skip
BLANKS = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate",
          "StudyTime")  # fmt: skip
"""What a SEG copies from its images; an image that lacks one is taken to leave it blank, as DICOM allows."""
SAME_PLACE_MM = 0.5
LEAST_SHARE_IN_BODY = 0.8
MANUFACTURER = "slicesight"
PRIVATE_CODES = "99SLICESIGHT"
log = logging.getLogger(__name__)


def read_labels(path: Path, volume: Volume) -> NDArray[np.int32]:
    """The canonical label map of a mask file.

    Where mask or scan states no place in the patient, the mask's stored axes are taken as the scan's, which a warning
    says; another warns of labels outside the body.

    Raises:
        VolumeError: not whole numbers, or another shape or place than the scan's.
    """
    mask, voxels = read_mask(
        path,
        orientation=str(volume.source.get("stored_orientation", "")),
        has_place=volume.affine_lps is not None,
    )
    if voxels.shape != volume.shape:
        raise VolumeError(
            f"{path.name}: the mask is {voxels.shape}, the scan {volume.shape} (z, y, x); expected one grid, "
            "resample it"
        )
    if mask.affine_lps is not None and volume.affine_lps is not None:
        corners = np.array([[0, 0, 0, 1], [*(size - 1 for size in volume.shape), 1]], dtype=float)
        apart = np.abs(corners @ (mask.affine_lps - volume.affine_lps).T).max()
        if apart > SAME_PLACE_MM:
            raise VolumeError(
                f"{path.name}: the mask lies up to {apart:.1f} mm off the scan; expected the same place, fix its header"
            )
    labels = whole_labels(voxels, path.name)
    share = share_in_body(labels, volume)
    if share < LEAST_SHARE_IN_BODY:
        log.warning(
            "%s: only %.0f %% of the labelled voxels lie in the body, the others in air; check that mask and scan "
            "belong together",
            path.name,
            100 * share,
        )
    return labels


def read_mask(path: Path, *, orientation: str, has_place: bool) -> tuple[Volume, NDArray[np.float32]]:
    """A mask file, and its voxels on the canonical axes of a scan stored in `orientation`, with a place or without.

    Where mask or scan states no place in the patient, the mask's stored axes are taken as the scan's, which a warning
    says.
    """
    mask = read_volume(path, unit="arbitrary", may_be_blank=True)
    voxels, words = mask.voxels, [str(mask.source.get("stored_orientation", "")), orientation]
    places = [mask.affine_lps is not None, has_place]
    if all(map(is_orientation, words)) and (places[0] != places[1] or (not any(places) and len(set(words)) > 1)):
        voxels = canonical_view(stored_view(voxels, words[0]), words[1])
        which = "scan" if places[0] else "mask"
        log.warning(
            "%s: the %s states no place in the patient; the mask's stored axes are taken as the scan's, look at both",
            path.name,
            which,
        )
    return mask, voxels


def whole_labels(voxels: NDArray[np.float32], name: str) -> NDArray[np.int32]:
    """A mask's values as whole numbers.

    Raises:
        VolumeError: fractions or negative values.
    """
    labels = voxels.astype(np.int32)
    if not np.array_equal(labels, voxels) or labels.min() < 0:
        odd = voxels[(labels != voxels) | (voxels < 0)][0]
        raise VolumeError(
            f"{name}: the mask holds fractions or negative values ({odd:g} among them); expected labels 0, 1, 2, …, "
            "round them or choose a threshold"
        )
    return labels


def share_in_body(labels_ZYX: NDArray[np.integer], volume: Volume) -> float:
    """Which share of the labelled voxels has body on both sides, along rows and columns of its axial slice.

    Lungs and bowel gas count as inside; 1 where nothing is labelled.
    """
    threshold, inside, total = foreground_threshold(volume), 0, 0
    for labels_YX, voxels_YX in zip(labels_ZYX, volume.voxels, strict=True):
        labelled = labels_YX > 0
        if labelled.any():
            body = voxels_YX > threshold
            for axis in (0, 1):
                before = np.logical_or.accumulate(body, axis=axis)
                behind = np.flip(np.logical_or.accumulate(np.flip(body, axis), axis=axis), axis)
                labelled = labelled & before & behind
            inside, total = inside + int(labelled.sum()), total + int((labels_YX > 0).sum())
    return inside / total if total else 1.0


def write_mask(labels_ZYX: NDArray[np.integer], volume: Volume, *, source: str | Path, out: str | Path) -> None:
    """Write a canonical label map as NIfTI in the grid of the scan it was made from.

    Args:
        volume: the scan as read from `source`.

    A scan without geometry gives a mask in its stored axes, with an identity affine and both codes 0, and a warning.

    Raises:
        InputError: a name that is no NIfTI's.
    """
    place = check_nifti_name(Path(out))
    assert labels_ZYX.shape == volume.shape
    original = _nifti_of(Path(source), volume)
    orientation = volume.source.get("stored_orientation")
    if original is None and volume.affine_lps is not None:
        write_nifti(volume, place, labels=labels_ZYX, orientation=orientation)
        return
    if original is None or volume.affine_lps is None:
        log.warning(
            "%s: the scan states no place in the patient; the mask has its stored axes and no place either", place.name
        )
    stored: NDArray[Any] = np.asfortranarray(stored_view(labels_ZYX, str(orientation)).astype(_label_type(labels_ZYX)))
    is_second = original is not None and int(original.header["sizeof_hdr"]) == 540
    kind: Any = nib.Nifti2Image if is_second else nib.Nifti1Image
    image = kind(stored, None)
    if original is None:
        for row, field in zip(np.eye(3, 4), ("srow_x", "srow_y", "srow_z"), strict=True):
            image.header[field] = row  # an identity whose code, 0, says that it means nothing
        if volume.spacing_mm is not None:
            towards = np.zeros((4, 4))
            towards[[2, 1, 0, 3], [0, 1, 2, 3]] = *volume.spacing_mm, 1
            image.header.set_zooms(
                np.linalg.norm(stored_affine(towards, stored.shape, str(orientation))[:3, :3], axis=0)
            )
    else:
        assert stored.shape == original.shape[:3]
        for field in GEOMETRY_FIELDS:
            image.header[field] = original.header[field]
        if has_void_sform(original.header):
            image.header["sform_code"] = 0  # the qform alone says where the scan lies
    save_nifti(image, place)


def write_dicom_seg(
    labels_ZYX: NDArray[np.integer],
    volume: Volume,
    *,
    source: str | Path,
    out: str | Path,
    names: Sequence[str],
    values: Sequence[int],
    algorithm: str,
) -> None:
    """Write a canonical label map as one binary DICOM SEG, a segment per label in the order of `values`.

    Raises:
        InputError: the scan was not read from DICOM, or its images lack what a SEG must repeat.
    """
    import highdicom

    place = checked_place(Path(out))
    frames = np.ascontiguousarray(stored_view(labels_ZYX, volume.source["stored_orientation"]).transpose(2, 1, 0))
    classes = np.zeros(frames.shape, np.uint16)
    for number, value in enumerate(values, start=1):
        classes[frames == value] = number
    images, order = source_images(Path(source), volume)
    with quiet_pydicom():
        try:
            segmentation = highdicom.seg.Segmentation(
                source_images=images,
                pixel_array=classes[order],
                segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
                segment_descriptions=[_segment(number, name, algorithm) for number, name in enumerate(names, start=1)],
                series_instance_uid=highdicom.UID(),
                series_number=1000,
                sop_instance_uid=highdicom.UID(),
                instance_number=1,
                manufacturer=MANUFACTURER,
                manufacturer_model_name=algorithm[:64],
                software_versions=__version__,
                device_serial_number="0",
                content_label="SEGMENTATION",
                content_description="For research use only; not a medical device.",
                series_description=f"Segmentation by {algorithm}"[:64],
            )
        except AttributeError as error:
            raise InputError(f"{Path(source).name}: a DICOM SEG cannot refer to these images: {error}") from error
        with replacing(place) as temporary:
            segmentation.save_as(temporary)


def _nifti_of(source: Path, volume: Volume) -> Any:
    """The scan's own NIfTI, unless it was read from another format, a zip or folder, or with another spacing."""
    if not source.is_file() or not str(volume.source.get("format", "")).startswith("NIfTI"):
        return None
    if is_zip(head_of(source)):
        return None
    try:
        original: Any = nib.load(source)
    except nib.filebasedimages.ImageFileError:  # one name of a pair, or a name nibabel does not know
        return None
    spacing = np.sort(np.asarray(original.header.get_zooms()[:3], dtype=float))
    same = volume.spacing_mm is not None and np.allclose(np.sort(volume.spacing_mm), spacing, rtol=1e-3)
    return original if same else None


def _label_type(labels: NDArray[np.integer]) -> type:
    return np.uint8 if int(labels.max(initial=0)) < 256 else np.int16


def _segment(number: int, name: str, algorithm: str) -> Any:
    import highdicom
    from pydicom.sr.codedict import codes
    from pydicom.sr.coding import Code

    slug = "".join(character if character.isalnum() else "_" for character in name.upper())[:16]
    identification = highdicom.AlgorithmIdentificationSequence(
        name=algorithm, version=__version__, family=codes.DCM.ArtificialIntelligence
    )
    return highdicom.seg.SegmentDescription(
        segment_number=number,
        segment_label=name[:64],
        segmented_property_category=codes.SCT.Tissue,
        segmented_property_type=Code(slug, PRIVATE_CODES, name[:64]),
        algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=identification,
    )


def source_images(source: Path, volume: Volume) -> tuple[list[pydicom.Dataset], list[int]]:
    """The series' headers as a SEG wants them, and the volume's source slices in the order of their frames."""
    name = source.name
    if volume.source.get("format") != "DICOM" or not volume.sop_instance_uids:
        raise InputError(f"{name}: a DICOM SEG refers to DICOM images; this scan has none, write a NIfTI mask")
    found = headers_of(source, volume)
    for header in found.values():
        for keyword in BLANKS:
            if keyword not in header:
                setattr(header, keyword, None)
    if len(found) == len(volume.sop_instance_uids):
        return [found[uid] for uid in volume.sop_instance_uids], list(range(len(found)))
    if len(found) > 1:
        raise VolumeError(
            f"{name}: a series of several multi-frame files; a DICOM SEG refers to one, write a NIfTI mask"
        )
    (only,) = found.values()
    frames = frames_of([only])
    if len(frames) != volume.num_source_slices:
        raise VolumeError(
            f"{name}: {len(frames)} frames, {volume.num_source_slices} slices read; a DICOM SEG needs all frames, "
            "write a NIfTI mask"
        )
    normal = np.cross(frames[0].directions[0], frames[0].directions[1])
    by_place = np.argsort([float(frame.position @ normal) for frame in frames], kind="stable")
    return [only], np.argsort(by_place).tolist()
