"""How does a backbone learn to name what a whole scan shows, frozen (probe) or learning on (fine-tune)?

Cross-entropy on cubes. A probe is a logistic regression on the frozen backbone's features of the unchanged cubes:
standardised, L2-regularised, solved to the end by L-BFGS. B cubes N x H x W, C memory channels, Y classes.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from slicesight.errors import InputError, ManifestError
from slicesight.models.encoders3d.backbone import Backbone
from slicesight.models.encoders3d.backbones import start_backbone
from slicesight.models.med3dinsight import Classifier, InsightConfig
from slicesight.models.med3dinsight.preparation import fitted_cube
from slicesight.models.med3dinsight.trained_on import summarise_scans
from slicesight.settings import read_settings
from slicesight.training.fine_tuning import FineTuneRecipe, train_once
from slicesight.training.fitting import Progress, held_out_cases
from slicesight.training.scan_list import ScanCase, ScanDataset, of_split, part_of_patients, read_cases
from slicesight.training.scan_samples import CLASS, IMAGE, CubeSamples, SpatialAugmentation

VERB = "insight classify"


@dataclass(frozen=True, kw_only=True)
class ClassifyRecipe(FineTuneRecipe):
    """One run for classification; each scan has a label.

    mode: "probe" freezes the backbone, "finetune" trains all of it. probe_l2: of a probe: sum of losses
    + probe_l2 / 2 * sum of squared weights. balance: weigh classes by the inverse of how often they occur. dropout:
    before the last layer. pool: how the memory becomes one vector. flip_votes: average over the mirrored cubes of
    augmentation.flip_axes when predicting.
    """

    mode: Literal["probe", "finetune"] = "finetune"
    probe_l2: float = 1.0
    balance: bool = True
    dropout: float = 0.0
    pool: Literal["mean", "mean+max"] = "mean"
    flip_votes: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.dropout < 1 or not self.probe_l2 > 0:
            raise InputError("dropout must lie in [0, 1), probe_l2 above 0")


def read_classify_recipe(path: str | Path, changes: tuple[str, ...] = ()) -> ClassifyRecipe:
    """Read and check a recipe of `slicesight insight classify`."""
    return read_settings(ClassifyRecipe, path, changes, verb=VERB)


def train_classifier(recipe: ClassifyRecipe, *, resume: bool = False, progress: Progress | None = None) -> Classifier:
    """Train; a stopped run goes on with `resume`, a finished one is read from its folder.

    Writes what `train_once` does, and log.jsonl.

    Raises:
        InputError: data, settings or weights that do not fit, or an output_dir that holds another run.
    """
    cases = read_cases(recipe.data, needs="label", root=recipe.root)
    classes = _classes_of(cases, recipe)

    def train() -> Classifier:
        torch.manual_seed(recipe.seed)
        backbone = start_backbone(recipe.backbone, init=recipe.init)
        scans = recipe.open_scans(backbone.spec.image_size)
        scans.prepare_all(cases, progress)
        return _fit_classifier(recipe, cases, classes, scans, backbone, progress)

    return train_once(Classifier, recipe, train, verb=VERB, resume=resume)


def solve_probe(
    head: nn.Linear, features_BC: Tensor, truth_B: Tensor, *, weights: Tensor | None = None, l2: float = 1.0
) -> None:
    """Set the head to the logistic regression of the classes on the features; standardising is folded into it."""
    mean, deviation = features_BC.double().mean(dim=0), features_BC.double().std(dim=0).clamp(min=1e-6)
    inputs = (features_BC.double() - mean) / deviation
    weight = torch.zeros(head.out_features, head.in_features, dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(head.out_features, dtype=torch.float64, requires_grad=True)
    class_weights = None if weights is None else weights.double()
    solver = torch.optim.LBFGS([weight, bias], max_iter=500, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def objective() -> Tensor:
        solver.zero_grad()
        losses = functional.cross_entropy(inputs @ weight.T + bias, truth_B, weight=class_weights, reduction="none")
        loss = losses.sum() + l2 / 2 * weight.square().sum()
        loss.backward()
        return loss

    solver.step(objective)
    with torch.no_grad():
        head.weight.copy_(weight / deviation)
        head.bias.copy_(bias - (weight / deviation) @ mean)


def _classes_of(cases: Sequence[ScanCase], recipe: ClassifyRecipe) -> list[str]:
    """The labels of the training scans, sorted; every other scan must have one of them."""
    classes = sorted({str(case.label) for case in cases if case.split == "train"})
    name = Path(recipe.data).name
    if len(classes) < 2:
        raise ManifestError(f"{name}: the training scans show {len(classes)} class; expected two or more")
    for case in cases:
        if case.label not in classes:
            raise ManifestError(f"{name} line {case.line}: no training scan has the label {case.label!r}; add one")
    return classes


def _fit_classifier(
    recipe: ClassifyRecipe,
    cases: list[ScanCase],
    classes: Sequence[str],
    prepared: ScanDataset,
    backbone: Backbone,
    progress: Progress | None,
) -> Classifier:
    """A classifier trained on the recipe's share of the training patients."""
    chosen = part_of_patients(of_split(cases, "train", path=recipe.data), recipe.train_share, seed=recipe.seed)
    numbers = [classes.index(str(case.label)) for case in chosen]
    torch.manual_seed(recipe.seed)
    config = InsightConfig(
        classes=list(classes),
        preparation=recipe.preparation.to_dict(),
        trained_on=summarise_scans([prepared.facts(case) for case in chosen]),
        dropout=recipe.dropout,
        pool=recipe.pool,
        flip_axes=recipe.augmentation.flip_axes if recipe.flip_votes else (),
    )
    classifier = Classifier(config, backbone)
    counts = np.bincount(numbers, minlength=len(classes)).clip(1)
    weights = torch.tensor(counts.sum() / (len(classes) * counts), dtype=torch.float32) if recipe.balance else None
    if recipe.mode == "probe":
        nn.Module.to(classifier, recipe.training.torch_device)
        features = _features(classifier, chosen, prepared, progress)
        solve_probe(classifier.head, features, torch.tensor(numbers), weights=weights, l2=recipe.probe_l2)
        classifier.train(False)
        return classifier
    held_out = held_out_cases(cases, recipe.validation)
    true = [classes.index(str(case.label)) for case in held_out]
    cubes = functools.partial(CubeSamples, prepared, size=backbone.spec.image_size, seed=recipe.seed)
    fixed = cubes(held_out, classes=true, augmentation=SpatialAugmentation(), length=len(held_out))
    recipe.fit(
        classifier,
        lambda batch: functional.cross_entropy(
            classifier(batch[IMAGE]), batch[CLASS], weight=None if weights is None else weights.to(batch[IMAGE].device)
        ),
        cubes(chosen, classes=numbers, augmentation=recipe.augmentation, length=recipe.num_samples),
        fixed,
        progress,
    )
    return classifier


@torch.inference_mode()
def _features(
    classifier: Classifier, cases: Sequence[ScanCase], prepared: ScanDataset, progress: Progress | None
) -> Tensor:
    """(B, C) features of the cases' unchanged cubes."""
    size, device = classifier.backbone.spec.image_size, next(classifier.parameters()).device
    classifier.train(False)
    rows = []
    for number, case in enumerate(cases, start=1):
        rows.append(classifier.features(fitted_cube(prepared.load(case)[0], size)[None].to(device)).cpu())
        if progress is not None:
            progress("encoding scans", number, len(cases))
    return torch.cat(rows)
