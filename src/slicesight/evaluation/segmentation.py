"""How well does a segmenter outline the structures of scans it never saw? Scores in the scan's own voxels."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from slicesight.evaluation.metrics.masks import CaseScore, overlap, summarise
from slicesight.files import write_text
from slicesight.inference.scan_prediction import segment_volume
from slicesight.io.loading import read_volume
from slicesight.io.masks import read_labels, write_mask
from slicesight.models.med3dinsight import Segmenter
from slicesight.training.fitting import Progress
from slicesight.training.scan_list import SPLITS, ScanCase, read_cases
from slicesight.training.segmentation import SegmentRecipe, train_segmenter
from slicesight.volumes.volume import Volume

SCORES_FILE = "scores.json"
Draw = Callable[[ScanCase, Volume, NDArray[np.int32], NDArray[np.int32], Sequence[CaseScore], Segmenter], None]
"""Called with each scored scan, its voxels, the labels found and true, their scores, and the segmenter."""


def run_segmentation(
    recipe: SegmentRecipe, *, resume: bool = False, progress: Progress | None = None, draw: Draw | None = None
) -> list[CaseScore]:
    """Train and score; a stopped run goes on with `resume`, a finished one is only scored again.

    Writes what `train_segmenter` does, scores.json and masks/ into output_dir.
    """
    segmenter = train_segmenter(recipe, resume=resume, progress=progress)
    cases = read_cases(recipe.data, needs="mask")
    chosen = [case for split in SPLITS if split in recipe.score_splits for case in cases if case.split == split]
    scores = score_cases(segmenter, chosen, recipe, progress=progress, draw=draw)
    content = {"scans": [score.to_dict() for score in scores], "summary": summarise(scores)}
    write_text(Path(recipe.output_dir) / SCORES_FILE, text=json.dumps(content, indent=1) + "\n")
    return scores


def score_cases(
    segmenter: Segmenter,
    cases: Sequence[ScanCase],
    recipe: SegmentRecipe,
    *,
    progress: Progress | None = None,
    draw: Draw | None = None,
) -> list[CaseScore]:
    """Dice and HD95 of every structure in every scan, in the scan's own voxels; `draw` sees the first num_overlays."""
    folder = Path(recipe.output_dir) / "masks"
    scores = []
    for number, case in enumerate(cases, start=1):
        volume = read_volume(case.image)
        assert case.mask is not None
        true = read_labels(case.mask, volume)
        found = segment_volume(segmenter, volume, name=case.image.name)
        own = case_scores(case, found, true, segmenter, spacing_mm=volume.spacing_mm)
        scores += own
        if recipe.save_masks:
            folder.mkdir(exist_ok=True)
            write_mask(found, volume, source=case.image, out=folder / f"{case.name}.nii.gz")
        if draw is not None and number <= recipe.num_overlays:
            draw(case, volume, found, true, own, segmenter)
        if progress is not None:
            progress("scoring scans", number, len(cases))
    return scores


def case_scores(
    case: ScanCase,
    found_ZYX: NDArray[np.integer],
    true_ZYX: NDArray[np.integer],
    segmenter: Segmenter,
    *,
    spacing_mm: Sequence[float] | None,
) -> list[CaseScore]:
    """A score for every structure of one scan."""
    millilitres = None if spacing_mm is None else float(np.prod(spacing_mm)) / 1000
    scores = []
    for name, value in zip(segmenter.names, segmenter.values, strict=True):
        found, true = found_ZYX == value, true_ZYX == value
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
