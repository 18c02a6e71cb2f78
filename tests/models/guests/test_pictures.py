from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from slicesight.models.guests.pictures import captions, show
from slicesight.models.guests.preset import Preset
from slicesight.volumes.grid import to_grid
from tiny_guests import body


def shown(volume=None, **settings):
    preset = Preset(name="test", **{"slices": 6, "size": 40, "window": "soft_tissue", **settings})
    grid = to_grid(body() if volume is None else volume, preset.grid_spec)
    return grid, show(grid, preset)


def test_every_slice_is_a_picture_of_the_windowed_grid() -> None:
    grid, found = shown()
    assert len(found.slices) == len(grid.voxels) == 6
    for picture, voxels in zip(found.pictures(), grid.voxels, strict=True):
        expected = np.repeat(np.rint(voxels * 255).astype(np.uint8)[..., None], 3, axis=-1)
        np.testing.assert_array_equal(np.asarray(picture), expected)


def test_three_windows_are_the_three_colours() -> None:
    grid, found = shown(window="-1024,1024+-135,215+0,80|min_max")
    assert grid.channels is not None
    picture = np.asarray(found.slices[2])
    for channel, (low, high) in enumerate([(-1024, 1024), (-135, 215), (0, 80)]):
        grey = np.clip((body().voxels[5] - low) / (high - low), 0, 1)
        np.testing.assert_allclose(picture[..., channel], grey * 255, atol=1)


def test_a_scan_of_another_unit_has_the_other_window_in_grey() -> None:
    other = replace(body(), unit="arbitrary", modality="MR")
    grid, found = shown(other, window="-1024,1024+-135,215+0,80|min_max")
    assert grid.channels is None
    low, high = other.voxels.min(), other.voxels.max()
    assert grid.receipt["window"] == {"name": "min_max", "low": low, "high": high, "unit": "arbitrary"}
    assert (np.asarray(found.slices[0])[..., 0] == np.asarray(found.slices[0])[..., 2]).all()


def test_a_blanked_slice_is_black_and_the_others_stay() -> None:
    _, found = shown()
    kept = np.array([True, False, True, True, True, False])
    pictures = found.pictures(kept)
    for number, picture in enumerate(pictures):
        expected = np.asarray(found.slices[number]) if kept[number] else 0
        assert (np.asarray(picture) == expected).all()
    assert {picture.size for picture in pictures} == {found.blank.size}


def test_a_picture_has_true_proportions_on_a_black_square() -> None:
    tall = replace(body(side=40), spacing_mm=(2.5, 0.8, 0.4))
    tall = replace(tall, affine_lps=tall.affine_lps @ np.diag([1, 1, 0.5, 1]))
    _, found = shown(tall)
    picture = np.asarray(found.slices[3])[..., 0]
    assert picture.shape == (40, 40)
    assert not picture[:, :9].any()
    assert not picture[:, -9:].any()
    assert picture[:, 12:28].any()


def test_captions_say_which_of_how_many_and_where() -> None:
    grid, found = shown()
    assert found.captions[0] == "slice 1 of 6, z = -118 mm"
    assert found.captions[-1] == "slice 6 of 6, z = -94 mm"
    without = captions([replace(piece, position_mm=None) for piece in grid.slices], found.preset)
    assert without[0] == "slice 1 of 6"


def test_a_contact_sheet_holds_every_slice_in_order() -> None:
    _, found = shown(layout="sheet", columns=3, size=120)
    (sheet,) = found.pictures()
    assert sheet.size == (120, 80)
    kept = np.array([True] * 4 + [False] * 2)
    (blanked,) = found.pictures(kept)
    same = np.asarray(sheet) == np.asarray(blanked)
    assert same[:40].all()
    assert same[40:, :40].all()
    assert not same[40:, 40:].all()
    assert "6 slices of one medical scan in 2 rows of 3" in found.sheet_caption
    assert "the first is slice 1 of 6, z = -118 mm" in found.sheet_caption


@pytest.mark.parametrize(("num_slices", "most", "expected"), [(12, 6, 6), (12, 85, 12), (7, 3, 3)])
def test_single_slices_are_picked_and_never_more_than_there_are(num_slices, most, expected) -> None:
    volume = body(num_slices)
    grid, _ = shown(volume, slices=most)
    assert len(grid.voxels) == expected
    assert grid.receipt["grid"]["num_slices"] == expected
    for piece, voxels in zip(grid.slices, grid.voxels, strict=True):
        (number,) = piece.source_slices
        assert piece.position_mm[2] == pytest.approx(-121 + 2.5 * number), "where the slice itself lies"
        grey = np.clip((volume.voxels[number] + 160) / 400, 0, 1)
        np.testing.assert_allclose(voxels, grey, atol=1e-5)
    assert grid.slices[0].source_slices[0] < grid.slices[-1].source_slices[0]
