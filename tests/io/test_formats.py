"""Do NIfTI, NRRD, MetaImage, arrays and pictures say the same as the programs that wrote them? Oracle: SimpleITK."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from PIL import Image
from scipy.spatial.transform import Rotation

from slicesight.errors import VolumeError
from slicesight.io.loading import read_volume
from slicesight.io.writers import write_nifti
from slicesight.volumes.geometry import canonical_affine, canonical_view, orientation_of
from slicesight.volumes.grid import GridSpec, to_grid


def oblique_image(dtype: type = np.int16, seed: int = 0) -> sitk.Image:
    image = sitk.GetImageFromArray(np.random.default_rng(seed).integers(0, 120, (7, 6, 5)).astype(dtype))
    image.SetSpacing((0.7, 0.8, 2.5))
    image.SetOrigin((-12.5, 30.25, -101.75))
    turned = Rotation.from_euler("xyz", [100, -8, 190], degrees=True).as_matrix()
    image.SetDirection(turned.ravel().tolist())
    return image


def agrees(path: Path, **options: object) -> None:
    """Voxels and positions of all corners equal SimpleITK's."""
    image = sitk.ReadImage(str(path))
    array = sitk.GetArrayFromImage(image).transpose(2, 1, 0)
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    word = orientation_of(affine)
    scan = read_volume(path, **options)
    np.testing.assert_array_equal(scan.voxels, canonical_view(array, word))
    expected = canonical_affine(affine, array.shape, word)
    corners = np.array(np.meshgrid(*[(0, size - 1) for size in scan.shape], indexing="ij")).reshape(3, -1).T
    np.testing.assert_allclose(scan.geometry.to_mm(corners), corners @ expected[:3, :3].T + expected[:3, 3], atol=2e-4)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.float32, np.float64])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha"])
def test_every_number_type_agrees_with_simpleitk(dtype: type, suffix: str, tmp_path: Path) -> None:
    sitk.WriteImage(oblique_image(dtype), str(tmp_path / f"scan{suffix}"), useCompression=suffix != ".nii")
    agrees(tmp_path / f"scan{suffix}")


@pytest.mark.parametrize(
    "space", ["right-anterior-superior", "left-anterior-superior", "left-posterior-superior", "RAS", "LAS", "LPS"]
)
def test_every_nrrd_space_agrees_with_simpleitk(space: str, tmp_path: Path) -> None:
    path = tmp_path / "scan.nrrd"
    sitk.WriteImage(oblique_image(), str(path))
    path.write_bytes(path.read_bytes().replace(b"space: left-posterior-superior", f"space: {space}".encode()))
    assert f"space: {space}".encode() in path.read_bytes()
    agrees(path)


@pytest.mark.parametrize(("lowest", "modality"), [(-201, "CT"), (-200, "CT"), (-199, "unknown"), (-110, "unknown")])
def test_values_down_to_minus_200_make_a_ct(lowest: int, modality: str, tmp_path: Path) -> None:
    voxels = np.linspace(lowest, 900, 5 * 6 * 7).reshape(5, 6, 7).astype(np.float32)
    nib.save(nib.Nifti1Image(voxels, np.diag([1, 1, 2, 1])), tmp_path / "scan.nii")
    scan = read_volume(tmp_path / "scan.nii")
    assert (scan.modality, scan.unit) == (modality, "HU" if modality == "CT" else "arbitrary")


@pytest.mark.parametrize(
    ("lowest", "highest", "modality"),
    [(-610, 30393, "unknown"), (-899, 4097, "unknown"), (-610, 4096, "CT"), (-900, 30393, "CT"), (-1024, 5000, "CT")],
)
def test_a_filtered_mr_with_values_below_0_and_far_above_12_bits_is_no_ct(
    lowest: int, highest: int, modality: str, tmp_path: Path
) -> None:
    voxels = np.linspace(lowest, highest, 5 * 6 * 7).reshape(5, 6, 7).astype(np.float32)
    nib.save(nib.Nifti1Image(voxels, np.diag([1, 1, 2, 1])), tmp_path / "scan.nii")
    scan = read_volume(tmp_path / "scan.nii")
    assert (scan.modality, scan.unit) == (modality, "HU" if modality == "CT" else "arbitrary")
    assert any("--unit HU" in note for note in scan.warnings) == (modality == "unknown")
    assert read_volume(tmp_path / "scan.nii", unit="HU").modality == "CT"


