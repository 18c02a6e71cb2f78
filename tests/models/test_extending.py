"""Can another package add a backbone and an aggregation of slices without a change in this one?"""

from __future__ import annotations

import importlib
import textwrap

import pytest
import torch

from slicesight.errors import ModelError
from slicesight.models.encoders3d.backbone import BackboneSpec
from slicesight.models.encoders3d.backbones import build_backbone, load_backbone, save_backbone
from slicesight.models.med2e3 import Med2E3Config, Med2E3ForConditionalGeneration
from slicesight.models.med2e3.configuration import AGGREGATIONS

CODE = """
    import torch
    from torch import nn
    from slicesight.models.encoders3d.backbone import Backbone, Features

    class Halving(Backbone):
        def __init__(self, spec):
            super().__init__(spec, stride=(2, 2, 2), memory_width=4, dense_width=3)
            self.down, self.up = nn.Conv3d(1, 4, 2, stride=2), nn.ConvTranspose3d(4, 3, 2, stride=2)

        def find_features(self, volumes):
            return Features(self.down(volumes), ())

        def decode(self, features):
            return self.up(features.memory)

    def middle_slice(scorer, features, volume_index, question):
        num_slices = features.tokens_2d_VNLD.shape[1]
        scores = torch.zeros(*volume_index.shape, num_slices)
        scores[..., num_slices // 2] = 1
        return scores * (volume_index >= 0).unsqueeze(-1), None
"""
ENTRY_POINTS = """
    [slicesight.backbones]
    halving = outsider_package:Halving
    [slicesight.aggregations]
    middle = outsider_package:middle_slice
"""
TEXT = {"model_type": "llama", "vocab_size": 32, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 2, "pad_token_id": 0, "eos_token_id": 1,
        "bos_token_id": None}  # fmt: skip
SIGLIP = {"model_type": "siglip_vision_model", "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
          "num_attention_heads": 2, "image_size": 16, "patch_size": 8, "vision_use_head": False}  # fmt: skip
PARTS = {"text_config": TEXT, "vision2d_config": SIGLIP, "image_size": [4, 16, 16], "fusion": "2d",
         "placeholder_token_id": 2}  # fmt: skip


@pytest.fixture
def outsider(tmp_path, monkeypatch):
    """A package that is installed beside this one, with its entry points."""
    (tmp_path / "outsider_package.py").write_text(textwrap.dedent(CODE))
    facts = tmp_path / "outsider_package-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: outsider-package\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text(textwrap.dedent(ENTRY_POINTS))
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()


def test_a_backbone_of_another_package_is_built_saved_and_loaded(outsider, tmp_path):
    backbone = build_backbone("halving", image_size=(4, 4, 4))
    assert backbone(torch.rand(1, 1, 4, 4, 4)).shape == (1, 3, 4, 4, 4)
    save_backbone(backbone, tmp_path / "saved")
    again = load_backbone(tmp_path / "saved")
    assert torch.equal(again.state_dict()["down.weight"], backbone.state_dict()["down.weight"])


def test_an_aggregation_of_another_package_decides_which_slice_is_seen(outsider):
    model = Med2E3ForConditionalGeneration(Med2E3Config(aggregation="middle", **PARTS)).eval()
    volumes = torch.rand(1, 1, 4, 16, 16)
    ids = torch.tensor([[2] * model.num_visual_tokens + [5, 6]])
    with torch.no_grad():
        features = model.encode_volumes(volumes)
        found = model(input_ids=ids, volume_features=features)
        embeds, _ = model.embed_prompts(ids, volume_features=features)
    assert found.slice_scores.tolist() == [[[0, 0, 1, 0]]]
    assert torch.equal(embeds[0, : model.num_visual_tokens], features.tokens_2d_VNLD[0, 2])


def test_an_aggregation_is_one_function_and_one_line(monkeypatch):
    monkeypatch.setitem(AGGREGATIONS, "plain", "slicesight.models.med2e3.slice_scorer:score_alike")
    model = Med2E3ForConditionalGeneration(Med2E3Config(aggregation="plain", **PARTS)).eval()
    scores = model.score_slices(model.encode_volumes(torch.rand(1, 1, 4, 16, 16)), input_ids=torch.tensor([[5]]))
    assert scores.tolist() == [[[0.25] * 4]]


def test_without_that_package_its_names_are_unknown():
    with pytest.raises(ModelError, match=r"backbone 'halving' is unknown; the backbones are swin_unetr, .*cnn3d"):
        BackboneSpec(name="halving")
    with pytest.raises(ModelError, match=r"aggregation is 'middle'; expected one of random, max, mean, text_guided"):
        Med2E3Config(aggregation="middle", **PARTS)
