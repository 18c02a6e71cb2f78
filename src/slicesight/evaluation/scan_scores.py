"""How well does a segmenter or classifier do on scans it never saw? `slicesight insight segment` and `classify`.

Structures are scored in the scan's own voxels (`metrics.masks`), classes by MONAI: accuracy, macro F1 and the area
under the ROC curve, which is one class against the rest, averaged for more than two. B scans, Y classes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from slicesight.evaluation.metrics.masks import CaseScore, overlap, summarise
from slicesight.files import write_text
from slicesight.inference.segmenting import segment_volume
from slicesight.io.loading import read_volume
from slicesight.io.masks import read_labels, write_mask
from slicesight.models.encoders3d.monai import import_monai
from slicesight.models.med3dinsight import Segmenter
from slicesight.models.med3dinsight.preparation import fitted_cube
from slicesight.training.classification import ClassifyRecipe, train_classifier
from slicesight.training.fitting import Progress
from slicesight.training.scan_list import SPLITS, ScanCase, read_cases
from slicesight.training.segmentation import SegmentRecipe, train_segmenter
from slicesight.volumes.volume import Volume

SCORES_FILE, PREDICTIONS_FILE = "scores.json", "predictions.jsonl"
Draw = Callable[[ScanCase, Volume, NDArray[np.int32], NDArray[np.int32], Sequence[CaseScore], Segmenter], None]
"""Called with each scored scan, its voxels, the labels found and true, their scores, and the segmenter."""


def run_segmentation(
    recipe: SegmentRecipe, *, resume: bool = False, progress: Progress | None = None, draw: Draw | None = None
) -> list[CaseScore]:
    """Train and score -> a score for every structure of every scan; `draw` sees the first num_overlays scans.

    A stopped run goes on with `resume`, a finished one is only scored again. Writes what `train_segmenter` does,
    scores.json and masks/ into output_dir.
    """
    segmenter = train_segmenter(recipe, resume=resume, progress=progress)
    folder, scores = Path(recipe.output_dir), []
    cases = _chosen(recipe, needs="mask")
    for number, case in enumerate(cases, start=1):
        volume = read_volume(case.image, fill=case.fill)
        assert case.mask is not None
        true = read_labels(case.mask, volume)
        found = segment_volume(segmenter, volume, name=case.image.name)
        own = case_scores(case, found, true, segmenter, spacing_mm=volume.spacing_mm)
        scores += own
        if recipe.save_masks:
            (folder / "masks").mkdir(exist_ok=True)
            write_mask(found, volume, source=case.image, out=folder / "masks" / f"{case.name}.nii.gz")
        if draw is not None and number <= recipe.num_overlays:
            draw(case, volume, found, true, own, segmenter)
        if progress is not None:
            progress("scoring scans", number, len(cases))
    content = {"scans": [score.to_dict() for score in scores], "summary": summarise(scores)}
    write_text(folder / SCORES_FILE, text=json.dumps(content, indent=1) + "\n")
    return scores


def case_scores(
    case: ScanCase,
    found_ZYX: NDArray[np.integer],
    true_ZYX: NDArray[np.integer],
    segmenter: Segmenter,
    *,
    spacing_mm: Sequence[float] | None,
) -> list[CaseScore]:
    """A score for every structure of one scan that somebody drew there."""
    millilitres = None if spacing_mm is None else float(np.prod(spacing_mm)) / 1000
    scores = []
    drawn = case.values(dict(zip(segmenter.names, segmenter.values, strict=True)))
    for name, value, true_value in zip(segmenter.names, segmenter.values, drawn, strict=True):
        if true_value is None:
            continue
        found, true = found_ZYX == value, true_ZYX == true_value
        dice, distance = overlap(found, true, spacing_mm=spacing_mm)
        scores.append(
            CaseScore(
                case=case.name,
                patient=case.patient,
                split=case.split,
                structure=name,
                dice=dice,
                hd95_mm=distance,
                volume_ml=None if millilitres is None else float(found.sum() * millilitres),
                true_volume_ml=None if millilitres is None else float(true.sum() * millilitres),
            )
        )
    return scores


def run_classification(
    recipe: ClassifyRecipe, *, resume: bool = False, progress: Progress | None = None
) -> dict[str, dict[str, Any]]:
    """Train and score -> the scores of every split; a stopped run goes on with `resume`, a finished one is
    only scored again.

    Writes what `train_classifier` does, predictions.jsonl and scores.json into output_dir.
    """
    classifier = train_classifier(recipe, resume=resume, progress=progress)
    folder, size = Path(recipe.output_dir), classifier.backbone.spec.image_size
    device = next(classifier.parameters()).device
    cases = _chosen(recipe, needs="label")
    scans = recipe.open_scans(size)
    scans.prepare_all(cases)
    lines, by_split = [], dict[str, list[tuple[NDArray[np.float64], int]]]()
    for number, case in enumerate(cases, start=1):
        cube = fitted_cube(scans.load(case)[0], size)[None].to(device)
        found_Y = classifier.probabilities(cube)[0].double().cpu().numpy()
        by_split.setdefault(case.split, []).append((found_Y, classifier.classes.index(str(case.label))))
        facts = {"line": case.line, "patient": case.patient, "split": case.split, "label": case.label}
        probabilities = dict(zip(classifier.classes, np.round(found_Y, 6).tolist(), strict=True))
        lines.append(json.dumps({**facts, "probabilities": probabilities}) + "\n")
        if progress is not None:
            progress("scoring scans", number, len(cases))
    write_text(folder / PREDICTIONS_FILE, text="".join(lines))
    scores = {
        split: measure(np.stack([found_Y for found_Y, _ in rows]), np.array([true for _, true in rows]))
        for split, rows in by_split.items()
    }
    write_text(folder / SCORES_FILE, text=json.dumps(scores, indent=1) + "\n")
    return scores


def measure(probabilities_BY: NDArray[np.float64], truth_B: NDArray[np.int64]) -> dict[str, Any]:
    """Accuracy, AUC and macro F1; AUC is None where a class does not occur."""
    metrics = import_monai("monai.metrics")
    one_hot_BY = np.eye(probabilities_BY.shape[1])
    true_BY, predicted_B = one_hot_BY[truth_B], probabilities_BY.argmax(axis=1)
    auc = None
    if (true_BY.sum(axis=0) > 0).all():
        is_binary = probabilities_BY.shape[1] == 2
        of_all = (probabilities_BY[:, 1], truth_B) if is_binary else (probabilities_BY, true_BY)
        auc = float(metrics.compute_roc_auc(*map(torch.tensor, of_all)))
    counts = metrics.get_confusion_matrix(torch.tensor(one_hot_BY[predicted_B]), torch.tensor(true_BY)).sum(dim=0)
    f1 = metrics.compute_confusion_matrix_metric("f1 score", counts)
    accuracy = float((predicted_B == truth_B).mean())
    return {"scans": len(truth_B), "accuracy": accuracy, "auc": auc, "f1": float(torch.nan_to_num(f1).mean())}


def _chosen(recipe: SegmentRecipe | ClassifyRecipe, *, needs: Literal["mask", "label"]) -> list[ScanCase]:
    """The scans to be scored, split by split."""
    cases = read_cases(recipe.data, needs=needs, root=recipe.root)
    return [case for split in SPLITS if split in recipe.score_splits for case in cases if case.split == split]
