"""How is a backbone fine-tuned to outline structures? (`slicesight insight segment`)

Dice + cross-entropy on random crops (MONAI's DiceCELoss). B crops of N x H x W voxels, K structures, class 0 the
background.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from slicesight.errors import InputError, ManifestError
from slicesight.io.loading import read_volume
from slicesight.io.masks import whole_labels
from slicesight.models.encoders3d.backbones import start_backbone
from slicesight.models.encoders3d.monai import import_monai
from slicesight.models.med3dinsight import InsightConfig, Segmenter
from slicesight.models.med3dinsight.trained_on import summarise_scans
from slicesight.settings import read_settings
from slicesight.training.fine_tuning import FineTuneRecipe, train_once
from slicesight.training.fitting import Progress, held_out_cases
from slicesight.training.scan_list import ScanCase, of_split, part_of_patients, read_cases
from slicesight.training.scan_samples import IMAGE, MASK, CropSamples, SpatialAugmentation

VERB = "insight segment"
VALIDATION_CROPS = 4
"""Fixed crops of each scan that the validation loss is measured on."""


@dataclass(frozen=True, kw_only=True)
class SegmentRecipe(FineTuneRecipe):
    """One fine-tuning run for segmentation; each scan has a mask.

    labels: name -> value in the masks; None takes every value found. init_parts: "encoder" leaves the decoder random.
    overlap: of neighbouring windows. save_masks: of the scored scans, as NIfTI. num_overlays: pictures of them.
    """

    labels: dict[str, Any] | None = None
    init_parts: Literal["all", "encoder"] = "all"
    overlap: float = 0.5
    save_masks: bool = True
    num_overlays: int = 4

    def __post_init__(self) -> None:
        if self.preparation.spacing_mm is None:
            raise InputError(
                "preparation.spacing_mm is not set; a segmenter reads crops of one voxel size, set z, y, x"
            )
        super().__post_init__()
        if not 0 <= self.overlap < 1:
            raise InputError(f"overlap is {self.overlap}; expected 0 up to, not including, 1")
        values = list((self.labels or {"": 1}).values())
        if not all(type(value) is int and value > 0 for value in values) or len(set(values)) < len(values):
            raise InputError(f"labels is {self.labels}; expected names with different whole numbers above 0")


def read_segment_recipe(path: str | Path, changes: tuple[str, ...] = ()) -> SegmentRecipe:
    """Read and check a recipe of `slicesight insight segment`."""
    return read_settings(SegmentRecipe, path, changes, verb=VERB)


def train_segmenter(recipe: SegmentRecipe, *, resume: bool = False, progress: Progress | None = None) -> Segmenter:
    """Train; a stopped run goes on with `resume`, a finished one is read from its folder.

    Writes what `train_once` does, and log.jsonl.

    Raises:
        InputError: data, settings or weights that do not fit, or an output_dir that holds another run.
    """
    cases = read_cases(recipe.data, needs="mask")
    training_cases = of_split(cases, "train", path=recipe.data)
    held_out = held_out_cases(cases, recipe.validation)

    def train() -> Segmenter:
        chosen = part_of_patients(training_cases, recipe.train_share, seed=recipe.seed)
        labels = recipe.labels or _labels_found(chosen, progress)
        torch.manual_seed(recipe.seed)
        backbone = start_backbone(recipe.backbone, init=recipe.init, parts=recipe.init_parts)
        config = InsightConfig(labels=labels, preparation=recipe.preparation.to_dict(), overlap=recipe.overlap)
        segmenter = Segmenter(config, backbone)
        size = backbone.spec.image_size
        scans = recipe.open_scans(size, segmenter.values)
        scans.prepare_all([*chosen, *held_out], progress)
        segmenter.config.trained_on = summarise_scans([scans.facts(case) for case in chosen])
        crops = functools.partial(CropSamples, scans, size=size, seed=recipe.seed)
        fixed = crops(held_out, augmentation=SpatialAugmentation(), length=VALIDATION_CROPS * len(held_out))
        loss = import_monai("monai.losses").DiceCELoss(
            to_onehot_y=True, softmax=True, include_background=False, batch=True
        )
        recipe.fit(
            segmenter,
            lambda batch: loss(segmenter(batch[IMAGE]), batch[MASK]),
            crops(chosen, augmentation=recipe.augmentation, length=recipe.num_samples),
            fixed,
            progress,
        )
        return segmenter

    return train_once(Segmenter, recipe, train, verb=VERB, resume=resume)


def _labels_found(cases: Sequence[ScanCase], progress: Progress | None) -> dict[str, int]:
    """Every value of the training masks above 0, named by its number."""
    values: set[int] = set()
    for number, case in enumerate(cases, start=1):
        assert case.mask is not None
        mask = read_volume(case.mask, unit="arbitrary", may_be_blank=True)
        values |= set(np.unique(whole_labels(mask.voxels, case.mask.name)).tolist())
        if progress is not None:
            progress("looking for labels", number, len(cases))
    values -= {0}
    if not values:
        raise ManifestError("every training mask is empty; expected at least one label above 0, check the masks")
    return {f"label {value}": value for value in sorted(values)}
