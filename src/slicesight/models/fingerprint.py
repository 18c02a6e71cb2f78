"""Do two models compute the same? By their weights, and by the settings that change what the weights give."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

FEATURE_SETTINGS = {
    "vision3d": ("image_size", "vision3d_config"),
    "vision2d": (
        *("image_size", "vision2d_config", "vision2d_feature", "slice_pool", "slice_mean", "slice_std", "planes"),
    ),
}
"""What of a model's configuration each encoder's features depend on."""
TOKEN_PARTS = ("vision3d", "projector_3d", "vision2d", "projector_2d", "plane_embedding")
"""What a volume passes on its way to the language model."""
NOT_SETTINGS = ("transformers_version", "dtype")


def weights_version(model: nn.Module) -> int:
    """Changes whenever a weight is written to or replaced in this process; costs microseconds."""
    return hash(
        tuple(
            (id(parameter), 0 if parameter.is_inference() else parameter._version) for parameter in model.parameters()
        )
    )


def digest_weights(weights: Mapping[str, Tensor], *, settings: Any) -> str:
    """SHA-256 of weights and settings: the same in any run on any machine."""
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
    return digest.hexdigest()


def digest_encoder(model: PreTrainedModel, part: str) -> str:
    """Of one encoder, "vision3d" or "vision2d": changes with whatever changes its features."""
    settings = {name: plain(getattr(model.config, name)) for name in FEATURE_SETTINGS[part]}
    return digest_weights(getattr(model, part).state_dict(), settings={"part": part, **settings})


def digest_encoders(model: PreTrainedModel) -> str:
    """Of everything that makes a volume's tokens."""
    parts = {name: part for name in TOKEN_PARTS if (part := getattr(model, name)) is not None}
    weights = {f"{name}.{key}": value for name, part in parts.items() for key, value in part.state_dict().items()}
    return digest_weights(weights, settings=plain(model.config))


def plain(setting: Any) -> Any:
    """A configuration as a dict, without what says nothing of the model; anything else as it is."""
    if not isinstance(setting, PreTrainedConfig):
        return setting
    return {name: value for name, value in setting.to_dict().items() if name not in NOT_SETTINGS}
