import numpy as np
import pytest
import torch

from slicesight.errors import InputError
from slicesight.models.med3dinsight.preparation import Preparation, fitted_cube
from slicesight.training.scan_list import ScanDataset, read_cases
from slicesight.training.scan_samples import CLASS, IMAGE, MASK, CropSamples, CubeSamples, SpatialAugmentation, case_at

CHANGES = SpatialAugmentation(
    flip_axes=(0, 2), rotate_degrees=10, scale=0.1, shift_voxels=2, contrast=0.2, brightness=0.1, noise=0.05
)


@pytest.fixture
def prepared(balls, tmp_path):
    cases = [case for case in read_cases(balls) if case.split == "train"]
    scans = ScanDataset(tmp_path, Preparation(spacing_mm=(2.0, 2.0, 2.0)), image_size=(16, 16, 16), labels={"a": 1})
    for case in cases:
        scans.prepare(case)
    return scans, cases


def crops(prepared, *, augmentation=CHANGES, seed=0, size=(12, 16, 40)):
    scans, cases = prepared
    return CropSamples(scans, cases, size=size, augmentation=augmentation, seed=seed, length=40)


def test_a_crop_has_the_asked_size_grey_values_in_0_to_1_and_a_mask_that_fits(prepared):
    samples = crops(prepared)
    for index in range(6):
        sample = samples[index]
        assert sample[IMAGE].shape == sample[MASK].shape == (1, 12, 16, 40)
        assert sample[IMAGE].min() >= 0
        assert sample[IMAGE].max() <= 1
        assert set(sample[MASK].unique().tolist()) <= {0, 1}
        assert sample[MASK].dtype == torch.long


def test_the_image_is_bright_where_the_mask_is_however_it_was_turned(prepared):
    samples = crops(
        prepared, augmentation=SpatialAugmentation(flip_axes=(0, 1, 2), rotate_degrees=30, scale=0.2, share=1.0)
    )
    inside, outside = [], []
    for index in range(12):
        sample = samples[index]
        inside.append(sample[IMAGE][sample[MASK] == 1])
        outside.append(sample[IMAGE][(sample[MASK] == 0) & (sample[IMAGE] > 0)])
    assert torch.cat(inside).mean() > torch.cat(outside).mean() + 0.3


def test_the_same_number_gives_the_same_sample_and_another_seed_another(prepared):
    one, two, other = crops(prepared), crops(prepared), crops(prepared, seed=1)
    two[7]
    assert torch.equal(one[3][IMAGE], two[3][IMAGE])
    assert not all(torch.equal(one[n][IMAGE], other[n][IMAGE]) for n in range(4))


def test_every_pass_shows_every_case_once_in_a_new_order():
    passes = [[case_at(turn * 7 + place, 7, 5) for place in range(7)] for turn in range(4)]
    assert all(sorted(order) == list(range(7)) for order in passes)
    assert len({tuple(order) for order in passes}) > 1


def test_cubes_carry_their_own_class_and_are_padded_or_cut_around_the_middle(prepared):
    scans, cases = prepared
    numbers = [int(case.label == "large") for case in cases]
    samples = CubeSamples(scans, cases, (8, 30, 12), SpatialAugmentation(), seed=0, length=len(cases), classes=numbers)
    for index in range(len(cases)):
        place = case_at(index, len(cases), 0)
        sample = samples[index]
        assert sample[CLASS] == numbers[place]
        assert torch.equal(sample[IMAGE], fitted_cube(scans.load(cases[place])[0], (8, 30, 12)))
    voxels = np.arange(4**3, dtype=np.float32).reshape(4, 4, 4)
    cube = fitted_cube(voxels, (2, 6, 4))
    assert torch.equal(cube[0, :, 1:5], torch.from_numpy(voxels[1:3]))
    assert not cube[0, :, 0].any()


@pytest.mark.parametrize("bad", [{"flip_axes": (3,)}, {"noise": -1.0}, {"share": 1.5}])
def test_changes_that_make_no_sense_are_refused(bad):
    with pytest.raises(InputError, match="augmentation"):
        SpatialAugmentation(**bad)
