"""Stage 0 learns from phantoms alone, and where its loss is no number it stops in one line."""

from __future__ import annotations

from dataclasses import replace

import pytest

from slicesight.data.dataset import ManifestDataset
from slicesight.errors import InputError
from slicesight.training.recipe import EncoderRun, read_recipe
from slicesight.training.run import run_recipe


@pytest.fixture(scope="session")
def recipe(tmp_path_factory):
    from slicesight.training.recipe import Recipe

    folder = tmp_path_factory.mktemp("stage0")
    settings = folder / "recipe.yaml"
    settings.write_text(
        f"""
name: tiny
output_dir: {folder / "run"}
vocab_size: 400
data: {{folder: {folder / "phantoms"}, seed: 5, count: 2, workers: 1}}
grid: {{num_slices: 8, height: 32, width: 32}}
model:
  text_config: {{model_type: llama, hidden_size: 32, intermediate_size: 48, num_hidden_layers: 1,
                num_attention_heads: 2, num_key_value_heads: 2, tie_word_embeddings: true}}
  vision2d_config: {{model_type: resnet, num_channels: 1, embedding_size: 8, hidden_sizes: [8, 16], depths: [1, 1],
                    layer_type: basic}}
  vision3d_config: {{model_type: cnn3d, widths: [8, 8], blocks: [0, 0], strides: [[2, 4, 4], [2, 2, 2]]}}
stages: []
"""
    )
    found = read_recipe(settings)
    assert isinstance(found, Recipe)
    return found


def test_a_loss_that_is_no_number_is_one_line_with_the_setting_to_lower(recipe, tmp_path) -> None:
    wild = replace(
        recipe, output_dir=str(tmp_path), pretrain_slices=EncoderRun(steps=9, batch_size=2, learning_rate=1e30)
    )
    with pytest.raises(InputError, match=r"^slices: the loss is (nan|inf) at step \d; lower its learning_rate$"):
        run_recipe(wild)


def test_data_without_truth_have_no_stage_0(tmp_path) -> None:
    with pytest.raises(InputError, match="stage 0 learns from the truth of phantoms"):
        ManifestDataset(tmp_path / "manifest.jsonl").stage0()
