"""Packing as a recipe's word: which prompts share a row, when it pays, and the same losses."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from slicesight.errors import InputError
from slicesight.models.med2e3.configuration import Med2E3Config
from slicesight.models.med2e3.matching import count_shared_visual_tokens
from slicesight.models.med2e3.modeling import Med2E3ForConditionalGeneration
from slicesight.training import packing
from slicesight.training.packing import Cost, measure_cost, plan_rows
from slicesight.training.recipe import read_recipe
from slicesight.training.run import run_recipe

IMAGE, NO = 9, -100
LINEAR = Cost(per_token=1, per_pair=0)


def plan(rows, labels, volumes, *, cost=LINEAR):
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    wanted = torch.tensor([row + [NO] * (width - len(row)) for row in labels])
    index = torch.tensor(volumes).view(len(rows), -1)
    return plan_rows(ids, mask, wanted, index, placeholder=IMAGE, num_shared=2, cost=cost)


def test_prompts_of_one_volume_share_their_head_and_its_first_tokens() -> None:
    rows = [[1, IMAGE, IMAGE, IMAGE, 5, 6], [1, IMAGE, IMAGE, IMAGE, 7, 8, 6], [1, IMAGE, IMAGE, IMAGE, 5, 6]]
    labels = [[NO] * 5 + [6], [NO] * 6 + [6], [NO] * 5 + [6]]
    found = plan(rows, labels, [0, 0, 1])
    assert found.places.tolist() == [[0, 1, 2, 3, 4, 5, 10, 11, 12, 13], [14, 15, 16, 17, 18, 19, -1, -1, -1, -1]]
    assert found.parts.tolist() == [[0, 0, 0, 1, 1, 1, 2, 2, 2, 2], [0, 0, 0, 1, 1, 1, -1, -1, -1, -1]]
    assert found.saved == pytest.approx(1 - 20 / 21)


def test_prompts_with_another_head_or_another_volume_do_not_share() -> None:
    rows = [[1, IMAGE, IMAGE, IMAGE, 5], [2, IMAGE, IMAGE, IMAGE, 5], [1, IMAGE, IMAGE, IMAGE, 5]]
    labels = [[NO] * 4 + [5]] * 3
    assert plan(rows, labels, [0, 0, 1]).places.shape == (3, 5)
    assert plan(rows, labels, [[0, 1], [0, 1], [0, 2]]).places.shape == (3, 5)


def test_every_prompt_predicts_its_own_first_supervised_token() -> None:
    rows = [[IMAGE, IMAGE, 5, 6], [IMAGE, IMAGE, 7, 6]]  # what is supervised follows the shared tokens at once
    found = plan(rows, [[NO, NO, 5, 6], [NO, NO, 7, 6]], [0, 0])
    assert found.parts.tolist() == [[0, 1, 1, 1, 2, 2, 2]]


def test_no_token_is_lost_and_none_comes_twice() -> None:
    generator = torch.Generator().manual_seed(0)
    rows, labels = [], []
    for _ in range(12):
        length = int(torch.randint(2, 9, (1,), generator=generator))
        rest = torch.randint(1, 8, (length,), generator=generator).tolist()
        rows.append([1, 1, IMAGE, IMAGE, IMAGE, *rest])
        labels.append([NO] * (5 + length - 1) + [rest[-1]])
    found = plan(rows, labels, [0] * 6 + [1] * 6)
    width = max(map(len, rows))
    own = found.places[found.parts > 0].tolist()
    expected = [prompt * width + place for prompt, row in enumerate(rows) for place in range(4, len(row))]
    assert sorted(own) == expected
    assert found.places.shape[0] == 2


@pytest.mark.parametrize(
    ("overrides", "shares_slices"),
    [
        ({}, False),
        ({"aggregation": "mean"}, True),
        ({"aggregation": "max"}, True),
        ({"aggregation": "random"}, False),
        ({"scoring_inputs": ["2d"]}, True),
        ({"aggregation": "mean", "score_dropout": 0.1}, False),
    ],
)
def test_the_slices_tokens_are_shared_where_no_question_weighs_them(
    tiny_model_folder, overrides, shares_slices
) -> None:
    config = Med2E3Config.from_pretrained(tiny_model_folder)
    for name, value in overrides.items():
        setattr(config, name, value)
    model = Med2E3ForConditionalGeneration(config)
    num_2d = 16
    assert count_shared_visual_tokens(model.config, training=True) == model.num_visual_tokens - (
        0 if shares_slices else num_2d
    )


def equal_prompts(count: int, head: int, rest: int) -> tuple[list[list[int]], list[list[int]]]:
    rows = [[1] * (head - 3) + [IMAGE] * 3 + [number + 20] * rest for number in range(count)]
    return rows, [[NO] * (len(row) - 1) + row[-1:] for row in rows]


def test_rows_take_as_many_prompts_as_cost_least() -> None:
    rows, labels = equal_prompts(11, 30, 30)
    assert plan(rows, labels, [0] * 11).places.shape[0] == 1
    assert plan(rows, labels, [0] * 11, cost=Cost(per_token=0, per_pair=1)).places.shape[0] == 11
    between = plan(rows, labels, [0] * 11, cost=Cost(per_token=120, per_pair=1)).places.shape[0]
    assert 1 < between < 11


def test_short_prompts_fill_the_rows_that_one_long_prompt_makes_long() -> None:
    """A report beside short questions: without rows that hold several, most of the batch is padding."""
    rows, labels = equal_prompts(10, 4, 10)
    rows.append([1, IMAGE, IMAGE, IMAGE] + [50] * 60)
    labels.append([NO] * 63 + [50])
    found = plan(rows, labels, [0] * 11, cost=Cost(per_token=1000, per_pair=1))
    assert (found.places == -1).float().mean() < 0.2
    assert found.saved > 0.6


def test_the_cost_is_that_of_the_layers_matrices(tiny_model_folder) -> None:
    model = Med2E3ForConditionalGeneration.from_pretrained(tiny_model_folder)
    found = measure_cost(model.language_model)
    assert found.per_token == 2 * (4 * 16 * 16 + 3 * 16 * 32)
    assert found.per_pair == 4 * 1 * 16


def test_a_recipe_with_packing_trains_to_the_same_losses(tiny_recipe, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(packing, "measure_cost", lambda model: LINEAR)
    recipe = read_recipe(tiny_recipe, ("model.text_config.attention_dropout=0.0",))
    recipe = replace(recipe, pretrain_slices=None, pretrain_volumes=None, pretrain_language=None)
    losses = []
    for packs in (False, True):
        folder = tmp_path / str(packs)
        run_recipe(replace(recipe, packing=packs, output_dir=str(folder)))
        lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        losses.append([line["loss"] for line in lines if "loss" in line])
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)
    assert losses[1] != losses[0], "packed rows add in another order; equal bits mean that nothing was packed"


def test_packing_without_a_volume_is_refused(tiny_recipe) -> None:
    with pytest.raises(InputError, match="see_volume is false"):
        read_recipe(tiny_recipe, ("packing=true", "see_volume=false"))