@pytest.mark.parametrize("use_compression", [True, False])
@pytest.mark.parametrize("suffix", [".mhd", ".nhdr", ".hdr", ".img"])
def test_header_and_data_in_two_files(suffix: str, use_compression: bool, tmp_path: Path) -> None:
    image = oblique_image()
    if suffix in (".hdr", ".img"):
        loaded = nib.Nifti1Pair(np.asarray(sitk.GetArrayFromImage(image).T), np.diag([-0.7, 0.8, 2.5, 1]))
        nib.save(loaded, tmp_path / "scan.hdr")
    else:
        sitk.WriteImage(image, str(tmp_path / f"scan{suffix}"), useCompression=use_compression)
    agrees(tmp_path / f"scan{suffix}")
    if suffix != ".img":
        assert read_volume(tmp_path).shape == read_volume(tmp_path / f"scan{suffix}").shape


@pytest.mark.parametrize("byte_order", ["<", ">"])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_byte_orders_and_scaling_of_both_nifti_versions(byte_order: str, kind: type, tmp_path: Path) -> None:
    stored = np.random.default_rng(0).integers(-900, 900, (5, 6, 7)).astype(np.int16)
    image = kind(stored, np.diag([-1, -1, 2, 1]))
    image = kind(stored, image.affine, image.header.as_byteswapped(byte_order))
    content = bytearray(image.to_bytes())
    header = type(image.header)(bytes(content[: image.header.sizeof_hdr]), check=False)
    header["scl_slope"], header["scl_inter"] = 0.5, -7
    content[: image.header.sizeof_hdr] = header.binaryblock
    (tmp_path / "scan.nii").write_bytes(bytes(content))
    expected = canonical_view(stored * 0.5 - 7, "LPS")
    np.testing.assert_allclose(read_volume(tmp_path / "scan.nii", unit="HU").voxels, expected)
    np.testing.assert_allclose(nib.load(tmp_path / "scan.nii").get_fdata(), stored * 0.5 - 7)


def test_a_gzip_of_several_members_is_read_to_its_end(scan, tmp_path: Path) -> None:
    write_nifti(scan, tmp_path / "scan.nii")
    content = (tmp_path / "scan.nii").read_bytes()
    packed = gzip.compress(content[:500]) + gzip.compress(content[500:])
    (tmp_path / "scan.nii.gz").write_bytes(packed)
    np.testing.assert_array_equal(read_volume(tmp_path / "scan.nii.gz").voxels, scan.voxels)


@pytest.mark.parametrize(
    ("qform_sign", "words"), [(1, "sform and qform give different positions"), (-1, "unknown side: sform says")]
)
def test_sform_and_qform_in_conflict_are_said(qform_sign: int, words: str, tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.random.default_rng(0).integers(0, 99, (4, 5, 6)).astype(np.int16), np.eye(4))
    image.set_sform(np.diag([-1, -1, 2, 1]), code=1)
    other = np.diag([-1.0 * qform_sign, -1, 2, 1])
    other[:3, 3] = 5
    image.set_qform(other, code=1)
    nib.save(image, tmp_path / "scan.nii")
    scan = read_volume(tmp_path / "scan.nii")
    assert any(words in note for note in scan.warnings)
    np.testing.assert_allclose(scan.affine_lps[:3, 3], 0)


def test_without_sform_and_qform_positions_are_null_and_the_side_unknown(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.random.default_rng(0).integers(0, 99, (40, 5, 6)).astype(np.int16), None)
    image.header.set_zooms((0.5, 0.6, 3))
    image.header["sform_code"] = image.header["qform_code"] = 0
    (tmp_path / "scan.nii").write_bytes(image.to_bytes())
    scan = read_volume(tmp_path / "scan.nii")
    assert scan.affine_lps is None
    np.testing.assert_allclose(scan.spacing_mm, (3, 0.6, 0.5), rtol=1e-6)
    assert any(note.startswith("unknown side") for note in scan.warnings)
    grid = to_grid(scan, GridSpec(num_slices=4, height=4, width=4))
    assert {piece.position_mm for piece in grid.slices} == {None}


