"""Every kind of part, chosen by configuration, answers: a forward pass, a backward pass and generate each."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from slicesight.errors import ModelError
from slicesight.models.med2e3.modeling import Med2E3ForConditionalGeneration

SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
IDS = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None, "vocab_size": 320}
LANGUAGE_MODELS = {
    "phi3": {**SMALL, "num_key_value_heads": 4},
    "llama": {**SMALL, "num_key_value_heads": 2},
    "qwen2": {**SMALL, "num_key_value_heads": 2},
    "qwen3": {**SMALL, "num_key_value_heads": 2, "head_dim": 8},
    "gemma2": {**SMALL, "num_key_value_heads": 2, "head_dim": 8},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128},
    "opt": {
        "hidden_size": 32,
        "ffn_dim": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "word_embed_proj_dim": 32,
    },
}
TINY_2D = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "patch_size": 8,
}
SLICE_ENCODERS = {
    "siglip_vision_model": {**TINY_2D, "image_size": 32},
    "siglip2_vision_model": {**TINY_2D, "num_patches": 16},
    "clip_vision_model": {**TINY_2D, "image_size": 32},
    "dinov2": {**TINY_2D, "image_size": 32},
    "resnet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
    "convnext": {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2},
}
VOLUME_ENCODERS = {
    "m3d_vit": {"patch_size": [2, 8, 8], "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
    "monai_vit": {"patch_size": [2, 8, 8], "hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2},
    "swin_unetr": {
        "feature_size": 6,
        "num_heads": [1, 2, 2, 2],
        "depths": [1, 1, 1, 1],
        "window_size": 2,
        "output_stage": 1,
    },
    "cnn3d": {"widths": [4, 8], "blocks": [1, 1], "strides": [[1, 4, 4], [2, 2, 2]], "num_groups": 2},
}


def answer(model, processor, volumes):
    """Loss, gradient and a few generated tokens; returns the generated ids."""
    questions = ["What is shown?", "Is the liver enlarged?"]
    loss = model.train()(**processor(questions, volumes=volumes[:1], answers=["The liver.", "No."])).loss
    loss.backward()
    assert torch.isfinite(loss)
    assert model.projector_2d[0].weight.grad.abs().max() > 0
    batch = processor(questions, volumes=volumes[:1])
    model.eval()
    ids = model.generate(**batch, max_new_tokens=3, min_new_tokens=3, do_sample=False)
    assert ids.shape[1] == batch["input_ids"].shape[1] + 3
    return ids


@pytest.mark.parametrize("model_type", LANGUAGE_MODELS)
def test_language_models_answer(make_model, make_processor, volumes, model_type):
    model = make_model(text_config={"model_type": model_type, **LANGUAGE_MODELS[model_type], **IDS})
    answer(model, make_processor(model), volumes)


@pytest.mark.parametrize("model_type", SLICE_ENCODERS)
def test_slice_encoders_answer(make_model, make_processor, volumes, model_type):
    model = make_model(vision2d_config={"model_type": model_type, **SLICE_ENCODERS[model_type]})
    answer(model, make_processor(model), volumes)


@pytest.mark.parametrize("model_type", VOLUME_ENCODERS)
def test_volume_encoders_answer(make_model, make_processor, volumes, model_type, tmp_path):
    model = make_model(vision3d_config={"model_type": model_type, **VOLUME_ENCODERS[model_type]})
    processor = make_processor(model)
    ids = answer(model, processor, volumes)
    model.save_pretrained(tmp_path)
    again = Med2E3ForConditionalGeneration.from_pretrained(tmp_path).eval()
    batch = processor(["What is shown?", "Is the liver enlarged?"], volumes=volumes[:1])
    assert torch.equal(again.generate(**batch, max_new_tokens=3, min_new_tokens=3, do_sample=False), ids)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"vision2d_config": {"model_type": "siglip_vision_model", **TINY_2D, "image_size": 64}}, "image_size 64"),
        ({"vision2d_config": {"model_type": "bert", "hidden_size": 16}}, "2D encoder .*bert"),
        ({"text_config": {"model_type": "siglip_vision_model"}}, "text_config .*siglip_vision_model"),
        ({"vision3d_config": {"model_type": "resnet"}}, "vision3d_config .*resnet"),
        (
            {
                "vision3d_config": {
                    "model_type": "m3d_vit",
                    "hidden_size": 16,
                    "num_attention_heads": 3,
                    "patch_size": [2, 8, 8],
                }
            },
            "3 heads",
        ),
    ],
)
def test_wrong_pairs_fail_at_construction_in_one_clear_line(make_model, overrides, words):
    with pytest.raises(ModelError, match=words) as caught:
        make_model(**overrides)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("model_type", sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES))
def test_other_causal_language_models_construct_on_meta(make_model, model_type):
    try:
        config = AutoConfig.for_model(model_type)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        pytest.skip(f"{model_type} has no default configuration: {error}")
    try:
        with torch.device("meta"):
            width = AutoModelForCausalLM.from_config(config).get_input_embeddings().weight.shape[1]
    except (ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
        pytest.skip(f"the library does not build its own default {model_type}: {error}")
    if config.is_encoder_decoder or getattr(config, "hidden_size", width) != width:
        pytest.skip(f"{model_type} is no decoder of its own embeddings")
    with torch.device("meta"):
        model = make_model(text_config=config)
    assert model.projector_2d[2].out_features == width
