"""Which files make a model, and what is refused before a byte of its weights is fetched."""

import json

import pytest

from official_layout import write_lamed, write_m3d_clip
from slicesight.errors import ModelError
from slicesight.models.importers.layouts import find_layout
from slicesight.models.importers.m3d import M3DClip, M3DClipConfig

TINY_VIT = {"hidden_size": 64, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 1}


def look_at(folder):
    paths = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    return find_layout("owner/model", paths, lambda path: (folder / path).read_bytes())


def look(*paths, **settings):
    return find_layout("owner/model", paths, lambda _: json.dumps(settings).encode())


def test_an_official_med2e3_is_its_parts_its_settings_and_its_tokenizer_and_nothing_else(official_folders):
    layout = look_at(official_folders[0])
    assert (layout.kind, layout.needs_vocabulary) == ("med2e3", True)
    assert "llm/pytorch_model.bin" in layout.files
    assert "args/config.json" in layout.files
    assert "tokenizer.json" in layout.files
    assert not {"README.md", "optimizer.pt"} & set(layout.files)
    assert len(layout.weights) == 5
    assert layout.config.text_config.hidden_size == 32
    assert layout.config.text_encoder_config.num_hidden_layers == 12  # a BERT-base until the weights are there


def test_the_vocabulary_is_not_asked_for_where_the_folder_has_it(official_folders, tmp_path):
    import shutil

    folder = shutil.copytree(official_folders[0], tmp_path / "whole")
    shutil.copytree(official_folders[1], folder / "m3d_clip_tokenizer")
    layout = look_at(folder)
    assert not layout.needs_vocabulary
    assert "m3d_clip_tokenizer/vocab.txt" in layout.files


def test_lamed_and_clip_are_known_by_their_settings(make_model, tokenizer, tmp_path):
    vit = {"model_type": "m3d_vit", "patch_size": [2, 8, 8], "final_norm": True, **TINY_VIT}
    lamed = look_at(write_lamed(tmp_path / "lamed", make_model(fusion="3d", vision3d_config=vit), tokenizer))
    assert (lamed.kind, lamed.config.fusion) == ("lamed", "3d")
    assert lamed.config.vision3d_config.num_hidden_layers == 12
    assert len(lamed.weights) == 3  # two shards and their index
    bert = {"model_type": "bert", "vocab_size": 40, "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1}
    clip = M3DClip(
        M3DClipConfig(vision3d_config={**vit, "image_size": [8, 32, 32]}, text_encoder_config=bert),
    )
    folder = write_m3d_clip(tmp_path / "clip", clip)
    (folder / "pretrained_ViT.bin").write_bytes(b"\0")
    found = look_at(folder)
    assert (found.kind, found.config, found.weights) == ("m3d_clip", None, ("pytorch_model.bin",))
    assert "pretrained_ViT.bin" not in found.files


def test_a_folder_of_this_package_is_taken_as_it_is(tiny_model_folder):
    layout = look_at(tiny_model_folder)
    assert layout.is_own
    assert set(layout.files) == {path.name for path in tiny_model_folder.iterdir()}


@pytest.mark.parametrize(
    ("paths", "settings", "words"),
    [
        (["README.md", "data.csv"], {}, "holds no config.json, so it is not a model"),
        (["adapter_config.json", "adapter_model.safetensors"], {}, "holds an adapter, not a whole model"),
        (["config.json", "model.safetensors"], {"model_type": "llama"}, "its model is 'llama'; expected one of this"),
        (["config.json", "model.safetensors"], {}, "of no kind that its config.json names"),
        (["config.json"], {"model_type": "m3d_clip"}, "holds no weights; expected model.safetensors or"),
        (["config.json", "model-00001-of-00002.safetensors"], {"model_type": "m3d_clip"}, "holds no weights"),
        (["config.json", "pytorch_model.bin"], {"model_type": "med2e3"}, "no safetensors; save the model again"),
        (["args/config.json"], {}, "owner/model/llm: holds no weights"),
    ],
)
def test_what_is_no_model_here_is_refused_with_what_was_found(paths, settings, words):
    with pytest.raises(ModelError, match=words):
        look(*paths, **settings)


def test_settings_that_are_no_json_object_are_refused():
    with pytest.raises(ModelError, match=r"config.json is not valid JSON"):
        find_layout("owner/model", ["config.json"], lambda _: b"<html>")
    with pytest.raises(ModelError, match=r"config.json holds a list"):
        find_layout("owner/model", ["config.json"], lambda _: b"[]")


def test_names_that_leave_the_folder_are_never_among_the_files(tiny_model_folder):
    odd = ["../config.json", "/etc/passwd.json", "a/../../tokenizer.json", "question_tokenizer/../../x.json"]
    layout = find_layout(
        "owner/model",
        [*odd, *(path.name for path in tiny_model_folder.iterdir())],
        lambda path: (tiny_model_folder / path).read_bytes(),
    )
    assert not set(odd) & set(layout.files)
