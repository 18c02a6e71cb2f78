"""phantom-tiny as shipped: small, described, and as good on unseen phantoms as its card says."""

import json
from pathlib import Path

import pytest
from phantom_scores import ask_phantoms, score

import slicesight
from slicesight.models.checksums import SUMS_FILE
from slicesight.models.shipped import SHIPPED_FOLDER

FOLDER = Path(SHIPPED_FOLDER) / "phantom-tiny"
UNSEEN_SEED, COUNT = 31_000, 8


@pytest.fixture(scope="module")
def asked():
    return ask_phantoms(slicesight.load("phantom-tiny"), seed=UNSEEN_SEED, count=COUNT)


def test_the_weights_are_small_and_safe() -> None:
    known = {".safetensors", ".json", ".jsonl", ".jinja", ".png", ".yaml"}
    assert {path.suffix for path in FOLDER.iterdir() if path.name != SUMS_FILE} <= known
    assert sum(path.stat().st_size for path in FOLDER.glob("*.safetensors")) <= 6_000_000


def test_the_card_says_what_it_is_made_from_and_what_it_scores() -> None:
    card = json.loads((FOLDER / "card.json").read_text())
    assert card["trained_on"] == "synthetic"
    assert {"seed", "training_minutes", "scores"} <= set(card)
    assert (FOLDER / "log.jsonl").exists()


def test_it_answers_unseen_phantoms_far_better_than_chance(asked) -> None:
    card = json.loads((FOLDER / "card.json").read_text())
    numbers = score(asked)
    assert numbers["closed"] >= card["scores"]["model"]["closed"] - 0.15  # 40 questions: two standard errors
    assert numbers["closed"] >= 0.45, "chance is .25, the blind model's aim .45"


def test_another_scan_gets_other_answers(asked) -> None:
    other = ask_phantoms(slicesight.load("phantom-tiny"), seed=UNSEEN_SEED, count=4, control="other")
    right = sum(row.is_right for row in asked if row.case < 4)
    assert right > sum(row.is_right for row in other), "answers must come from the scan"


def test_scores_point_at_the_slices_that_show_the_finding(asked) -> None:
    numbers = score(asked)["evidence"]
    assert numbers["mass"] > numbers["share"], "better than an even spread"


def test_asking_twice_gives_the_same_answers(asked) -> None:
    again = ask_phantoms(slicesight.load("phantom-tiny"), seed=UNSEEN_SEED, count=1)
    assert [row.prediction for row in again] == [row.prediction for row in asked if row.case == 0]
