"""Findings across slices are the same slices in another order; details vanish where two by two pixels are averaged."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
import pytest

from slicesight.data.dataset import open_dataset
from slicesight.errors import InputError
from slicesight.phantoms import branches
from slicesight.phantoms.branches import COURSES, DETAILS, GROUPS, SHAPE, SLICES_PER_LEVEL, disc_places
from slicesight.volumes.grid import GridSpec

GRID = GridSpec(num_slices=32, height=64, width=64, window="-160,240", crop_foreground=False)
COUNT = 400


@pytest.fixture(scope="module")
def phantoms():
    return [branches.make_branch_phantom(5, index, noise=False) for index in range(COUNT)]


@pytest.fixture(scope="module")
def asked():
    dataset = open_dataset(f"branches:5:{COUNT}")
    return [conversation for case in dataset.cases for conversation in dataset.conversations(case, 3)]


def sits(discs) -> list[tuple[float, ...]]:
    return sorted(tuple(np.round(disc[1:], 6) + 0.0) for disc in discs)


@pytest.mark.parametrize("name", COURSES)
def test_both_values_of_a_course_are_the_same_discs_in_other_slices(name):
    for seed in range(20):
        first, second = (disc_places(value, np.random.default_rng(seed)) for value in COURSES[name])
        assert sits(first) == sits(second)
        assert first != second


def test_nodules_do_not_touch_from_slice_to_slice_and_a_vessel_does():
    for seed in range(20):
        for value, touches in (("vessel", True), ("nodules", False)):
            places = np.array(disc_places(value, np.random.default_rng(seed)))
            steps = np.hypot(*np.diff(places[:, 1:3], axis=0).T)
            assert (steps < 2 * 3.0).all() if touches else (steps > 2 * 3.0).all()


def test_a_double_lesion_has_a_gap_and_a_single_one_has_none():
    for seed in range(20):
        gaps = [
            np.diff([disc[0] for disc in disc_places(value, np.random.default_rng(seed))]).max()
            for value in COURSES["number"]
        ]
        assert gaps[0] == 1
        assert gaps[1] >= 3


@pytest.mark.parametrize("name", COURSES)
def test_statistics_of_single_slices_say_nothing_of_a_course(phantoms, name):
    statistics, ordered, truth = zip(*(described(phantom, name) for phantom in phantoms), strict=True)
    near = 3.3 * np.sqrt(0.25 / (COUNT // 4))
    assert held_out(statistics, truth) == pytest.approx(0.5, abs=near)
    if name in ("growth", "number"):  # what the same classifier finds as soon as it knows which slice is which
        assert held_out(ordered, truth) > 0.9


def described(phantom, name: str) -> tuple[np.ndarray, np.ndarray, int]:
    """Of one structure: areas and middles of its discs, sorted and averaged as sets; the areas in their order."""
    number, piece = next((n, p) for n, p in enumerate(phantom.truth.pieces, 1) if p.kind == name)
    level = slice(piece.level * SLICES_PER_LEVEL, (piece.level + 1) * SLICES_PER_LEVEL)
    shown = phantom.labels[level] == number
    areas = shown.sum(axis=(1, 2)).astype(float)
    middles = np.array([np.argwhere(one).mean(axis=0) for one in shown if one.any()])
    middles = middles - middles.mean(axis=0)
    one = int(np.random.default_rng(number).integers(len(middles)))
    sets = [*np.sort(areas), *middles[one], *np.abs(middles).mean(axis=0), *(middles**2).mean(axis=0)]
    steps = np.abs(np.diff(areas > 0))
    return np.array(sets), np.array([*areas, steps.sum()]), COURSES[name].index(piece.values[name])


def held_out(features, truth) -> float:
    """Accuracy of least squares on the last quarter."""
    x, y = np.array(features, dtype=float), np.array(truth)
    x = np.c_[(x - x.mean(axis=0)) / (x.std(axis=0) + 1e-9), np.ones(len(x))]
    cut = len(x) * 3 // 4
    weights = np.linalg.solve(x[:cut].T @ x[:cut] + np.eye(x.shape[1]), x[:cut].T @ (2 * y[:cut] - 1))
    return float(((x[cut:] @ weights > 0) == y[cut:]).mean())


def test_a_mass_is_even_once_two_by_two_pixels_are_averaged(phantoms):
    for phantom in phantoms[:40]:
        mass = phantom.labels > len(COURSES)
        blocks = phantom.hu.reshape(SHAPE[0], SHAPE[1] // 2, 2, SHAPE[2] // 2, 2).mean(axis=(2, 4))
        whole = mass.reshape(SHAPE[0], SHAPE[1] // 2, 2, SHAPE[2] // 2, 2)
        assert (whole.all(axis=(2, 4)) == whole.any(axis=(2, 4))).all()
        assert blocks[whole.all(axis=(2, 4))] == pytest.approx(40.0, abs=1e-3)


def test_every_detail_changes_the_pixels_of_a_slice(phantoms):
    bright = defaultdict(list)
    for phantom in phantoms[:150]:
        mass = phantom.truth.masses[0]
        inside = phantom.labels[mass.slices[0]] == len(COURSES) + 1
        picture = np.where(inside, phantom.hu[mass.slices[0]] - 40.0, 0)
        rows = np.abs(picture[:-1] + picture[1:]).mean() / np.abs(picture).mean()
        bright[mass.values["texture"]].append(rows)
        bright[mass.values["calcification"]].append(picture.max())
        bright[mass.values["rim"]].append(np.count_nonzero(np.abs(np.abs(picture) - 88) < 45))
    for first, second in DETAILS.values():
        assert min(np.mean(bright[first]), np.mean(bright[second])) * 1.1 < max(
            np.mean(bright[first]), np.mean(bright[second])
        )


def test_every_answer_and_every_place_of_it_is_as_likely_as_the_other(asked):
    groups = Counter()
    for conversation in asked:
        name = conversation.topic.removesuffix(" at a level")
        is_first = conversation.answer == branches.VALUES[name][0]
        is_named_first = conversation.question.find(conversation.answer) == min(
            conversation.question.find(word) for word in branches.VALUES[name]
        )
        level = conversation.source_slices[0] // SLICES_PER_LEVEL
        for group, hit in (
            ((conversation.topic, "answer"), is_first),
            ((conversation.topic, "letter"), conversation.answer_choice == "A"),
            ((conversation.topic, "named first"), is_named_first),
            ((conversation.topic, "level", level), is_first),
        ):
            groups[group, hit] += 1
    for group in {group for group, _ in groups}:
        yes, no = groups[group, True], groups[group, False]
        assert abs(yes - no) < 4.2 * np.sqrt(yes + no), group


def test_every_topic_belongs_to_one_kind_of_finding(asked):
    assert {conversation.topic for conversation in asked} == {topic for topics in GROUPS.values() for topic in topics}


def test_a_question_names_its_level_where_every_level_has_such_a_mass(asked):
    for conversation in asked:
        organ = branches.ORGANS[conversation.source_slices[0] // SLICES_PER_LEVEL]
        assert (organ in conversation.question) == (conversation.topic not in DETAILS)


def test_another_epoch_words_the_questions_anew_about_the_same_pictures():
    dataset = open_dataset("branches:5:3", grid=GRID)
    case = dataset.cases[1]
    first, second = dataset.conversations(case, 0), dataset.conversations(case, 1)
    assert [each.task for each in first] == [each.task for each in second]
    assert first != second
    np.testing.assert_allclose(dataset.voxels(case), dataset.grid(case, GRID).voxels, atol=0.5 / 255 + 1e-6)
    again = open_dataset("branches:5:2", grid=GRID)
    np.testing.assert_array_equal(again.voxels(again.cases[1]), dataset.voxels(case))
    assert dataset.true_slices(case, first[0]).nonzero()[0].tolist() == list(first[0].source_slices)


@pytest.mark.parametrize("rest", ["", "5", "5:0", "x:3", "5:-2"])
def test_a_name_that_is_no_seed_and_count_is_refused_in_one_line(rest):
    with pytest.raises(InputError, match=r"expected branches:SEED:COUNT"):
        open_dataset(f"branches:{rest}")
