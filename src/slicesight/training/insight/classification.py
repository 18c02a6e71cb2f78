"""How is a backbone told to name what a whole scan shows, frozen (probe) or learning on (fine-tune)?

Mean of the memory over the grid -> Linear to Y classes; cross-entropy. A probe is a logistic regression on the frozen
backbone's features of the unchanged cubes: standardised, L2-regularised, solved to the end by L-BFGS. Scores: accuracy,
area under the ROC curve (one class against the rest, averaged for more than two), macro F1, by MONAI.
B cubes N x H x W, C memory channels.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from slicesight.errors import InputError, ManifestError
from slicesight.files import write_text
from slicesight.models.encoders3d.backbones import (
    Backbone,
    BackboneSpec,
    backbone_from,
    load_weights,
    spec_of,
    start_backbone,
)
from slicesight.models.encoders3d.monai_encoders import import_monai
from slicesight.models.folder import finished_run, read_model_folder
from slicesight.settings import build_settings, read_settings
from slicesight.training.insight.fitting import (
    FitSettings,
    Progress,
    check_resume,
    digest_of_fine_tuning,
    finish_run,
    fit,
    held_out_cases,
)
from slicesight.training.insight.preparation import Preparation, ScanDataset, prepare_scan
from slicesight.training.insight.samples import CLASS, IMAGE, CubeSamples, SpatialAugmentation, fitted_cube
from slicesight.training.insight.scan_list import SPLITS, ScanCase, of_split, part_of_patients, read_cases
from slicesight.training.recipe import Validation
from slicesight.volumes.volume import Volume

VERB, KIND = "insight classify", "classifier"
SCORES_FILE, PREDICTIONS_FILE = "scores.json", "predictions.jsonl"


@dataclass(frozen=True, kw_only=True)
class ClassifyRecipe:
    """One run for classification.

    data: a .jsonl of image, label, patient, split. mode: "probe" freezes the backbone, "finetune" trains all of it.
    backbone: its image_size is the cube's; None takes what `init` holds. init: as for segmentation.
    validation: of the training loss, on unchanged cubes; a probe is solved in one go and has none.
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
    validation: Validation | None = None
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


