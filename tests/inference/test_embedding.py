"""Which vectors a scan has: what they are made of, that they come back from the table, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import slicesight
from slicesight.errors import InputError, ModelError
from slicesight.inference.embedding import load_embedder
from slicesight.models.med2e3.slice_scoring import describe_slices


@pytest.fixture(scope="module")
def embedding(tiny_reader, phantom):
    return tiny_reader.embed(phantom.volume)


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def test_the_encoder_space_is_what_the_encoders_give(tiny_reader, phantom, embedding):
    model = tiny_reader.model
    voxels = torch.from_numpy(tiny_reader.grid(phantom.volume).voxels)[None, None]
    with torch.inference_mode():
        bins, slices = model.vision3d(voxels)[0].numpy(), model.encode_2d(voxels)[0].numpy()
    np.testing.assert_allclose(embedding.depth_bins, bins, atol=1e-6)
    np.testing.assert_allclose(embedding.slices, unit(slices.mean(axis=1)), atol=1e-6)
    parts = [unit(bins.mean(axis=(0, 1))), unit(slices.mean(axis=(0, 1)))]
    np.testing.assert_allclose(embedding.volume, np.concatenate(parts) / 2**0.5, atol=1e-6)


def test_the_language_space_is_what_the_slice_scores_see(tiny_reader, phantom):
    found = tiny_reader.embed(phantom.volume, space="language")
    features = tiny_reader.encode(phantom.volume).features
    described = describe_slices(features.tokens_3d_VKPD, features.tokens_2d_VNLD, num_slices=8)[0].numpy()
    np.testing.assert_allclose(found.slices, unit(described), atol=1e-6)
    np.testing.assert_allclose(found.volume, unit(described.mean(axis=0)), atol=1e-6)
    assert found.depth_bins.shape[-1] == found.slices.shape[-1] == len(found.volume)


def test_an_encoded_scan_a_path_and_the_volume_have_the_same_vectors(tiny_reader, phantom, phantom_file):
    encoded = tiny_reader.encode(phantom_file)
    for space in ("encoder", "language"):
        by_path = tiny_reader.embed(phantom_file, space=space)
        np.testing.assert_array_equal(tiny_reader.embed(encoded, space=space).volume, by_path.volume)
        assert by_path.volume.dtype == np.float32
        assert np.linalg.norm(by_path.volume) == pytest.approx(1, abs=1e-6)


def test_vectors_come_with_the_receipt_and_each_slices_place(embedding, tiny_reader, phantom):
    grid = tiny_reader.grid(phantom.volume)
    assert embedding.receipt == grid.receipt
    assert embedding.slice_places == grid.slices
    assert (embedding.model, embedding.space, embedding.missing) == ("tiny-random", "encoder", {})


def test_a_model_of_synthetic_scans_warns_about_a_real_one(tiny_reader, phantom):
    from dataclasses import replace

    assert tiny_reader.embed(phantom.volume).warnings == ()
    real = replace(phantom.volume, is_synthetic=False)
    assert "synthetic CT only" in tiny_reader.embed(real).warnings[0]


def test_another_scan_has_other_vectors_and_slices_in_another_order_have_theirs(tiny_reader, phantom, embedding):
    from dataclasses import replace

    grid = tiny_reader.grid(phantom.volume)
    turned = replace(grid, voxels=np.ascontiguousarray(grid.voxels[::-1]))
    found = tiny_reader.embed(turned)
    np.testing.assert_allclose(found.slices[::-1], embedding.slices, atol=1e-5)
    assert np.abs(found.depth_bins - embedding.depth_bins).max() > 1e-3


def test_an_unknown_space_is_refused(tiny_reader, phantom):
    with pytest.raises(InputError, match="space is 'pixels'; expected encoder or language"):
        tiny_reader.embed(phantom.volume, space="pixels")


def test_a_med2e3_is_an_embedder_whose_digest_changes_with_a_weight(tiny_model_folder, phantom, embedding):
    embedder = load_embedder(tiny_model_folder)
    assert embedder.name == "tiny-random"
    assert embedder.grid_spec.num_slices == 8
    np.testing.assert_array_equal(embedder.embed(phantom.volume).volume, embedding.volume)
    before = embedder.digest()
    assert load_embedder(tiny_model_folder).digest() == before
    with torch.no_grad():
        next(embedder.predictor.model.vision3d.parameters()).add_(0.1)
    assert embedder.digest() != before


def test_a_folder_that_is_no_model_is_refused_as_load_refuses_it(tmp_path):
    with pytest.raises(InputError, match=r"no config\.json there"):
        slicesight.load_embedder(tmp_path)


@pytest.mark.parametrize("name", ["hf:some/model", "openai:http://127.0.0.1:9/v1#model"])
def test_a_guest_has_no_vectors_and_is_not_even_loaded(name) -> None:
    with pytest.raises(ModelError, match="a guest answers questions but has no encoder"):
        load_embedder(name)
