"""Does a written mask lie exactly on its scan, whatever the scan's axes and format?"""

import itertools
import zipfile

import highdicom
import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK

from slicesight.errors import InputError, VolumeError
from slicesight.io.loading import read_volume
from slicesight.io.masks import read_labels, write_dicom_seg, write_mask
from slicesight.io.writers import write_dicom
from slicesight.volumes.geometry import stored_view

SHAPE = (5, 6, 7)
AXES = list(itertools.permutations(range(3)))


def odd_affine(order, signs, *, tilt=0.0):
    """An affine whose stored axes run along `order` with `signs`, turned a little and of three voxel sizes."""
    matrix = np.zeros((3, 3))
    for stored, (axis, sign) in enumerate(zip(order, signs, strict=True)):
        matrix[axis, stored] = sign * (0.9, 1.7, 3.3)[stored]
    turn = np.eye(3)
    turn[:2, :2] = [[np.cos(0.2), -np.sin(0.2)], [np.sin(0.2), np.cos(0.2)]]
    affine = np.eye(4)
    affine[:3, :3] = turn @ matrix
    affine[:3, 2] += tilt * affine[:3, 1]
    affine[:3, 3] = (-81.3, 40.123, 7.77)
    return affine


def marked(volume):
    """A canonical label map with one voxel of its own value in every octant, and a block."""
    labels = np.zeros(volume.shape, np.int32)
    labels[0, 0, 1], labels[-1, 1, 0], labels[1, -1, -1] = 1, 2, 3
    labels[2:4, 2:4, 2:4] = 7
    return labels


@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, -1), (1, -1, -1)])
@pytest.mark.parametrize("order", AXES)
def test_a_niftis_mask_has_its_very_axes_affine_and_place(tmp_path, order, signs):
    stored = np.random.default_rng(1).normal(60, 9, SHAPE).astype(np.float32)
    source = tmp_path / "scan.nii.gz"
    image = nib.Nifti1Image(stored, odd_affine(order, signs))
    image.header["descrip"] = b"somebody's name"
    nib.save(image, source)
    volume = read_volume(source)
    write_mask(marked(volume), volume, source=source, out=tmp_path / "mask.nii.gz")
    found, original = nib.load(tmp_path / "mask.nii.gz"), nib.load(source)
    assert found.shape == original.shape
    assert np.array_equal(found.affine, original.affine)
    for name in ("sform_code", "qform_code", "pixdim", "srow_x", "quatern_b", "qoffset_z", "xyzt_units"):
        assert np.array_equal(found.header[name], original.header[name]), name
    assert found.get_data_dtype() == np.uint8
    assert b"somebody" not in bytes(found.header["descrip"].tobytes())
    assert np.array_equal(read_labels(tmp_path / "mask.nii.gz", volume), marked(volume))
    ijk = np.argwhere(np.asarray(found.dataobj) == 2)[0]
    zyx = np.argwhere(marked(volume) == 2)[0]
    lps = volume.geometry.to_mm(zyx)
    assert np.allclose((original.affine @ [*ijk, 1])[:3] * [-1, -1, 1], lps, atol=1e-3)


@pytest.mark.parametrize(
    ("sform", "qform", "kind"),
    [(2, 0, nib.Nifti1Image), (0, 1, nib.Nifti1Image), (1, 1, nib.Nifti2Image), (0, 0, nib.Nifti1Image)],
)
def test_the_codes_of_the_header_and_its_version_are_kept(tmp_path, sform, qform, kind):
    image = kind(np.random.default_rng(1).normal(60, 9, SHAPE).astype(np.float32), np.eye(4))
    affine = odd_affine((1, 0, 2), (1, -1, 1))
    image.set_sform(affine, code=sform)
    image.set_qform(affine, code=qform)
    source = tmp_path / "scan.nii"
    nib.save(image, source)
    volume = read_volume(source)
    write_mask(marked(volume), volume, source=source, out=tmp_path / "mask.nii")
    found = nib.load(tmp_path / "mask.nii")
    assert type(found) is kind
    assert (int(found.header["sform_code"]), int(found.header["qform_code"])) == (sform, qform)
    assert np.array_equal(found.affine, nib.load(source).affine)


