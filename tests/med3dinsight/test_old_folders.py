"""Do folders that the previous version wrote still load, and answer as they did?"""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModel

from slicesight.errors import ModelError
from slicesight.models.encoders3d.backbones import load_backbone
from slicesight.models.med3dinsight import Classifier, InsightModel, PretrainingModel, Segmenter

FOLDERS = Path(__file__).parent / "old_folders"
OUTPUTS = json.loads((FOLDERS / "outputs.json").read_text())
VOLUME = torch.tensor(OUTPUTS["volume"]).reshape(1, 1, 8, 8, 8)
KINDS = {"segmenter": Segmenter, "classifier": Classifier, "pretraining": PretrainingModel}


def same(found, wanted):
    return torch.allclose(found, torch.tensor(wanted), atol=1e-5)


@torch.no_grad()
def answers_as_before(kind, model):
    if kind == "segmenter":
        return same(model(VOLUME).flatten()[::97], OUTPUTS[kind])
    if kind == "classifier":
        return same(model.probabilities(VOLUME).flatten(), OUTPUTS[kind])
    found = model.read(VOLUME, torch.tensor([[0, 2]]), torch.tensor([[5, 100]]))
    return all(same(found[name].flatten(), wanted) for name, wanted in OUTPUTS[kind].items())


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_of_the_previous_version_answers_as_it_did(kind):
    model = KINDS[kind].from_pretrained(FOLDERS / kind)
    assert not model.training
    assert answers_as_before(kind, model)


@pytest.mark.parametrize("kind", ["backbone", *KINDS])
def test_its_backbone_travels_on(kind):
    backbone = load_backbone(FOLDERS / kind).eval()
    assert backbone.spec.image_size == (8, 8, 8)
    if kind == "backbone":
        with torch.no_grad():
            assert same(backbone(VOLUME).flatten()[::97], OUTPUTS[kind])


@pytest.mark.parametrize("kind", KINDS)
def test_hugging_faces_own_saving_keeps_everything_and_auto_model_finds_the_kind(kind, tmp_path):
    before = InsightModel.from_pretrained(FOLDERS / kind)
    before.save_pretrained(tmp_path)
    again = AutoModel.from_pretrained(tmp_path)
    assert type(again) is KINDS[kind]
    assert again.facts() == before.facts()
    assert answers_as_before(kind, again)


def test_labels_keep_the_order_of_their_classes_when_saved(tmp_path):
    Segmenter.from_pretrained(FOLDERS / "segmenter").save_pretrained(tmp_path)
    again = Segmenter.from_pretrained(tmp_path)
    assert (again.names, again.values) == (("liver", "kidney"), (2, 7))
    assert again.preparation.spacing_mm == (2.0, 2.0, 2.0)


def test_a_folder_of_another_kind_or_with_other_weights_is_refused_in_one_line(tmp_path):
    with pytest.raises(ModelError, match="holds a classifier; expected a segmenter"):
        Segmenter.from_pretrained(FOLDERS / "classifier")
    with pytest.raises(ModelError, match="holds a backbone; expected a"):
        InsightModel.from_pretrained(FOLDERS / "backbone")
    config = json.loads((FOLDERS / "segmenter" / "config.json").read_text())
    weights = (FOLDERS / "segmenter" / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(weights)
    for labels, size, words in (({"a": 1}, 4, "does not fit its config"), ({"liver": 2, "b": 1}, 6, "does not fit")):
        config["labels"], config["backbone"]["settings"]["widths"] = labels, [size, size]
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(ModelError, match=words) as caught:
            Segmenter.from_pretrained(tmp_path)
        assert "\n" not in str(caught.value)
    config["backbone"]["settings"].update(widths=[4, 4], blocks=[0, 1])
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="lacks weight"):
        Segmenter.from_pretrained(tmp_path)