class Classifier(nn.Module):
    """A backbone's encoder, its memory averaged, and a Linear layer.

    The decoder stays in the folder, so that the whole backbone can travel on. flip_axes: cubes mirrored along these
    and their combinations have a vote each.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        classes: Sequence[str],
        preparation: Preparation,
        dropout: float = 0.0,
        pool: str = "mean",
        flip_axes: Sequence[int] = (),
    ) -> None:
        super().__init__()
        assert len(classes) >= 2
        self.backbone, self.dropout, self.pool = backbone, nn.Dropout(dropout), pool
        self.head = nn.Linear(backbone.memory_width * (2 if pool == "mean+max" else 1), len(classes))
        self.classes, self.preparation, self.flip_axes = tuple(classes), preparation, tuple(flip_axes)

    def forward(self, volumes_B1NHW: Tensor) -> Tensor:
        """Logits (B, Y)."""
        return self.head(self.dropout(self.features(volumes_B1NHW)))

    def features(self, volumes_B1NHW: Tensor) -> Tensor:
        """One vector (B, C) or (B, 2C) per cube."""
        memory = self.backbone.encode(volumes_B1NHW).memory
        means = memory.mean(dim=(2, 3, 4))
        return means if self.pool == "mean" else torch.cat([means, memory.amax(dim=(2, 3, 4))], dim=1)

    @torch.inference_mode()
    def probabilities(self, volumes_B1NHW: Tensor) -> Tensor:
        """Class probabilities (B, Y), averaged over the mirrored cubes."""
        self.eval()
        votes = [functional.softmax(self(cube), dim=1) for cube in mirrored(volumes_B1NHW, self.flip_axes)]
        return torch.stack(votes).mean(dim=0)

    def facts(self) -> dict[str, Any]:
        """What config.json holds besides the weights."""
        return {
            "backbone": self.backbone.spec.to_dict(),
            "classes": list(self.classes),
            "preparation": self.preparation.to_dict(),
            "pool": self.pool,
            "flip_axes": list(self.flip_axes),
        }


def read_classify_recipe(path: str | Path, changes: tuple[str, ...] = ()) -> ClassifyRecipe:
    """Read and check a recipe of `slicesight insight classify`."""
    return read_settings(ClassifyRecipe, path, changes, verb=VERB)


def load_classifier(folder: str | Path) -> Classifier:
    """The classifier of a folder that `slicesight insight classify` wrote."""
    config, weights = read_model_folder(folder, kind=KIND)
    classifier = Classifier(
        backbone_from(spec_of(config, folder)),
        classes=config["classes"],
        preparation=build_settings(Preparation, config["preparation"], where=f"{folder}: preparation"),
        pool=config["pool"],
        flip_axes=config["flip_axes"],
    )
    load_weights(classifier, weights, folder)
    return classifier.eval()


def run_classification(
    recipe: ClassifyRecipe, *, resume: bool = False, progress: Progress | None = None
) -> dict[str, dict[str, Any]]:
    """Train and score -> the scores of every split; a stopped run goes on with `resume`, a finished one is
    only scored again.

    Writes config.json, model.safetensors, recipe.json, log.jsonl, predictions.jsonl and scores.json into output_dir.

    Raises:
        InputError: data, settings or weights that do not fit, or an output_dir that holds another run.
    """
    cases = read_cases(recipe.data, needs="label")
    classes = sorted({str(case.label) for case in cases if case.split == "train"})
    if len(classes) < 2:
        raise ManifestError(
            f"{Path(recipe.data).name}: the training scans show {len(classes)} class; expected two or more"
        )
    for case in cases:
        if case.label not in classes:
            raise ManifestError(
                f"{Path(recipe.data).name} line {case.line}: no training scan has the label {case.label!r}; add one"
            )
    folder = Path(recipe.output_dir)
    check_resume(folder, resume=resume)
    folder.mkdir(parents=True, exist_ok=True)
    digest = digest_of_fine_tuning(recipe)
    prepared, backbone = _prepared(recipe, cases, progress)
    if finished_run(folder, digest=digest):
        classifier = load_classifier(folder).to(recipe.training.torch_device)
    else:
        classifier = train_classifier(recipe, cases, classes, prepared, backbone, run_digest=digest, progress=progress)
        facts = classifier.facts()
        finish_run(folder, classifier, kind=KIND, facts=facts, verb=VERB, recipe=recipe.to_dict(), digest=digest)
    return _score(classifier, cases, recipe, prepared, progress)


def train_classifier(
    recipe: ClassifyRecipe,
    cases: Sequence[ScanCase],
    classes: Sequence[str],
    prepared: ScanDataset,
    backbone: Backbone,
    *,
    run_digest: str,
    progress: Progress | None = None,
) -> Classifier:
    """A classifier trained on the recipe's share of the training patients."""
    chosen = part_of_patients(of_split(list(cases), "train", path=recipe.data), recipe.train_share, seed=recipe.seed)
    numbers = [classes.index(str(case.label)) for case in chosen]
    torch.manual_seed(recipe.seed)
    classifier = Classifier(
        backbone,
        classes=classes,
        preparation=recipe.preparation,
        dropout=recipe.dropout,
        pool=recipe.pool,
        flip_axes=recipe.augmentation.flip_axes if recipe.flip_votes else (),
    )
    counts = np.bincount(numbers, minlength=len(classes)).clip(1)
    weights = torch.tensor(counts.sum() / (len(classes) * counts), dtype=torch.float32) if recipe.balance else None
    if recipe.mode == "probe":
        classifier.to(recipe.training.torch_device)
        features = _features(classifier, chosen, prepared, progress)
        solve_probe(classifier.head, features, torch.tensor(numbers), weights=weights, l2=recipe.probe_l2)
        return classifier.eval()
    held_out = held_out_cases(cases, recipe.validation)
    true = [classes.index(str(case.label)) for case in held_out]
    cubes = functools.partial(CubeSamples, prepared, size=backbone.spec.image_size, seed=recipe.seed)
    num_samples = recipe.training.steps * recipe.training.batch_size
    samples = cubes(chosen, numbers, augmentation=recipe.augmentation, length=num_samples)
    fixed = cubes(held_out, true, augmentation=SpatialAugmentation(), length=len(held_out))
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
        validation=recipe.validation,
        held_out=fixed if held_out else None,
        progress=progress,
    )
    return classifier


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