def test_a_4d_file_is_reduced_on_demand_and_says_so(tmp_path: Path) -> None:
    stored = np.random.default_rng(0).integers(0, 99, (4, 5, 6, 3)).astype(np.int16)
    nib.save(nib.Nifti1Image(stored, np.diag([-1, -1, 1, 1])), tmp_path / "scan.nii.gz")
    with pytest.raises(VolumeError, match=r"4D data \(4×5×6×3\).*--time-point 0…2"):
        read_volume(tmp_path / "scan.nii.gz")
    scan = read_volume(tmp_path / "scan.nii.gz", time_point=2)
    np.testing.assert_array_equal(scan.voxels, stored[..., 2].T)
    assert any("4D file of 3 volumes" in note for note in scan.warnings)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shape", [(1, 32, 24, 20), (32, 24, 20)])
def test_m3d_arrays_keep_their_greys(shape: tuple[int, ...], order: str, tmp_path: Path) -> None:
    greys = np.asarray(np.random.default_rng(0).random(shape, dtype=np.float32), order=order)
    np.save(tmp_path / "case.npy", greys)
    scan = read_volume(tmp_path / "case.npy")
    np.testing.assert_array_equal(scan.voxels, greys.reshape(32, 24, 20))
    grid = to_grid(scan, GridSpec(height=24, width=20, crop_foreground=False))
    np.testing.assert_allclose(grid.voxels, scan.voxels, atol=1e-6)
    assert grid.slices[3].position_mm is None
    assert grid.slices[3].source_slices == (3,)


@pytest.mark.parametrize("suffix", ["png", "jpeg"])
def test_pictures_are_stacked_by_number_not_by_name(suffix: str, tmp_path: Path) -> None:
    folder = tmp_path / "ct_case" / "000001" / "Axial_non_contrast"
    folder.mkdir(parents=True)
    for number in range(12):
        Image.new("L", (9, 7), color=20 * number).save(folder / f"{number}.{suffix}")
    scan = read_volume(folder)
    assert scan.shape == (12, 7, 9)
    np.testing.assert_allclose(scan.voxels[:, 3, 3], 20 * np.arange(12), atol=2)
    assert scan.affine_lps is None
    grid = to_grid(scan, GridSpec(num_slices=12, height=7, width=9, crop_foreground=False))
    assert grid.spec.window == "0,255"
    np.testing.assert_allclose(grid.voxels[:, 3, 3], 20 * np.arange(12) / 255, atol=0.01)


def test_colour_pictures_become_grey_and_16_bits_stay(tmp_path: Path) -> None:
    for name, picture in (
        ("colour", Image.new("RGB", (6, 6), (200, 200, 200))),
        ("deep", Image.fromarray(np.full((6, 6), 40_000, np.uint16))),
    ):
        (tmp_path / name).mkdir()
        picture.save(tmp_path / name / "1.png")
        Image.fromarray(np.zeros((6, 6), np.uint16)).save(tmp_path / name / "2.png") if name == "deep" else Image.new(
            "RGB", (6, 6)
        ).save(tmp_path / name / "2.png")
    assert read_volume(tmp_path / "colour").voxels.max() == 200
    assert read_volume(tmp_path / "deep").voxels.max() == 40_000


def test_a_given_spacing_mends_a_broken_header(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.random.default_rng(0).integers(0, 99, (4, 5, 6)).astype(np.int16), np.eye(4))
    content = image.to_bytes()
    header = nib.Nifti1Header(content[:348])
    header["qform_code"], header["sform_code"], header["srow_z"] = 0, 1, 0
    (tmp_path / "scan.nii").write_bytes(header.binaryblock + content[348:])
    with pytest.raises(VolumeError, match=r"slice spacing is 0 mm; fix the header or pass --spacing-mm"):
        read_volume(tmp_path / "scan.nii")
    assert read_volume(tmp_path / "scan.nii", spacing_mm=(2.5, 1, 1)).spacing_mm == (2.5, 1, 1)


@pytest.mark.shared_data
def test_real_scans_agree_with_simpleitk(shared_folder: Path) -> None:
    data = shared_folder / "data"
    files = [*sorted(data.glob("totalsegmentator/*.nii.gz")), *sorted(data.glob("pyradiomics/*_image.nrrd"))]
    files += [
        data / "pyradiomics" / "prostate_phantom_subvolume.nrrd",
        *sorted(data.glob("sts/STS_00*/*_image.nii.gz")),
    ]
    assert len(files) > 10
    for file in files:
        agrees(file)
