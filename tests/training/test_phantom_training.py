"""Training on phantoms at the smallest size: labels are where they belong, every stage runs, only its parts move."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from slicesight.errors import InputError
from slicesight.models.med2e3.modeling import Med2E3ForConditionalGeneration
from slicesight.phantoms.dataset import PhantomSet, StoredPhantoms, open_phantom_set
from slicesight.phantoms.pretrain_encoders import SCHEME, cell_labels, slice_batches, volume_batches
from slicesight.phantoms.texts import KINDS
from slicesight.training.recipe import Recipe, read_recipe
from slicesight.training.run import run_recipe, set_trainable
from slicesight.training.start import build_start
from slicesight.training.trainer import entropy_loss, score_loss
from slicesight.volumes.grid import GridSpec

GRID = GridSpec(num_slices=8, height=32, width=32)
RECIPE = """
name: tiny
output_dir: {out}
vocab_size: 400
data: {{folder: {phantoms}, seed: 5, count: 6}}
grid: {{num_slices: 8, height: 32, width: 32}}
model:
  text_config: {{model_type: llama, hidden_size: 32, intermediate_size: 48, num_hidden_layers: 1,
                num_attention_heads: 2, num_key_value_heads: 2, tie_word_embeddings: true}}
  vision2d_config: {{model_type: resnet, num_channels: 1, embedding_size: 8, hidden_sizes: [8, 16], depths: [1, 1],
                    layer_type: basic}}
  vision3d_config: {{model_type: cnn3d, widths: [8, 8], blocks: [0, 0], strides: [[2, 4, 4], [2, 2, 2]]}}
pretrain_slices: {{steps: 2, batch_size: 4}}
pretrain_volumes: {{steps: 2, batch_size: 2}}
pretrain_language: {{steps: 2, batch_size: 8}}
stages:
  - {{name: align, trainable: [projector_2d, projector_3d], tasks: [report], steps: 2, learning_rate: 1.0e-3,
     volumes_per_step: 2}}
  - {{name: instruct, trainable: [projector_2d, projector_3d, language_model], steps: 2, learning_rate: 1.0e-3,
     volumes_per_step: 2}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("training")


@pytest.fixture(scope="module")
def phantoms(folder: Path) -> PhantomSet:
    return open_phantom_set(folder / "phantoms", seed=5, count=6, grid=GRID, workers=1)


@pytest.fixture(scope="module")
def recipe(folder: Path, phantoms: PhantomSet) -> Recipe:
    path = folder / "tiny.yaml"
    path.write_text(RECIPE.format(out=folder / "run", phantoms=folder / "phantoms"))
    return read_recipe(path)


def test_a_set_made_with_other_settings_is_refused(folder: Path, phantoms: PhantomSet) -> None:
    with pytest.raises(InputError, match="name another folder"):
        open_phantom_set(folder / "phantoms", seed=6, count=6, grid=GRID)


def test_a_set_grows_and_serves_smaller_ones(phantoms: PhantomSet, tmp_path: Path) -> None:
    open_phantom_set(tmp_path, seed=5, count=2, grid=GRID, workers=1)
    for count in (4, 3):
        found = open_phantom_set(tmp_path, seed=5, count=count, grid=GRID, workers=1)
        assert len(found) == len(found.voxels) == count
        assert found.truths == phantoms.truths[:count]
        assert np.array_equal(found.findings, phantoms.findings[:count])
        assert np.array_equal(found.voxels, phantoms.voxels[:count])
    assert not list(tmp_path.glob("*.partial"))


def test_findings_on_the_grid_are_those_of_the_truth(phantoms: PhantomSet) -> None:
    for case, truth in enumerate(phantoms.truths):
        assert set(np.unique(phantoms.findings[case])) - {0} == set(range(1, len(truth.findings) + 1))


def test_a_cell_is_labelled_with_the_kind_that_lies_in_it(phantoms: PhantomSet) -> None:
    case = next(i for i, truth in enumerate(phantoms.truths) if truth.findings)
    column = KINDS.index(phantoms.truths[case].findings[0].abnormality)
    depth, row, _ = (int(c) for c in np.argwhere(phantoms.findings[case] == 1).mean(axis=0).round())
    labels = cell_labels(phantoms, case, slice(None), (2, 2, 1))
    fullest = labels.reshape(2, 2, 1, len(SCHEME.cell_labels))[..., column]
    assert fullest.any()
    assert fullest[depth // 4, row // 16, 0] == 1


def test_batches_for_both_encoders_have_a_label_per_token(phantoms: PhantomSet) -> None:
    flat = next(slice_batches(phantoms, size=3, cells=(1, 4, 4), coarse=(1, 2, 2), rng=np.random.default_rng(0)))
    deep = next(volume_batches(phantoms, size=2, cells=(2, 4, 4), coarse=(2, 2, 1), rng=np.random.default_rng(0)))
    assert flat.pixels.shape == (3, 1, 32, 32)
    assert flat.cells.shape == (3, 16, len(SCHEME.cell_labels))
    assert flat.coarse.shape == (3, 4, len(SCHEME.cell_labels))
    assert deep.pixels.shape == (2, 1, 8, 32, 32)
    assert deep.cells.shape == (2, 32, len(SCHEME.cell_labels))
    assert deep.coarse.shape == (2, 4, len(SCHEME.cell_labels))


def test_score_loss_is_minus_log_of_the_mass_and_skips_questions_without_slices() -> None:
    scores = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]])
    true = torch.tensor([[True, True, False], [False, False, False]])
    assert torch.isclose(score_loss(scores, true), -torch.tensor(0.75).log())
    assert score_loss(scores, torch.zeros_like(true)) == 0


