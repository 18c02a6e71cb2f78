"""What do LoRA adapters beside the released weights change? W + scale * B A, merged while a weight is copied."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from slicesight.errors import ModelError
from slicesight.models.importers.conversion import find_file, open_weights

OFFICIAL_PREFIXES = {  # where each part sits in the model the adapters were trained on
    "llm": "llm.",
    "vision2d_model": "vision2d_model.vision2d_encoder.",
    "vision2d_connector": "vision2d_connector.",
    "vision3d_model": "vision3d_model.vision3d_encoder.",
    "vision3d_connector": "vision3d_connector.",
}


@dataclass(kw_only=True)
class AdapterWeights:
    """Pairs (A, B) by the full name of the weight they change, and their common scale."""

    pairs: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    scales: dict[str, float] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)
    merged: set[str] = field(default_factory=set)

    def merge(self, part: str, name: str, tensor: Tensor) -> Tensor:
        """The weight with its adapter added (in float32, back in its own dtype), or as it is."""
        full = OFFICIAL_PREFIXES[part] + name
        if full not in self.pairs:
            return tensor
        a, b = self.pairs[full]["A"], self.pairs[full]["B"]
        if (b.shape[0], a.shape[1]) != tuple(tensor.shape) or b.shape[1] != a.shape[0]:
            raise ModelError(
                f"adapter of {full}: B {tuple(b.shape)} times A {tuple(a.shape)} does not fit the weight "
                f"{tuple(tensor.shape)}; the adapter belongs to another model."
            )
        self.merged.add(full)
        return (tensor.float() + self.scales[full] * (b.float() @ a.float())).to(tensor.dtype)

    def unused(self) -> list[str]:
        """Adapters for which there was no weight, and tensors that are no adapters."""
        return sorted((set(self.pairs) - self.merged) | set(self.others))


def read_adapter(source: Path) -> AdapterWeights:
    """The LoRA adapter beside the parts, or an empty one; ModelError for one that is more than W + scale * B A."""
    settings_path = source / "adapter_config.json"
    if not settings_path.is_file():
        return AdapterWeights()
    settings = json.loads(settings_path.read_text(encoding="utf-8"))
    for key, plain in (("peft_type", "LORA"), ("use_dora", False), ("fan_in_fan_out", False), ("bias", "none")):
        if settings.get(key, plain) != plain:
            raise ModelError(f"{settings_path}: {key} is {settings[key]!r}; only plain LoRA ({plain!r}) can be merged.")
    path = find_file(source, ("adapter_model.safetensors", "adapter_model.bin"))
    if path is None:
        raise ModelError(f"{source}: adapter_config.json is there but adapter_model.safetensors (or .bin) is not.")
    adapter = AdapterWeights()
    for name, tensor in open_weights(path).items():
        full, _, kind = name.removeprefix("base_model.model.").partition(".lora_")
        if kind not in ("A.weight", "B.weight", "A.default.weight", "B.default.weight"):
            adapter.others.append(name)
            continue
        adapter.pairs.setdefault(full + ".weight", {})[kind[0]] = tensor
    for full, pair in adapter.pairs.items():
        if set(pair) != {"A", "B"}:
            raise ModelError(f"{path}: {full} has only the {'A' if 'A' in pair else 'B'} half of its adapter.")
        module = full.removesuffix(".weight")
        rank = match_pattern(settings.get("rank_pattern"), module, settings["r"])
        alpha = match_pattern(settings.get("alpha_pattern"), module, settings["lora_alpha"])
        adapter.scales[full] = alpha / (rank**0.5 if settings.get("use_rslora") else rank)
    return adapter


def match_pattern(pattern: dict[str, float] | None, module: str, default: float) -> float:
    """A setting of one module where the adapter has its own for it."""
    return next((value for suffix, value in (pattern or {}).items() if module.endswith(suffix)), default)
