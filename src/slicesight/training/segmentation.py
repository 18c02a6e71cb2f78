"""How is a backbone fine-tuned to outline structures? (`slicesight insight segment`)

Dice + cross-entropy on random crops: MONAI's DiceCELoss over background and structures, or, where each structure is a
question of its own, partial_labels.py. B crops of N x H x W voxels, K structures, class 0 the background.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from slicesight.errors import InputError, ManifestError
from slicesight.io.loading import read_volume
from slicesight.io.masks import whole_labels
from slicesight.models.encoders3d.backbones import load_weights, start_backbone
from slicesight.models.encoders3d.monai import import_monai
from slicesight.models.folder import read_model_folder
from slicesight.models.med3dinsight import InsightConfig, Segmenter
from slicesight.models.med3dinsight.sides import mirrored_classes
from slicesight.models.med3dinsight.trained_on import summarise_scans
from slicesight.settings import read_settings
from slicesight.training.fine_tuning import FineTuneRecipe, train_once
from slicesight.training.fitting import Progress, held_out_cases
from slicesight.training.partial_labels import partial_label_loss
from slicesight.training.scan_list import ScanCase, of_split, part_of_patients, read_cases
from slicesight.training.scan_samples import DRAWN, IMAGE, MASK, CropSamples, SpatialAugmentation

VERB = "insight segment"
VALIDATION_CROPS = 4
"""Fixed crops of each scan that the validation loss is measured on."""


@dataclass(frozen=True, kw_only=True)
class SegmentRecipe(FineTuneRecipe):
    """One fine-tuning run for segmentation; each scan has a mask.

    labels: name -> value in the masks; None takes every value found. init_parts: "encoder" leaves the decoder random,
        "model" goes on with a segmenter of the same labels, its last layer included.
    outputs: "softmax" over background and structures; "sigmoid", each structure by itself, which is needed where some
        masks do not show all of them (`drawn` in the list). crops: "voxels" centres half of them in a labelled voxel,
        "structures" three quarters near a structure, small ones as often as large ones.
    overlap: of neighbouring windows. mirror_average: a scan's labels come from it and its mirror image alike.
    least_piece: pieces of a structure that are smaller than this share of its largest one are dropped.
    save_masks: of the scored scans, as NIfTI. num_overlays: pictures of them.
    Where flip_axes has 2, what is called left and right changes its name in a mirrored crop.
    """

    labels: dict[str, Any] | None = None
    init_parts: Literal["all", "encoder", "model"] = "all"
    outputs: Literal["softmax", "sigmoid"] = "softmax"
    crops: Literal["voxels", "structures"] = "voxels"
    overlap: float = 0.5
    mirror_average: bool = False
    least_piece: float = 0.0
    save_masks: bool = True
    num_overlays: int = 4

    def __post_init__(self) -> None:
        if self.preparation.spacing_mm is None:
            raise InputError(
                "preparation.spacing_mm is not set; a segmenter reads crops of one voxel size, set z, y, x"
            )
        super().__post_init__()
        if self.init_parts == "model" and self.init is None:
            raise InputError("init_parts is model and init names no folder; set init to a segmenter's")
        if not 0 <= self.overlap < 1:
            raise InputError(f"overlap is {self.overlap}; expected 0 up to, not including, 1")
        if not 0 <= self.least_piece <= 1:
            raise InputError(f"least_piece is {self.least_piece}; expected a share, 0 to 1")
        values = list((self.labels or {"": 1}).values())
        if not all(type(value) is int and value > 0 for value in values) or len(set(values)) < len(values):
            raise InputError(f"labels is {self.labels}; expected names with different whole numbers above 0")
        if self.labels is not None and (self.mirror_average or 2 in self.augmentation.flip_axes):
            mirrored_classes(list(self.labels))

    @property
    def newer_settings(self) -> dict[str, Any]:
        return {"outputs": "softmax", "crops": "voxels", "mirror_average": False, "least_piece": 0.0}


def read_segment_recipe(path: str | Path, changes: tuple[str, ...] = ()) -> SegmentRecipe:
    """Read and check a recipe of `slicesight insight segment`."""
    return read_settings(SegmentRecipe, path, changes, verb=VERB)


def train_segmenter(recipe: SegmentRecipe, *, resume: bool = False, progress: Progress | None = None) -> Segmenter:
    """Train; a stopped run goes on with `resume`, a finished one is read from its folder.

    Writes what `train_once` does, and log.jsonl.

    Raises:
        InputError: data, settings or weights that do not fit, or an output_dir that holds another run.
    """
    cases = read_cases(recipe.data, needs="mask", root=recipe.root)
    _check_drawn(recipe, cases)
    training_cases = of_split(cases, "train", path=recipe.data)
    held_out = held_out_cases(cases, recipe.validation)

    def train() -> Segmenter:
        chosen = part_of_patients(training_cases, recipe.train_share, seed=recipe.seed)
        labels = recipe.labels or _labels_found(chosen, progress)
        torch.manual_seed(recipe.seed)
        parts: Literal["all", "encoder"] = "encoder" if recipe.init_parts == "encoder" else "all"
        backbone = start_backbone(recipe.backbone, init=recipe.init, parts=parts)
        config = InsightConfig(
            labels=labels,
            preparation=recipe.preparation.to_dict(),
            overlap=recipe.overlap,
            outputs=recipe.outputs,
            mirror_average=recipe.mirror_average,
            bf16=recipe.training.bf16,
            least_piece=recipe.least_piece,
        )
        segmenter = Segmenter(config, backbone)
        if recipe.init_parts == "model":
            _take_over(segmenter, Path(str(recipe.init)))
        size = backbone.spec.image_size
        scans = recipe.open_scans(size, labels)
        scans.prepare_all([*chosen, *held_out], progress)
        segmenter.config.trained_on = summarise_scans([scans.facts(case) for case in chosen])
        crops = functools.partial(
            CropSamples, scans, size=size, seed=recipe.seed, is_balanced=recipe.crops == "structures"
        )
        fixed = crops(held_out, augmentation=SpatialAugmentation(), length=VALIDATION_CROPS * len(held_out))
        sides, augmentation = mirroring(segmenter.names, recipe.augmentation)
        recipe.fit(
            segmenter,
            _loss_of(segmenter),
            crops(chosen, augmentation=augmentation, length=recipe.num_samples, sides=sides),
            fixed,
            progress,
        )
        return segmenter

    return train_once(Segmenter, recipe, train, verb=VERB, resume=resume)


def mirroring(names: Sequence[str], augmentation: SpatialAugmentation) -> tuple[tuple[int, ...], SpatialAugmentation]:
    """What each class becomes in a mirror image, and the augmentation that is left where that is more than nothing."""
    if 2 not in augmentation.flip_axes:
        return (), augmentation
    sides = mirrored_classes(names)
    if sides == tuple(range(len(sides))):
        return (), augmentation
    return sides, replace(augmentation, flip_axes=tuple(axis for axis in augmentation.flip_axes if axis != 2))


def _take_over(segmenter: Segmenter, folder: Path) -> None:
    """All weights of a segmenter's folder; InputError where it outlines something else."""
    config, weights = read_model_folder(folder, kind="segmenter")
    found = (dict(config["labels"]), config.get("outputs", "softmax"))
    wanted = (dict(zip(segmenter.names, segmenter.values, strict=True)), segmenter.config.outputs)
    if found != wanted:
        raise InputError(f"init: {folder} outlines {found}, this recipe {wanted}; set init_parts: all, or its labels")
    load_weights(segmenter, {name: weight.float() for name, weight in weights.items()}, folder)


