"""The official Med-2E3 folder, written by the official names from one of our models, for tests and benchmarks."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import BertTokenizerFast, PreTrainedTokenizerBase

from slicesight.models.med2e3.configuration import Med2E3Config

OFFICIAL_NAMES = {
    "language_model.": ("llm", ""),
    "vision2d.encoder.": ("vision2d_model", "vision_model."),
    "projector_2d.": ("vision2d_connector", "_connector."),
    "projector_3d.": ("vision3d_connector", "_connector."),
    "scorer.question_projection.": ("vision3d_connector", "text_mlp."),
    "scorer.text_encoder.": ("vision3d_model", "language_encoder."),
    "vision3d.encoder.": ("vision3d_model", "vision_encoder."),
}
M3D_NAMES = {
    "position_embedding": "patch_embedding.position_embeddings",
    "patch_embedding.weight": "patch_embedding.patch_embeddings.1.weight",
    "patch_embedding.bias": "patch_embedding.patch_embeddings.1.bias",
    "qkv": "attn.qkv",
    "out_proj": "attn.out_proj",
    "linear1": "mlp.linear1",
    "linear2": "mlp.linear2",
}


def to_official(name: str) -> tuple[str, str]:
    """(part, official name) of a tensor of the converted model."""
    prefix = next(prefix for prefix in OFFICIAL_NAMES if name.startswith(prefix))
    part, official = OFFICIAL_NAMES[prefix]
    inner = name.removeprefix(prefix)
    if part == "vision3d_model" and official == "vision_encoder.":
        for ours, theirs in M3D_NAMES.items():
            if inner == ours or f".{ours}." in inner:
                inner = inner.replace(ours, theirs)
                break
    return part, official + inner


def official_parts(weights: Iterable[tuple[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
    """Our tensors by part and official name."""
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in weights:
        part, theirs = to_official(name)
        parts.setdefault(part, {})[theirs] = tensor
    return parts


def write_settings(folder: Path, config: Med2E3Config, tokenizer: PreTrainedTokenizerBase) -> None:
    """args/config.json, the tokenizer at the root and the question's tokenizer: all but the weights."""
    vision3d = config.vision3d_config
    settings: dict[str, Any] = {
        "exp_id": 4,
        "llm_config": {**config.text_config.to_dict(), "top_k": 50, "_name_or_path": "some/hub-name"},
        "vision2d_model_config": config.vision2d_config.to_dict(),
        "vision3d_model_config": {
            "model_type": "m3d_clip",
            "img_size": list(config.image_size),
            "patch_size": list(vision3d.patch_size),
            "hidden_size": vision3d.hidden_size,
            "mlp_dim": vision3d.intermediate_size,
            "num_layers": vision3d.num_hidden_layers,
            "num_heads": vision3d.num_attention_heads,
            "in_channels": 1,
        },
        "vision2d_connector_type": "mlp2x_gelu",
        "vision3d_connector_type": "spatial_pooling_score15_mlp2x_gelu",
        "vision2d_model_select_layer": -1,
        "vision3d_model_select_layer": -1,
        "vision2d_model_select_feature": "cls_patch",
        "vision3d_model_select_feature": "patch",
        "vision3d_model_type": "m3d",
        "llm_max_length": 768,
    }
    (folder / "args").mkdir(parents=True)
    (folder / "args" / "config.json").write_text(json.dumps(settings, default=str))
    tokenizer.save_pretrained(folder)
    questions = folder / "m3d_clip_tokenizer"
    questions.mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "what", "is", "shown", "liver", "?"]
    (questions / "vocab.txt").write_text("\n".join(words) + "\n")
    BertTokenizerFast(vocab=str(questions / "vocab.txt")).save_pretrained(questions)
