"""A 2D encoder that learns from the slices alone: it tells them apart, is kept, and says so where it collapsed."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from slicesight.errors import InputError
from slicesight.models.med3dinsight.teachers import ImageEncoder
from slicesight.training.pretraining_recipe import SelfTraining, TripletSettings
from slicesight.training.triplets import self_teacher
from slicesight.training.triplets.dataset import open_triplets
from slicesight.training.triplets.making import make_triplets
from slicesight.training.triplets.self_teacher import FACTS, learn_teacher

SMALL = SelfTraining(steps=6, batch_size=8, side=32, widths=(8, 8, 16, 16))


def pictures(tmp_path, count=4):
    rng = np.random.default_rng(0)
    files = [tmp_path / f"{number}.npy" for number in range(count)]
    for file in files:
        coarse = rng.integers(0, 256, (6, 3, 3)).astype(np.uint8)
        np.save(file, coarse.repeat(16, axis=1).repeat(16, axis=2))
    return files


def test_the_two_views_of_a_slice_come_nearer_than_others(tmp_path) -> None:
    settings = dataclasses.replace(SMALL, steps=40, batch_size=16, learning_rate=2e-2)
    learn_teacher(pictures(tmp_path), tmp_path / "teacher", settings)
    facts = json.loads((tmp_path / "teacher" / FACTS).read_text())
    assert facts["loss"] < -0.2
    assert facts["spread"] > 0.3 * facts["spread_at_most"]
    encoder = ImageEncoder(str(tmp_path / "teacher"), side=64)
    vectors, tokens = encoder.encode_densely(np.load(tmp_path / "0.npy"))
    assert vectors.shape == (6, 16)
    assert tokens.shape == (6, 2, 2, 16)
    assert np.allclose(tokens.mean(axis=(1, 2)), vectors, atol=1e-4)


def test_it_is_learnt_once_and_serves_as_a_dense_teacher(balls, tmp_path) -> None:
    settings = TripletSettings(
        image_encoder="self-trained", self_training=SMALL, size=(16, 16, 16), slices_per_plane=8, picture_size=40,
        image_encoder_size=64, dense_components=4,
    )  # fmt: skip
    make_triplets(balls, tmp_path / "t", settings)
    before = (tmp_path / "t" / "teacher" / "model.safetensors").read_bytes()
    make_triplets(balls, tmp_path / "t", settings)
    assert (tmp_path / "t" / "teacher" / "model.safetensors").read_bytes() == before
    assert open_triplets(tmp_path / "t").sizes == {"image": 16}


def test_a_collapse_and_missing_slices_are_one_line(tmp_path, monkeypatch) -> None:
    with pytest.raises(InputError, match="no slice of the split train"):
        learn_teacher([], tmp_path / "teacher", SMALL)
    monkeypatch.setattr(
        self_teacher.SelfTeacher, "forward", lambda model, *views: (model.predictor[0].weight.sum(), torch.zeros(()))
    )
    with pytest.raises(InputError, match="all slices look alike to the encoder after 6 steps"):
        learn_teacher(pictures(tmp_path), tmp_path / "teacher", SMALL)
    assert not (tmp_path / "teacher").exists()
