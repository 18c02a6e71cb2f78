import json

import numpy as np
import pytest
import torch

from slicesight.errors import InputError, ManifestError
from slicesight.evaluation.scan_scores import measure, run_classification
from slicesight.inference.scan_prediction import classify_volume
from slicesight.io.loading import read_volume
from slicesight.models.encoders3d.backbones import build_backbone, save_backbone
from slicesight.models.med3dinsight import Classifier, InsightConfig
from slicesight.models.med3dinsight.modeling import mirrored
from slicesight.settings import build_settings
from slicesight.training.classification import ClassifyRecipe, solve_probe

SETTINGS = {
    "backbone": {
        "name": "cnn3d",
        "image_size": (16, 16, 16),
        "settings": {
            "widths": [8, 16],
            "blocks": [0, 1],
            "strides": [[2, 2, 2], [2, 2, 2]],
            "num_groups": 2,
            "feature_size": 4,
        },
    },
    "preparation": {"spacing_mm": (2.0, 2.0, 2.0)},
    "training": {"steps": 40, "batch_size": 4, "learning_rate": 0.01, "log_every": 20},
}


def make_recipe(balls, folder, **changes):
    content = {"name": "sizes", "data": str(balls), "output_dir": str(folder), **SETTINGS, **changes}
    return build_settings(ClassifyRecipe, content, where="recipe")


@pytest.fixture(scope="module")
def trained(balls, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "classify"
    recipe = make_recipe(
        balls,
        folder,
        flip_votes=True,
        augmentation={"flip_axes": [1, 2]},
        score_splits=["train", "val", "test"],
    )
    return run_classification(recipe), folder, recipe


def test_fine_tuning_tells_large_balls_from_small_ones(trained):
    scores, folder, _ = trained
    assert scores["train"]["auc"] == 1.0
    assert scores["val"]["scans"] == scores["test"]["scans"] == 1
    assert scores["val"]["auc"] is None
    lines = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    assert len(lines) == 8
    assert all(sum(line["probabilities"].values()) == pytest.approx(1, abs=1e-4) for line in lines)
    assert json.loads((folder / "scores.json").read_text()) == scores


def test_one_scan_gets_the_probabilities_it_got_in_scoring(trained, balls):
    _, folder, _ = trained
    lines = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    classifier = Classifier.from_pretrained(folder)
    assert classifier.flip_axes == (1, 2)
    found = classify_volume(classifier, read_volume(balls.parent / "scan7.nii.gz"), name="scan7")
    assert found == pytest.approx(lines[-1]["probabilities"], abs=0.02)  # trained on 8-bit grey, asked with float


def test_a_finished_run_is_only_scored_again(trained, monkeypatch):
    scores, _, recipe = trained
    monkeypatch.setattr("slicesight.training.fine_tuning.fit", None)
    assert run_classification(recipe) == scores


def test_a_probe_leaves_the_pretrained_backbone_as_it_was(balls, tmp_path):
    spec = SETTINGS["backbone"]
    torch.manual_seed(3)
    saved = build_backbone(spec["name"], image_size=spec["image_size"], **spec["settings"])
    save_backbone(saved, tmp_path / "pre")
    recipe = make_recipe(
        balls, tmp_path / "run", mode="probe", backbone=None, init=str(tmp_path / "pre"), score_splits=["train"]
    )
    scores = run_classification(recipe)
    probe = Classifier.from_pretrained(tmp_path / "run")
    assert all(torch.equal(probe.backbone.state_dict()[name], tensor) for name, tensor in saved.state_dict().items())
    assert scores["train"]["accuracy"] >= 5 / 6


def test_the_probe_is_the_regularised_logistic_regression_of_standardised_features():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(60, 3, generator=generator) * torch.tensor([1.0, 50.0, 0.1]) + 7
    truth = (features[:, 1] + 20 * torch.randn(60, generator=generator) > 7).long()
    head = torch.nn.Linear(3, 2)
    solve_probe(head, features, truth, weights=torch.tensor([1.0, 3.0]), l2=2.0)
    mean, deviation = features.mean(0), features.std(0)
    inputs = ((features - mean) / deviation).double()
    weight = (head.weight * deviation).detach().double().requires_grad_()
    bias = (head.bias + head.weight @ mean).detach().double().requires_grad_()
    losses = torch.nn.functional.cross_entropy(
        inputs @ weight.T + bias, truth, weight=torch.tensor([1.0, 3.0]).double(), reduction="none"
    )
    (losses.sum() + weight.square().sum()).backward()
    assert weight.grad.abs().max() < 1e-2
    assert bias.grad.abs().max() < 1e-2


def test_mirrored_cubes_are_all_combinations():
    cube = torch.arange(8.0).reshape(1, 1, 2, 2, 2)
    found = mirrored(cube, (0, 2))
    assert len(found) == 4
    assert torch.equal(found[0], cube)
    assert torch.equal(found[3], cube.flip(2).flip(4))


def test_a_vote_over_mirrored_cubes_does_not_depend_on_how_the_cube_came():
    torch.manual_seed(0)
    backbone = build_backbone("cnn3d", image_size=(16, 16, 16), **SETTINGS["backbone"]["settings"])
    classifier = Classifier(InsightConfig(classes=["a", "b"], flip_axes=(0, 1, 2)), backbone)
    cube = torch.rand(1, 1, 16, 16, 16)
    assert torch.allclose(classifier.probabilities(cube), classifier.probabilities(cube.flip(2, 4)), atol=1e-6)


def test_measures_are_what_their_formulas_say():
    probabilities = np.array([[0.9, 0.1], [0.6, 0.4], [0.3, 0.7], [0.55, 0.45]])
    truth = np.array([0, 0, 1, 1])
    found = measure(probabilities, truth)
    assert found["accuracy"] == 0.75
    assert found["auc"] == 1.0
    assert found["f1"] == pytest.approx((2 * 2 / (2 * 2 + 1 + 0) + 2 * 1 / (2 * 1 + 0 + 1)) / 2)
    worse = measure(probabilities[[0, 3, 2, 1]], truth)
    assert worse["auc"] == pytest.approx(3 / 4)
    three = measure(np.eye(3)[[0, 1, 2, 2]], np.array([0, 1, 2, 1]))
    assert three["accuracy"] == 0.75
    assert 0.5 < three["auc"] <= 1
    assert measure(probabilities[:2], truth[:2])["auc"] is None


def test_labels_that_training_does_not_show_are_refused(balls, tmp_path):
    lines = [json.loads(line) for line in balls.read_text().splitlines()]
    for line in lines:
        line["image"], line["mask"] = str(balls.parent / line["image"]), None
    lines[-1]["label"] = "huge"
    path = tmp_path / "list.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(ManifestError, match=r"line 8: no training scan has the label 'huge'"):
        run_classification(make_recipe(path, tmp_path / "run"))
    path.write_text("".join(json.dumps({**line, "label": "one"}) + "\n" for line in lines))
    with pytest.raises(ManifestError, match="the training scans show 1 class"):
        run_classification(make_recipe(path, tmp_path / "run"))


@pytest.mark.parametrize("bad", [{"mode": "probes"}, {"dropout": 1.0}, {"probe_l2": 0.0}, {"backbone": None}])
def test_recipes_that_cannot_work_are_refused(balls, bad):
    with pytest.raises(InputError):
        make_recipe(balls, "nowhere", **bad)
