"""Slices: the right layer of the right plane, upright and in true proportions, and what a label map says lies in it."""

import numpy as np
import pytest

from slicesight.errors import VolumeError
from slicesight.models.med3dinsight.descriptions import SlicePlace, Structure, describe_place, describe_structures
from slicesight.training.pretraining_recipe import TripletSettings
from slicesight.training.triplets.slices import cut_scan, foreground_slices, padded
from slicesight.volumes.volume import PLANES, Volume

SHAPE, SPACING = (40, 30, 20), (1.0, 2.0, 1.0)  # z, y, x: 40 x 60 x 20 mm


def make_volume(voxels, *, spacing=SPACING):
    affine = np.zeros((4, 4))
    affine[[2, 1, 0], [0, 1, 2]] = spacing
    affine[3, 3] = 1
    return Volume(
        voxels=np.asarray(voxels, np.float32), affine_lps=affine, spacing_mm=spacing, display_range=(0.0, 255.0)
    )


def settings(**changes):
    return TripletSettings(
        **{
            "image_encoder": "pixels",
            "size": (10, 10, 10),
            "slices_per_plane": 8,
            "picture_size": 60,
            "crop_foreground": False,
            **changes,
        }
    )


@pytest.fixture(scope="module")
def ramp():
    """Every voxel says where it is: brighter upward, backward and to the left, by different amounts."""
    z, y, x = np.meshgrid(*map(np.arange, SHAPE), indexing="ij")
    return make_volume(60 + z + 2 * y + 3 * x)


def test_a_plane_has_as_many_layers_as_the_cube_and_slice_k_shows_layer_k(ramp) -> None:
    found = cut_scan(ramp, settings())
    assert found.cube.shape == (10, 10, 10)
    assert found.pictures.dtype == np.uint8
    assert [sum(place.plane == plane for place in found.places) for plane in PLANES] == [8, 8, 8]
    for place, picture in zip(found.places, found.pictures, strict=True):
        layer = found.cube.take(place.index, axis=PLANES.index(place.plane))
        shown = picture[np.ix_(picture.any(axis=1), picture.any(axis=0))]
        assert shown.mean() == pytest.approx(layer.mean(), abs=1.0)


def test_pictures_are_upright_and_in_true_proportions(ramp) -> None:
    found = cut_scan(ramp, settings())
    sizes = {"axial": (60, 20), "coronal": (60, 30), "sagittal": (40, 60)}  # 60 x 20, 40 x 20 and 40 x 60 mm
    for place, picture in zip(found.places, found.pictures, strict=True):
        rows, columns = np.flatnonzero(picture.any(axis=1)), np.flatnonzero(picture.any(axis=0))
        assert (len(rows), len(columns)) == sizes[place.plane]
        assert abs(rows[0] - (59 - rows[-1])) <= 1  # padded alike on both sides
        top, bottom = picture[rows[2], columns].mean(), picture[rows[-3], columns].mean()
        left, right = picture[rows, columns[2]].mean(), picture[rows, columns[-3]].mean()
        assert left < right  # columns grow to the patient's left or to the back
        assert (top < bottom) == (place.plane == "axial")  # rows grow to the back, else downward


def test_slices_are_evenly_spread_over_the_body_and_leave_out_air() -> None:
    cube = np.zeros((40, 8, 8), np.float32)
    cube[10:34] = 1.0
    cube[34, 0, 0] = 1.0  # a speck is no body
    assert foreground_slices(cube, 0, 8).tolist() == [11, 14, 17, 20, 23, 26, 29, 32]
    assert foreground_slices(cube[:14], 0, 8).tolist() == [10, 11, 12, 13]
    with pytest.raises(VolumeError, match="black everywhere in its axial slices"):
        foreground_slices(np.zeros((9, 9, 9), np.float32), 0, 8)


def test_structures_are_found_where_the_label_map_has_them() -> None:
    voxels = np.full(SHAPE, 100.0)
    labels = np.zeros(SHAPE, np.int32)
    labels[30:40, :10, :6] = 3  # upper, in front, patient's right
    labels[0:12, 20:, 14:] = 5  # lower, behind, left
    labels[:, 14:16, 9:11] = 7
    found = cut_scan(make_volume(voxels), settings(), labels_ZYX=labels)
    for place, shown in zip(found.places, found.structures, strict=True):
        by_label = {structure.label: structure for structure in shown}
        if place.plane == "axial":
            middle = (place.index + 0.5) * 4
            assert (3 in by_label, 5 in by_label) == (middle >= 30, middle < 12)
            if 3 in by_label:
                assert by_label[3].share == pytest.approx(10 * 6 / (30 * 20), rel=0.1)
                assert by_label[3].row < 0.25
                assert by_label[3].column < 0.25
        if place.plane == "coronal" and 3 in by_label:
            assert by_label[3].row < 0.2  # rows run downward
        if place.plane == "sagittal" and 5 in by_label:
            assert by_label[5].row > 0.8
            assert by_label[5].column > 0.8  # columns run to the back
        assert list(shown) == sorted(shown, key=lambda structure: -structure.share)


def test_templates_speak_in_the_patients_directions() -> None:
    axial = SlicePlace("axial", 2, 10)
    assert axial.fraction == 0.25
    place = describe_place(axial, modality="CT", region="thigh")
    assert place == "An axial CT slice of the thigh, 25 % of the way from its lower to its upper end."
    assert describe_place(SlicePlace("coronal", 0, 2), modality="unknown", region="body").startswith(
        "A coronal medical"
    )
    tumour, fat = Structure(1, 0.2, 0.1, 0.9), Structure(2, 0.001, 0.5, 0.5)
    names = {"1": "the tumour"}
    assert (
        describe_structures(axial, [tumour, fat], names)
        == "It shows the tumour (large, in front on the left), structure 2 (small, in the middle)."
    )
    upright = SlicePlace("sagittal", 2, 10)
    assert "the tumour (large, in the upper part in the back)" in describe_structures(upright, [tumour], names)
    assert describe_structures(axial, [], names) == "It shows no labelled structure."


def test_padding_keeps_the_picture_in_the_middle() -> None:
    square = padded(np.full((4, 2), 9, np.uint8), 6)
    assert square.shape == (6, 6)
    assert np.array_equal(np.argwhere(square == 9).min(axis=0), [1, 2])
    assert (square == 9).sum() == 8


def test_the_files_own_modality_is_used_unless_another_is_named(ramp) -> None:
    assert cut_scan(ramp, settings()).modality == "unknown"
    assert cut_scan(ramp, settings(modality="MR")).modality == "MR"
