"""What would go to the hub: whole, no more than it should, with a page that the hub reads; and nothing goes unasked."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import huggingface_hub
import pytest
import yaml
from huggingface_hub import ModelCard

from slicesight import cli
from slicesight.errors import InputError, ModelError
from slicesight.models.publishing import prepare_publication
from slicesight.models.shipped import find_folder, shipped_models


@pytest.fixture
def own(tiny_model_folder, tmp_path) -> Path:
    """A trained model's folder with what else lies in one."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_model_folder, folder)
    (folder / "log.jsonl").write_text('{"volume": "scans/Jane_Doe/ct.nii.gz"}\n')
    (folder / "recipe.yaml").write_text("data: /home/jane\n")
    return folder


@pytest.fixture
def hub(monkeypatch):
    """The hub's client, that only writes down what it was asked."""
    asked = []

    class Api:
        def create_repo(self, name, **options):
            asked.append(("create_repo", name, options))

        def create_commit(self, name, operations, **options):
            asked.append(("create_commit", name, {one.path_in_repo for one in operations}))
            return type("Made", (), {"commit_url": f"https://hub/{name}/commit/1"})()

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    return asked


def run(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["slicesight", "publish", *map(str, words)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    return stopped.value.code or 0


@pytest.mark.parametrize("name", shipped_models())
def test_every_shipped_model_has_a_page_that_the_hub_reads(name):
    publication = prepare_publication(find_folder(name), f"me/{name}")
    data = ModelCard(publication.readme).data
    assert (data.license, data.library_name) == ("apache-2.0", "transformers")
    assert {"not-for-clinical-use", "medical"} <= set(data.tags)
    assert "Not a medical device" in publication.readme


def test_the_figures_of_a_page_are_those_of_the_card_beside_their_controls():
    name = "phantom-tiny"
    publication = prepare_publication(find_folder(name), f"me/{name}")
    data = ModelCard(publication.readme).data
    scores = json.loads((find_folder(name) / "card.json").read_text())["scores"]["model"]
    found = {one.metric_name: one.metric_value for one in data.eval_results}
    assert found["right answers, closed questions"] == pytest.approx(scores["closed"], abs=1e-4)
    text = publication.readme
    assert f"{100 * scores['closed']:.1f} (" in text
    assert "a model trained without scans" in text, "a figure without its control"


def test_a_model_without_controls_in_its_card_has_its_figures_with_their_source_and_says_that_it_is_calibrated(own):
    card = json.loads((own / "card.json").read_text())
    scores = {"presence": 93.6, "slices": 72.4, "source": "59 patients of the test split"}
    (own / "card.json").write_text(json.dumps({**card, "measured_scores": scores}))
    text = prepare_publication(own, "me/own").readme
    assert "| presence | 93.6 |\n| slices | 72.4 |" in text
    assert "From: 59 patients of the test split." in text
    assert "## Confidence" not in text
    (own / "calibration.json").write_text("{}")
    assert "calibrated confidence" in prepare_publication(own, "me/own").readme


def test_only_weights_settings_and_card_are_sent(own):
    publication = prepare_publication(own, "me/liver-ct", licence="other")
    assert "model.safetensors" in publication.files
    assert set(publication.left_out) == {"log.jsonl", "recipe.yaml"}
    assert not {"log.jsonl", "recipe.yaml"} & set(publication.files)
    assert "Jane" not in publication.readme
    head = yaml.safe_load(publication.readme.split("---")[1])
    assert head["license"] == "other"
    assert "model-index" not in head, "no figure where the card has none"


def test_nothing_is_sent_unless_it_is_asked_for(own, monkeypatch, hub, capsys, tmp_path):
    assert run(monkeypatch, own, "me/liver-ct", "--out", tmp_path / "README.md") == 0
    assert hub == []
    said = capsys.readouterr()
    assert "stays here: log.jsonl, recipe.yaml" in said.out
    assert "nothing was sent" in said.err
    assert (tmp_path / "README.md").read_text().startswith("---\n")


def test_upload_sends_the_files_and_the_page_in_one_commit(own, monkeypatch, hub, capsys):
    assert run(monkeypatch, own, "me/liver-ct", "--licence", "other", "--private", "--upload") == 0
    (_, name, options), (_, _, sent) = hub
    assert (name, options["private"]) == ("me/liver-ct", True)
    assert sent == {*prepare_publication(own, "me/liver-ct").files, "README.md"}
    assert "published: https://hub/me/liver-ct/commit/1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("me/liver-ct", "--upload"), "no licence of the weights in card.json; name it with --licence"),
        (("liver-ct",), "names no owner; expected owner/name"),
        (("me/liver ct",), "expected owner/name"),
    ],
)
def test_what_cannot_be_published_is_one_line(own, monkeypatch, hub, capsys, words, said):
    assert run(monkeypatch, own, *words) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert said in line
    assert hub == []


def test_a_folder_without_safetensors_or_config_is_refused(own, tmp_path):
    with pytest.raises(ModelError, match=r"no config\.json there"):
        prepare_publication(tmp_path, "me/x")
    (own / "model.safetensors").rename(own / "pytorch_model.bin")
    with pytest.raises(ModelError, match="only safetensors are published"):
        prepare_publication(own, "me/x")


def test_the_hubs_refusal_is_one_line(own, monkeypatch):
    from slicesight.models import publishing

    class Api:
        def create_repo(self, *arguments, **options):
            raise OSError("401 Client Error\nInvalid credentials")

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    with pytest.raises(InputError, match=r"the hub refused .401 Client Error Invalid credentials.; log in") as caught:
        publishing.upload(prepare_publication(own, "me/liver-ct"), private=False)
    assert "\n" not in str(caught.value)
