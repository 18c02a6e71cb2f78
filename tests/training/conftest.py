"""The smallest recipe that has every section of a run, and phantoms for it."""

from __future__ import annotations

from pathlib import Path

import pytest

TINY = """
name: tiny
output_dir: {out}
vocab_size: 400
seed: 3
save_every: 2
data: {{folder: {phantoms}, seed: 5, count: 6}}
grid: {{num_slices: 8, height: 32, width: 32}}
model:
  text_config: {{model_type: llama, hidden_size: 32, intermediate_size: 48, num_hidden_layers: 1,
                num_attention_heads: 2, num_key_value_heads: 2, tie_word_embeddings: true, attention_dropout: 0.1}}
  vision2d_config: {{model_type: resnet, num_channels: 1, embedding_size: 8, hidden_sizes: [8, 16], depths: [1, 1],
                    layer_type: basic}}
  vision3d_config: {{model_type: cnn3d, widths: [8, 8], blocks: [0, 0], strides: [[2, 4, 4], [2, 2, 2]]}}
pretrain_slices: {{steps: 3, batch_size: 4}}
pretrain_volumes: {{steps: 3, batch_size: 2}}
pretrain_language: {{steps: 3, batch_size: 8}}
stages:
  - {{name: align, trainable: [projector_2d, projector_3d], tasks: [report], steps: 5, learning_rate: 1.0e-3,
     volumes_per_step: 2}}
  - {{name: instruct, trainable: [projector_2d, projector_3d, language_model, vision2d], steps: 5,
     learning_rate: 1.0e-3, volumes_per_step: 2, score_weight: 0.1}}
"""


@pytest.fixture(scope="session")
def tiny_recipe(tmp_path_factory) -> Path:
    """A recipe file whose phantoms are made already."""
    from slicesight.training.phantom_set import open_phantom_set
    from slicesight.volumes.grid import GridSpec

    folder = tmp_path_factory.mktemp("tiny")
    grid = GridSpec(num_slices=8, height=32, width=32)
    open_phantom_set(folder / "phantoms", seed=5, count=6, grid=grid, workers=1)
    path = folder / "tiny.yaml"
    path.write_text(TINY.format(out=folder / "run", phantoms=folder / "phantoms"))
    return path
