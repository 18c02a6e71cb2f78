"""What several rooms' tests need: a phantom, a tiny random model on disk, real scans where they are at hand."""

from __future__ import annotations

import json
import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_folder() -> Path:
    """Real scans (marker shared_data); users do not have them."""
    folder = Path(os.environ.get("SLICESIGHT_SHARED", REPOSITORY.parent / "shared"))
    if not (folder / "data").is_dir():
        pytest.skip("no real scans here: set SLICESIGHT_SHARED to the folder that holds data/")
    return folder


@pytest.fixture(scope="session")
def phantom():
    """An axial phantom with findings; coarse pixels, so that it is quick."""
    from slicesight.volumes.phantoms import make_phantom

    for index in range(50):
        found = make_phantom(7, index, pixel_mm=(3.5, 4.0))
        if found.truth.plane == "axial" and found.truth.findings:
            return found
    raise AssertionError("no axial phantom with findings among the first 50")


@pytest.fixture(scope="session")
def phantom_file(phantom, tmp_path_factory) -> Path:
    """The phantom as NIfTI."""
    from slicesight.volumes.writers import write_nifti

    path = tmp_path_factory.mktemp("scans") / "phantom.nii.gz"
    write_nifti(phantom.volume, path)
    return path


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory) -> Path:
    """A Med-2E3 of a few thousand random weights with its processor and a card, as a user would pass to --model."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from slicesight.model import Med2E3Config, Med2E3ForConditionalGeneration, Med2E3Processor

    tokens = ["<pad>", "<eos>", "<unk>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    bytes_tokenizer = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=[], unk_token="<unk>"))
    bytes_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_tokenizer.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bytes_tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    )
    torch.manual_seed(0)
    config = Med2E3Config(
        image_size=(8, 32, 32),
        text_config={
            "model_type": "llama",
            "vocab_size": 320,
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "pad_token_id": 0,
            "eos_token_id": 1,
            "bos_token_id": None,
        },
        vision2d_config={
            "model_type": "siglip_vision_model",
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 32,
            "patch_size": 8,
            "vision_use_head": False,
        },
        vision3d_config={"model_type": "cnn3d", "widths": (8, 16, 16), "num_groups": 4},
        score_scale=30.0,
        score_norm="l2",
    )
    processor = Med2E3Processor.for_model(
        config, tokenizer, grid={"num_slices": 8, "height": 32, "width": 32}, template="short"
    )
    model = Med2E3ForConditionalGeneration(config)
    folder = tmp_path_factory.mktemp("models") / "tiny-random"
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    (folder / "card.json").write_text(json.dumps({"name": "tiny-random", "trained_on": "synthetic"}))
    return folder


@pytest.fixture(scope="session")
def tiny_reader(tiny_model_folder):
    """The tiny random model, loaded as a user would."""
    import slicesight

    return slicesight.load(tiny_model_folder)