def test_a_tilted_niftis_mask_and_one_of_a_4d_file_lie_on_it(tmp_path):
    stored = np.random.default_rng(1).normal(60, 9, (*SHAPE, 2)).astype(np.float32)
    source = tmp_path / "scan.nii.gz"
    nib.save(nib.Nifti1Image(stored, odd_affine((0, 1, 2), (-1, -1, 1), tilt=0.3)), source)
    volume = read_volume(source, time_point=1)
    write_mask(marked(volume), volume, source=source, out=tmp_path / "mask.nii.gz")
    found = nib.load(tmp_path / "mask.nii.gz")
    assert found.shape == SHAPE
    assert np.array_equal(found.affine, nib.load(source).affine)
    assert np.array_equal(read_labels(tmp_path / "mask.nii.gz", volume), marked(volume))


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_other_formats_get_a_nifti_mask_in_their_own_grid(tmp_path, suffix):
    image = SimpleITK.GetImageFromArray(np.random.default_rng(1).normal(60, 9, SHAPE).astype(np.float32))
    image.SetSpacing((0.7, 1.1, 2.5))
    image.SetOrigin((3.0, -4.0, 5.5))
    image.SetDirection((0, 1, 0, -1, 0, 0, 0, 0, 1))
    source = tmp_path / f"scan{suffix}"
    SimpleITK.WriteImage(image, source)
    volume = read_volume(source)
    write_mask(marked(volume), volume, source=source, out=tmp_path / "mask.nii.gz")
    found = SimpleITK.ReadImage(tmp_path / "mask.nii.gz")
    assert found.GetSize() == image.GetSize()
    for theirs, ours in (
        (image.GetDirection(), found.GetDirection()),
        (image.GetSpacing(), found.GetSpacing()),
        (image.GetOrigin(), found.GetOrigin()),
    ):
        assert np.allclose(theirs, ours, atol=1e-4)
    assert np.array_equal(read_labels(tmp_path / "mask.nii.gz", volume), marked(volume))


def test_a_name_that_is_no_niftis_is_refused(tmp_path):
    np.save(tmp_path / "scan.npy", np.random.default_rng(1).normal(60, 9, SHAPE).astype(np.float32))
    volume = read_volume(tmp_path / "scan.npy")
    with pytest.raises(InputError, match=r"ends with \.nii"):
        write_mask(marked(volume), volume, source=tmp_path / "scan.npy", out=tmp_path / "mask.png")
    assert [file.name for file in tmp_path.iterdir()] == ["scan.npy"]


def seg_labels(path, volume):
    """What a DICOM viewer sees: the segments put back on the scan by the images they refer to."""
    seg = highdicom.seg.segread(path)
    order = {uid: place for place, uid in enumerate(volume.sop_instance_uids)}
    pixels = seg.get_pixels_by_source_instance(list(order), combine_segments=True, ignore_spatial_locations=True)
    return seg, pixels


@pytest.mark.parametrize("orientation", ["LPS", "RAI", "LIP", "PIR"])
def test_a_dicom_seg_read_back_lies_on_the_slices_it_refers_to(tmp_path, phantom, orientation):
    folder = tmp_path / "series"
    write_dicom(phantom.volume, folder, orientation=orientation)
    volume = read_volume(folder)
    labels = np.zeros(volume.shape, np.int32)
    labels[3:6, 10:20, 15:22] = 4
    labels[4, 30:33, 40:44] = 9
    settings = {"names": ["tumour", "cyst"], "values": [4, 9], "algorithm": "slicesight test"}
    write_dicom_seg(labels, volume, source=folder, out=tmp_path / "seg.dcm", **settings)
    seg, pixels = seg_labels(tmp_path / "seg.dcm", volume)
    assert [segment.SegmentLabel for segment in seg.SegmentSequence] == ["tumour", "cyst"]
    header = pydicom.dcmread(next(folder.iterdir()))
    assert seg.FrameOfReferenceUID == header.FrameOfReferenceUID
    assert seg.StudyInstanceUID == header.StudyInstanceUID
    classes = np.select([labels == 4, labels == 9], [1, 2])
    assert np.array_equal(pixels, stored_view(classes, volume.source["stored_orientation"]).transpose(2, 1, 0))
    for frame in seg.PerFrameFunctionalGroupsSequence:
        number = frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        corner = np.array(frame.PlanePositionSequence[0].ImagePositionPatient, float)
        centre = seg_centre(seg, frame, number, corner)
        zyx = np.argwhere(labels == [4, 9][number - 1])
        millimetres = volume.geometry.to_mm(zyx.astype(float))
        assert np.linalg.norm(millimetres - centre, axis=1).min() < 1e-2


def seg_centre(seg, frame, number, corner):
    """LPS of one marked pixel of a frame, from the SEG's own header alone."""
    index = list(seg.PerFrameFunctionalGroupsSequence).index(frame)
    row, column = np.argwhere(np.atleast_3d(seg.pixel_array.T).T[index])[0]
    shared = seg.SharedFunctionalGroupsSequence[0]
    cosines = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float)
    spacing = np.array(shared.PixelMeasuresSequence[0].PixelSpacing, float)
    return corner + column * spacing[1] * cosines[:3] + row * spacing[0] * cosines[3:]


