"""Recipes of the insight verbs: checked key by key, with reasons."""

from pathlib import Path

import pytest

from slicesight.errors import InputError
from slicesight.settings import build_settings
from slicesight.training.pretraining_recipe import (
    PretrainRecipe,
    TripletSettings,
    read_pretrain_recipe,
    read_triplet_settings,
)

TINY = """
verb: insight pretrain
name: tiny
output_dir: out
data: scans.jsonl
triplets: {size: [16, 16, 16], slices_per_plane: 8, picture_size: 32, image_encoder: pixels}
text_weight: 0
training: {batch_size: 8, steps: 2}
"""


@pytest.fixture
def tiny(tmp_path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return path


def test_values_are_changed_by_dotted_keys(tiny) -> None:
    recipe = read_pretrain_recipe(tiny, ("training.batch_size=16", "variant=released", "triplets.size.0=24"))
    assert (recipe.training.batch_size, recipe.variant, recipe.triplets.size) == (16, "released", (24, 16, 16))
    assert recipe.masked_share == 0.0
    assert read_pretrain_recipe(tiny).masked_share == 0.5


@pytest.mark.parametrize("size", [1, 7])
def test_fewer_than_eight_volumes_a_step_are_refused_with_the_reason(tiny, size) -> None:
    with pytest.raises(InputError, match=r"batch_size is .*next to no signal \(of one pair .* 0.0513 .*at least 8"):
        read_pretrain_recipe(tiny, (f"training.batch_size={size}",))
    alone = read_pretrain_recipe(tiny, (f"training.batch_size={size}", "image_weight=0"))
    assert not alone.aligns  # reconstruction needs no partners


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("sedd=1", "did you mean 'seed'"),
        ("training.batch_sise=9", "did you mean 'batch_size'"),
        ("variant=correct", "did you mean 'corrected'"),
        ("alignment=ot", "the words are transport, contrastive"),
        ("triplets.slices_per_plane=4", "8 to 16"),
        ("triplets.size=[16,16]", "expected 3 values, found 2"),
        ("triplets.text=model", "captioner is None"),
        ("triplets.prompt=Describe {organ}", "'organ' cannot be filled"),
        ("triplets.window=lung+bone+brain", "three channels"),
        ("psat.plane_slice=1", "expected true or false"),
        ("mask_share=1", "expected 0 up to"),
        ("image_weight=-1", "0 or more"),
        ("epochs=0", "at least 1"),
        ("mass=2", "mass must lie"),
    ],
)
def test_a_wrong_setting_is_one_line_that_says_what_to_change(tiny, change, expected) -> None:
    with pytest.raises(InputError) as error:
        read_pretrain_recipe(tiny, (change,))
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


def test_all_weights_zero_is_refused(tiny) -> None:
    with pytest.raises(InputError, match="nothing would be learnt"):
        read_pretrain_recipe(tiny, ("image_weight=0", "reconstruction_weight=0"))


def test_a_recipe_of_another_verb_is_told_its_command(tiny) -> None:
    tiny.write_text(TINY.replace("insight pretrain", "insight segment"))
    with pytest.raises(InputError, match="run it with: slicesight insight segment"):
        read_pretrain_recipe(tiny)
    tiny.write_text(TINY.replace("verb: insight pretrain", ""))
    with pytest.raises(InputError, match="expected the line 'verb: insight pretrain'"):
        read_pretrain_recipe(tiny)


def test_a_missing_key_is_named() -> None:
    with pytest.raises(InputError, match="triplets: image_encoder is missing"):
        read_triplet_settings()


def test_triplet_settings_come_from_a_recipe_and_from_changes(tiny) -> None:
    settings = read_triplet_settings(tiny, ("slices_per_plane=9", "text=model", "captioner=someone/blip"))
    assert (settings.slices_per_plane, settings.captioner, settings.size) == (9, "someone/blip", (16, 16, 16))


def test_epochs_become_steps_over_the_scans(tiny) -> None:
    recipe = read_pretrain_recipe(tiny, ("epochs=3",))
    assert recipe.training_for(20).steps == 8  # 60 volumes, 8 a step
    assert recipe.training_for(20).batch_size == 8
    assert read_pretrain_recipe(tiny).training_for(20).steps == 2


def test_a_recipe_survives_its_own_plain_form(tiny) -> None:
    recipe = read_pretrain_recipe(tiny, ("triplets.label_names={1: tumour}",))
    assert build_settings(PretrainRecipe, recipe.to_dict(), where="again") == recipe
    assert isinstance(recipe.triplets, TripletSettings)
    assert recipe.triplets.label_names == {"1": "tumour"}
