"""anatomy-small as shipped: small, described, right about scans that it knows, and silent about all others."""

from __future__ import annotations

import json

import numpy as np
import pytest

import slicesight
from slicesight.cli.demo import real_sample
from slicesight.models.checksums import SUMS_FILE
from slicesight.models.shipped import DEFAULT_MODEL, PHANTOM_MODEL, SHIPPED_FOLDER, model_for

FOLDER = SHIPPED_FOLDER / DEFAULT_MODEL
VALIDATION_PATIENTS = ("pt_201", "pt_210", "pt_233")


@pytest.fixture(scope="module")
def model():
    return slicesight.load()


def test_it_is_the_default_for_real_scans_and_no_other(model, phantom) -> None:
    assert model.card.name == DEFAULT_MODEL
    assert model_for(phantom.volume) == PHANTOM_MODEL
    assert slicesight.load(PHANTOM_MODEL).card.is_synthetic
    assert not model.card.is_synthetic


def test_the_weights_of_all_shipped_models_are_small_and_safe() -> None:
    kinds = {".safetensors", ".json", ".jsonl", ".jinja"}
    assert {path.suffix for path in FOLDER.iterdir() if path.name != SUMS_FILE} <= kinds
    assert sum(path.stat().st_size for path in FOLDER.glob("*.safetensors")) <= 12_000_000
    assert sum(path.stat().st_size for path in SHIPPED_FOLDER.rglob("*.safetensors")) <= 20_000_000


def test_the_card_says_what_it_is_made_from_and_what_it_scores() -> None:
    card = json.loads((FOLDER / "card.json").read_text())
    assert {"seed", "training_minutes", "measured_scores", "recipes", "data"} <= set(card)
    assert "patients of the test split" in card["measured_scores"]["source"]
    assert (FOLDER / "log.jsonl").exists()
    assert (FOLDER / "calibration.json").exists()


def test_of_a_phantom_it_says_that_it_does_not_know(model, phantom) -> None:
    (answer,) = model.ask(phantom.volume, "Is the larynx in view?")
    assert answer.abstained == "strange_scan"
    assert answer.text.startswith("I do not know")
    assert answer.would_say


def test_where_the_jaw_lies_is_not_asked_of_a_corner_of_a_brain(model) -> None:
    sample = real_sample()
    if sample is None:
        pytest.skip("nibabel's own scans are not installed")
    answers = model.ask(sample, ["Is the mandible in view?", "Which slices show the larynx?", "Is there pneumonia?"])
    assert all(answer.abstained for answer in answers)


@pytest.mark.shared_data
def test_of_patients_it_was_not_trained_on_it_says_what_is_in_view_and_abstains_elsewhere(model, shared_folder) -> None:
    right = asked = 0
    for patient in VALIDATION_PATIENTS:
        folder = shared_folder / "data" / "openkbp" / patient
        scan = slicesight.read_volume(folder / "ct.nii.gz")
        encoded = model.encode(scan)
        mandible, kind, unknown = model.ask(
            encoded, ["Is the mandible in view?", "Which kind of scan is this?", "Is there pneumonia?"]
        )
        right += (mandible.text == "yes") + (kind.text == "CT")
        asked += 2
        assert unknown.abstained == "unknown_question"
        scores = np.array(mandible.scores)
        assert scores.max() > 2 / len(scores), "some slices weigh more than others"
    assert right >= asked - 1
