"""How do an encoder's tokens reach the language model's width? (docs/method.md, eq. 2 and 3: the MLP of each branch)"""

from __future__ import annotations

from torch import nn


class Projector(nn.Sequential):
    """Linear, GELU, Linear: applied to every token on its own, (..., input_size) -> (..., output_size)."""

    def __init__(self, input_size: int, output_size: int) -> None:
        super().__init__(nn.Linear(input_size, output_size), nn.GELU(), nn.Linear(output_size, output_size))
