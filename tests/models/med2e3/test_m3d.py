"""M3D-CLIP and M3D-LaMed folders, written here by their official names."""

import json

import pytest
import torch
from torch.nn import functional
from transformers import AutoModel, AutoModelForImageTextToText, AutoProcessor

from official_layout import write_lamed, write_m3d_clip
from slicesight.errors import ModelError
from slicesight.models.importers.m3d import M3DClip, M3DClipConfig, convert_folder, recall_at
from slicesight.models.med2e3.processing import Med2E3Processor

VIT = {"hidden_size": 64, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 1}
BERT = {
    "model_type": "bert",
    "vocab_size": 40,
    "hidden_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
}


@pytest.fixture
def clip():
    torch.manual_seed(0)
    vit = {"model_type": "m3d_vit", "image_size": [8, 32, 32], "patch_size": [2, 8, 8], "final_norm": True, **VIT}
    return M3DClip(M3DClipConfig(vision3d_config=vit, text_encoder_config=BERT)).eval()


@pytest.fixture
def clip_folder(clip, tmp_path):
    return write_m3d_clip(tmp_path / "clip", clip)


def test_m3d_clip_loads_whole_and_gives_the_same_vectors(clip, clip_folder, volumes, tmp_path):
    report = convert_folder(clip_folder, tmp_path / "out")
    assert not report.left_over
    again = AutoModel.from_pretrained(tmp_path / "out").eval()
    ids, mask = torch.tensor([[2, 5, 3], [2, 6, 0]]), torch.tensor([[1, 1, 1], [1, 1, 0]])
    assert torch.equal(again(volumes, ids, mask), clip(volumes, ids, mask))


def test_the_vectors_are_the_projected_class_tokens_of_unit_length(clip, volumes):
    vectors = clip.encode_volumes(volumes)
    torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(3))
    tokens = clip.volume_encoder.encode_tokens(volumes)
    assert tokens.shape == (3, 1 + 64, 64)
    expected = functional.normalize(
        tokens[:, 0] @ clip.volume_projection.weight.T + clip.volume_projection.bias, dim=-1
    )
    torch.testing.assert_close(vectors, expected)
    ids = torch.tensor([[2, 5, 3]])
    hidden = clip.text_encoder(ids).last_hidden_state[:, 0]
    torch.testing.assert_close(clip.encode_texts(ids), functional.normalize(clip.text_projection(hidden), dim=-1))
    torch.testing.assert_close(clip(volumes, ids), vectors @ clip.encode_texts(ids).T)


def test_recall_counts_queries_whose_own_key_is_near_enough():
    similarity = torch.tensor([[0.9, 0.1, 0.0], [0.8, 0.5, 0.1], [0.3, 0.2, 0.1]])
    assert [recall_at(similarity, k) for k in (1, 2, 3, 9)] == pytest.approx([1 / 3, 2 / 3, 1, 1])


@pytest.fixture
def lamed(make_model, make_processor):
    return make_model(
        fusion="3d",
        vision3d_config={"model_type": "m3d_vit", "patch_size": [2, 8, 8], "final_norm": True, **VIT},
        placeholder_token_id=310,
    )


@pytest.fixture
def lamed_folder(lamed, tokenizer, tmp_path):
    return write_lamed(tmp_path / "lamed", lamed, tokenizer)


def test_m3d_lamed_loads_as_the_three_d_only_configuration(lamed, lamed_folder, volumes, tmp_path):
    report = convert_folder(lamed_folder, tmp_path / "out")
    assert list(report.left_over.values()) == ["segmentation head of M3D-LaMed, out of scope here"]
    again = AutoModelForImageTextToText.from_pretrained(tmp_path / "out").eval()
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, lamed.state_dict()[name]), name
    processor = AutoProcessor.from_pretrained(tmp_path / "out")
    batch = processor("What is shown?", volumes=volumes[:1])
    assert again.config.fusion == "3d"
    output = again(**batch)
    assert output.slice_scores is None
    assert again.generate(**batch, max_new_tokens=2, min_new_tokens=2).shape[1] == batch["input_ids"].shape[1] + 2


def test_the_prompt_is_the_volume_after_the_opening_token_then_the_question(lamed_folder, volumes, tmp_path):
    convert_folder(lamed_folder, tmp_path / "out")
    processor = AutoProcessor.from_pretrained(tmp_path / "out")
    assert isinstance(processor, Med2E3Processor)
    written = "<im_patch>" * processor.num_visual_tokens + "What is shown? The liver.<eos>"
    batch = processor("What is shown?", answers="The liver.")
    assert batch["input_ids"][0].tolist() == processor.tokenizer(written)["input_ids"]
    assert batch["input_ids"][0, 0] == 1
    learnt = batch["labels"][0]
    assert processor.tokenizer.decode(learnt[learnt != -100]) == " The liver.<eos>"
    assert processor.tokenizer.decode(batch["input_ids"][0][batch["question_mask"][0]]) == "What is shown?"


def test_lamed_folders_of_another_make_or_with_a_missing_shard_are_refused(lamed_folder, tmp_path):
    path = lamed_folder / "config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps({**settings, "proj_pooling_type": "sequence"}))
    with pytest.raises(ModelError, match="proj_pooling_type is 'sequence'"):
        convert_folder(lamed_folder, tmp_path / "out")
    path.write_text(json.dumps(settings))
    (lamed_folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(
        ModelError, match=r"model-00002-of-00002.safetensors of model.safetensors.index.json is missing"
    ):
        convert_folder(lamed_folder, tmp_path / "out")


def test_a_folder_of_none_of_these_kinds_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"no args/config.json"):
        convert_folder(tmp_path, tmp_path / "out")