def _loss_of(segmenter: Segmenter) -> Callable[[dict[str, Tensor]], Tensor]:
    if segmenter.is_independent:
        return lambda batch: partial_label_loss(segmenter(batch[IMAGE])[:, 1:], batch[MASK], batch[DRAWN])
    loss = import_monai("monai.losses").DiceCELoss(to_onehot_y=True, softmax=True, include_background=False, batch=True)

    def of_batch(batch: dict[str, Tensor]) -> Tensor:
        found: Tensor = loss(segmenter(batch[IMAGE]), batch[MASK])
        return found

    return of_batch


def _check_drawn(recipe: SegmentRecipe, cases: Sequence[ScanCase]) -> None:
    """Raises InputError where lines of the list do not fit the recipe's labels and outputs."""
    name = Path(recipe.data).name
    for case in cases:
        if case.drawn is None:
            continue
        if recipe.labels is None:
            raise InputError(f"{name} line {case.line}: says which structures were drawn; name all of them in labels")
        try:
            values = case.values(recipe.labels)
        except ManifestError as error:
            raise ManifestError(f"{name} {error}") from None
        if None in values and recipe.outputs == "softmax":
            raise InputError(
                f"{name} line {case.line}: not every structure was drawn, and a softmax takes what was not drawn for "
                "background; set outputs: sigmoid"
            )


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