def test_entropy_loss_is_one_for_an_even_spread_and_zero_on_one_slice_and_skips_absent_volumes() -> None:
    even, single, absent = [0.25] * 4, [0.0, 1.0, 0.0, 0.0], [0.0] * 4
    scores = torch.tensor([[even, absent], [single, absent]])
    is_scored = torch.tensor([[True, False], [True, False]])
    assert entropy_loss(scores, is_scored) == pytest.approx(0.5)
    assert entropy_loss(scores, torch.zeros_like(is_scored)) == 0
    relevance = torch.tensor([[[0.0, 0.1, 0.2, 0.9]]], requires_grad=True)
    entropy_loss(relevance.softmax(dim=-1), torch.tensor([[True]])).backward()
    assert relevance.grad[0, 0].argmin() == 3, "a step against the gradient favours the slice that is ahead"


def test_only_the_named_parts_learn(recipe: Recipe, phantoms: PhantomSet) -> None:
    model, _ = build_start(recipe, StoredPhantoms(phantoms))
    set_trainable(model, ("projector_2d",))
    learning = {name.split(".")[0] for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert learning == {"projector_2d"}
    with pytest.raises(InputError, match="'projecter' is no part"):
        set_trainable(model, ("projecter",))


GOLDEN_LOSSES = [5.9836, 59.5665, 62.3473, 5.99835, 5.98747]
"""language, slices, volumes, align, instruct: of the code that trained the model that ships, bit by bit."""


def losses_of(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def test_a_recipe_runs_from_nothing_to_a_folder_that_loads(recipe: Recipe, folder: Path) -> None:
    path = run_recipe(recipe)
    model = Med2E3ForConditionalGeneration.from_pretrained(path)
    assert next(model.parameters()).dtype == torch.bfloat16
    assert json.loads((path / "card.json").read_text())["name"] == "tiny"
    stages = [json.loads(line)["stage"] for line in (folder / "run" / "log.jsonl").read_text().splitlines()]
    assert list(dict.fromkeys(stages)) == ["build", "language", "slices", "volumes", "align", "instruct"]
    assert (folder / "run" / "loss.png").stat().st_size > 1000
    assert losses_of(folder / "run") == pytest.approx(GOLDEN_LOSSES, rel=1e-3), "a change of these is one of Numerics"
    assert not list(path.parent.glob("*.partial"))


def test_the_same_recipe_and_seed_give_the_same_model(recipe: Recipe, folder: Path) -> None:
    from dataclasses import replace

    weights = []
    for name in ("once", "again"):
        path = run_recipe(replace(recipe, output_dir=str(folder / name)))
        weights.append(Med2E3ForConditionalGeneration.from_pretrained(path).state_dict())
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
