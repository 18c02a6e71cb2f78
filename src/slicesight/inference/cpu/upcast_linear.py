"""How are bfloat16 weights multiplied on a processor that multiplies float32 faster?

The product of two bfloat16 numbers is exact in float32, and sums are float32 either way: widening both factors first
and rounding the result gives what the bfloat16 product gives, up to the order of its sums. It pays from some hundred
rows on, where the weights' widening is a small part; single tokens, bound by reading weights, stay as they are.
"""

from __future__ import annotations

import threading

import torch
from torch import Tensor, nn
from torch.nn import functional

WIDE_FROM = 128
"""Rows from which a product is widened."""
NARROW = (torch.bfloat16, torch.float16)

_scratch = threading.local()


class UpcastLinear(nn.Linear):
    """A linear layer whose large products are made in float32 from weights kept in half of it; for inference."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # the name nn.Linear gives it
        num_rows = input.numel() // input.shape[-1]
        if num_rows < WIDE_FROM or torch.is_grad_enabled() or input.device.type != "cpu":
            return super().forward(input)
        bias = None if self.bias is None else self.bias.float()
        return functional.linear(input.float(), upcast(self.weight), bias).to(input.dtype)


def upcast(weight: Tensor) -> Tensor:
    """The weight in float32, where the next widening overwrites it: fresh memory would cost more than the copy."""
    room = getattr(_scratch, "room", None)
    if room is None or room.numel() < weight.numel():
        _scratch.room = room = torch.empty(weight.numel(), dtype=torch.float32)
    wide = room[: weight.numel()].view(weight.shape)
    return wide.copy_(weight)


def use_upcast_linear(model: nn.Module) -> int:
    """Give every narrow linear layer the wide product; how many there are. Weights and states stay what they are."""
    layers = [layer for layer in model.modules() if type(layer) is nn.Linear and layer.weight.dtype in NARROW]
    for layer in layers:
        layer.__class__ = UpcastLinear
    return len(layers)
