"""A fingerprint changes with weights, and with the settings that change what they give, and with nothing else."""

from __future__ import annotations

import pytest
import torch

from slicesight.models.fingerprint import FEATURE_SETTINGS, digest_encoder, digest_encoders, digest_weights
from slicesight.models.med2e3 import Med2E3Config, Med2E3ForConditionalGeneration

SETTINGS = {
    "text_config": {
        "model_type": "llama",
        "vocab_size": 64,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    },
    "vision2d_config": {
        "model_type": "siglip_vision_model",
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
        "vision_use_head": False,
    },
    "vision3d_config": {"model_type": "cnn3d", "widths": [8, 8, 8], "num_groups": 4},
    "image_size": [8, 32, 32],
}
OTHER_SETTINGS = [
    ("vision2d", {"slice_pool": 2}),
    ("vision2d", {"slice_mean": [0.4]}),
    ("vision2d", {"slice_std": [0.4]}),
    ("vision2d", {"planes": ["axial", "coronal"]}),
    ("vision2d", {"vision2d_feature": "before_final_norm"}),
]


def build(**changes):
    torch.manual_seed(0)
    return Med2E3ForConditionalGeneration(Med2E3Config(**{**SETTINGS, **changes}))


@pytest.mark.parametrize(("part", "changes"), OTHER_SETTINGS, ids=lambda value: next(iter(value)) if value else "")
def test_the_same_weights_under_another_setting_are_another_encoder(part, changes):
    """Above all `slice_pool`: it changes every feature and not one weight of the encoder."""
    plain, changed = build(), build()
    (name, value), *_ = changes.items()
    assert getattr(changed.config, name) != value
    setattr(changed.config, name, value)
    assert name in FEATURE_SETTINGS[part]
    assert digest_encoder(plain, part) != digest_encoder(changed, part)
    assert digest_encoders(plain) != digest_encoders(changed)


@pytest.mark.parametrize("part", FEATURE_SETTINGS)
def test_a_changed_weight_is_another_encoder_and_the_language_model_is_not_asked(part):
    model = build()
    before, all_before = digest_encoder(model, part), digest_encoders(model)
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(2)
    assert (digest_encoder(model, part), digest_encoders(model)) == (before, all_before)
    with torch.no_grad():
        next(getattr(model, part).parameters()).mul_(2)
    assert digest_encoder(model, part) != before
    assert digest_encoders(model) != all_before


def test_another_text_model_shares_an_encoders_features():
    other = {**SETTINGS["text_config"], "num_hidden_layers": 2}
    assert digest_encoder(build(), "vision3d") == digest_encoder(build(), "vision3d")
    changed = build()
    changed.config.text_config.num_hidden_layers = other["num_hidden_layers"]
    assert digest_encoder(changed, "vision2d") == digest_encoder(build(), "vision2d")


def test_names_shapes_and_types_count_as_well_as_values():
    zeros = torch.zeros(4)
    found = {
        digest_weights({"a": zeros}, settings=None),
        digest_weights({"b": zeros}, settings=None),
        digest_weights({"a": zeros.reshape(2, 2)}, settings=None),
        digest_weights({"a": zeros.to(torch.int32)}, settings=None),
        digest_weights({"a": zeros}, settings=1),
    }
    assert len(found) == 5
    assert digest_weights({"a": zeros, "b": zeros}, settings=None) == digest_weights(
        {"b": zeros, "a": zeros}, settings=None
    )
