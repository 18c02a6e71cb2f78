"""Tiny models and a tokenizer that needs no file: every test of the model room builds from these."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from slicesight.models.med2e3.configuration import Med2E3Config
from slicesight.models.med2e3.modeling import Med2E3ForConditionalGeneration
from slicesight.models.med2e3.processing import Med2E3Processor

SENTENCES = ["What is shown in this image? The liver is enlarged.", "Is there a lesion in the spleen? No."] * 3
TEXT = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": None,
}
VIT_3D = {
    "model_type": "m3d_vit",
    "patch_size": [2, 8, 8],
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "initializer_range": 0.2,
}
CNN_3D = {"model_type": "cnn3d", "widths": [4, 8], "blocks": [1, 1], "strides": [[1, 4, 4], [2, 2, 2]], "num_groups": 2}
SIGLIP = {
    "model_type": "siglip_vision_model",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
    "vision_use_head": False,
}


def make_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<pad>", "<eos>", "<image3d>"]
    tokenizer.train_from_iterator(
        SENTENCES, trainers.BpeTrainer(vocab_size=320, special_tokens=special, initial_alphabet=sorted(alphabet))
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>")


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return make_tokenizer()


def build_config(**overrides: Any) -> Med2E3Config:
    settings: dict[str, Any] = {
        "text_config": {**TEXT, "vocab_size": 320},
        "vision3d_config": VIT_3D,
        "vision2d_config": SIGLIP,
        "image_size": [8, 32, 32],
        "placeholder_token_id": 2,
        "score_scale": 50.0,  # tiny random parts have tiny products: without it every score is 1 / N
    }
    return Med2E3Config(**{**settings, **overrides})


@pytest.fixture(scope="session")
def make_config():
    return build_config


@pytest.fixture
def make_model():
    """A model in evaluation mode with weights that follow from the seed."""

    def make(seed: int = 0, **overrides: Any) -> Med2E3ForConditionalGeneration:
        torch.manual_seed(seed)
        return Med2E3ForConditionalGeneration(build_config(**overrides)).eval()

    return make


@pytest.fixture
def make_processor(tokenizer):
    def make(model: Med2E3ForConditionalGeneration, **settings: Any) -> Med2E3Processor:
        return Med2E3Processor.for_model(model.config, tokenizer, **{"template": "short", **settings})

    return make


@pytest.fixture
def volumes() -> torch.Tensor:
    """Three volumes whose slices differ: coarse blocks, each slice with its own brightness."""
    generator = torch.Generator().manual_seed(5)
    blocks = torch.rand(3, 1, 8, 4, 4, generator=generator).repeat_interleave(8, dim=-1).repeat_interleave(8, dim=-2)
    return blocks * torch.rand(3, 1, 8, 1, 1, generator=generator)


@pytest.fixture(scope="session")
def official_golden(shared_folder) -> Path:
    """The golden vectors of the official code."""
    folder = shared_folder / "golden" / "official-A"
    if not folder.is_dir():
        pytest.skip(f"no golden vectors at {folder}")
    return folder
