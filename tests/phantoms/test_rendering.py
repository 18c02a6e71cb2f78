"""Phantoms: the truth they claim is the truth in their voxels."""

import numpy as np
import pytest

from slicesight.phantoms.anatomy import ABNORMALITIES, HOSTS, LABEL_NAMES, ORGANS_BY_NAME, PHASES
from slicesight.phantoms.rendering import Phantom, make_phantom
from slicesight.volumes.volume import PLANES

LABELS = {name: label for label, name in LABEL_NAMES.items()}
SEED = 4


@pytest.fixture(scope="module")
def family() -> list[Phantom]:
    return [make_phantom(SEED, index, pixel_mm=(3.0, 4.0)) for index in range(24)]


def centre_mm(phantom: Phantom, mask: np.ndarray) -> np.ndarray:
    """LPS centre of a mask, through the affine that a reader would use."""
    index = np.append(np.argwhere(mask).mean(axis=0), 1.0)
    return (phantom.volume.affine_lps @ index)[:3]


def test_same_seed_and_index_give_the_same_phantom_and_others_do_not() -> None:
    once, again, other = (make_phantom(SEED, i, pixel_mm=(4, 5)) for i in (3, 3, 4))
    assert np.array_equal(once.volume.voxels, again.volume.voxels)
    assert once.truth == again.truth
    assert once.truth != other.truth


def test_every_plane_phase_and_number_of_findings_occurs(family: list[Phantom]) -> None:
    assert {phantom.truth.plane for phantom in family} == set(PLANES)
    assert {phantom.truth.phase for phantom in family} == set(PHASES)
    assert {len(phantom.truth.findings) for phantom in family} == {0, 1, 2, 3}


def test_the_stack_axis_is_the_one_with_the_thick_slices(family: list[Phantom]) -> None:
    for phantom in family:
        assert phantom.volume.plane == phantom.truth.plane
        assert np.argmax(phantom.volume.spacing_mm) == phantom.volume.acquisition_axis


def test_at_least_twelve_organs_lie_in_sane_positions(family: list[Phantom]) -> None:
    for phantom in family:
        seen = set(np.unique(phantom.organ_labels)) - {0}
        assert len(seen) >= 12
        at = {
            name: centre_mm(phantom, phantom.organ_labels == LABELS[name])
            for name in (*HOSTS, "heart", "bladder", "spine")
        }
        assert at["liver"][0] < at["spine"][0] < at["spleen"][0], "liver right, spleen left (LPS x grows to the left)"
        assert at["right kidney"][0] < at["spine"][0] < at["left kidney"][0]
        assert at["right lung"][0] < at["heart"][0] < at["left lung"][0]
        assert at["bladder"][2] < at["left kidney"][2] < at["heart"][2], "feet to head"
        assert at["heart"][1] < at["spine"][1], "the spine is behind (LPS y grows to the back)"


def test_findings_lie_in_their_organ_in_their_part_and_in_their_slices(family: list[Phantom]) -> None:
    checked = 0
    for phantom in family:
        for number, finding in enumerate(phantom.truth.findings, start=1):
            mask = phantom.lesion_labels == number
            assert set(np.unique(phantom.organ_labels[mask])) == {LABELS[finding.organ]}
            along = np.moveaxis(mask, phantom.volume.acquisition_axis, 0).any(axis=(1, 2))
            assert tuple(np.flatnonzero(along)) == finding.source_slices
            assert np.linalg.norm(centre_mm(phantom, mask) - finding.centre_mm) < 6.0
            organ = centre_mm(phantom, phantom.organ_labels == LABELS[finding.organ])
            _, axis, sign = ORGANS_BY_NAME[finding.organ].parts[finding.part]
            if axis >= 0:
                assert sign * (finding.centre_mm[axis] - organ[axis]) > 0, finding
            checked += 1
    assert checked > 20


def test_findings_of_one_phantom_differ_in_kind_and_organ(family: list[Phantom]) -> None:
    for phantom in family:
        findings = phantom.truth.findings
        assert len({finding.organ for finding in findings}) == len(findings)
        assert len({finding.abnormality for finding in findings}) == len(findings)


def test_a_finding_shows_in_some_slices_only(family: list[Phantom]) -> None:
    shares = [
        len(finding.source_slices) / phantom.volume.num_source_slices
        for phantom in family
        for finding in phantom.truth.findings
    ]
    assert max(shares) < 0.35


def test_kinds_differ_in_density_as_the_table_says() -> None:
    means: dict[str, list[float]] = {}
    for index in range(40):
        phantom = make_phantom(SEED + 1, index, pixel_mm=(3.0, 3.5), noise=False)
        for number, finding in enumerate(phantom.truth.findings, start=1):
            core = phantom.volume.voxels[phantom.lesion_labels == number]
            means.setdefault(finding.abnormality, []).append(float(np.median(core)))
    assert set(means) == {kind.name for kind in ABNORMALITIES}
    middle = {name: np.median(values) for name, values in means.items()}
    assert middle["gas collection"] < middle["lipoma"] < middle["cyst"] < middle["calcification"]


def test_contrast_phases_brighten_what_they_should() -> None:
    aorta: dict[str, float] = {}
    bladder: dict[str, float] = {}
    for index in range(24):
        phantom = make_phantom(SEED + 2, index, pixel_mm=(4.0, 4.5), noise=False)
        for store, name in ((aorta, "aorta"), (bladder, "bladder")):
            store[phantom.truth.phase] = float(np.median(phantom.volume.voxels[phantom.organ_labels == LABELS[name]]))
    assert aorta["arterial phase"] > aorta["portal venous phase"] > aorta["delayed phase"] > aorta["non-contrast"]
    assert bladder["delayed phase"] > 150 > 60 > bladder["portal venous phase"]
