"""The importer, on a tiny folder in the official layout written here by the official names."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from official_layout import RELEASED, official_parts, write_settings
from slicesight.errors import ModelError
from slicesight.models.importers.conversion import open_weights, write_shards
from slicesight.models.importers.med2e3 import convert_released


@pytest.fixture
def model(make_model):
    return make_model(**RELEASED)


@pytest.fixture
def official(model, tokenizer, tmp_path):
    """A folder as the official code saves it, with the tensors Med-2E3 does not use as well."""
    folder = tmp_path / "official"
    parts = official_parts(model.state_dict().items())
    parts["vision3d_model"]["logit_scale"] = torch.tensor(2.0)
    parts["vision3d_model"]["vision_encoder.norm.weight"] = torch.ones(16)
    parts["vision3d_model"]["vision_encoder.blocks.0.norm_cross_attn.weight"] = torch.ones(16)
    parts["vision2d_model"]["vision_model.head.probe"] = torch.ones(1, 1, 16)
    for part, weights in parts.items():
        (folder / part).mkdir(parents=True)
        torch.save(weights, folder / part / "pytorch_model.bin")
    write_settings(folder, model.config, tokenizer)
    return folder


def test_every_weight_arrives_and_the_rest_is_named_with_its_reason(model, official, tmp_path):
    report = convert_released(official, tmp_path / "out")
    converted = AutoModelForImageTextToText.from_pretrained(tmp_path / "out")
    assert converted.state_dict().keys() == model.state_dict().keys()
    for name, tensor in converted.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name
    assert sum(tensors for tensors, _ in report.loaded.values()) == len(model.state_dict())
    assert set(report.left_over) == {
        "vision3d_model/logit_scale",
        "vision3d_model/vision_encoder.norm.weight",
        "vision3d_model/vision_encoder.blocks.0.norm_cross_attn.weight",
        "vision2d_model/vision_model.head.probe",
    }
    assert all(report.left_over.values())
    assert "1 tensors: contrastive head of M3D-CLIP; Med-2E3 does not use it\n  vision3d_model/logit_scale" in str(
        report
    )


def test_the_converted_folder_is_in_the_released_form_and_answers(official, tmp_path, volumes):
    convert_released(official, tmp_path / "out")
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "out").eval()
    processor = AutoProcessor.from_pretrained(tmp_path / "out")
    config = model.config
    assert (config.question_source, config.score_scale, config.score_dropout) == ("text_encoder", 0.2, 0.1)
    assert (config.vision2d_feature, config.vision3d_config.final_norm) == ("before_final_norm", False)
    assert processor.max_length == 768
    batch = processor(["What is shown?", "liver?"], volumes=volumes[:1])
    assert batch["question_ids_mask"].tolist() == [[1] * 6, [1] * 4 + [0] * 2]
    scores = model(**batch).slice_scores
    with torch.no_grad():
        model.scorer.question_projection.weight.add_(1.0)
    assert not torch.allclose(model(**batch).slice_scores, scores)
    assert model.generate(**batch, max_new_tokens=2, min_new_tokens=2).shape[1] == batch["input_ids"].shape[1] + 2


def test_the_score_is_the_text_encoders_pooled_output_over_five(make_model, volumes):
    model = make_model(**RELEASED)
    features = model.encode_volumes(volumes[:1])
    ids, mask = torch.tensor([[2, 5, 6, 3, 0]]), torch.tensor([[1, 1, 1, 1, 0]])
    scores = model.score_slices(features, input_ids=torch.tensor([[5]]), question_ids=ids, question_ids_mask=mask)
    pooled = model.scorer.text_encoder(ids[:, :4]).pooler_output
    question = pooled @ model.scorer.question_projection.weight.T + model.scorer.question_projection.bias
    vectors = [torch.cat([features.tokens_3d_VKPD[0, j // 4], features.tokens_2d_VNLD[0, j]]).mean(0) for j in range(8)]
    torch.testing.assert_close(
        scores[0, 0], torch.softmax(torch.stack(vectors) @ question[0] / 5, 0), rtol=1e-4, atol=1e-6
    )


def add_adapter(folder, *, where, rank=2, alpha=6, safetensors=False, **settings):
    """A LoRA adapter as PEFT saves it around the official model."""
    weights = {}
    for module, (rows, columns) in where.items():
        weights[f"base_model.model.{module}.lora_A.weight"] = torch.randn(rank, columns)
        weights[f"base_model.model.{module}.lora_B.weight"] = torch.randn(rows, rank)
    torch.save(weights, folder / "adapter_model.bin")
    (folder / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "r": rank, "lora_alpha": alpha, "bias": "none", **settings})
    )
    return weights


def test_lora_adapters_are_merged_into_the_weights_they_belong_to(model, official, tmp_path):
    llm, siglip = (
        "llm.model.layers.0.self_attn.q_proj",
        "vision2d_model.vision2d_encoder.vision_model.encoder.layers.1.mlp.fc1",
    )
    weights = add_adapter(official, where={llm: (32, 32), siglip: (32, 16)})
    path = official / "llm" / "pytorch_model.bin"
    wrapped = torch.load(path, weights_only=True)
    wrapped["model.layers.0.self_attn.q_proj.base_layer.weight"] = wrapped.pop("model.layers.0.self_attn.q_proj.weight")
    torch.save(wrapped, path)
    report = convert_released(official, tmp_path / "out")
    assert report.merged_adapters == 2
    converted = open_weights(tmp_path / "out" / "model.safetensors")
    for module, target in (
        (llm, "language_model.model.layers.0.self_attn.q_proj.weight"),
        (siglip, "vision2d.encoder.encoder.layers.1.mlp.fc1.weight"),
    ):
        a, b = (weights[f"base_model.model.{module}.lora_{half}.weight"] for half in "AB")
        torch.testing.assert_close(converted[target], model.state_dict()[target] + 3 * b @ a)


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"use_dora": True}, "use_dora is True"), ({"bias": "all"}, "bias is 'all'"), ({"peft_type": "IA3"}, "'IA3'")],
)
def test_adapters_that_are_more_than_plain_lora_are_refused(official, tmp_path, settings, words):
    add_adapter(official, where={}, **settings)
    with pytest.raises(ModelError, match=words):
        convert_released(official, tmp_path / "out")


def test_a_missing_part_is_named(official, tmp_path):
    (official / "vision3d_connector" / "pytorch_model.bin").unlink()
    with pytest.raises(ModelError, match=r"vision3d_connector/pytorch_model.bin is missing"):
        convert_released(official, tmp_path / "out")


def test_a_missing_question_tokenizer_is_named_with_where_to_get_it(official, tmp_path):
    shutil.rmtree(official / "m3d_clip_tokenizer")
    with pytest.raises(ModelError, match=r"M3D-CLIP.*--question-tokenizer"):
        convert_released(official, tmp_path / "out")


def edit(official, part, change):
    path = official / part / "pytorch_model.bin"
    weights = torch.load(path, weights_only=True)
    change(weights)
    torch.save(weights, path)


def test_a_missing_tensor_and_a_wrong_shape_are_refused_before_anything_is_written(official, tmp_path):
    edit(official, "vision3d_connector", lambda weights: weights.pop("text_mlp.bias"))
    with pytest.raises(
        ModelError, match=r"1 tensors of the model are nowhere .* first \['scorer.question_projection.bias'\]"
    ):
        convert_released(official, tmp_path / "out")
    edit(official, "vision3d_connector", lambda weights: weights.update({"text_mlp.bias": torch.zeros(7)}))
    with pytest.raises(ModelError, match=r"text_mlp.bias: shape \(7,\) but the configuration asks for \(32,\)"):
        convert_released(official, tmp_path / "out")
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").glob("*.safetensors*"))


@pytest.mark.parametrize(
    ("key", "value"),
    [("vision3d_connector_type", "spatial_pooling_mlp2x_gelu"), ("vision2d_model_select_layer", -2)],
)
def test_forms_the_release_does_not_have_are_refused_by_name(official, tmp_path, key, value):
    path = official / "args" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(ModelError, match=f"{key} is {value!r}"):
        convert_released(official, tmp_path / "out")


class Evil:
    def __reduce__(self):
        return os.system, ("touch pwned",)


def test_a_pickle_that_would_run_code_is_refused(official, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (official / "llm" / "pytorch_model.bin").write_bytes(pickle.dumps({"model.norm.weight": Evil()}))
    with pytest.raises(ModelError, match="not a plain weight file"):
        convert_released(official, tmp_path / "out")
    assert not (tmp_path / "pwned").exists()


def test_weights_larger_than_a_shard_are_split_and_indexed(tmp_path):
    tensors = {f"t{i}": torch.full((20,), float(i)) for i in range(3)}
    planned = {name: tensor.to("meta") for name, tensor in tensors.items()}
    write_shards(tmp_path, planned, tensors.__getitem__, shard_bytes=100)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["weight_map"]["t1"] == "model-00002-of-00003.safetensors"
    assert index["metadata"]["total_size"] == 240
    for name, file_name in index["weight_map"].items():
        assert torch.equal(open_weights(tmp_path / file_name)[name], tensors[name])
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.shared_data
def test_the_official_golden_vectors_are_reproduced(official_golden):
    script = Path(__file__).parents[2] / "parity" / "official.py"
    before = sorted(official_golden.rglob("*"))
    result = subprocess.run([sys.executable, script, official_golden], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "FAIL" not in result.stdout
    assert sorted(official_golden.rglob("*")) == before
