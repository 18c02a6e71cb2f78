"""Compiled encoders: the same tokens, the same state, and only words the compiler knows."""

from __future__ import annotations

import pytest
import torch

import slicesight
from slicesight.errors import ModelError
from slicesight.inference import compiling
from slicesight.inference.compiling import compile_encoders


def test_compiled_encoders_give_the_same_tokens_and_keep_their_state(make_predictor, make_grid):
    predictor = make_predictor()
    grid = make_grid(predictor)
    names = list(predictor.model.state_dict())
    before = predictor.encode(grid).features
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    assert compile_encoders(predictor.model, backend=backend) == ["vision3d", "vision2d"]
    after = predictor.encode(grid).features
    assert graphs, "nothing was compiled"
    num_graphs = len(graphs)
    torch.testing.assert_close(after.tokens_2d_VNLD, before.tokens_2d_VNLD, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(after.tokens_3d_VKPD, before.tokens_3d_VKPD, atol=1e-5, rtol=1e-5)
    predictor.encode(grid)
    assert len(graphs) == num_graphs, "the second scan is not compiled again"
    assert list(predictor.model.state_dict()) == names


def test_load_compiles_on_wish_and_refuses_other_words(tiny_model_folder, monkeypatch):
    asked = []
    monkeypatch.setattr(compiling, "compile_encoders", lambda model, *, mode: asked.append(mode))
    slicesight.load(tiny_model_folder, compile_mode="reduce-overhead")
    assert asked == ["reduce-overhead"]
    monkeypatch.undo()
    with pytest.raises(ModelError, match="compile_mode is 'fast'"):
        slicesight.load(tiny_model_folder, compile_mode="fast")
    with pytest.raises(ModelError, match="do not go together"):
        slicesight.load(tiny_model_folder, compile_mode="default", quantize="int8")
