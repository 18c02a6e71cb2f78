"""A label map lies on a case's grid where the picture does; what was not drawn, or is not known, is marked."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from slicesight.data.label_grids import mask_truth, read_label_grids
from slicesight.data.manifest import Case, Conversation, Reading, write_manifest
from slicesight.data.preprocess import prepare_volumes
from slicesight.data.store import PreparedVolumes, open_prepared
from slicesight.errors import InputError, VolumeError
from slicesight.io.writers import write_nifti
from slicesight.volumes.grid import GridSpec
from slicesight.volumes.volume import Volume

pytest.importorskip("pyarrow")
AFFINE = np.array([[0, 0, 2.0, -20], [0, 2.0, 0, -24], [5.0, 0, 0, 100], [0, 0, 0, 1]])
SHAPE = (20, 32, 28)
BALL, ROD = (slice(4, 9), slice(8, 14), slice(6, 12)), (slice(2, 18), slice(20, 24), slice(18, 22))
ASKED = (Conversation(task="open", topic="plane", question="Which plane?", answer="axial"),)


def make_volume() -> tuple[Volume, np.ndarray]:
    """A body in air with a bright ball and a bright rod -> scan, label map."""
    voxels, labels = np.full(SHAPE, -1000, np.float32), np.zeros(SHAPE, np.uint8)
    voxels[:, 4:-4, 3:-3] = 0
    for value, place in ((5, BALL), (9, ROD)):
        voxels[place], labels[place] = 230, value
    return Volume(voxels=voxels, affine_lps=AFFINE, spacing_mm=(5.0, 2.0, 2.0), modality="CT"), labels


def prepare(
    folder: Path,
    *,
    plane: str = "acquired",
    labels: str | None = "labels.nii",
    reading: Reading | None = None,
    orientation: str | None = None,
    **truth: object,
) -> tuple[PreparedVolumes, Case]:
    volume, label_map = make_volume()
    write_nifti(volume, folder / "scan.nii", orientation=orientation)
    write_nifti(volume, folder / "labels.nii", labels=label_map)
    said = {"kind": "masks", "structures": {"ball": 5, "rod": 9}, "facts": {"modality": "CT"}} | truth
    case = Case(id="a", volume="scan.nii", labels=labels, reading=reading, conversations=ASKED, truth=said)
    write_manifest([case], folder / "manifest.jsonl")
    spec = GridSpec(num_slices=10, height=24, width=22, plane=plane, window="-160,240")
    prepare_volumes(folder / "manifest.jsonl", folder, spec=spec)
    return open_prepared(folder), case


@pytest.mark.parametrize("plane", ["acquired", "coronal", "sagittal"])
@pytest.mark.parametrize("orientation", [None, "RAS", "LPI"])
def test_a_label_lies_where_its_picture_lies_in_every_plane_and_orientation(tmp_path, plane, orientation) -> None:
    prepared, case = prepare(tmp_path, plane=plane, orientation=orientation)
    ((number, found),) = read_label_grids(prepared, [case], ["ball", "other", "rod"])
    assert number == 0
    assert found.labels.dtype == np.uint8
    assert set(np.unique(found.labels)) == {0, 1, 3}
    bright = prepared.voxels("a") > 175
    labelled = found.labels > 0
    assert labelled.sum() > 20
    assert (bright & labelled).sum() / (bright | labelled).sum() > 0.7
    for value in (1, 3):
        middle = np.argwhere(found.labels == value).mean(axis=0).round().astype(int)
        assert prepared.voxels("a")[tuple(middle)] > 150
    assert found.known.all(axis=0).tolist() == [True, False, True], "nobody drew the other"
    assert found.known.any(axis=0).tolist() == [True, False, True]


@pytest.mark.parametrize("side", [None, "left"])
def test_a_range_of_slices_or_a_half_has_the_labels_of_that_part(tmp_path, side) -> None:
    prepared, case = prepare(tmp_path, reading=Reading(slices=(6, 15), side=side))
    ((_, found),) = read_label_grids(prepared, [case], ["ball", "rod"])
    shown = [sorted(set(np.unique(picture)) - {0}) for picture in found.labels]
    assert shown == [([] if side else [1]) + [2] if n < 3 else [2] for n in range(10)], "the ball ends at slice 8"
    bright = prepared.voxels("a") > 175
    assert (bright & (found.labels > 0)).sum() / (bright | (found.labels > 0)).sum() > 0.6


def test_slices_in_which_nobody_knows_are_marked_and_their_labels_forgotten(tmp_path) -> None:
    prepared, case = prepare(tmp_path, unknown={"rod": [[0, 3], [17, 19]], "a structure of others": [[0, 2]]})
    ((_, found),) = read_label_grids(prepared, [case], ["ball", "rod"])
    sources = prepared.source_slices("a")
    hidden = [bool({0, 1, 2, 3, 17, 18, 19} & set(shown)) for shown in sources]
    assert found.known[:, 1].tolist() == [not each for each in hidden]
    assert 0 < sum(hidden) < 10
    assert found.known[:, 0].all()
    for number, is_hidden in enumerate(hidden):
        assert (found.labels[number] == 2).any() == (not is_hidden)


def test_without_labels_nothing_is_known_but_the_facts(tmp_path) -> None:
    prepared, case = prepare(tmp_path, labels=None)
    ((_, found),) = read_label_grids(prepared, [case], ["ball"])
    assert not found.labels.any()
    assert not found.known.any()
    assert mask_truth(case).facts == {"modality": "CT"}


def test_values_that_are_not_named_are_no_structure(tmp_path) -> None:
    prepared, case = prepare(tmp_path, structures={"rod": 9})
    ((_, found),) = read_label_grids(prepared, [case], ["rod"])
    assert set(np.unique(found.labels)) == {0, 1}


def test_a_label_map_is_read_once_for_all_cases_of_its_scan(tmp_path, monkeypatch) -> None:
    import slicesight.data.label_grids as module

    prepared, case = prepare(tmp_path)
    read, count = module.read_mask, []
    monkeypatch.setattr(module, "read_mask", lambda *a, **k: count.append(1) or read(*a, **k))
    assert len(list(read_label_grids(prepared, [case, case, case], ["rod"]))) == 3
    assert len(count) == 1


def test_a_label_map_that_does_not_fit_or_is_missing_is_one_line(tmp_path) -> None:
    prepared, case = prepare(tmp_path)
    volume, labels = make_volume()
    short = Volume(voxels=volume.voxels[1:], affine_lps=AFFINE, spacing_mm=volume.spacing_mm, modality="CT")
    write_nifti(short, tmp_path / "labels.nii", labels=labels[1:])
    with pytest.raises(InputError, match=r"case a: its label map is \(19, 32, 28\), its scan \(20, 32, 28\)"):
        list(read_label_grids(prepared, [case], ["rod"]))
    (tmp_path / "labels.nii").unlink()
    with pytest.raises(InputError, match="case a: no such label map"):
        list(read_label_grids(prepared, [case], ["rod"]))
    write_nifti(volume, tmp_path / "labels.nii")
    with pytest.raises(VolumeError, match="negative values"):
        list(read_label_grids(prepared, [case], ["rod"]))
    with pytest.raises(InputError, match="expected at most 255"):
        list(read_label_grids(prepared, [case], [str(number) for number in range(300)]))


@pytest.mark.parametrize(
    ("truth", "expected"),
    [
        ({"structures": {"ball": 0}}, r"case a: truth\.structures\.ball: .*; mend the manifest"),
        ({"structures": {"ball": 1, "rod": 1}}, r"ball and rod have one value"),
        ({"unknown": {"ball": [[3]]}}, r"truth\.unknown\.ball"),
        ({"facts": ["CT"]}, r"truth\.facts"),
    ],
)
def test_a_truth_that_cannot_be_is_one_line(truth, expected) -> None:
    case = Case(id="a", volume="a.nii", conversations=ASKED, truth={"kind": "masks", **json.loads(json.dumps(truth))})
    with pytest.raises(InputError, match=expected):
        mask_truth(case)


def test_another_kind_of_truth_is_none_of_ours() -> None:
    for truth in (None, {"plane": "axial"}, {"kind": "phantom"}):
        assert mask_truth(Case(id="a", volume="a.nii", conversations=ASKED, truth=truth)) is None
