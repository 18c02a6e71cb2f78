import pytest
import torch

from slicesight.errors import ModelError
from slicesight.models.med2e3.configuration import Med2E3Config, make_preset
from slicesight.models.med2e3.modeling import Med2E3ForConditionalGeneration
from slicesight.planning import timing
from slicesight.planning.accounting import AllocationCounter
from slicesight.planning.plan import (
    GIB,
    describe_plan,
    describe_training,
    fake_inputs,
    find_free_bytes,
    plan,
    plan_training,
    read_config,
)

TINY = {
    "image_size": [8, 32, 32],
    "text_config": {
        "model_type": "llama",
        "vocab_size": 320,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
    "vision2d_config": {
        "model_type": "siglip_vision_model",
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
        "vision_use_head": False,
    },
    "vision3d_config": {
        "model_type": "m3d_vit",
        "patch_size": [2, 8, 8],
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    },
}


def transformer_block(width, inner, *, key_width=None, gate=False, qkv_bias=True, bias=True, norms=2):
    """Parameters of one block, counted by hand."""
    key_width = width if key_width is None else key_width
    attention = width * (2 * width + 2 * key_width)
    mlp = (3 if gate else 2) * width * inner
    biases = (inner + 2 * width) * bias + (width + 2 * key_width) * qkv_bias
    return attention + mlp + biases + norms * width


def test_the_full_size_models_parts_have_the_parameters_of_the_published_parts():
    with torch.device("meta"):
        model = Med2E3ForConditionalGeneration(make_preset("med2e3-phi3"))
    found = {name: sum(p.numel() for p in part.parameters()) for name, part in model.parts.items()}
    phi3 = 2 * 32064 * 3072 + 32 * transformer_block(3072, 8192, gate=True, qkv_bias=False, bias=False) + 3072
    siglip = (3 * 256 + 1 + 256) * 1024 + 24 * (transformer_block(1024, 4096) + 2 * 1024) + 2 * 1024
    vit = (1024 + 1) * 768 + 2048 * 768 + 768 + 12 * (transformer_block(768, 3072, qkv_bias=False) + 2 * 768)
    assert found == {
        "language_model": phi3,
        "vision2d": siglip,
        "vision3d": vit,
        "projector_2d": 1024 * 3072 + 3072 + 3072 * 3072 + 3072,
        "projector_3d": 768 * 3072 + 3072 + 3072 * 3072 + 3072,
        "scorer": 0,
    }
    assert phi3 == 3_821_079_552
    assert model.num_visual_tokens == 512


def test_the_full_size_plan_is_made_in_seconds_and_fits_eleven_gib():
    found = plan(make_preset("med2e3-phi3"))
    assert found.weight_bytes == 2 * sum(found.parameters.values())
    assert found.cache_bytes == 2 * 32 * 3072 * 769 * 2  # after one decoded token
    assert found.weight_bytes < found.peak_bytes < 11 * GIB
    seconds = {stage.name: 10.0 + number for number, stage in enumerate(found.stages)}
    text = describe_plan(found, free_bytes=8 * GIB, device="8GiB", seconds=seconds)
    assert "14.00 s" in next(line for line in text.splitlines() if line.startswith("decode a token"))
    assert "4,236,219,904   weights 7.89 GiB" in text
    assert "DOES NOT FIT" in text
    assert "DOES NOT FIT" not in describe_plan(found, free_bytes=12 * GIB, device="12GiB")
    prefill = next(stage for stage in found.stages if stage.name == "prefill")
    assert prefill.flops == pytest.approx(2 * 768 * found.parameters["language_model"], rel=0.15)


def test_memory_and_work_grow_with_questions_length_and_dtype():
    config = Med2E3Config(**TINY)
    one, many = plan(config, length=64), plan(config, length=64, num_questions=4)
    assert many.cache_bytes == 4 * one.cache_bytes
    assert many.stages[0] == one.stages[0]
    assert plan(config, length=64, dtype="float32").weight_bytes == 2 * one.weight_bytes
    assert plan(config, length=128).stages[-2].flops > 1.9 * one.stages[-2].flops


def test_a_models_actual_allocations_equal_the_plan():
    config = Med2E3Config(**TINY)
    model = Med2E3ForConditionalGeneration(config).eval()
    volumes, _, _ = fake_inputs(config, num_questions=1, length=64)
    kept = []
    with torch.no_grad():
        counter = AllocationCounter([*model.parameters(), volumes])
        real = counter.watch("real", lambda: kept.append(model.projector_3d(model.vision3d(volumes))))
    planned = plan(config, dtype="float32", length=64).stages[0]
    assert real.flops == planned.flops
    assert real.kept_bytes == planned.kept_bytes == 4 * kept[0].numel()
    assert real.peak_bytes == pytest.approx(planned.peak_bytes, rel=0.05)


def test_stage_two_trains_more_and_checkpointing_saves_activations():
    config = Med2E3Config(**{**TINY, "text_config": {**TINY["text_config"], "num_hidden_layers": 6}})
    first, second = (plan_training(config, stage, dtype="float32", length=200) for stage in ("stage 1", "stage 2"))
    saving = plan_training(config, "stage 2", dtype="float32", length=200, checkpointing=True)
    assert "stage 2: trains" in describe_training(second)
    assert first.trained < second.trained
    assert first.state_bytes < second.state_bytes
    assert saving.activation_bytes < 0.3 * second.activation_bytes, "one layer of six at a time, and what lies between"
    assert 1.1 * second.flops < saving.flops < 1.34 * second.flops, "at most one more forward pass"


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: plan(Med2E3Config(**TINY), length=20), "20 leaves no room beside 24 visual tokens"),
        (lambda: plan(Med2E3Config(**TINY), dtype="int3"), "dtype is 'int3'"),
        (lambda: read_config("med2e3-gpt5"), "no configuration is called 'med2e3-gpt5'; known names: med2e3-phi3"),
        (lambda: find_free_bytes("tpu"), "a size such as 24GiB"),
        (lambda: plan_training(Med2E3Config(**TINY), "stage 9"), "stage is 'stage 9'"),
    ],
)
def test_what_cannot_be_planned_is_said_in_one_line(call, words):
    with pytest.raises(ModelError, match=words):
        call()


