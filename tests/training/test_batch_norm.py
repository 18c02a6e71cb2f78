"""Batch norm keeps its running statistics while a model trains, so that training and inference see the same network."""

from __future__ import annotations

import pytest
import torch

from slicesight.data.dataset import open_dataset
from slicesight.training.recipe import read_recipe
from slicesight.training.run import set_trainable
from slicesight.training.start import build_start


@pytest.mark.parametrize("trainable", [(), ("projector_2d", "vision2d", "vision3d")])
def test_no_batch_norm_moves_its_statistics_whether_it_is_frozen_or_learns(tiny_recipe, trainable) -> None:
    recipe = read_recipe(tiny_recipe)
    data = open_dataset("phantoms:5:6", grid=recipe.grid, folder=recipe.data.folder)
    model, _ = build_start(recipe, data)
    set_trainable(model, trainable)
    norms = [module for module in model.modules() if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)]
    assert norms
    before = [(norm.running_mean.clone(), norm.running_var.clone()) for norm in norms]
    model.train()
    volumes = torch.from_numpy(data.voxels(data.cases[0]))[None, None]
    model.encode_2d(volumes)
    model.encode_3d(volumes)
    for norm, (mean, variance) in zip(norms, before, strict=True):
        assert torch.equal(norm.running_mean, mean)
        assert torch.equal(norm.running_var, variance)
