"""What `ask` takes as a scan, what it refuses, and how a predictor travels to another process."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

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


def test_a_folder_with_an_adapter_says_so_and_of_what(tmp_path):
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "owner/base"}')
    with pytest.raises(ModelError, match=r"a LORA adapter of owner/base, not a whole model; .*merge"):
        load(tmp_path)


def test_loading_shows_no_bar(tiny_model_folder, capfd):
    load(tiny_model_folder)
    assert "Loading weights" not in capfd.readouterr().err
