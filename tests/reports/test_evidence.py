"""Evidence in words: ranges of neighbouring slices, their file numbers and millimetres."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from slicesight.inference.answers import Answer, rank_slices
from slicesight.reports.evidence import (
    NO_WEIGHTS,
    cut_note,
    describe,
    peak_slice,
    pick_over_volume,
    place_name,
    reading_line,
    sides,
    slice_name,
    stacking_axis,
    summarise,
)
from slicesight.volumes.grid import GridSpec, to_grid


@pytest.fixture(scope="module")
def grid(phantom):
    return to_grid(phantom.volume, GridSpec(num_slices=16, height=24, width=24))


def answer_with(scores, grid) -> Answer:
    scores = tuple(np.asarray(scores, dtype=float) / np.sum(scores))
    return Answer(question="q", text="a", scores=scores, slices=rank_slices(scores, grid=grid))


def test_neighbouring_heavy_slices_become_one_range(grid):
    scores = np.full(16, 0.01)
    scores[[4, 5, 9]] = 0.3, 0.25, 0.08
    evidence = summarise(answer_with(scores, grid))
    assert [found.grid_slices for found in evidence.ranges] == [(4, 5)]  # slice 9 weighs less than twice 1/16
    low, high = min(grid.slices[4].source_slices), max(grid.slices[5].source_slices)
    assert evidence.ranges[0].name == f"slices {low}–{high}"
    assert evidence.ranges[0].share == pytest.approx(0.55 / scores.sum())
    assert evidence.num_other_slices == 14
    assert evidence.ranges[0].share + evidence.other_share == pytest.approx(1)
    assert evidence.even_share == 1 / 16


def test_ranges_are_listed_heaviest_first_and_never_more_than_asked(grid):
    scores = np.full(16, 0.001)
    scores[[1, 4, 7, 10, 13]] = 0.15, 0.19, 0.16, 0.18, 0.17
    evidence = summarise(answer_with(scores, grid), max_ranges=2)
    assert [found.grid_slices for found in evidence.ranges] == [(4, 4), (10, 10)]
    assert evidence.num_other_slices == 14


def test_an_even_spread_names_no_slice(grid):
    evidence = summarise(answer_with(np.ones(16), grid))
    assert evidence.ranges == ()
    assert evidence.num_other_slices == 16
    assert peak_slice(answer_with(np.ones(16), grid)) is None


def test_a_model_without_slice_scores_has_no_evidence(grid):
    evidence = summarise(Answer(question="q", text="a", scores=(), slices=()))
    assert evidence.ranges == ()
    assert evidence.num_other_slices == 0


def test_millimetres_run_from_edge_to_edge_along_the_stack(grid):
    assert stacking_axis(grid.slices) == 2
    step = (grid.slices[-1].position_mm[2] - grid.slices[0].position_mm[2]) / 15
    first, last = grid.slices[3].position_mm[2] - step / 2, grid.slices[4].position_mm[2] + step / 2
    assert place_name(grid.slices, 3, 4) == f"z {first:.0f}…{last:.0f} mm"
    assert place_name(grid.slices, 3) == f"z {grid.slices[3].position_mm[2]:.0f} mm"


def test_without_geometry_no_millimetres_are_invented(grid):
    pieces = [replace(piece, position_mm=None) for piece in grid.slices]
    assert place_name(pieces, 3, 4) == ""
    assert stacking_axis(pieces) is None


def test_in_a_reformatted_plane_the_cut_is_named_not_all_source_slices(phantom):
    grid = to_grid(phantom.volume, GridSpec(num_slices=16, height=24, width=24, plane="coronal"))
    assert slice_name(grid.slices, 3, 4) == "cuts 3–4 of 16"
    assert slice_name(grid.slices, 3) == "cut 3 of 16"
    assert stacking_axis(grid.slices) == 1


def test_pictures_are_spread_over_the_volume_and_hold_the_peak(grid):
    scores = np.linspace(1, 2, 16)
    scores[10] = 9
    picked = pick_over_volume(answer_with(scores, grid), num_slices=16, count=8)
    assert [index // 2 for index in picked] == list(range(8))
    assert 10 in picked
    assert picked[:5] == [1, 3, 5, 7, 9]
    assert pick_over_volume(answer_with(scores, grid), num_slices=16, count=40) == list(range(16))


def test_without_scores_pictures_are_evenly_spread():
    silent = Answer(question="q", text="a", scores=(), slices=())
    assert pick_over_volume(silent, num_slices=32, count=8) == [0, 4, 8, 12, 16, 20, 24, 28]


def test_reading_line_names_window_and_grid(grid):
    assert reading_line(grid) == "window soft tissue -160…240 HU · read as 16×24×24, axial"


def test_patients_right_is_at_the_left_edge_of_axial_and_coronal_pictures():
    assert sides("axial")[:2] == "RL"
    assert sides("coronal") == "RLSI"
    assert sides("sagittal")[:2] == "AP"


def test_scores_that_differ_sixfold_are_not_said_to_weigh_alike(grid):
    scores = np.full(16, 0.06)
    scores[0], scores[7] = 0.02, 0.12  # six times, and less than twice an even share
    answer = answer_with(scores, grid)
    said = describe(summarise(answer))
    assert summarise(answer).ranges == ()
    heaviest, lightest = max(answer.scores), min(answer.scores)
    assert heaviest / lightest == pytest.approx(6)
    assert f"Weighs most: {slice_name(grid.slices, 7)} ({heaviest:.2f}), less than twice an even share (0.06)" in said
    assert f"the other 15 slices share {1 - heaviest:.2f}" in said
    assert said.startswith("Spread out over about 15 of 16 slices.")
    assert "alike" not in said


def test_the_share_of_what_is_not_named_stands_beside_what_is(grid):
    scores = np.full(16, 0.02)
    scores[[4, 5]] = 0.5, 0.22
    answer = answer_with(scores, grid)
    said = describe(summarise(answer))
    assert "Weighs most: slices" in said
    assert "(0.72); the other 14 slices share 0.28." in said
    assert said.endswith("In effect about 6 of 16 slices.")


def test_a_few_heavy_slices_among_many_are_called_spread_out(grid):
    scores = np.full(16, 0.058)
    scores[3] = 0.135
    said = describe(summarise(answer_with(scores, grid)))
    assert said.startswith("Spread out over about 15 of 16 slices. Weighs most: slice")
    assert "share 0.87" in said


def test_the_effective_number_is_the_exponent_of_the_entropy(grid):
    scores = np.zeros(16)
    scores[[2, 3, 9]] = 0.5, 0.25, 0.25
    found = summarise(answer_with(scores, grid))
    assert found.effective_slices == pytest.approx(2**1.5)
    assert summarise(answer_with(np.ones(16), grid)).effective_slices == pytest.approx(16)
    assert not found.is_spread


def test_only_slices_that_weigh_alike_are_said_to(grid):
    assert describe(summarise(answer_with(np.ones(16), grid))) == "All 16 slices weigh about alike (0.06 each)."
    assert describe(summarise(Answer(question="q", text="a", scores=(), slices=()))) == NO_WEIGHTS


def test_a_cut_answer_says_after_how_many_tokens(grid):
    answer = answer_with(np.ones(16), grid)
    assert (cut_note(answer), answer.finish_reason) == ("", "stop")
    cut = replace(answer, cut_at=160)
    assert cut_note(cut) == "The answer was cut at 160 tokens; its end is missing."
    assert cut.finish_reason == "length"


@pytest.mark.parametrize(("heaviest", "is_alike"), [(1.09, True), (1.11, False)])
def test_slices_weigh_alike_up_to_a_tenth_more(grid, heaviest, is_alike):
    assert bool(summarise(answer_with([heaviest, *np.ones(15)], grid)).is_alike) is is_alike
