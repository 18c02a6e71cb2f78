"""An encoded scan is found again by what it is, never mistaken for another, and never takes more room than given."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

import slicesight
from slicesight.errors import InputError
from slicesight.inference.encoding import encoder_digest
from slicesight.inference.feature_cache import FeatureCache, count_bytes


@pytest.fixture
def count_encodings(monkeypatch):
    """How often a reader's model has encoded a volume."""

    def watch(reader):
        calls = []
        encode = reader.model.encode_volumes
        monkeypatch.setattr(reader.model, "encode_volumes", lambda volumes: calls.append(1) or encode(volumes))
        return calls

    return watch


def test_the_same_scan_is_encoded_once_and_another_again(make_reader, make_grid, count_encodings):
    reader = make_reader()
    reader.cache = FeatureCache(memory_bytes=2**24)
    calls = count_encodings(reader)
    first = reader.encode(make_grid(reader, 0))
    again = reader.encode(make_grid(reader, 0))
    assert len(calls) == 1
    assert torch.equal(first.features.tokens_2d_VNLD, again.features.tokens_2d_VNLD)
    reader.encode(make_grid(reader, 1))
    assert len(calls) == 2
    assert (reader.cache.hits, reader.cache.misses) == (1, 2)


def test_another_window_is_another_scan(make_reader, phantom, count_encodings):
    reader = make_reader()
    reader.cache = FeatureCache(memory_bytes=2**24)
    calls = count_encodings(reader)
    for window in ("soft_tissue", "bone", "soft_tissue"):
        reader.encode(reader.grid(phantom.volume, window=window))
    assert len(calls) == 2


def test_changed_weights_do_not_find_what_the_old_ones_made(make_reader, make_grid, count_encodings):
    reader = make_reader()
    reader.cache = FeatureCache(memory_bytes=2**24)
    calls = count_encodings(reader)
    before = reader.encode(make_grid(reader)).features.tokens_2d_VNLD
    with torch.no_grad():
        reader.model.projector_2d[0].weight.mul_(2)
    after = reader.encode(make_grid(reader)).features.tokens_2d_VNLD
    assert len(calls) == 2
    assert not torch.equal(before, after)


def test_a_changed_language_model_still_finds_them(make_reader, make_grid, tmp_path, count_encodings):
    reader = make_reader()
    reader.cache = FeatureCache(memory_bytes=2**24)
    calls = count_encodings(reader)
    reader.encode(make_grid(reader))
    with torch.no_grad():
        reader.model.get_output_embeddings().weight.mul_(2)
    reader.encode(make_grid(reader))
    assert len(calls) == 1


def test_memory_keeps_the_scans_used_last_within_its_bound(make_reader, make_grid):
    reader = make_reader()
    size = count_bytes(reader.encode(make_grid(reader)).features)
    reader.cache = cache = FeatureCache(memory_bytes=2 * size + 10)
    for seed in (0, 1, 0, 2, 0, 1):
        reader.encode(make_grid(reader, seed))
        assert cache.num_bytes <= 2 * size
    assert (cache.hits, cache.misses) == (2, 4)


def test_files_serve_another_run_and_are_whole(make_reader, make_grid, tmp_path, count_encodings):
    reader = make_reader()
    reader.cache = FeatureCache(folder=tmp_path)
    made = reader.encode(make_grid(reader))
    (file,) = tmp_path.iterdir()
    assert set(load_file(file)) == {"tokens_3d_VKPD", "tokens_2d_VNLD"}
    other = make_reader()
    other.cache = FeatureCache(folder=tmp_path)
    calls = count_encodings(other)
    found = other.encode(make_grid(other))
    assert calls == []
    assert torch.equal(found.features.tokens_3d_VKPD, made.features.tokens_3d_VKPD)
    question = "Which phase is this?"
    assert other.ask(found, question, max_new_tokens=4)[0] == reader.ask(made, question, max_new_tokens=4)[0]


def test_the_folder_stays_within_its_bound(make_reader, make_grid, tmp_path):
    reader = make_reader()
    reader.cache = FeatureCache(folder=tmp_path)
    reader.encode(make_grid(reader))
    size = sum(file.stat().st_size for file in tmp_path.iterdir())
    reader.cache = FeatureCache(folder=tmp_path, folder_bytes=2 * size)
    for seed in range(1, 5):
        reader.encode(make_grid(reader, seed))
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 2 * size
    assert len(list(tmp_path.iterdir())) == 2


def test_a_damaged_file_is_one_plain_line(make_reader, make_grid, tmp_path):
    reader = make_reader()
    reader.cache = FeatureCache(folder=tmp_path)
    reader.encode(make_grid(reader))
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(InputError, match="a damaged file of encoded scans") as caught:
        reader.encode(make_grid(reader))
    assert "\n" not in str(caught.value)


def test_a_missing_folder_is_one_plain_line(tiny_model_folder, tmp_path):
    with pytest.raises(InputError, match="no such folder to keep encoded scans in"):
        slicesight.load(tiny_model_folder, cache_folder=tmp_path / "nowhere")


def test_load_takes_bounds_and_folder(tiny_model_folder, tmp_path):
    reader = slicesight.load(tiny_model_folder, cache_bytes=2**20, cache_folder=tmp_path)
    assert (reader.cache.memory_bytes, reader.cache.folder) == (2**20, tmp_path)
    assert slicesight.load(tiny_model_folder).cache is None


def test_the_digest_follows_weights_settings_and_dtype(make_reader):
    first, same, seed, pooled = (
        encoder_digest(make_reader(**changes).model) for changes in ({}, {}, {"seed": 1}, {"slice_pool": 2})
    )
    assert first == same
    assert len({first, seed, pooled, encoder_digest(make_reader(dtype=torch.bfloat16).model)}) == 4


def test_an_8_bit_encoder_does_not_find_the_full_ones_tokens(make_reader):
    from slicesight.inference.cpu.int8 import has_operator, quantize_model

    if not has_operator():
        pytest.skip("no 8-bit product on this processor")
    digests = []
    for seed in (0, 1):
        reader = make_reader(seed=seed)
        digests.append(encoder_digest(reader.model))
        quantize_model(reader.model)
        digests.append(encoder_digest(reader.model))
    assert len(set(digests)) == 4
