"""Recipes: checked key by key before anything is loaded."""

from pathlib import Path

import pytest

from slicesight.errors import InputError
from slicesight.training.recipe import Recipe, read_recipe
from slicesight.training.run import open_source

FOLDER = Path(__file__).parents[2] / "recipes"
RECIPES = sorted(path for path in FOLDER.glob("*.yaml") if "\nverb: " not in path.read_text("utf-8"))
TINY = """
name: tiny
output_dir: out
data: {folder: phantoms, count: 4}
grid: {num_slices: 8, height: 32, width: 32}
model: {}
stages:
  - {name: align, trainable: [projector_2d], steps: 2, learning_rate: 1.0e-3}
"""


@pytest.fixture
def tiny(tmp_path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return path


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_shipped_recipe_parses(path: Path) -> None:
    assert isinstance(read_recipe(path), Recipe)


def test_values_are_changed_by_dotted_keys(tiny: Path) -> None:
    recipe = read_recipe(tiny, ("stages.0.learning_rate=1e-5", "data.count=9", "seed=3"))
    assert (recipe.stages[0].learning_rate, recipe.data.count, recipe.seed) == (1e-5, 9, 3)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("sedd=3", "did you mean 'seed'"),
        ("stages.0.learning_rat=1", "did you mean 'learning_rate'"),
        ("data.count=many", "expected a whole number"),
        ("stages.0.tasks=[reports]", "'reports' is unknown"),
        ("stages.0.steps=0", "at least 1"),
        ("grid.plane=oblique", "oblique"),
        ("see_volume=false", "stage align: see_volume is false, and of projector_2d nothing is used then"),
        ("data={prepared: x, splti: train}", "did you mean 'split'"),
        ("data={foldr: x}", "did you mean 'folder'"),
        ("grid=null", "grid is missing; phantoms need one"),
        ("stages.0.epochs=2", "either steps or epochs"),
        (
            "stages.0={name: a, trainable: [x], learning_rate: 1, epochs: 1, volumes_per_step: 2, tokens_per_step: 9}",
            "either volumes_per_step or tokens_per_step",
        ),
        ("stages.0.subset={reports: 5}", "'reports' is unknown"),
        ("stages.0.subset={report: many}", "subset.report: expected a whole number"),
        ("stages.0.augment={rotate_deg: 90}", "rotate_deg is 90.0; expected 0 to 15"),
        ("stages.0.lora={rank: 0}", "rank is 0"),
        ("frozen_dtype=bfloat16", "bf16 is false"),
        ("report_to=tensorboard", "expected a list"),
        ("bf16=1", "expected true or false"),
    ],
)
def test_a_wrong_setting_is_one_line_that_says_what_to_change(tiny: Path, change: str, expected: str) -> None:
    with pytest.raises(InputError) as error:
        read_recipe(tiny, (change,))
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


def test_words_that_exclude_each_other_are_refused_together(tiny: Path) -> None:
    for changes, expected in (
        (("init=a", "parts={vision2d: b}"), "init and parts are both given"),
        (("feature_cache=f", "stages.0.augment={noise: 0.1}"), "stage align: augment changes pixels"),
        (("pretrain_slices={steps: 1, batch_size: 1, augment: {shift: 0.1}}",), "augment is for prepared scans"),
    ):
        with pytest.raises(InputError, match=expected):
            read_recipe(tiny, changes)


def test_data_may_be_any_source_by_its_name(tiny: Path) -> None:
    recipe = read_recipe(tiny, ("data={source: 'branches:5:3'}", "grid={num_slices: 32, height: 64, width: 64}"))
    opened = open_source(recipe, once=lambda facts: None)
    assert [case.volume for case in opened.cases] == ["branches:5:0", "branches:5:1", "branches:5:2"]
    assert opened.own_spec == recipe.grid
    for change, expected in (
        ("data={source: branches}", "data.source is 'branches'; expected NAME:REST"),
        ("data={source: 'branches:5:3', seed: 3, count: 1}", "unknown key 'source'"),
    ):
        with pytest.raises(InputError, match=expected):
            read_recipe(tiny, (change,))


def test_a_recipe_of_another_verb_is_told_its_command(tiny: Path) -> None:
    tiny.write_text("verb: insight segment" + TINY)
    with pytest.raises(InputError, match="no recipe for 'slicesight train'; run it with: slicesight insight segment"):
        read_recipe(tiny)
    tiny.write_text("verb: train" + TINY)
    assert read_recipe(tiny).name == "tiny"
