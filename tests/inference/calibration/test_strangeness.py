"""A gauge of good scans lets their like pass and catches what is wrong with a scan, and says what it is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from slicesight.inference.calibration import strangeness
from slicesight.inference.calibration.gaussian import fit_gaussian, fit_two_classes
from slicesight.inference.calibration.scan_changes import CHANGES, PICTURES, SPACINGS, changed_grid
from slicesight.inference.calibration.scan_features import (
    COARSE,
    FLIPS,
    ScanFeatures,
    body_size,
    coarse_picture,
    grey_values,
    measure_scan,
)
from slicesight.inference.calibration.storage import read_calibration
from slicesight.inference.calibration.strangeness import area_under_curve, fit_gauge


@pytest.fixture(scope="module")
def judge(tiny_reader, fitted):
    """The judgement of a volume."""
    gauge = fitted.calibration.scans
    return lambda volume, **how: gauge.judge(measure_scan(tiny_reader.encode(tiny_reader.grid(volume, **how))))


def test_other_good_scans_pass(judge, make_body):
    strange = [number for number in range(100, 140) if judge(make_body(number)).is_strange]
    assert len(strange) <= 4


WRONG = {
    "mirrored": lambda volume: replace(volume, voxels=volume.voxels[:, :, ::-1].copy()),
    "front to back": lambda volume: replace(volume, voxels=volume.voxels[:, ::-1].copy()),
    "head to feet": lambda volume: replace(volume, voxels=volume.voxels[::-1].copy()),
    "inverted": lambda volume: replace(volume, voxels=-800 - volume.voxels),
    "another offset": lambda volume: replace(volume, voxels=volume.voxels + 100),
    "empty": lambda volume: replace(volume, voxels=np.full_like(volume.voxels, -1000)),
    "spacing x 2": lambda volume: replace(
        volume, spacing_mm=(30.0, 10.0, 10.0), affine_lps=volume.affine_lps @ np.diag([2, 2, 2, 1])
    ),
    "longer slices": lambda volume: replace(
        volume, spacing_mm=(30.0, 5.0, 5.0), affine_lps=volume.affine_lps @ np.diag([1, 1, 2, 1])
    ),
    "blurred": lambda volume: replace(volume, voxels=ndimage.gaussian_filter(volume.voxels, (0, 2, 2))),
    "turned by 25°": lambda volume: replace(
        volume, voxels=ndimage.rotate(volume.voxels, 25, axes=(1, 2), reshape=False, order=1, cval=-1000)
    ),
    "noise": lambda volume: replace(
        volume, voxels=np.random.default_rng(0).uniform(-1000, 1000, volume.shape).astype(np.float32)
    ),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_scan_with_one_thing_wrong_is_strange(judge, make_body, kind):
    found = [judge(WRONG[kind](make_body(number))) for number in range(100, 106)]
    assert sum(one.is_strange for one in found) >= 5


def test_a_wrong_spacing_is_named(judge, make_body):
    assert "spacing" in judge(WRONG["spacing x 2"](make_body(100))).reason


def test_a_fact_never_seen_is_strange_whatever_the_picture_shows(judge, make_body):
    found = judge(make_body(100, modality="MR"))
    assert found.reason == "its modality is MR, theirs CT"
    assert judge(make_body(100), window="lung").reason.startswith("its window is")


def test_a_scan_without_a_spacing_is_judged_by_everything_else(judge, make_body):
    assert not judge(make_body(101, spacing_mm=None, affine_lps=None)).is_strange
    assert "size" not in judge(make_body(101, spacing_mm=None, affine_lps=None)).parts


def test_a_stored_gauge_judges_as_the_fitted_one(tiny_reader, fitted, calibrated_folder, make_body):
    stored = read_calibration(calibrated_folder).scans
    for number in (100, 101, 102):
        features = measure_scan(tiny_reader.encode(tiny_reader.grid(make_body(number))))
        assert stored.judge(features).score == pytest.approx(fitted.calibration.scans.judge(features).score, rel=0.02)


def test_numbers_that_never_vary_do_not_blow_up_a_distance():
    rng = np.random.default_rng(0)
    vectors = np.column_stack([rng.normal(size=(30, 3)), np.ones(30)])
    gauge = fit_gaussian(vectors, [0] * 30, num_groups=1)
    nudged = vectors[:1] + np.array([0, 0, 0, 1e-3])
    assert gauge.distance(nudged, [0])[0] == pytest.approx(gauge.distance(vectors[:1], [0])[0], abs=0.05)


def test_a_distance_grows_along_a_direction_of_small_variance_faster():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(200, 2)) @ np.array([[1.0, 0.95], [0.0, 0.3]])
    gauge = fit_gaussian(vectors, [0] * 200, num_groups=1)
    along, across = np.array([[2.0, 2.0]]), np.array([[2.0, -2.0]])
    assert gauge.distance(across, [0])[0] > 2 * gauge.distance(along, [0])[0]


def test_two_classes_are_told_apart_with_more_numbers_than_vectors():
    rng = np.random.default_rng(0)
    usual = rng.normal(size=(20, 200))
    usual[:, 0] += 3
    rule = fit_two_classes(usual, usual * np.where(np.arange(200) == 0, -1.0, 1.0))
    assert rule.score(usual).mean() == pytest.approx(0, abs=1e-6)
    fresh = rng.normal(size=(50, 200))
    fresh[:, 0] = -3
    assert (rule.score(fresh) > 0.5).mean() > 0.9


def test_a_coarse_picture_changes_as_its_scan_does():
    voxels = np.random.default_rng(0).random((16, 32, 32)).astype(np.float32)
    mirrored = coarse_picture(voxels[:, :, ::-1])
    assert mirrored.shape == (COARSE,) * 3
    assert np.allclose(mirrored, FLIPS["mirrored"](coarse_picture(voxels)))


def test_a_size_in_mm_doubles_with_the_spacing(tiny_reader, make_body):
    size, doubled = (
        body_size(tiny_reader.grid(volume)) for volume in (make_body(1), WRONG["spacing x 2"](make_body(1)))
    )
    assert np.allclose((doubled - size)[:3], np.log(2))


def test_an_empty_grid_can_be_measured():
    assert np.isfinite(grey_values(np.zeros((8, 32, 32), np.float32))).all()


@pytest.mark.parametrize("change", PICTURES)
def test_a_changed_copy_is_a_grid_of_the_same_size_and_range(tiny_reader, make_body, change):
    grid = tiny_reader.grid(make_body(1))
    grid = replace(grid, voxels=grid.voxels[:, :, :-9])  # not square
    copy = changed_grid(grid, change, np.random.default_rng(0))
    assert copy.voxels.shape == grid.voxels.shape
    assert copy.voxels.dtype == np.float32
    assert 0 <= copy.voxels.min() <= copy.voxels.max() <= 1
    assert not np.allclose(copy.voxels, grid.voxels, atol=0.01)


def test_all_channels_of_a_grid_are_changed_alike(tiny_reader, make_body):
    grid = tiny_reader.grid(make_body(1))
    grid = replace(grid, channels=np.stack([grid.voxels, grid.voxels / 2]))
    copy = changed_grid(grid, "turned", np.random.default_rng(0))
    assert np.array_equal(copy.voxels, copy.channels[0])
    assert np.allclose(copy.channels[1], copy.channels[0] / 2, atol=1e-6)


@pytest.mark.parametrize("factors", SPACINGS.values())
@pytest.mark.parametrize("plane", ["axial", "coronal"])
def test_a_copy_of_another_spacing_has_the_size_of_a_scan_with_that_header(tiny_reader, make_body, factors, plane):
    grid = replace(tiny_reader.grid(make_body(1)), plane=plane)
    stack = ("axial", "coronal").index(plane)
    spacing = [step * factors[0 if axis == stack else 1] for axis, step in enumerate(grid.receipt["spacing_mm_zyx"])]
    other = replace(grid, receipt={**grid.receipt, "spacing_mm_zyx": spacing})
    measured, expected = (measure_scan(tiny_reader.encode(one)) for one in (grid, other))
    assert np.allclose(measured.with_spacing(*factors).vectors["size"], expected.vectors["size"])


def test_a_rule_that_tells_nothing_is_left_out(tiny_reader, make_body, monkeypatch):
    scans = [measure_scan(tiny_reader.encode(tiny_reader.grid(make_body(number)))) for number in range(40)]
    told = {number: {"longer than it is": scan.with_spacing(2, 1), "mirrored": scans[(number * 7 + 3) % 40]}
            for number, scan in enumerate(scans)}  # fmt: skip
    how = {"patients": [str(number) for number in range(40)], "held_out": [True] * 40, "copies": told}
    assert set(fit_gauge(scans, **how).flips) == {"longer than it is/axial"}
    monkeypatch.setattr(strangeness, "LEAST_TOLD", 0.0)
    assert set(fit_gauge(scans, **how).flips) == {"longer than it is/axial", "mirrored/axial"}


def test_every_change_has_words_for_it():
    assert {strangeness.REASONS[change] for change in CHANGES} >= {"it looks turned", "it looks noisier"}
    assert "spacing" in strangeness.REASONS["longer than it is"]


def test_the_area_under_the_curve_counts_ties_half():
    assert area_under_curve([2, 3], [0, 1]) == 1
    assert area_under_curve([1.0], [1.0]) == 0.5
    assert area_under_curve([0.0], [1.0, 2.0]) == 0


def sized_scan(rng, *, size: float, shown: float) -> ScanFeatures:
    """A scan whose header says one size (log mm) and whose picture shows another."""
    sizes = np.array([size, size, size, 0, 0, 3 * size, 2 * size]) + 0.01 * rng.normal(size=7)
    return ScanFeatures(
        facts={"plane": "axial"},
        vectors={
            "picture": 0.1 * rng.random(COARSE**3),
            "size": sizes,
            "encoders": shown * np.linspace(-1, 1, 40) + 0.05 * rng.normal(size=40),
        },
    )


@pytest.mark.parametrize("has_copies", [False, True])
def test_a_wrong_spacing_within_the_sizes_seen_shows_against_what_the_scan_shows(has_copies):
    rng = np.random.default_rng(0)
    scans = [sized_scan(rng, size=size, shown=size) for size in rng.uniform(4, 6, size=120)]
    copies = {number: {"larger than it is": scan.with_spacing(2, 2)} for number, scan in enumerate(scans)}
    patients = [str(number) for number in range(120)]
    gauge = fit_gauge(scans, patients=patients, held_out=[True] * 120, copies=copies if has_copies else None)
    judged = [
        gauge.judge(sized_scan(rng, size=size + np.log(2), shown=size)) for size in rng.uniform(4.2, 5.2, size=40)
    ]
    good = [gauge.judge(sized_scan(rng, size=size, shown=size)) for size in rng.uniform(4.2, 5.2, size=40)]
    assert sum(one.is_strange for one in good) <= 8
    if has_copies:
        assert sum("its spacing, which may be wrong" in one.reason for one in judged) >= 38
    else:
        assert sum(one.is_strange for one in judged) <= 20


def test_the_limit_counts_patients_not_their_scans():
    """Thirty views of each of ten patients: the limit is as wide as ten patients need it."""
    rng = np.random.default_rng(0)
    views = [sized_scan(rng, size=5, shown=5) for _ in range(300)]
    how = {"held_out": [True] * 300, "share": 0.1}
    many = fit_gauge(views, patients=[str(number) for number in range(300)], **how)
    few = fit_gauge(views, patients=[str(number // 30) for number in range(300)], **how)
    assert few.limit > 1.2 * many.limit
