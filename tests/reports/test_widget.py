"""The viewer's traits: they are all that the page knows, so what is wrong in them is wrong on the screen."""

from __future__ import annotations

import builtins
import importlib
import json
import re
import sys
from dataclasses import replace

import numpy as np
import pytest

from slicesight.errors import InputError
from slicesight.inference.answers import make_answer
from slicesight.models.card import ModelCard
from slicesight.volumes.grid import GridSpec, to_grid

NUM_SLICES = 8


@pytest.fixture
def viewer_class():
    pytest.importorskip("anywidget", reason="slicesight[notebook] is not installed")
    from slicesight.reports.widget import SliceViewer

    return SliceViewer


@pytest.fixture(scope="module")
def grid(phantom):
    return to_grid(phantom.volume, GridSpec(num_slices=NUM_SLICES, height=20, width=30))


def answer_about(grid, heaviest, *, question="Which phase is this?"):
    scores = np.full(len(grid.scored_slices), 0.01)
    scores[heaviest] = 1.0
    return make_answer(question, "The arterial phase.", (scores / scores.sum()).tolist(), grid=grid, confidence=0.7)


def test_the_bytes_are_the_slices_in_the_order_of_the_scores(viewer_class, grid):
    viewer = viewer_class(grid, answer_about(grid, 5))
    assert viewer.shape == [NUM_SLICES, 20, 30]
    shown = np.frombuffer(viewer.pixels, np.uint8).reshape(viewer.shape)
    assert np.abs(shown / 255 - grid.voxels).max() <= 0.5 / 255 + 1e-6
    assert len(viewer.names) == len(viewer.sides) == len(viewer.proportions) == NUM_SLICES
    assert re.fullmatch(r"slices? \d+(–\d+)? · z -?\d+ mm", viewer.names[5])
    assert viewer.sides[0] == "RLAP"


def test_the_heaviest_slice_is_shown_first_and_the_middle_one_without_answers(viewer_class, grid):
    assert viewer_class(grid, [answer_about(grid, 5), answer_about(grid, 2)]).index == 5
    assert viewer_class(grid).index == NUM_SLICES // 2
    assert viewer_class(grid, index=1).index == 1


def test_what_the_page_writes_back_is_seen_in_python_and_kept_inside_the_scan(viewer_class, grid):
    viewer = viewer_class(grid, [answer_about(grid, 5), answer_about(grid, 2)])
    seen = []
    viewer.observe(lambda change: seen.append((change["name"], change["new"])), names=["index", "answer_number"])
    viewer.set_state({"index": 3})
    viewer.set_state({"answer_number": 1})
    assert seen == [("index", 3), ("answer_number", 1)]
    viewer.index, viewer.answer_number = 99, -4
    assert (viewer.index, viewer.answer_number) == (NUM_SLICES - 1, 0)


def test_an_answer_brings_its_scores_its_confidence_and_its_doubts(viewer_class, grid):
    held = replace(answer_about(grid, 5), would_say="The venous phase.", abstained="strange_scan")
    (shown,) = viewer_class(grid, held).answers
    assert sum(shown["scores"]) == pytest.approx(1.0)
    assert shown["ceiling"] == max(shown["scores"])
    assert shown["confidence"] == "confidence 0.70"
    assert any("The venous phase." in doubt for doubt in shown["doubts"])
    json.dumps(shown)


def test_what_must_be_read_about_a_model_stands_below_unless_the_scan_is_synthetic(viewer_class, grid):
    card = ModelCard(name="phantom-tiny", trained_on="synthetic")
    real = replace(grid, receipt={**grid.receipt, "is_synthetic": False})
    assert any("means nothing" in notice for notice in viewer_class(real, card=card).notices)
    assert not any("means nothing" in notice for notice in viewer_class(grid, card=card).notices)
    assert "Not a medical device" in viewer_class(grid).notices[-1]


def test_three_planes_have_their_slices_one_after_the_other(viewer_class, phantom):
    grid = replace(
        to_grid(phantom.volume, GridSpec(num_slices=NUM_SLICES, height=16, width=16, plane="axial")),
        planes=("axial", "coronal", "sagittal"),
    )
    viewer = viewer_class(grid, answer_about(grid, 2 * NUM_SLICES))
    assert viewer.shape == [3 * NUM_SLICES, 16, 16]
    assert viewer.index == 2 * NUM_SLICES
    assert viewer.names[viewer.index].startswith("sagittal cut 0 of 8")
    assert [viewer.sides[number * NUM_SLICES] for number in range(3)] == ["RLAP", "RLSI", "APSI"]


def test_an_answer_about_another_grid_is_refused_in_one_line(viewer_class, grid, phantom):
    other = to_grid(phantom.volume, GridSpec(num_slices=4, height=8, width=8))
    with pytest.raises(InputError, match=r"has 4 scores, the grid 8 slices; take the grid"):
        viewer_class(grid, answer_about(other, 1))
    with pytest.raises(InputError, match=r"expected a GridVolume, as Predictor.grid"):
        viewer_class(phantom.volume)


def test_the_page_asks_no_address_and_sets_texts_as_text(viewer_class):
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|import |innerHTML|fetch\(", viewer_class._esm)
    assert "url(" not in viewer_class._css


def test_without_the_extra_one_line_says_what_to_install(monkeypatch):
    real = builtins.__import__

    def without(name, *arguments, **options):
        if name == "anywidget":
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.delitem(sys.modules, "slicesight.reports.widget", raising=False)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=r"pip install 'slicesight\[notebook\]'"):
        importlib.import_module("slicesight.reports.widget")
