"""An encoded scan is found again by what it is, never mistaken for another, and never takes more room than given."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

import slicesight
from slicesight.errors import InputError
from slicesight.inference.encoded_scan import count_bytes
from slicesight.inference.feature_cache import FeatureCache
from slicesight.models.fingerprint import digest_encoders


@pytest.fixture
def count_encodings(monkeypatch):
    """How often a predictor's model has encoded a volume."""

    def watch(predictor):
        calls = []
        encode = predictor.model.encode_volumes
        monkeypatch.setattr(predictor.model, "encode_volumes", lambda volumes: calls.append(1) or encode(volumes))
        return calls

    return watch


def test_the_same_scan_is_encoded_once_and_another_again(make_predictor, make_grid, count_encodings):
    predictor = make_predictor()
    predictor.cache = FeatureCache(memory_bytes=2**24)
    calls = count_encodings(predictor)
    first = predictor.encode(make_grid(predictor, 0))
    again = predictor.encode(make_grid(predictor, 0))
    assert len(calls) == 1
    assert torch.equal(first.features.tokens_2d_VNLD, again.features.tokens_2d_VNLD)
    predictor.encode(make_grid(predictor, 1))
    assert len(calls) == 2
    assert (predictor.cache.hits, predictor.cache.misses) == (1, 2)


def test_another_window_is_another_scan(make_predictor, phantom, count_encodings):
    predictor = make_predictor()
    predictor.cache = FeatureCache(memory_bytes=2**24)
    calls = count_encodings(predictor)
    for window in ("soft_tissue", "bone", "soft_tissue"):
        predictor.encode(predictor.grid(phantom.volume, window=window))
    assert len(calls) == 2


def test_changed_weights_do_not_find_what_the_old_ones_made(make_predictor, make_grid, count_encodings):
    predictor = make_predictor()
    predictor.cache = FeatureCache(memory_bytes=2**24)
    calls = count_encodings(predictor)
    before = predictor.encode(make_grid(predictor)).features.tokens_2d_VNLD
    with torch.no_grad():
        predictor.model.projector_2d[0].weight.mul_(2)
    after = predictor.encode(make_grid(predictor)).features.tokens_2d_VNLD
    assert len(calls) == 2
    assert not torch.equal(before, after)


def test_a_changed_language_model_still_finds_them(make_predictor, make_grid, tmp_path, count_encodings):
    predictor = make_predictor()
    predictor.cache = FeatureCache(memory_bytes=2**24)
    calls = count_encodings(predictor)
    predictor.encode(make_grid(predictor))
    with torch.no_grad():
        predictor.model.get_output_embeddings().weight.mul_(2)
    predictor.encode(make_grid(predictor))
    assert len(calls) == 1


def test_memory_keeps_the_scans_used_last_within_its_bound(make_predictor, make_grid):
    predictor = make_predictor()
    size = count_bytes(predictor.encode(make_grid(predictor)).features)
    predictor.cache = cache = FeatureCache(memory_bytes=2 * size + 10)
    for seed in (0, 1, 0, 2, 0, 1):
        predictor.encode(make_grid(predictor, seed))
        assert cache.memory.num_bytes <= 2 * size
    assert (cache.hits, cache.misses) == (2, 4)


def test_files_serve_another_run_and_are_whole(make_predictor, make_grid, tmp_path, count_encodings):
    predictor = make_predictor()
    predictor.cache = FeatureCache(folder=tmp_path)
    made = predictor.encode(make_grid(predictor))
    (file,) = tmp_path.iterdir()
    assert set(load_file(file)) == {"tokens_3d_VKPD", "tokens_2d_VNLD"}
    other = make_predictor()
    other.cache = FeatureCache(folder=tmp_path)
    calls = count_encodings(other)
    found = other.encode(make_grid(other))
    assert calls == []
    assert torch.equal(found.features.tokens_3d_VKPD, made.features.tokens_3d_VKPD)
    question = "Which phase is this?"
    assert other.ask(found, question, max_new_tokens=4)[0] == predictor.ask(made, question, max_new_tokens=4)[0]


def test_the_folder_stays_within_its_bound(make_predictor, make_grid, tmp_path):
    predictor = make_predictor()
    predictor.cache = FeatureCache(folder=tmp_path)
    predictor.encode(make_grid(predictor))
    size = sum(file.stat().st_size for file in tmp_path.iterdir())
    predictor.cache = FeatureCache(folder=tmp_path, folder_bytes=2 * size)
    for seed in range(1, 5):
        predictor.encode(make_grid(predictor, seed))
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 2 * size
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("damage", ["cut short", "other tensors", "no bytes"])
def test_a_damaged_file_is_encoded_anew_and_said(make_predictor, make_grid, tmp_path, caplog, damage):
    predictor = make_predictor()
    predictor.cache = FeatureCache(folder=tmp_path)
    whole = predictor.encode(make_grid(predictor)).features
    (file,) = tmp_path.iterdir()
    if damage == "other tensors":
        save_file({"weights": torch.zeros(3)}, file)
    else:
        file.write_bytes(file.read_bytes()[: 40 if damage == "cut short" else 0])
    again = predictor.encode(make_grid(predictor)).features
    assert torch.equal(again.tokens_2d_VNLD, whole.tokens_2d_VNLD)
    assert [str(file) in line and "encoded anew" in line for line in caplog.messages] == [True]
    assert set(load_file(file)) == {"tokens_2d_VNLD", "tokens_3d_VKPD"}


def test_a_new_folder_is_made(make_predictor, make_grid, tmp_path):
    predictor = make_predictor()
    predictor.cache = FeatureCache(folder=tmp_path / "a" / "b")
    predictor.encode(make_grid(predictor))
    assert len(list((tmp_path / "a" / "b").iterdir())) == 1


def test_a_place_where_no_folder_can_be_is_one_plain_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="no folder can be made there") as caught:
        FeatureCache(folder=tmp_path / "file" / "below")
    assert "\n" not in str(caught.value)


def test_load_takes_bounds_and_folder(tiny_model_folder, tmp_path):
    predictor = slicesight.load(tiny_model_folder, cache_bytes=2**20, cache_folder=tmp_path)
    assert (predictor.cache.memory.max_bytes, predictor.cache.folder) == (2**20, tmp_path)
    assert slicesight.load(tiny_model_folder).cache is None


def test_the_digest_follows_weights_settings_and_dtype(make_predictor):
    first, same, seed, pooled = (
        digest_encoders(make_predictor(**changes).model) for changes in ({}, {}, {"seed": 1}, {"slice_pool": 2})
    )
    assert first == same
    assert len({first, seed, pooled, digest_encoders(make_predictor(dtype=torch.bfloat16).model)}) == 4


def test_an_8_bit_encoder_does_not_find_the_full_ones_tokens(make_predictor):
    from slicesight.inference.cpu.int8 import has_operator, quantize_model

    if not has_operator():
        pytest.skip("no 8-bit product on this processor")
    digests = []
    for seed in (0, 1):
        predictor = make_predictor(seed=seed)
        digests.append(digest_encoders(predictor.model))
        quantize_model(predictor.model)
        digests.append(digest_encoders(predictor.model))
    assert len(set(digests)) == 4