def classify_volume(classifier: Classifier, volume: Volume, *, name: str) -> dict[str, float]:
    """The probability of every class for one scan."""
    size = classifier.backbone.spec.image_size
    scan = prepare_scan(volume, classifier.preparation, image_size=size, name=name)
    device = next(classifier.parameters()).device
    (found,) = classifier.probabilities(fitted_cube(scan.voxels, size)[None].to(device)).tolist()
    return dict(zip(classifier.classes, found, strict=True))


def mirrored(volumes_B1NHW: Tensor, axes: Sequence[int]) -> list[Tensor]:
    """The cubes mirrored along every combination of the axes 0, 1, 2; first as they are."""
    results = [volumes_B1NHW]
    for axis in axes:
        results += [cube.flip(axis + 2) for cube in results]
    return results


def measure(probabilities_BY: NDArray[np.float64], truth_B: NDArray[np.int64]) -> dict[str, Any]:
    """Accuracy, AUC and macro F1; AUC is None where a class does not occur."""
    metrics = import_monai("monai.metrics")
    num_classes = probabilities_BY.shape[1]
    said = probabilities_BY.argmax(axis=1)
    one_hot = np.eye(num_classes)[truth_B]
    has_all = bool((one_hot.sum(axis=0) > 0).all())
    if num_classes == 2:
        auc = metrics.compute_roc_auc(torch.tensor(probabilities_BY[:, 1]), torch.tensor(truth_B)) if has_all else None
    else:
        auc = metrics.compute_roc_auc(torch.tensor(probabilities_BY), torch.tensor(one_hot)) if has_all else None
    counts = metrics.get_confusion_matrix(torch.tensor(np.eye(num_classes)[said]), torch.tensor(one_hot)).sum(dim=0)
    f1 = metrics.compute_confusion_matrix_metric("f1 score", counts)
    return {
        "scans": len(truth_B),
        "accuracy": float((said == truth_B).mean()),
        "auc": None if auc is None else float(auc),
        "f1": float(torch.nan_to_num(f1).mean()),
    }


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


def _prepared(
    recipe: ClassifyRecipe, cases: Sequence[ScanCase], progress: Progress | None
) -> tuple[ScanDataset, Backbone]:
    torch.manual_seed(recipe.seed)
    backbone = start_backbone(recipe.backbone, init=recipe.init)
    place = Path(recipe.prepared_dir) if recipe.prepared_dir else Path(recipe.output_dir) / "prepared"
    prepared = ScanDataset(place, recipe.preparation, image_size=backbone.spec.image_size)
    for number, case in enumerate(cases, start=1):
        prepared.prepare(case)
        if progress is not None:
            progress("preparing scans", number, len(cases))
    return prepared, backbone


def _score(
    classifier: Classifier,
    cases: Sequence[ScanCase],
    recipe: ClassifyRecipe,
    prepared: ScanDataset,
    progress: Progress | None,
) -> dict[str, dict[str, Any]]:
    folder, size = Path(recipe.output_dir), classifier.backbone.spec.image_size
    device = next(classifier.parameters()).device
    chosen = [case for split in SPLITS if split in recipe.score_splits for case in cases if case.split == split]
    rows = []
    for number, case in enumerate(chosen, start=1):
        cube = fitted_cube(prepared.load(case)[0], size)[None].to(device)
        found = classifier.probabilities(cube)[0].double().cpu().numpy()
        rows.append((case, found))
        if progress is not None:
            progress("scoring scans", number, len(chosen))
    lines = [
        {
            "line": case.line,
            "patient": case.patient,
            "split": case.split,
            "label": case.label,
            "probabilities": dict(zip(classifier.classes, np.round(found, 6).tolist(), strict=True)),
        }
        for case, found in rows
    ]
    write_text(folder / PREDICTIONS_FILE, text="".join(json.dumps(line) + "\n" for line in lines))
    scores = {}
    for split in SPLITS:
        members = [(case, found) for case, found in rows if case.split == split]
        if members:
            truth = np.array([classifier.classes.index(str(case.label)) for case, _ in members])
            scores[split] = measure(np.stack([found for _, found in members]), truth)
    write_text(folder / SCORES_FILE, text=json.dumps(scores, indent=1) + "\n")
    return scores
