"""With what do the layers that score slices begin?"""

from __future__ import annotations

import math

import pytest


def test_narrowing_keeps_a_vectors_size_whatever_its_width(make_model):
    model = make_model(score_dim=256, learn_score_scale=True)
    for layer in (model.scorer.narrow_question, model.scorer.narrow_slice):
        width = layer.in_features
        assert layer.weight.std().item() == pytest.approx(width**-0.5, rel=0.05)
        assert layer.bias is None


def test_a_learned_scale_begins_at_the_configured_one(make_model):
    model = make_model(learn_score_scale=True, score_scale=7.0)
    assert model.scorer.log_scale.item() == pytest.approx(math.log(7.0))
