"""How does a large part learn with few numbers? By low-rank adapters beside its linear layers, merged at the end.

A layer computes W x + alpha / rank * B A x while it learns; afterwards W + alpha / rank * B A takes the place of W.
"""

from __future__ import annotations

from typing import Any

from peft import LoraConfig, LoraModel
from torch import nn

from slicesight.errors import InputError
from slicesight.models.med2e3 import Med2E3ForConditionalGeneration
from slicesight.training.recipe import Lora

ADAPTED = {"language_model": "language_model", "vision2d": "vision2d.encoder", "vision3d": "vision3d.encoder"}


def add_adapters(model: Med2E3ForConditionalGeneration, lora: Lora | None) -> list[LoraModel]:
    """Put adapters, which learn, beside the linear layers of the named parts, which do not.

    Raises:
        InputError: a part that takes none, or layers that are not there.
    """
    if lora is None:
        return []
    adapters = []
    for part in lora.parts:
        if part not in ADAPTED or part not in model.parts:
            raise InputError(f"lora: {part!r} takes no adapters here; expected one of {', '.join(ADAPTED)}")
        module = model.get_submodule(ADAPTED[part])
        targets = find_targets(module, lora.targets)
        if not targets:
            asked = "no linear layer" if lora.targets is None else f"no linear layer called {', '.join(lora.targets)}"
            raise InputError(f"lora: {part} has {asked}; change lora.targets or lora.parts")
        config = LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            target_modules=targets,
            bias="none",
        )
        adapters.append(LoraModel(module, config, "default"))
    return adapters


def merge_adapters(adapters: list[LoraModel]) -> None:
    """Add every adapter to the weights it stands beside and take it away."""
    for adapter in adapters:
        adapter.merge_and_unload()


def find_targets(module: Any, endings: tuple[str, ...] | None) -> list[str]:
    """Full names of the linear layers, without the head that says the words."""
    head = module.get_output_embeddings() if hasattr(module, "get_output_embeddings") else None
    return [
        name
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear)
        and layer is not head
        and (endings is None or any(name == ending or name.endswith(f".{ending}") for ending in endings))
    ]
