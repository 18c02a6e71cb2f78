"""What of a model is worth compiling?

Both encoders see the same shapes scan after scan, so PyTorch's compiler fuses their element-wise work and, with
"reduce-overhead", replays them as CUDA graphs. The language model's rows come and go with the questions; its attention
kernels (scaled dot product, flash where the device has it) are the library's already, and it stays as it is.
"""

from __future__ import annotations

from torch import nn

from slicesight.errors import ModelError
from slicesight.models.med2e3 import Med2E3ForConditionalGeneration

MODES = ("default", "reduce-overhead", "max-autotune")
ENCODERS = ("vision3d", "vision2d")


def compile_encoders(
    model: Med2E3ForConditionalGeneration, *, mode: str = "default", backend: str = "inductor"
) -> list[str]:
    """Compile the encoders in place, on their first use; the names of those the model has. Weights and states stay.

    backend: of `torch.compile`; inductor needs a C++ compiler on the CPU.

    Raises:
        ModelError: no such mode.
    """
    if mode not in MODES:
        raise ModelError(f"compile_mode is {mode!r}; expected {', '.join(MODES)}, or nothing.")
    found = []
    for name in ENCODERS:
        part: nn.Module | None = getattr(model, name)
        if part is not None:
            part.compile(mode=mode if backend == "inductor" else None, backend=backend)
            found.append(name)
    return found
