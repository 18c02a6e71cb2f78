"""Every insight recipe parses, and its network can be built."""

from pathlib import Path

import pytest
import yaml

from slicesight.models.encoders3d.backbones import backbone_from
from slicesight.training.classification import read_classify_recipe
from slicesight.training.pretraining_recipe import read_pretrain_recipe
from slicesight.training.segmentation import read_segment_recipe

READERS = {
    "insight pretrain": read_pretrain_recipe,
    "insight segment": read_segment_recipe,
    "insight classify": read_classify_recipe,
}
RECIPES = {
    path: verb
    for path in sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))
    if (verb := yaml.safe_load(path.read_text(encoding="utf-8")).get("verb"))
}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_insight_recipe_parses(path):
    assert READERS[RECIPES[path]](path).name


@pytest.mark.parametrize(
    "path", [path for path, verb in RECIPES.items() if verb != "insight pretrain"], ids=lambda path: path.stem
)
def test_the_networks_of_segment_and_classify_recipes_can_be_built(path):
    spec = READERS[RECIPES[path]](path).backbone
    if spec is None:  # it goes on from another recipe's network
        assert READERS[RECIPES[path]](path).init
        return
    assert sum(weight.numel() for weight in backbone_from(spec).parameters()) > 1000
