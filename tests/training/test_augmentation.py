"""Augmentation: whatever happens to a volume, no sentence about a side becomes false."""

import re

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slicesight.errors import InputError
from slicesight.phantoms.anatomy import SPINE
from slicesight.phantoms.dataset import labels_on_grid
from slicesight.phantoms.rendering import make_phantom
from slicesight.phantoms.texts import conversation_rng, phantom_conversations, read_findings
from slicesight.training import augmentation
from slicesight.training.augmentation import Augmentation, Change, augment, draw_change, move
from slicesight.volumes.grid import GridSpec, to_grid

STRONG = Augmentation(intensity=0.2, noise=0.05, rotate_deg=8, shift=0.05, zoom=0.1, flip_sides=0.5)


@pytest.fixture(scope="module")
def scans():
    """Phantoms of every plane with a finding in a sided organ: grid, organ labels, finding labels."""
    found = {}
    for index in range(60):
        phantom = make_phantom(31, index, pixel_mm=(5.0, 6.0))
        if phantom.truth.plane in found or not any(re.match("left|right", f.organ) for f in phantom.truth.findings):
            continue
        grid = to_grid(phantom.volume, GridSpec(num_slices=16, height=64, width=64))
        found[phantom.truth.plane] = (phantom, grid, *labels_on_grid(phantom, grid))
        if len(found) == 3:
            return list(found.values())
    raise AssertionError(f"only {list(found)} among 60 phantoms")


def side_axis(plane: str) -> int:
    return 0 if plane == "sagittal" else 2


def sides_are_true(report: str, truth, findings: np.ndarray, organs: np.ndarray, plane: str) -> list[bool]:
    """For every finding that the report puts into a left or right organ: does it lie on that side of the spine?

    Which finding is meant is found by its kind and part, since the side is what is in question.
    """
    axis, verdicts = side_axis(plane), []
    midline = np.argwhere(organs == SPINE)[:, axis].mean()
    for organ, kind, part in read_findings(report):
        side, _, paired = organ.partition(" ")
        if side not in ("left", "right"):
            continue
        places = []
        for number, finding in enumerate(truth.findings, start=1):
            if finding.abnormality == kind and finding.part == part and finding.organ.endswith(paired):
                places.append(np.argwhere(findings == number)[:, axis].mean())
        assert places
        verdicts.append(any((place > midline) == (side == "left") for place in places))
    return verdicts


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(which=st.integers(0, 2), seed=st.integers(0, 10_000))
def test_no_sentence_about_a_side_becomes_false(scans, which: int, seed: int) -> None:
    phantom, grid, organs, findings = scans[which]
    asked = phantom_conversations(phantom.truth, conversation_rng(1, seed), num_slices=len(grid.voxels))
    _, told = augment(grid.voxels, asked, STRONG, np.random.default_rng(seed), plane=grid.plane)
    # the label maps go through the same draw: mirrored where the texts were, then moved
    change = draw_change(STRONG, np.random.default_rng(seed))
    mirrored = change.is_mirrored and grid.plane != "sagittal"
    maps = [
        move(
            np.ascontiguousarray((labels[:, :, ::-1] if mirrored else labels).astype(np.float32)), change, nearest=True
        )
        for labels in (organs, findings)
    ]
    truth = phantom.truth
    verdicts = sides_are_true(told[0].answer, truth, maps[1], maps[0], grid.plane)
    assert verdicts
    assert all(verdicts)
    if mirrored:
        untold = sides_are_true(asked[0].answer, truth, maps[1], maps[0], grid.plane)
        assert not any(untold), "the sentence about the original is false of its mirror image"


def test_the_picture_is_mirrored_exactly_when_the_words_are(scans) -> None:
    for phantom, grid, _, _ in scans:
        asked = phantom_conversations(phantom.truth, conversation_rng(1, 0), num_slices=len(grid.voxels))
        only_flip = Augmentation(flip_sides=1.0)
        voxels, told = augment(grid.voxels, asked, only_flip, np.random.default_rng(0), plane=grid.plane)
        if grid.plane == "sagittal":
            assert np.array_equal(voxels, grid.voxels)
            assert told == list(asked)
        else:
            assert np.array_equal(voxels, grid.voxels[:, :, ::-1])
            assert told[0].answer != asked[0].answer


def test_a_volume_is_never_mirrored_where_its_side_is_unknown_or_a_text_is_doubtful(memory_data) -> None:
    data = memory_data(1)
    flip, rng = Augmentation(flip_sides=1.0), np.random.default_rng(0)
    for plane, asked in (
        (None, data.asked[0]),
        ("axial", [data.asked[0][0].model_copy(update={"answer": "The left ventricle is dilated."})]),
    ):
        voxels, told = augment(data.volumes[0], asked, flip, rng, plane=plane)
        assert np.array_equal(voxels, data.volumes[0])
        assert told == asked


def test_what_is_off_changes_nothing_and_the_same_draw_gives_the_same_volume(memory_data) -> None:
    data = memory_data(1)
    volume = data.volumes[0]
    assert np.array_equal(augment(volume, [], Augmentation(), np.random.default_rng(0), plane="axial")[0], volume)
    first, second = (augment(volume, [], STRONG, np.random.default_rng(5), plane=None)[0] for _ in range(2))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, volume)
    assert first.min() >= 0
    assert first.max() <= 1


def test_a_picture_moves_by_the_share_and_the_angle_that_were_drawn() -> None:
    picture = np.zeros((1, 40, 80), dtype=np.float32)
    picture[0, 10, 20] = 1.0
    shifted = move(picture, Change(shift_rows=0.1, shift_columns=0.05), nearest=True)
    assert np.argwhere(shifted)[:, 1:].tolist() == [[14, 24]]
    square = np.zeros((1, 41, 81), dtype=np.float32)
    square[0, 20, 60] = 1.0  # 20 to the right of the middle
    turned = np.argwhere(move(square, Change(angle_deg=90.0), nearest=True))[0, 1:] - [20, 40]
    assert abs(turned[0]) == 20, "pixels are square whatever the picture's shape"
    assert turned[1] == 0
    grown = move(np.pad(np.ones((1, 20, 20), np.float32), ((0, 0), (10, 10), (10, 10))), Change(zoom=1.2), nearest=True)
    assert 22 <= np.sqrt(grown.sum()) <= 26


def test_changes_too_large_for_true_texts_are_refused() -> None:
    for word in augmentation.LARGEST:
        with pytest.raises(InputError, match=f"augment: {word} is 20"):
            Augmentation(**{word: 20.0})
