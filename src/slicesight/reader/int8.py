"""How are weights and activations rounded to 8 bits, and where does that pay?"""

from __future__ import annotations

from slicesight.errors import ModelError
from slicesight.model import Med2E3ForConditionalGeneration


def quantize_model(model: Med2E3ForConditionalGeneration, *, word: str, device: str) -> None:
    """Not there yet."""
    raise ModelError(f"quantize is {word!r}; it is not built yet: leave it out.")
