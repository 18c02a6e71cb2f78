"""Official folders of Med-2E3, M3D-CLIP and M3D-LaMed, written by their names from our models."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import processors
from torch import Tensor
from transformers import AutoTokenizer, BertTokenizerFast, PreTrainedTokenizerBase

from slicesight.models.importers.m3d import M3DClip
from slicesight.models.med2e3.configuration import Med2E3Config
from slicesight.models.med2e3.modeling import Med2E3ForConditionalGeneration

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

BERT = {
    "model_type": "bert",
    "vocab_size": 40,
    "hidden_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
}
RELEASED = {
    "question_source": "text_encoder",
    "text_encoder_config": BERT,
    "vision2d_feature": "before_final_norm",
    "score_scale": 0.2,
    "score_dropout": 0.1,
}
"""What the released Med-2E3 has that the paper has not."""


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


def write_med2e3(folder: Path, model: Med2E3ForConditionalGeneration, tokenizer: PreTrainedTokenizerBase) -> Path:
    """The whole folder, its question's tokenizer included."""
    for part, weights in official_parts(model.state_dict().items()).items():
        (folder / part).mkdir(parents=True)
        torch.save(weights, folder / part / "pytorch_model.bin")
    write_settings(folder, model.config, tokenizer)
    return folder


CLIP_NAMES = {
    "text_encoder.": "language_encoder.",
    "volume_projection.": "mm_vision_proj.",
    "text_projection.": "mm_language_proj.",
}
TO_MONAI = {ours: theirs for ours, theirs in M3D_NAMES.items() if ours.startswith(("position", "patch"))}


def monai_name(name: str) -> str:
    """The ViT's tensor by MONAI's name."""
    for layer in ("qkv", "out_proj"):
        name = name.replace(f".{layer}.", f".attn.{layer}.")
    for layer in ("linear1", "linear2"):
        name = name.replace(f".{layer}.", f".mlp.{layer}.")
    return TO_MONAI.get(name, name)


def write_m3d_clip(folder: Path, clip: M3DClip) -> Path:
    """M3D-CLIP without its vocabulary."""
    weights = {}
    for name, tensor in clip.state_dict().items():
        if name.startswith("volume_encoder."):
            name = "vision_encoder." + monai_name(name.removeprefix("volume_encoder."))
        for ours, theirs in CLIP_NAMES.items():
            name = name.replace(ours, theirs) if name.startswith(ours) else name
        weights[name] = tensor
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(weights, folder / "pytorch_model.bin")
    vit = clip.config.vision3d_config
    settings = {
        "model_type": "m3d_clip",
        "img_size": list(vit.image_size),
        "patch_size": list(vit.patch_size),
        "hidden_size": vit.hidden_size,
        "mlp_dim": vit.intermediate_size,
        "num_layers": vit.num_hidden_layers,
        "num_heads": vit.num_attention_heads,
        "in_channels": 1,
    }
    (folder / "config.json").write_text(json.dumps(settings))
    return folder


def write_lamed(folder: Path, lamed: Med2E3ForConditionalGeneration, tokenizer: PreTrainedTokenizerBase) -> Path:
    """M3D-LaMed in two shards, with a tensor of its segmentation head."""
    folder.mkdir(parents=True)
    weights = {}
    for name, tensor in lamed.state_dict().items():
        if name.startswith("vision3d.encoder."):
            name = "model.vision_tower.vision_tower." + monai_name(name.removeprefix("vision3d.encoder."))
        name = name.replace("projector_3d.", "model.mm_projector.projector.").removeprefix("language_model.")
        weights[name] = tensor
    weights["model.seg_projector.0.weight"] = torch.ones(2, 2)
    names = sorted(weights)
    shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for shard, keys in shards.items():
        save_file({key: weights[key].clone() for key in keys}, folder / shard)
    index = {"weight_map": {key: shard for shard, keys in shards.items() for key in keys}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    settings = lamed.config.text_config.to_dict() | {
        "model_type": "lamed_llama",
        "image_size": [8, 32, 32],
        "patch_size": [2, 8, 8],
        "image_channel": 1,
        "vision_tower": "vit3d",
        "vision_select_layer": -1,
        "vision_select_feature": "patch",
        "mm_projector_type": "spp",
        "proj_layer_type": "mlp",
        "proj_layer_num": 2,
        "proj_pooling_type": "spatial",
        "proj_pooling_size": 2,
        "mm_hidden_size": 64,
        "segmentation_module": "segvol",
        "seg_token_id": 5,
    }
    (folder / "config.json").write_text(json.dumps(settings, default=str))
    tokenizer.save_pretrained(folder)
    opening = AutoTokenizer.from_pretrained(folder)
    opening._tokenizer.post_processor = processors.TemplateProcessing(single="<eos> $A", special_tokens=[("<eos>", 1)])
    opening.add_special_tokens({"additional_special_tokens": ["<im_patch>"]})
    opening.save_pretrained(folder)
    return folder
