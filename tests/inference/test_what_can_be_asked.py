"""What `ask` takes as a scan, what it refuses, and how a predictor travels to another process."""

from __future__ import annotations

import json
import pickle

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from slicesight.errors import InputError, ModelError
from slicesight.inference.feature_cache import FeatureCache
from slicesight.inference.loading import load


def test_an_array_is_asked_as_the_same_array_in_a_file(make_predictor, tmp_path):
    predictor = make_predictor()
    voxels = np.random.default_rng(0).random((12, 40, 48), dtype=np.float32)
    np.save(tmp_path / "scan.npy", voxels)
    from_file = predictor.ask(tmp_path / "scan.npy", "Which phase?", max_new_tokens=8)
    assert predictor.ask(voxels, "Which phase?", max_new_tokens=8) == from_file
    assert predictor.ask(voxels[None], "Which phase?", max_new_tokens=8)[0].scores == from_file[0].scores


def test_an_array_of_other_axes_is_refused(make_predictor):
    with pytest.raises(InputError, match="array"):
        make_predictor().ask(np.zeros((4, 4), np.float32), "Which phase?")


def test_a_list_of_scans_is_referred_to_ask_many(make_predictor):
    with pytest.raises(InputError, match=r"the scan is a list; expected one path, .*ask_many"):
        make_predictor().ask(["a.nii", "b.nii"], "Which phase?")


def test_a_question_of_bytes_that_are_no_text_is_refused(make_predictor, make_grid):
    predictor = make_predictor()
    with pytest.raises(InputError, match="question 1 holds bytes that are no UTF-8"):
        predictor.ask(make_grid(predictor), "Wo ist die Zyste \udcfc?")


def test_a_predictor_is_pickled_and_answers_the_same(make_predictor, make_grid, tmp_path):
    predictor = make_predictor()
    predictor.cache = FeatureCache(memory_bytes=2**20, folder=tmp_path)
    grid = make_grid(predictor)
    before = predictor.ask(grid, "Which phase?", max_new_tokens=8)
    again = pickle.loads(pickle.dumps(predictor))
    assert again.ask(grid, "Which phase?", max_new_tokens=8) == before
    assert again.cache.folder == tmp_path


def test_an_8_bit_predictor_says_why_it_is_not_pickled(make_predictor):
    from slicesight.inference.cpu.int8 import has_operator, quantize_model

    if not has_operator():
        pytest.skip("needs an x86 processor with 8-bit products")
    predictor = make_predictor()
    quantize_model(predictor.model)
    with pytest.raises(ModelError, match="8-bit model cannot be pickled"):
        pickle.dumps(predictor)


def test_an_adapter_is_loaded_with_the_model_it_names_and_answers_as_the_merged_one(
    tiny_model_folder, phantom, tmp_path
):
    model = AutoModelForImageTextToText.from_pretrained(tiny_model_folder, dtype=torch.float32)
    torch.manual_seed(0)
    settings = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], modules_to_save=["projector_2d"])
    adapted = peft.get_peft_model(model, settings)
    for name, weight in adapted.named_parameters():
        if "lora_B" in name or "modules_to_save" in name:
            torch.nn.init.normal_(weight, std=0.3)
    adapted.save_pretrained(tmp_path / "lora")
    assert not (tmp_path / "lora" / "config.json").is_file()
    merged = tmp_path / "merged"
    adapted.merge_and_unload().save_pretrained(merged)
    AutoProcessor.from_pretrained(tiny_model_folder).save_pretrained(merged)
    found, expected, base = (load(folder) for folder in (tmp_path / "lora", merged, tiny_model_folder))
    assert found.card.facts == base.card.facts
    weights, wanted = found.model.state_dict(), expected.model.state_dict()
    assert weights.keys() == wanted.keys()
    assert all(torch.equal(weights[name], wanted[name]) for name in wanted)
    answers = [one.ask(phantom.volume, "Which phase is this?", max_new_tokens=8)[0] for one in (found, expected, base)]
    assert answers[0] == answers[1] != answers[2]


def test_an_adapter_that_cannot_be_loaded_is_one_line(tiny_model_folder, tmp_path):
    settings = {"peft_type": "LORA", "base_model_name_or_path": str(tiny_model_folder), "r": 2, "lora_alpha": 2}

    def refused(**changes):
        (tmp_path / "adapter_config.json").write_text(json.dumps({**settings, **changes}))
        with pytest.raises(ModelError) as caught:
            load(tmp_path)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "name the model there that the adapter is of" in refused(base_model_name_or_path=None)
    assert "gone/away: neither a folder here" in refused(base_model_name_or_path="gone/away")
    assert "this adapter does not fit its model" in refused(target_modules=["nowhere"])
    save_file({"base_model.model.nowhere.lora_A.weight": torch.zeros(2, 2)}, tmp_path / "adapter_model.safetensors")
    assert "of the adapter's weights do not fit the model" in refused(target_modules=["q_proj"])


def test_loading_shows_no_bar(tiny_model_folder, capfd):
    load(tiny_model_folder)
    assert "Loading weights" not in capfd.readouterr().err
