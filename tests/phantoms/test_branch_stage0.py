"""Both encoders are taught the same words; imagined tokens show of each branch what it can see."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from slicesight.data.dataset import open_dataset
from slicesight.phantoms.branch_stage0 import SCHEME, WORDS, BranchStage0, cell_labels
from slicesight.phantoms.branches import COURSES, DETAILS, ORGANS, SLICES_PER_LEVEL
from slicesight.training.augmentation import Augmentation
from slicesight.training.stage0.sections import TokenGrids
from slicesight.volumes.grid import GridSpec

GRID = GridSpec(num_slices=32, height=64, width=64, window="-160,240", crop_foreground=False)


@pytest.fixture(scope="module")
def source() -> BranchStage0:
    return BranchStage0(open_dataset("branches:5:12", grid=GRID))


def test_cells_are_labelled_with_the_words_of_what_lies_in_them_and_their_organ(source):
    kept = source.phantoms.kept(0)
    labels = cell_labels(kept, slice(None), (4, 1, 2)).reshape(4, 2, -1)
    for piece in kept.truth.pieces:
        side = int(piece.kind == "mass")
        for word in piece.values.values():
            assert labels[piece.level, side, WORDS.index(word)] == 1
            assert labels[piece.level, 1 - side, WORDS.index(word)] == 0
    np.testing.assert_array_equal(labels[..., len(WORDS) :].argmax(axis=-1), np.repeat(np.arange(4), 2).reshape(4, 2))


def test_a_slice_has_the_labels_of_its_own_pixels_only(source):
    kept = source.phantoms.kept(0)
    mass = kept.truth.masses[0]
    told = [WORDS.index(word) for word in mass.values.values()]
    for place in range(mass.level * SLICES_PER_LEVEL, (mass.level + 1) * SLICES_PER_LEVEL):
        labels = cell_labels(kept, slice(place, place + 1), (1, 4, 4))
        assert labels[:, told].any() == (place in mass.slices)
        assert (labels[:, len(WORDS) :].argmax(axis=1) == mass.level).all()


def test_batches_have_pixels_and_labels_of_the_same_scans(source):
    given = {"cells": (1, 4, 4), "coarse": (1, 2, 2), "rng": np.random.default_rng(1), "augment": Augmentation()}
    batch = next(source.slice_batches(size=5, **given))
    assert batch.pixels.shape == (5, 1, 64, 64)
    assert batch.cells.shape == (5, 16, len(SCHEME.cell_labels))
    given = {"cells": (8, 4, 4), "coarse": (4, 1, 2), "rng": np.random.default_rng(1), "augment": Augmentation()}
    batch = next(source.volume_batches(size=2, **given))
    assert batch.pixels.shape == (2, 1, 32, 64, 64)
    assert batch.coarse.shape == (2, 8, len(SCHEME.cell_labels))


def test_imagined_3d_tokens_tell_courses_and_no_details_and_2d_tokens_details_and_no_courses(source):
    words = SimpleNamespace(of_label={name: [place] for place, name in enumerate((*WORDS, *ORGANS))})
    words = type("Words", (), {"of_label": words.of_label, "__len__": lambda self: len(self.of_label)})()
    grids = TokenGrids(deep=(4, 1, 2), flat=(1, 2, 2))
    rng = np.random.default_rng(3)
    for scan, conversation in source.draw(rng, 20, report=False):
        bags = source.imagine(scan, conversation, words, grids, rng)
        deep, flat = bags[:8], bags[8:]
        for name, values in (COURSES | DETAILS).items():
            first, second = (WORDS.index(value) for value in values)
            silent = deep if name in DETAILS else flat
            np.testing.assert_array_equal(silent[:, first], silent[:, second])
        name = conversation.topic.removesuffix(" at a level")
        wrong = next(value for value in (COURSES | DETAILS)[name] if value != conversation.answer)
        told = deep if name in COURSES else flat
        assert told[:, WORDS.index(conversation.answer)].max() > told[:, WORDS.index(wrong)].max()
