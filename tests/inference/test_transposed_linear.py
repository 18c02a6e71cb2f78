"""Turned products: what the layer computes, the other way round, where rows are few and nothing is trained."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from slicesight.inference.cpu.transposed_linear import MAX_ROWS, MIN_ROWS, TransposedLinear, use_transposed_linear


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(11, 1), (1, 11), (MAX_ROWS,)])
def test_a_turned_product_is_the_product(bias, shape):
    torch.manual_seed(0)
    layer = TransposedLinear(64, 48, bias=bias)
    x = torch.randn(*shape, 64)
    expected = nn.functional.linear(x.double(), layer.weight.double(), layer.bias.double() if bias else None)
    with torch.inference_mode():
        found = layer(x)
    assert found.shape == (*shape, 48)
    torch.testing.assert_close(found.double(), expected.detach(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rows", [1, MIN_ROWS - 1, MAX_ROWS + 1])
def test_other_numbers_of_rows_take_the_usual_product(rows):
    torch.manual_seed(0)
    layer = TransposedLinear(64, 48)
    x = torch.randn(rows, 64)
    with torch.inference_mode():
        assert torch.equal(layer(x), nn.functional.linear(x, layer.weight, layer.bias))


def test_training_and_half_precision_take_the_usual_product():
    layer = TransposedLinear(64, 48)
    layer(torch.randn(11, 64)).sum().backward()
    assert layer.weight.grad is not None
    narrow = TransposedLinear(64, 48, dtype=torch.bfloat16)
    x = torch.randn(11, 64, dtype=torch.bfloat16)
    with torch.inference_mode():
        assert torch.equal(narrow(x), nn.functional.linear(x, narrow.weight, narrow.bias))


def test_turning_a_model_changes_its_float32_layers_and_not_its_state(make_predictor):
    language_model = make_predictor().model.language_model
    names = list(language_model.state_dict())
    num_linears = sum(type(layer) is nn.Linear for layer in language_model.modules())
    assert use_transposed_linear(language_model) == num_linears > 0
    assert list(language_model.state_dict()) == names
    assert use_transposed_linear(make_predictor(dtype=torch.bfloat16).model.language_model) == 0