def test_a_seg_of_a_zip_and_an_empty_one_are_written_too(tmp_path, phantom):
    folder = tmp_path / "series"
    write_dicom(phantom.volume, folder)
    with zipfile.ZipFile(tmp_path / "scan.zip", "w") as archive:
        for file in folder.iterdir():
            archive.write(file, file.name)
    volume = read_volume(tmp_path / "scan.zip")
    labels = np.zeros(volume.shape, np.int32)
    settings = {"names": ["tumour"], "values": [1], "algorithm": "slicesight test"}
    write_dicom_seg(labels, volume, source=tmp_path / "scan.zip", out=tmp_path / "seg.dcm", **settings)
    assert not highdicom.seg.segread(tmp_path / "seg.dcm").pixel_array.any()


def test_an_enhanced_files_frames_are_matched_by_their_place(tmp_path, phantom):
    folder = tmp_path / "series"
    write_dicom(phantom.volume, folder)
    source = tmp_path / "enhanced.dcm"
    enhanced(sorted(folder.iterdir()), source, seed=4)
    volume = read_volume(source)
    labels = np.zeros(volume.shape, np.int32)
    labels[5, 12:15, 20:30] = 1
    settings = {"names": ["tumour"], "values": [1], "algorithm": "slicesight test"}
    write_dicom_seg(labels, volume, source=source, out=tmp_path / "seg.dcm", **settings)
    seg = highdicom.seg.segread(tmp_path / "seg.dcm")
    assert seg.NumberOfFrames == 1
    (frame,) = seg.PerFrameFunctionalGroupsSequence
    corner = np.array(frame.PlanePositionSequence[0].ImagePositionPatient, float)
    centre = seg_centre(seg, frame, 1, corner)
    millimetres = volume.geometry.to_mm(np.argwhere(labels == 1).astype(float))
    assert np.linalg.norm(millimetres - centre, axis=1).min() < 1e-2


def enhanced(files, out, *, seed):
    """One multi-frame file of a series, its frames in a shuffled order."""
    from pydicom.dataset import Dataset
    from pydicom.sequence import Sequence
    from pydicom.uid import generate_uid

    headers = [pydicom.dcmread(file) for file in files]
    np.random.default_rng(seed).shuffle(headers)
    first = headers[0]
    both = pydicom.dcmread(files[0])
    both.SOPClassUID = both.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2.1"
    both.SOPInstanceUID = both.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    both.NumberOfFrames = len(headers)
    both.PixelData = b"".join(header.PixelData for header in headers)
    shared = Dataset()
    orientation, measures, values = Dataset(), Dataset(), Dataset()
    orientation.ImageOrientationPatient = first.ImageOrientationPatient
    measures.PixelSpacing, measures.SliceThickness = first.PixelSpacing, first.SliceThickness
    values.RescaleSlope, values.RescaleIntercept = first.RescaleSlope, first.RescaleIntercept
    values.RescaleType = "HU"
    shared.PlaneOrientationSequence = Sequence([orientation])
    shared.PixelMeasuresSequence = Sequence([measures])
    shared.PixelValueTransformationSequence = Sequence([values])
    both.SharedFunctionalGroupsSequence = Sequence([shared])
    frames = []
    for header in headers:
        frame, position = Dataset(), Dataset()
        position.ImagePositionPatient = header.ImagePositionPatient
        frame.PlanePositionSequence = Sequence([position])
        frames.append(frame)
    both.PerFrameFunctionalGroupsSequence = Sequence(frames)
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope"):
        delattr(both, keyword)
    both.save_as(out, enforce_file_format=True)


def test_a_seg_of_a_nifti_is_refused(tmp_path, phantom_file):
    volume = read_volume(phantom_file)
    with pytest.raises(InputError, match="refers to DICOM images"):
        write_dicom_seg(
            np.zeros(volume.shape, np.int32),
            volume,
            source=phantom_file,
            out=tmp_path / "seg.dcm",
            names=["a"],
            values=[1],
            algorithm="x",
        )
    assert not list(tmp_path.iterdir())


# --- masks and scans of which one does not say where it lies ---------------------------------------------------------