def test_a_saved_folder_and_its_config_file_are_both_read(tmp_path):
    Med2E3Config(**TINY).save_pretrained(tmp_path)
    assert read_config(tmp_path).image_size == read_config(tmp_path / "config.json").image_size == [8, 32, 32]


def test_a_size_is_read_as_memory():
    assert find_free_bytes("24GiB") == 24 * GIB


def test_a_deep_stacks_time_follows_from_its_first_layers(monkeypatch):
    seconds_a_layer = {"encode_3d": 2.0, "encode_2d": 3.0, "score": 0.0, "prefill": 5.0, "decode": 0.5}
    parts = {"encode_3d": "vision3d_config", "encode_2d": "vision2d_config"}
    built = []

    def remember(config, *, dtype):
        built.append(config)
        return random_model(config, dtype=dtype)

    def clock(step, *, device):
        step()
        part = getattr(built[-1], parts.get(step.__name__, "text_config"))
        return 0.25 + seconds_a_layer[step.__name__] * part.num_hidden_layers

    random_model = timing.random_model
    monkeypatch.setattr(timing, "random_model", remember)
    monkeypatch.setattr(timing, "_seconds", clock)
    depths = {
        "text_config": 32,
        "vision2d_config": 24,
        "vision3d_config": 2,
    }  # the last is less deep than what is timed
    config = Med2E3Config(**{**TINY, **{part: {**TINY[part], "num_hidden_layers": n} for part, n in depths.items()}})
    found = timing.time_stages(config, dtype="float32", length=64)
    layers = {"encode volume": 2 * 2.0, "encode slices": 24 * 3.0, "score": 0, "prefill": 160, "decode a token": 16}
    assert found == pytest.approx({name: 0.25 + seconds for name, seconds in layers.items()})
    twenty = timing.time_stages(config, dtype="float32", length=64, num_questions=20)
    assert twenty["prefill"] == pytest.approx(20 / timing.ROWS_TIMED * found["prefill"])
    assert twenty["encode slices"] == found["encode slices"]


def test_a_convolutional_encoder_is_timed_whole():
    words = {
        **TINY,
        "vision3d_config": {
            "model_type": "cnn3d",
            "widths": [8, 16],
            "blocks": [0, 1],
            "strides": [[2, 4, 4], [1, 2, 2]],
            "pool_size": [2, 2, 2],
        },
    }
    shallow = timing.with_layers(Med2E3Config(**words), 1)
    assert shallow.vision3d_config.to_dict() == Med2E3Config(**words).vision3d_config.to_dict()
    assert shallow.text_config.num_hidden_layers == 1


def test_every_tensor_that_is_timed_lies_on_the_device_asked_for(monkeypatch):
    monkeypatch.setattr(timing, "EVICTED_BYTES", 2**20)
    found = timing.time_stages(Med2E3Config(**TINY), dtype="float32", length=64, device="meta")
    assert list(found) == ["encode volume", "encode slices", "score", "prefill", "decode a token"]
