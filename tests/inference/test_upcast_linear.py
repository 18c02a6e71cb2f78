"""Wide products: what the narrow layer computes, from the same weights, where rows are many and nothing is trained."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from slicesight.inference.cpu import upcast_linear as wide
from slicesight.inference.cpu.upcast_linear import WIDE_FROM, UpcastLinear, use_upcast_linear


@pytest.mark.parametrize("bias", [True, False])
def test_a_wide_product_is_exact_in_its_factors(bias):
    torch.manual_seed(0)
    layer = UpcastLinear(64, 48, bias=bias, dtype=torch.bfloat16)
    x = torch.randn(2, WIDE_FROM, 64, dtype=torch.bfloat16)
    expected = x.double() @ layer.weight.double().t() + (layer.bias.double() if bias else 0)
    with torch.inference_mode():
        found = layer(x)
    assert found.dtype == torch.bfloat16
    expected = expected.detach()
    rounding = expected.abs().max() * 2**-8
    torch.testing.assert_close(found.double(), expected, atol=float(rounding), rtol=0)
    assert (
        torch.equal(found, expected.float().bfloat16()) or (found != expected.float().bfloat16()).float().mean() < 0.01
    )


def test_few_rows_and_training_take_the_usual_product(monkeypatch):
    monkeypatch.setattr(wide, "upcast", lambda weight: pytest.fail("not here"))
    layer = UpcastLinear(8, 8, dtype=torch.bfloat16)
    with torch.inference_mode():
        layer(torch.ones(WIDE_FROM - 1, 8, dtype=torch.bfloat16))
    layer(torch.ones(2 * WIDE_FROM, 8, dtype=torch.bfloat16)).sum().backward()
    assert layer.weight.grad is not None


def test_a_widened_model_keeps_its_state_and_answers_within_rounding(make_predictor, make_grid):
    predictor = make_predictor(dtype=torch.bfloat16)
    names = list(predictor.model.state_dict())
    grid = make_grid(predictor)
    before = predictor.encode(grid).features.tokens_2d_VNLD.float()
    num_linears = sum(type(layer) is nn.Linear for layer in predictor.model.modules())
    assert use_upcast_linear(predictor.model) == num_linears > 0
    assert list(predictor.model.state_dict()) == names
    after = predictor.encode(grid).features.tokens_2d_VNLD.float()
    torch.testing.assert_close(after, before, atol=0.05 * float(before.abs().max()), rtol=0)
    assert use_upcast_linear(make_predictor().model) == 0, "float32 needs no widening"