def body_and_mask(folder, *, mask_affine, scan_affine):
    """A scan with a body in air, a label in one corner of it; both stored alike, with these affines."""
    scan, mask = np.full(SHAPE, -1000, np.int16), np.zeros(SHAPE, np.uint8)
    scan[1:, 1:, 1:] = 40
    mask[1, 2, 3:5] = 1
    for name, stored, affine in (("scan", scan, scan_affine), ("mask", mask, mask_affine)):
        nib.save(nib.Nifti1Image(stored, affine), folder / f"{name}.nii.gz")
    return read_volume(folder / "scan.nii.gz"), mask


@pytest.mark.parametrize("which", ["mask", "scan"])
def test_where_one_side_has_no_geometry_the_stored_axes_count_and_it_is_said(tmp_path, caplog, which):
    affine = odd_affine((1, 0, 2), (-1, 1, -1))
    affines = {"mask_affine": affine, "scan_affine": affine, f"{which}_affine": None}
    volume, mask = body_and_mask(tmp_path, **affines)
    labels = read_labels(tmp_path / "mask.nii.gz", volume)
    assert np.array_equal(stored_view(labels, volume.source["stored_orientation"]), mask)
    assert f"mask.nii.gz: the {which} states no place in the patient" in caplog.text


def test_a_mask_with_the_scans_geometry_is_taken_without_a_word(tmp_path, caplog):
    affine = odd_affine((1, 0, 2), (-1, 1, -1))
    volume, mask = body_and_mask(tmp_path, mask_affine=affine, scan_affine=affine)
    labels = read_labels(tmp_path / "mask.nii.gz", volume)
    assert np.array_equal(stored_view(labels, volume.source["stored_orientation"]), mask)
    assert not caplog.records


def test_an_array_without_geometry_is_the_mask_of_a_nifti_without_one_by_its_stored_axes(tmp_path, caplog):
    volume, mask = body_and_mask(tmp_path, mask_affine=None, scan_affine=None)
    np.save(tmp_path / "mask.npy", mask.transpose(2, 1, 0))
    labels = read_labels(tmp_path / "mask.npy", volume)
    assert np.array_equal(labels, read_labels(tmp_path / "mask.nii.gz", volume))
    assert len(caplog.records) == 1, "two files of one format without geometry agree"


def test_a_mask_that_lies_in_air_is_said_to_with_the_share_inside(tmp_path, caplog):
    scan, mask = np.full((20, 20, 20), -1000, np.int16), np.zeros((20, 20, 20), np.uint8)
    scan[4:10, 4:10, 4:10], scan[6:8, 6:8, 6:8] = 40, -900  # a body with a lung
    mask[6:8, 6:8, 6:8] = 1
    for name, stored in (("scan", scan), ("mask", mask), ("shifted", np.roll(mask, 3, axis=0))):
        nib.save(nib.Nifti1Image(stored, np.eye(4)), tmp_path / f"{name}.nii.gz")
    volume = read_volume(tmp_path / "scan.nii.gz")
    read_labels(tmp_path / "mask.nii.gz", volume)
    assert not caplog.records, "a lung is air, and inside the body"
    read_labels(tmp_path / "shifted.nii.gz", volume)
    assert "shifted.nii.gz: only 50 % of the labelled voxels lie in the body" in caplog.text


def test_a_mask_of_fractions_is_refused_by_that_name(tmp_path):
    volume, mask = body_and_mask(tmp_path, mask_affine=np.eye(4), scan_affine=np.eye(4))
    nib.save(nib.Nifti1Image(mask * np.float32(0.5), np.eye(4)), tmp_path / "soft.nii.gz")
    with pytest.raises(VolumeError, match=r"soft.nii.gz: the mask holds fractions or negative values \(0.5 among them"):
        read_labels(tmp_path / "soft.nii.gz", volume)


@pytest.mark.parametrize("spacing", [None, (3.0, 2.0, 1.0)])
def test_a_scan_without_positions_gets_a_mask_in_its_stored_axes_that_reads_back(tmp_path, caplog, spacing):
    np.save(tmp_path / "scan.npy", np.random.default_rng(1).normal(60, 9, SHAPE).astype(np.float32))
    volume = read_volume(tmp_path / "scan.npy", spacing_mm=spacing)
    write_mask(marked(volume), volume, source=tmp_path / "scan.npy", out=tmp_path / "mask.nii.gz")
    assert "mask.nii.gz: the scan states no place in the patient" in caplog.text
    found = nib.load(tmp_path / "mask.nii.gz")
    assert (int(found.header["sform_code"]), int(found.header["qform_code"])) == (0, 0)
    assert found.header.get_zooms() == ((1, 1, 1) if spacing is None else spacing[::-1])
    assert found.shape == SHAPE[::-1]
    assert np.array_equal(read_labels(tmp_path / "mask.nii.gz", volume), marked(volume))
