"""How long will answering take on this machine, without loading the model? Its layers are alike, so few are timed.

The model is built at its real width with DEPTHS layers in every stack and random weights, and every stage of answering
is run; a stage of n layers takes t(a) + (t(b) - t(a)) / (b - a) * (n - a). Parts that are no stack of like layers (the
convolutional encoders) are built whole. Rates of single products, tried before, promised up to a third too much:
they leave out attention, norms and the copies in between, and a weight read twice comes from the processor's cache.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch import nn

from slicesight.models.med2e3 import Med2E3Config, Med2E3ForConditionalGeneration
from slicesight.planning.plan import DTYPES, answering_steps, build_model, fake_inputs

DEPTHS = (1, 5)
REPEATS = 2
DECODE_REPEATS = 9
ROWS_TIMED = 8
"""Questions timed together at most; the language model's time for more is scaled from these."""
EVICTED_BYTES = 2**29  # more than any processor's cache
STACKS = {
    "encode volume": "vision3d_config",
    "encode slices": "vision2d_config",
    "prefill": "text_config",
    "decode a token": "text_config",
}


def time_stages(
    config: Med2E3Config, *, dtype: str = "bfloat16", num_questions: int = 1, length: int = 768, device: str = "cpu"
) -> dict[str, float]:
    """Seconds each stage of `plan` takes on this machine, by the stage's name; "decode a token" is per token."""
    rows = min(num_questions, ROWS_TIMED)
    shallow, deeper = (
        _time_at_depth(config, depth, dtype=dtype, num_questions=rows, length=length, device=device) for depth in DEPTHS
    )
    found = {}
    for name, seconds in shallow.items():
        layers = _count_layers(config, name)
        if layers is not None:
            few, more = (min(depth, layers) for depth in DEPTHS)
            each = max(deeper[name] - seconds, 0.0) / max(more - few, 1)
            seconds += each * (layers - few)
        found[name] = seconds if name.startswith("encode") else seconds * num_questions / rows
    return found


def _time_at_depth(
    config: Med2E3Config, depth: int, *, dtype: str, num_questions: int, length: int, device: str
) -> dict[str, float]:
    model = random_model(with_layers(config, depth), dtype=dtype)
    nn.Module.to(model, device)
    with torch.inference_mode(), torch.device(device):
        volumes, input_ids, question = fake_inputs(config, num_questions=num_questions, length=length)
        steps, _ = answering_steps(model, (volumes.to(DTYPES[dtype]), input_ids, question))
        best: dict[str, float] = {}
        for _ in range(REPEATS):
            for name, step in steps.items():
                runs = DECODE_REPEATS if name == "decode a token" else 1  # a token is short: anything else shows in it
                seconds = median(_seconds(step, device=device) for _ in range(runs))
                best[name] = min(seconds, best.get(name, seconds))
        return best


def _seconds(step: Callable[[], None], *, device: str) -> float:
    """Of one run whose weights come from memory, not from the processor's cache."""
    torch.ones(EVICTED_BYTES // 4).sum()
    start = time.perf_counter()
    step()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - start


def with_layers(config: Med2E3Config, depth: int) -> Med2E3Config:
    """The same widths with `depth` layers in every stack of like layers."""
    settings: dict[str, Any] = config.to_dict()
    for stack in set(STACKS.values()):
        part = settings.get(stack)
        if part and "num_hidden_layers" in part:
            part["num_hidden_layers"] = min(depth, part["num_hidden_layers"])
            if part.get("layer_types"):
                part["layer_types"] = part["layer_types"][: part["num_hidden_layers"]]
    return Med2E3Config(**settings)


def _count_layers(config: Med2E3Config, stage: str) -> int | None:
    part = getattr(config, STACKS[stage], None) if stage in STACKS else None
    return getattr(part, "num_hidden_layers", None)


def random_model(config: Med2E3Config, *, dtype: str) -> Med2E3ForConditionalGeneration:
    """Weights of a size that keeps activations finite, drawn once and repeated: drawing all would take longer."""
    model = build_model(config, dtype=dtype)
    noise = torch.randn(2**20).to(DTYPES[dtype]) * 0.02
    with torch.no_grad():
        for parameter in model.parameters():
            flat = parameter.view(-1)
            for start in range(0, flat.numel(), len(noise)):
                flat[start : start + len(noise)] = noise[: flat.numel() - start]
    return model
