"""Where a mask says what is shown: the grid slices of a label map, and questions that name its values."""

from __future__ import annotations

import json

import numpy as np
import pytest

from slicesight.data.dataset import ManifestDataset
from slicesight.data.manifest import Case, Reading, write_manifest
from slicesight.errors import InputError
from slicesight.evaluation.controls import labels_wanted, true_slices
from slicesight.evaluation.predict import MODEL, PredictionRun, digest_questions, open_run, predict
from slicesight.volumes.grid import GridSpec, to_grid


@pytest.mark.parametrize("num_slices", [8, 32, 200])
def test_a_masks_slices_are_those_of_its_source_slices(phantom, num_slices):
    """Fewer grid slices than layers, as many, and more: held against the way from source slices to the grid."""
    grid = to_grid(phantom.volume, GridSpec(num_slices=num_slices, height=16, width=16))
    for label in (6, 8, 10):
        mask = phantom.organ_labels == label
        layers = np.flatnonzero(mask.any(axis=(1, 2)))
        assert grid.slices_showing(mask) == grid.grid_slices_of(grid.geometry.source_slices(layers.tolist()))
    assert grid.slices_showing(np.zeros(phantom.volume.shape, dtype=bool)) == ()


@pytest.mark.parametrize(("plane", "axis"), [("coronal", 1), ("sagittal", 2)])
def test_reformatted_slices_show_a_voxel_in_their_own_slab(phantom, plane, axis):
    grid = to_grid(phantom.volume, GridSpec(num_slices=8, height=16, width=16, plane=plane))
    mask = np.zeros(phantom.volume.shape, dtype=bool)
    place = [start + 2 for start, _ in grid.box]
    start, stop = grid.box[axis]
    place[axis] = start + (stop - start) * 5 // 16  # the third of eight slabs
    mask[tuple(place)] = True
    assert grid.slices_showing(mask) == (2,)


def test_a_mask_of_another_shape_is_refused(phantom):
    grid = to_grid(phantom.volume, GridSpec(num_slices=8, height=16, width=16))
    with pytest.raises(InputError, match="expected one grid"):
        grid.slices_showing(np.zeros((3, 3, 3), dtype=bool))


@pytest.fixture
def labelled(phantom, tmp_path):
    """A scan with its organ labels, asked where the liver is without source slices: the label map knows."""
    from slicesight.io.writers import write_nifti

    write_nifti(phantom.volume, tmp_path / "scan.nii.gz")
    write_nifti(phantom.volume, tmp_path / "labels.nii.gz", labels=phantom.organ_labels)
    asked = {"task": "open", "topic": "organ", "question": "Where is it?", "answer": "here"}
    case = {"id": "one", "volume": "scan.nii.gz", "labels": "labels.nii.gz", "patient": "Jane Doe",
            "conversations": [{**asked, "label_values": [13]}, {**asked, "question": "And this?"}]}  # fmt: skip
    write_manifest([Case.model_validate(case)], tmp_path / "manifest.jsonl")
    return ManifestDataset(tmp_path / "manifest.jsonl")


def test_a_question_that_names_label_values_is_scored_by_the_mask(labelled, phantom, tiny_reader, tmp_path):
    run = PredictionRun(folder=tmp_path / "run", source=labelled, systems=(MODEL,))
    open_run(run, tiny_reader)
    predict(run, tiny_reader)
    first, second = run.rows(MODEL)
    grid = labelled.grid(labelled.cases[0], tiny_reader.grid_spec)
    assert first.true_slices == grid.slices_showing(phantom.organ_labels == 13) != ()
    assert second.true_slices is None
    assert len(first.slice_places_mm) == len(first.scores) == 8
    steps = np.diff(first.slice_places_mm)
    np.testing.assert_allclose(steps, steps[0], atol=0.01)
    assert first.patient == labelled.cases[0].patient_key
    assert "Jane" not in (run.folder / "predictions.jsonl").read_text(), "no patient is named"


def test_the_labels_of_a_part_are_the_same_part_of_the_label_map(labelled, phantom):
    (case,) = labelled.cases
    reading = Reading(slices=(10, 40), side="left")
    part = case.model_copy(update={"reading": reading})
    found = labelled.labels(part)
    assert found.shape == labelled.volume(part).shape != phantom.volume.shape
    box = labelled.volume(part).source["box_zyx"]
    np.testing.assert_array_equal(found, phantom.organ_labels[tuple(slice(*extent) for extent in box)])
    grid = labelled.grid(part, GridSpec(num_slices=8, height=16, width=16))
    assert grid.slices_showing(found > 0)


def test_the_label_map_is_read_only_where_a_question_needs_it(labelled, monkeypatch):
    (case,) = labelled.cases
    grid = labelled.grid(case, GridSpec(num_slices=8, height=16, width=16))
    plain = case.model_copy(update={"conversations": case.conversations[1:]})
    monkeypatch.setattr(ManifestDataset, "labels", lambda *_: pytest.fail("the label map was read"))
    assert labels_wanted(labelled, plain) is None
    assert true_slices(case.conversations[0], grid) is None


def test_label_values_without_a_label_map_are_refused():
    asked = {"task": "open", "topic": "o", "question": "?", "answer": "a", "label_values": [1]}
    with pytest.raises(ValueError, match="no `labels`"):
        Case.model_validate({"id": "x", "volume": "x.nii.gz", "conversations": [asked]})


def test_runs_begun_before_label_values_are_still_the_same_questions():
    """The digest of run.json leaves out what questions could not say then."""
    import hashlib

    asked = {"task": "open", "topic": "o", "question": "Größe?", "answer": "a"}
    case = Case.model_validate({"id": "x", "volume": "x.nii.gz", "conversations": [asked]})
    before = {"id": "x", "volume": "x.nii.gz", "conversations": [{
        "id": None, "task": "open", "topic": "o", "question": "Größe?", "choices": None, "answer": "a",
        "answer_choice": None, "source_slices": None}]}  # fmt: skip
    line = json.dumps(before, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"
    assert digest_questions([case]) == hashlib.sha256(line).hexdigest()
