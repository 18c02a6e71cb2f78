import numpy as np
import pytest

from slicesight.evaluation.metrics.masks import CaseScore, overlap, summarise


def cube(shape, *, at, size):
    mask = np.zeros(shape, bool)
    mask[tuple(slice(start, start + length) for start, length in zip(at, size, strict=True))] = True
    return mask


def test_dice_is_twice_the_overlap_over_the_sum():
    one, two = cube((9, 9, 9), at=(1, 1, 1), size=(4, 4, 4)), cube((9, 9, 9), at=(3, 1, 1), size=(4, 4, 4))
    dice, _ = overlap(one, two, spacing_mm=(1, 1, 1))
    assert dice == pytest.approx(2 * (one & two).sum() / (one.sum() + two.sum()))
    assert overlap(one, one, spacing_mm=(1, 1, 1)) == (1.0, 0.0)


def test_the_distance_is_the_95th_percentile_of_surface_distances_in_mm():
    rng = np.random.default_rng(0)
    one = cube((14, 13, 12), at=(2, 3, 4), size=(6, 5, 4))
    two = cube((14, 13, 12), at=(4, 3, 4), size=(7, 6, 5)) | (rng.random((14, 13, 12)) > 0.995)
    spacing = np.array([3.0, 1.0, 0.5])

    def surface(mask):
        padded = np.pad(mask, 1)
        neighbours = [np.roll(padded, step, axis)[1:-1, 1:-1, 1:-1] for axis in range(3) for step in (1, -1)]
        return np.argwhere(mask & ~np.all(neighbours, axis=0)) * spacing

    a, b = surface(one), surface(two)
    distances = np.linalg.norm(a[:, None] - b[None], axis=-1)
    expected = max(np.percentile(distances.min(axis=1), 95), np.percentile(distances.min(axis=0), 95))
    assert overlap(one, two, spacing_mm=spacing)[1] == pytest.approx(expected, rel=1e-5)


def test_a_missed_structure_counts_as_the_worst_case_and_nothing_on_nothing_as_perfect():
    none, some = np.zeros((4, 4, 4), bool), cube((4, 4, 4), at=(0, 0, 0), size=(2, 2, 2))
    assert overlap(none, some, spacing_mm=(3, 1, 1)) == (0.0, pytest.approx(np.linalg.norm([12, 4, 4])))
    assert overlap(some, none, spacing_mm=(3, 1, 1))[0] == 0.0
    assert overlap(none, none, spacing_mm=(3, 1, 1)) == (1.0, 0.0)
    assert overlap(some, some, spacing_mm=None) == (1.0, None)


def score(patient, dice, *, split="test", structure="tumour", distance=1.0):
    return CaseScore(
        case="c",
        patient=patient,
        split=split,
        structure=structure,
        dice=dice,
        hd95_mm=distance,
        volume_ml=1.0,
        true_volume_ml=1.0,
    )


def test_the_summary_is_over_patients_not_scans():
    (row,) = summarise([score("a", 0.2), score("a", 0.4), score("b", 0.9)])
    assert (row["scans"], row["patients"]) == (3, 2)
    assert row["dice"] == pytest.approx((0.3 + 0.9) / 2)
    assert row["dice_sd"] == pytest.approx(np.std([0.3, 0.9], ddof=1))
    assert len(summarise([score("a", 1.0), score("b", 1.0, split="val")])) == 2
    assert "hd95_mm" not in summarise([score("a", 1.0, distance=None)])[0]
    assert summarise([score("a", 1.0)])[0]["dice_sd"] is None
