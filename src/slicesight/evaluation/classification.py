"""How well does a classifier name what a scan shows? Accuracy, area under the ROC curve, macro F1, by MONAI.

AUC is one class against the rest, averaged for more than two. B scans, Y classes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from slicesight.files import write_text
from slicesight.models.encoders3d.monai import import_monai
from slicesight.models.med3dinsight import Classifier
from slicesight.models.med3dinsight.preparation import fitted_cube
from slicesight.training.classification import ClassifyRecipe, train_classifier
from slicesight.training.fitting import Progress
from slicesight.training.scan_list import SPLITS, ScanCase, read_cases

SCORES_FILE, PREDICTIONS_FILE = "scores.json", "predictions.jsonl"


def run_classification(
    recipe: ClassifyRecipe, *, resume: bool = False, progress: Progress | None = None
) -> dict[str, dict[str, Any]]:
    """Train and score -> the scores of every split; a stopped run goes on with `resume`, a finished one is
    only scored again.

    Writes what `train_classifier` does, predictions.jsonl and scores.json into output_dir.
    """
    classifier = train_classifier(recipe, resume=resume, progress=progress)
    return score_cases(classifier, read_cases(recipe.data, needs="label"), recipe, progress=progress)


def score_cases(
    classifier: Classifier,
    cases: Sequence[ScanCase],
    recipe: ClassifyRecipe,
    *,
    progress: Progress | None = None,
) -> dict[str, dict[str, Any]]:
    """The probabilities of every scan to be scored, written as predictions.jsonl, and the scores of every split."""
    folder, size = Path(recipe.output_dir), classifier.backbone.spec.image_size
    device = next(classifier.parameters()).device
    chosen = [case for split in SPLITS if split in recipe.score_splits for case in cases if case.split == split]
    scans = recipe.open_scans(size)
    scans.prepare_all(chosen)
    rows = []
    for number, case in enumerate(chosen, start=1):
        cube = fitted_cube(scans.load(case)[0], size)[None].to(device)
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
    scores: dict[str, dict[str, Any]] = {}
    for split in SPLITS:
        members = [(case, found) for case, found in rows if case.split == split]
        if members:
            truth = np.array([classifier.classes.index(str(case.label)) for case, _ in members])
            scores[split] = measure(np.stack([found for _, found in members]), truth)
    write_text(folder / SCORES_FILE, text=json.dumps(scores, indent=1) + "\n")
    return scores


def measure(probabilities_BY: NDArray[np.float64], truth_B: NDArray[np.int64]) -> dict[str, Any]:
    """Accuracy, AUC and macro F1; AUC is None where a class does not occur."""
    metrics = import_monai("monai.metrics")
    num_classes = probabilities_BY.shape[1]
    predicted = probabilities_BY.argmax(axis=1)
    one_hot = np.eye(num_classes)[truth_B]
    has_all = bool((one_hot.sum(axis=0) > 0).all())
    if num_classes == 2:
        auc = metrics.compute_roc_auc(torch.tensor(probabilities_BY[:, 1]), torch.tensor(truth_B)) if has_all else None
    else:
        auc = metrics.compute_roc_auc(torch.tensor(probabilities_BY), torch.tensor(one_hot)) if has_all else None
    guesses = torch.tensor(np.eye(num_classes)[predicted])
    counts = metrics.get_confusion_matrix(guesses, torch.tensor(one_hot)).sum(dim=0)
    f1 = metrics.compute_confusion_matrix_metric("f1 score", counts)
    return {
        "scans": len(truth_B),
        "accuracy": float((predicted == truth_B).mean()),
        "auc": None if auc is None else float(auc),
        "f1": float(torch.nan_to_num(f1).mean()),
    }
