"""Weights go to plain safetensors and back, whole."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from slicesight.models.med2e3.configuration import Med2E3Config
from slicesight.models.med2e3.modeling import Med2E3ForConditionalGeneration
from slicesight.training.checkpointing import read_weights, shared_names, write_weights
from slicesight.training.checkpoints import DamagedCheckpointError

HEAD, EMBEDDINGS = "language_model.lm_head.weight", "language_model.model.embed_tokens.weight"


@pytest.fixture
def build():
    def make(seed: int = 0, **text) -> Med2E3ForConditionalGeneration:
        torch.manual_seed(seed)
        config = Med2E3Config(
            image_size=(8, 32, 32),
            text_config={
                "model_type": "llama",
                "vocab_size": 64,
                "hidden_size": 16,
                "intermediate_size": 32,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "num_key_value_heads": 2,
                "tie_word_embeddings": True,
                **text,
            },
            vision3d_config={"model_type": "cnn3d", "widths": (8, 16, 16), "num_groups": 4},
            fusion="3d",
        )
        return Med2E3ForConditionalGeneration(config)

    return make


@pytest.mark.parametrize("is_gathered", [False, True])
@pytest.mark.parametrize("is_tied", [False, True])
def test_what_was_written_loads_into_a_model_and_by_from_pretrained(build, tmp_path, is_gathered, is_tied) -> None:
    model = build(tie_word_embeddings=is_tied)
    gathered = {name: tensor.clone() for name, tensor in model.state_dict().items()} if is_gathered else None
    write_weights(model, tmp_path, gathered=gathered)
    assert (HEAD in shared_names(model) or EMBEDDINGS in shared_names(model)) is is_tied
    assert len(load_file(tmp_path / "model.safetensors")) == len(model.state_dict()) - is_tied
    other = build(1, tie_word_embeddings=is_tied)
    read_weights(other, tmp_path)
    loaded = Med2E3ForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.float32)
    for again in (other, loaded):
        assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items())
        is_one = again.get_input_embeddings().weight is again.get_output_embeddings().weight
        assert is_one is is_tied
    assert not [path for path in tmp_path.iterdir() if path.suffix in (".bin", ".pt", ".pkl")]


def test_weights_of_another_shape_are_refused_in_one_line(build, tmp_path) -> None:
    write_weights(build(), tmp_path)
    with pytest.raises(DamagedCheckpointError, match="does not fit the model of this recipe") as caught:
        read_weights(build(num_hidden_layers=2), tmp_path)
    assert "\n" not in str(caught.value)


def test_other_memory_formats_keep_theirs(build, tmp_path) -> None:
    model, other = build(), build(1).to(memory_format=torch.channels_last_3d)
    write_weights(model, tmp_path)
    read_weights(other, tmp_path)
    kernels = [p for p in other.vision3d.parameters() if p.ndim == 5 and min(p.shape[1:]) > 1]
    assert kernels
    assert all(p.is_contiguous(memory_format=torch.channels_last_3d) for p in kernels)
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in model.state_dict().items())
