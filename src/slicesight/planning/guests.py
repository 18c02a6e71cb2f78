"""What does a guest need before it is loaded? Weights, the keys and values of its pictures, and the work in between.

The model is built without numbers and its parameters are counted; the rest is estimated from its configuration, from
above: what all pictures take on their way through the vision encoder together, as the library passes them, and what the
prompt takes in the language model. S slices, T tokens of a prompt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedConfig

from slicesight.errors import ModelError
from slicesight.models.guests.preset import Preset
from slicesight.planning.memory import GIB
from slicesight.planning.plan import DTYPES, RUNTIME_BYTES

TEXT_TOKENS, CAPTION_TOKENS = 256, 16
"""Of question and answer together, and beside every picture."""
KNOWN_GUESTS: dict[str, dict[str, Any]] = {
    "gemma-3-4b": {
        "model_type": "gemma3",
        "mm_tokens_per_image": 256,
        "text_config": {
            "model_type": "gemma3_text",
            "hidden_size": 2560,
            "intermediate_size": 10240,
            "num_hidden_layers": 34,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "head_dim": 256,
            "vocab_size": 262208,
            "sliding_window": 1024,
        },
        "vision_config": {
            "model_type": "siglip_vision_model",
            "hidden_size": 1152,
            "intermediate_size": 4304,
            "num_hidden_layers": 27,
            "num_attention_heads": 16,
            "image_size": 896,
            "patch_size": 14,
            "vision_use_head": False,
        },
    }
}
"""Configurations of models that need an account to be read: config.json of google/gemma-3-4b-it, whose architecture
MedGemma 4B and MedGemma 1.5 4B share."""
PARTS = {"vision": ("vision", "visual"), "projector": ("projector", "connector", "merger", "multi_modal")}


@dataclass(frozen=True, kw_only=True)
class GuestPlan:
    """What one question about one scan takes.

    cache_bytes: keys and values of the whole prompt in every layer. vision_bytes, language_bytes: what passing the
    pictures, and the prompt, holds at once beside the weights. A mask of the evidence takes no more than the question.
    """

    model_type: str
    parameters: dict[str, int]
    dtype: str
    weight_bytes: int
    preset: str
    num_pictures: int
    tokens_per_picture: int
    num_tokens: int
    longest_text: int | None
    cache_bytes: int
    vision_bytes: int
    language_bytes: int

    @property
    def peak_bytes(self) -> int:
        """The most at any moment."""
        working = max(self.vision_bytes, self.language_bytes + self.cache_bytes)
        return RUNTIME_BYTES + self.weight_bytes + working


def known_config(name: str) -> PreTrainedConfig | None:
    """A configuration by its known name; None for any other."""
    from transformers import CONFIG_MAPPING

    found = KNOWN_GUESTS.get(name)
    return None if found is None else CONFIG_MAPPING[found["model_type"]](**found)


def plan_guest(config: PreTrainedConfig, preset: Preset, *, dtype: str = "bfloat16") -> GuestPlan:
    """Plan one question about one scan.

    Raises:
        ModelError: the configuration cannot be built, or says too little.
    """
    from transformers import AutoModelForImageTextToText

    if dtype not in DTYPES:
        raise ModelError(f"dtype is {dtype!r}; expected one of {', '.join(DTYPES)}.")
    try:
        with torch.device("meta"):
            model = AutoModelForImageTextToText.from_config(config)
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        reason = " ".join(str(error).split())[:160]
        raise ModelError(f"this {config.model_type} configuration cannot be built ({reason}).") from error
    sizes = {id(one): one.numel() for one in model.parameters()}
    parameters = dict.fromkeys((*PARTS, "language"), 0)
    for name, parameter in model.named_parameters():
        part = next((part for part, words in PARTS.items() if any(word in name for word in words)), "language")
        parameters[part] += parameter.numel()
    itemsize = DTYPES[dtype].itemsize
    text, vision = config.get_text_config(), config.vision_config
    pictures = 1 if preset.layout == "sheet" else preset.slices
    patches = _patches(config, preset)
    tokens = tokens_per_picture(config, preset)
    num_tokens = pictures * (tokens + CAPTION_TOKENS) + TEXT_TOKENS
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    head_width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return GuestPlan(
        model_type=str(config.model_type),
        parameters=parameters,
        dtype=dtype,
        weight_bytes=sum(sizes.values()) * itemsize,
        preset=preset.name,
        num_pictures=pictures,
        tokens_per_picture=tokens,
        num_tokens=num_tokens,
        longest_text=getattr(text, "max_position_embeddings", None),
        cache_bytes=2 * text.num_hidden_layers * heads * head_width * num_tokens * itemsize,
        vision_bytes=pictures * patches * (6 * vision.hidden_size + 2 * _inner(vision)) * itemsize,
        language_bytes=num_tokens * (6 * text.hidden_size + 3 * _inner(text)) * itemsize + 4 * int(text.vocab_size) * 2,
    )


def tokens_per_picture(config: PreTrainedConfig, preset: Preset) -> int:
    """Places that one picture takes in the prompt."""
    for name in ("mm_tokens_per_image", "image_seq_length"):
        if isinstance(found := getattr(config, name, None), int) and config.model_type != "llava":
            return found
    merged = getattr(config.vision_config, "spatial_merge_size", None) or getattr(config, "scale_factor", None) or 1
    return max(1, _patches(config, preset) // int(merged) ** 2)


def describe_guest(found: GuestPlan, *, free_bytes: int, device: str) -> str:
    """The plan as lines for the terminal."""
    verdict = "fits" if found.peak_bytes <= free_bytes else "DOES NOT FIT"
    lines = [
        f"{found.model_type} guest, {found.dtype} on {device}: 1 scan, preset {found.preset}",
        "",
        f"{'part':18}{'parameters':>16}",
        *(f"{name:18}{number:>16,}" for name, number in found.parameters.items()),
        f"{'together':18}{sum(found.parameters.values()):>16,}   weights {found.weight_bytes / GIB:.2f} GiB",
        "",
        f"{found.num_pictures} pictures of {found.tokens_per_picture} tokens, {found.num_tokens:,} tokens with words",
        f"cache of keys and values {found.cache_bytes / GIB:.2f} GiB",
        f"pictures through the vision encoder, at most about {found.vision_bytes / GIB:.2f} GiB",
        f"prompt through the language model, at most about {found.language_bytes / GIB:.2f} GiB",
        "",
        f"needs about {found.peak_bytes / GIB:.2f} GiB, {free_bytes / GIB:.2f} GiB free on {device}: {verdict}",
    ]
    if found.longest_text is not None and found.num_tokens > found.longest_text:
        lines.append(
            f"BUT the model reads at most {found.longest_text:,} tokens; take a --preset of fewer or smaller slices"
        )
    return "\n".join(lines)


def _patches(config: PreTrainedConfig, preset: Preset) -> int:
    """Of one picture in the vision encoder; where the encoder takes any size, that of the preset's pictures."""
    vision = config.vision_config
    side = _side(getattr(vision, "image_size", None)) or preset.size
    return (side // _side(vision.patch_size)) ** 2


def _side(size: Any) -> int:
    """Of a square, however it is written; 0 where it is not."""
    return int((size[0] if isinstance(size, list | tuple) else size) or 0)


def _inner(config: PreTrainedConfig) -> int:
    """Width of the layers' inner products."""
    return int(getattr(config, "intermediate_size", None) or 4 * config.hidden_size)
