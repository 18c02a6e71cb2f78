"""How does a backbone learn to name what a whole scan shows, frozen (probe) or learning on (fine-tune)?

Cross-entropy on cubes. A probe is a logistic regression on the frozen backbone's features of the unchanged cubes:
standardised, L2-regularised, solved to the end by L-BFGS. B cubes N x H x W, C memory channels, Y classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from slicesight.errors import InputError, ManifestError
from slicesight.models.encoders3d.backbone import Backbone, BackboneSpec
from slicesight.models.encoders3d.backbones import start_backbone
from slicesight.models.folder import finished_run
from slicesight.models.med3dinsight import Classifier, InsightConfig, Preparation
from slicesight.models.med3dinsight.preparation import fitted_cube
from slicesight.settings import read_settings
from slicesight.training.insight.fitting import (
    FitSettings,
    Progress,
    check_resume,
    digest_of_fine_tuning,
    finish_run,
    fit,
)
from slicesight.training.scan_dataset import ScanDataset
from slicesight.training.scan_list import ScanCase, of_split, part_of_patients, read_cases
from slicesight.training.scan_samples import CLASS, IMAGE, CubeSamples, SpatialAugmentation

VERB = "insight classify"


@dataclass(frozen=True, kw_only=True)
class ClassifyRecipe:
    """One run for classification.

    data: a .jsonl of image, label, patient, split. mode: "probe" freezes the backbone, "finetune" trains all of it.
    backbone: its image_size is the cube's; None takes what `init` holds. init: as for segmentation.
    probe_l2: of a probe: sum of losses + probe_l2 / 2 * sum of squared weights.
    balance: weigh classes by the inverse of how often they occur. dropout: before the last layer. pool: how the memory
        becomes one vector. flip_votes: average over the mirrored cubes of augmentation.flip_axes when predicting.
    """

    name: str
    output_dir: str
    data: str
    seed: int = 0
    mode: Literal["probe", "finetune"] = "finetune"
    preparation: Preparation = field(default_factory=Preparation)
    backbone: BackboneSpec | None = None
    init: str | None = None
    train_share: float = 1.0
    probe_l2: float = 1.0
    balance: bool = True
    dropout: float = 0.0
    pool: Literal["mean", "mean+max"] = "mean"
    flip_votes: bool = False
    augmentation: SpatialAugmentation = field(default_factory=SpatialAugmentation)
    training: FitSettings = field(default_factory=FitSettings)
    score_splits: tuple[Literal["train", "val", "test"], ...] = ("val", "test")
    prepared_dir: str | None = None

    def __post_init__(self) -> None:
        if not 0 < self.train_share <= 1 or not 0 <= self.dropout < 1 or not self.probe_l2 > 0:
            raise InputError("train_share must lie above 0 up to 1, dropout in [0, 1), probe_l2 above 0")
        if self.backbone is None and self.init is None:
            raise InputError("no backbone is named; set backbone, or init to a folder that insight pretrain wrote")

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def read_classify_recipe(path: str | Path, changes: tuple[str, ...] = ()) -> ClassifyRecipe:
    """Read and check a recipe of `slicesight insight classify`."""
    return read_settings(ClassifyRecipe, path, changes, verb=VERB)


def train_classifier(
    recipe: ClassifyRecipe, *, resume: bool = False, progress: Progress | None = None
) -> tuple[Classifier, ScanDataset]:
    """Train -> the classifier, and all the recipe's scans as it reads them.

    A stopped run goes on with `resume`, a finished one is read from its folder. Writes config.json, model.safetensors,
    recipe.json and log.jsonl into output_dir.

    Raises:
        InputError: data, settings or weights that do not fit, or an output_dir that holds another run.
    """
    cases = read_cases(recipe.data, needs="label")
    classes = _classes_of(cases, recipe)
    folder = Path(recipe.output_dir)
    check_resume(folder, resume=resume)
    folder.mkdir(parents=True, exist_ok=True)
    digest = digest_of_fine_tuning(recipe)
    torch.manual_seed(recipe.seed)
    backbone = start_backbone(recipe.backbone, init=recipe.init)
    place = Path(recipe.prepared_dir) if recipe.prepared_dir else folder / "prepared"
    prepared = ScanDataset(place, recipe.preparation, image_size=backbone.spec.image_size)
    prepared.prepare_all(cases, progress)
    if finished_run(folder, digest=digest):
        classifier: Classifier = Classifier.from_pretrained(folder)
        nn.Module.to(classifier, recipe.training.torch_device)
        return classifier, prepared
    classifier = _fit_classifier(recipe, cases, classes, prepared, backbone, run_digest=digest, progress=progress)
    facts = classifier.facts()
    finish_run(folder, classifier, kind=classifier.kind, facts=facts, verb=VERB, recipe=recipe.to_dict(), digest=digest)
    return classifier, prepared


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
    *,
    run_digest: str,
    progress: Progress | None,
) -> Classifier:
    """A classifier trained on the recipe's share of the training patients."""
    chosen = part_of_patients(of_split(cases, "train", path=recipe.data), recipe.train_share, seed=recipe.seed)
    numbers = [classes.index(str(case.label)) for case in chosen]
    torch.manual_seed(recipe.seed)
    config = InsightConfig(
        classes=list(classes),
        preparation=recipe.preparation.to_dict(),
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
        classifier.eval()
        return classifier
    samples = CubeSamples(
        prepared,
        chosen,
        numbers,
        size=backbone.spec.image_size,
        augmentation=recipe.augmentation,
        seed=recipe.seed,
        length=recipe.training.steps * recipe.training.batch_size,
    )
    fit(
        classifier,
        lambda batch: functional.cross_entropy(
            classifier(batch[IMAGE]), batch[CLASS], weight=None if weights is None else weights.to(batch[IMAGE].device)
        ),
        samples,
        recipe.training,
        seed=recipe.seed,
        folder=Path(recipe.output_dir),
        run_digest=run_digest,
        progress=progress,
    )
    return classifier


@torch.inference_mode()
def _features(
    classifier: Classifier, cases: Sequence[ScanCase], prepared: ScanDataset, progress: Progress | None
) -> Tensor:
    """(B, C) features of the cases' unchanged cubes."""
    size, device = classifier.backbone.spec.image_size, next(classifier.parameters()).device
    classifier.eval()
    rows = []
    for number, case in enumerate(cases, start=1):
        rows.append(classifier.features(fitted_cube(prepared.load(case)[0], size)[None].to(device)).cpu())
        if progress is not None:
            progress("encoding scans", number, len(cases))
    return torch.cat(rows)
