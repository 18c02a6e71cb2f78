"""Batches of prepared scans say what their pictures show, and are silent about what nobody knows."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import torch

from slicesight.data.dataset import open_dataset
from slicesight.errors import InputError
from slicesight.training.augmentation import Augmentation
from slicesight.training.stage0.label_maps import (
    LabelledScans,
    cell_labels,
    find_truths,
    known_cells,
    make_scheme,
    without_side,
)
from slicesight.training.stage0.labels import UNKNOWN

PLAIN = Augmentation()
CELLS, COARSE = (1, 8, 8), (1, 2, 2)


def column(scans: LabelledScans, name: str) -> int:
    return scans.scheme.cell_labels.index(name)


def slices_of(scans: LabelledScans, count: int, augment: Augmentation = PLAIN):
    batches = scans.slice_batches(size=16, cells=CELLS, coarse=COARSE, rng=np.random.default_rng(0), augment=augment)
    return list(islice(batches, count))


def test_the_labels_are_those_of_all_scans_with_both_sides_in_one_group(scans: LabelledScans) -> None:
    assert dict(scans.scheme.cells) == {
        "heart": ("heart",),
        "lung": ("left lung", "right lung"),
        "stone": ("stone",),
    }
    assert dict(scans.scheme.wholes) == {"modality": ("CT",), "region": ("chest",)}
    assert scans.wholes["region"].tolist() == [UNKNOWN, 0, UNKNOWN, UNKNOWN]
    assert without_side("right parotid gland") == "parotid gland"
    assert without_side("lung left") == "lung"
    assert without_side("leftover") == "leftover"


def test_many_structures_are_reported_as_one_group() -> None:
    from slicesight.data.label_grids import MaskTruth

    scheme = make_scheme([MaskTruth(structures={f"organ {number}": number for number in range(1, 30)})])
    assert list(scheme.cells) == ["structures"]
    assert len(scheme.cell_labels) == 29


def test_a_slice_is_labelled_with_what_it_shows_and_undrawn_structures_are_unknown(scans: LabelledScans) -> None:
    heart, left, right, stone = (column(scans, name) for name in ("heart", "left lung", "right lung", "stone"))
    seen = np.zeros(4)
    for batch in slices_of(scans, 6):
        assert batch.pixels.shape == (16, 1, 32, 32)
        assert batch.cells.shape == batch.known.shape == (16, 64, 4)
        assert batch.coarse.shape == batch.coarse_known.shape == (16, 4, 4)
        assert 0 <= batch.pixels.min() <= batch.pixels.max() <= 1
        pictures = torch.nn.functional.avg_pool2d(batch.pixels, 4).flatten(1)
        shown = batch.cells[..., heart] > 0
        if shown.any():
            assert pictures[shown].median() > 0.6 > pictures[~shown].median(), "the heart is bright"
        dark = batch.cells[..., left] > 0
        if dark.any():
            assert pictures[dark].median() < 0.35 < pictures[~dark].median(), "the lung is dark"
        assert not (batch.cells * (1 - batch.known)).any(), "what is shown is known"
        by_scan = {tuple(each.tolist()) for each in batch.known[:, 0]}
        assert by_scan <= {(1, 1, 1, 1), (1, 1, 0, 0), (1, 0, 1, 0), (0, 0, 1, 0), (0, 0, 0, 0)}
        assert ((batch.cells > 0).any(1) <= (batch.coarse > 0).any(1)).float().mean() > 0.95
        seen += (batch.cells > 0).any(dim=1).sum(dim=0).numpy()
    assert (seen[[heart, left, right, stone]] >= 12).all(), f"rare ones come up too: {seen}"


def test_a_volume_is_labelled_cell_by_cell_and_each_depth_knows_what_all_its_slices_know(scans: LabelledScans) -> None:
    heart = column(scans, "heart")
    batches = scans.volume_batches(
        size=6, cells=(4, 8, 8), coarse=(2, 2, 2), rng=np.random.default_rng(1), augment=PLAIN
    )
    batch = next(batches)
    assert batch.pixels.shape == (6, 1, 8, 32, 32)
    assert batch.cells.shape == (6, 256, 4)
    assert batch.coarse_known.shape == (6, 8, 4)
    number = [case.id for case in scans.cases].index("scan 2")
    assert known_cells(scans.known[number], (4, 1, 1))[:, heart].tolist() == [False, False, False, False] or (
        known_cells(scans.known[number], (4, 1, 1))[:, heart].tolist() == [False, True, True, True]
    )
    shown = scans.shown_in(0, (4, 8, 8)).reshape(4, 8, 8, 4)
    rows, columns = np.nonzero(shown[..., heart].any(axis=0))
    assert rows.min() == 10 * 8 // 48
    assert columns.max() == 29 * 8 // 48
    assert scans.shown_in(0, (1, 8, 8)).reshape(8, 8, 4)[..., heart].sum() >= shown[..., heart].any(axis=0).sum() * 0.7


def test_unknown_slices_show_nothing_and_are_unknown(scans: LabelledScans) -> None:
    number, heart = [case.id for case in scans.cases].index("scan 2"), column(scans, "heart")
    assert not scans.known[number, :2, heart].any(), "stored slices 0 to 3 are grid slices 0 and 1"
    assert scans.known[number, 2:, heart].all()
    assert not (scans.labels[number, :2] == heart + 1).any()
    num_slices = scans.voxels.shape[1]
    places = set(np.concatenate(scans.seen_in).tolist())
    assert number * num_slices + 3 in places
    assert all(scans.labels[place // num_slices, place % num_slices].any() for place in places)


def test_a_small_structure_is_labelled_where_most_of_it_lies() -> None:
    labels = np.zeros((4, 32, 32), np.uint8)
    labels[0, 3:6, 3:6] = 1
    labels[0, 9, 9] = 1
    fullest = np.array([9])
    shown = cell_labels(labels, (1, 4, 4), 1, fullest).reshape(4, 4)
    assert shown.sum() == 1
    assert shown[0, 0] == 1, "nine pixels are under 5 % of the cell's 256, but all of the structure"


def test_moved_pictures_take_their_labels_along(scans: LabelledScans) -> None:
    heart = column(scans, "heart")
    still, moved = slices_of(scans, 1)[0], slices_of(scans, 1, Augmentation(shift=0.1, zoom=0.2))[0]
    assert not torch.equal(still.pixels, moved.pixels)
    pictures = torch.nn.functional.avg_pool2d(moved.pixels, 4).flatten(1)
    shown = moved.cells[..., heart] > 0
    assert pictures[shown].median() > 0.6 > pictures[~shown].median()


def test_where_scans_differ_in_a_fact_each_of_its_values_comes_up(scans: LabelledScans) -> None:
    from dataclasses import replace

    many = replace(scans, wholes={"modality": np.array([0, 0, 0, 1])})
    rng = np.random.default_rng(0)
    drawn = np.bincount([many.draw_case(rng) for _ in range(400)], minlength=4)
    assert drawn[3] > 120, "half of half of the draws, and a quarter of the others"
    drawn = np.bincount([scans.draw_case(rng) for _ in range(400)], minlength=4)
    assert drawn.min() > 60, "nothing to balance"


def test_cases_without_such_truth_are_refused_in_one_line(labelled_folder, tmp_path) -> None:
    data = open_dataset(f"prepared:{labelled_folder}")
    assert len(find_truths(data)) == 4
    bare = data.subset(case.model_copy(update={"truth": None}) for case in data.cases)
    no_labels = data.subset(case.model_copy(update={"labels": None}) for case in data.cases)
    for each in (bare, no_labels):
        with pytest.raises(InputError, match=r"stage 0 .* learns from label maps, but no case has .*--format masks"):
            find_truths(each)
    some = data.subset([data.cases[0], data.cases[1].model_copy(update={"truth": None})])
    assert len(find_truths(some)) == 1
