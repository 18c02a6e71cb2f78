"""How are the weights multiplied with the few rows that decoding passes together?

    y = x W^T = (W x^T)^T

Both sides are the same products; the library's kernel for float32 takes its blocks from the left factor, and with 8 to
32 rows there most of a block is empty. Turned, the weights fill it: 0.9 to 2.6 times as fast for 11 rows, the most in
the largest layers (benchmarks/turned.py). A single row is bound by reading the weights, and many rows fill the blocks,
so both stay.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

MIN_ROWS, MAX_ROWS = 8, 32
"""Rows between which, both included, a product is turned."""


class TransposedLinear(nn.Linear):
    """A float32 linear layer whose products of few rows are turned; for inference on the CPU."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # the name nn.Linear gives it
        num_rows = input.numel() // input.shape[-1]
        is_few = MIN_ROWS <= num_rows <= MAX_ROWS
        if not is_few or torch.is_grad_enabled() or input.device.type != "cpu" or input.dtype != torch.float32:
            return super().forward(input)
        columns_KR = input.reshape(num_rows, -1).t()
        product_OR = self.weight @ columns_KR
        if self.bias is not None:
            product_OR += self.bias[:, None]
        return product_OR.t().reshape(*input.shape[:-1], -1)


def use_transposed_linear(model: nn.Module) -> int:
    """Give every float32 linear layer the turned product; how many there are. Weights and states stay what they are."""
    layers = [layer for layer in model.modules() if type(layer) is nn.Linear and layer.weight.dtype == torch.float32]
    for layer in layers:
        layer.__class__ = TransposedLinear
    return len(layers)
