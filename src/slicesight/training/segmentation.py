"""How is a backbone fine-tuned to outline structures? (`slicesight insight segment`)

Dice + cross-entropy on random crops (MONAI's DiceCELoss). B crops of N x H x W voxels, K structures, class 0 the
background.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from slicesight.errors import InputError, ManifestError
from slicesight.io.loading import read_volume
from slicesight.models.encoders3d.backbone import BackboneSpec
from slicesight.models.encoders3d.backbones import start_backbone
from slicesight.models.encoders3d.monai_encoders import import_monai
from slicesight.models.folder import finished_run
from slicesight.models.med3dinsight import InsightConfig, Preparation, Segmenter
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
from slicesight.training.scan_samples import IMAGE, MASK, CropSamples, SpatialAugmentation

VERB = "insight segment"


@dataclass(frozen=True, kw_only=True)
class SegmentRecipe:
    """One fine-tuning run for segmentation.

    data: a .jsonl of image, mask, patient, split. labels: name -> value in the masks; None takes every value found.
    backbone: its image_size is the crop's; None takes what `init` holds. init: a folder of `insight pretrain`, None for
        random weights; init_parts: "encoder" leaves the decoder random.
    train_share: of the training patients, drawn by the seed. overlap: of neighbouring windows. score_splits:
        scored after training.
    save_masks: of the scored scans, as NIfTI. num_overlays: pictures of them. prepared_dir: where prepared scans are
        kept, for several runs to share; None is a folder in output_dir.
    """

    name: str
    output_dir: str
    data: str
    seed: int = 0
    labels: dict[str, Any] | None = None
    preparation: Preparation = field(default_factory=Preparation)
    backbone: BackboneSpec | None = None
    init: str | None = None
    init_parts: Literal["all", "encoder"] = "all"
    train_share: float = 1.0
    augmentation: SpatialAugmentation = field(default_factory=SpatialAugmentation)
    training: FitSettings = field(default_factory=FitSettings)
    overlap: float = 0.5
    score_splits: tuple[Literal["train", "val", "test"], ...] = ("val", "test")
    save_masks: bool = True
    num_overlays: int = 4
    prepared_dir: str | None = None

    def __post_init__(self) -> None:
        if self.preparation.spacing_mm is None:
            raise InputError(
                "preparation.spacing_mm is not set; a segmenter reads crops of one voxel size, set z, y, x"
            )
        if not 0 < self.train_share <= 1 or not 0 <= self.overlap < 1:
            raise InputError("train_share must lie above 0 up to 1, overlap from 0 up to, not including, 1")
        if self.backbone is None and self.init is None:
            raise InputError("no backbone is named; set backbone, or init to a folder that insight pretrain wrote")
        values = list((self.labels or {"": 1}).values())
        if not all(type(value) is int and value > 0 for value in values) or len(set(values)) < len(values):
            raise InputError(f"labels is {self.labels}; expected names with different whole numbers above 0")

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def read_segment_recipe(path: str | Path, changes: tuple[str, ...] = ()) -> SegmentRecipe:
    """Read and check a recipe of `slicesight insight segment`."""
    return read_settings(SegmentRecipe, path, changes, verb=VERB)


def train_segmenter(recipe: SegmentRecipe, *, resume: bool = False, progress: Progress | None = None) -> Segmenter:
    """Train; a stopped run goes on with `resume`, a finished one is read from its folder.

    Writes config.json, model.safetensors, recipe.json and log.jsonl into output_dir.

    Raises:
        InputError: data, settings or weights that do not fit, or an output_dir that holds another run.
    """
    cases = read_cases(recipe.data, needs="mask")
    folder = Path(recipe.output_dir)
    check_resume(folder, resume=resume)
    folder.mkdir(parents=True, exist_ok=True)
    digest = digest_of_fine_tuning(recipe)
    if finished_run(folder, digest=digest):
        segmenter: Segmenter = Segmenter.from_pretrained(folder)
        nn.Module.to(segmenter, recipe.training.torch_device)
        return segmenter
    chosen = part_of_patients(of_split(cases, "train", path=recipe.data), recipe.train_share, seed=recipe.seed)
    labels = recipe.labels or _labels_found(chosen, progress)
    torch.manual_seed(recipe.seed)
    backbone = start_backbone(recipe.backbone, init=recipe.init, parts=recipe.init_parts)
    config = InsightConfig(labels=labels, preparation=recipe.preparation.to_dict(), overlap=recipe.overlap)
    segmenter = Segmenter(config, backbone)
    size = backbone.spec.image_size
    place = Path(recipe.prepared_dir) if recipe.prepared_dir else folder / "prepared"
    prepared = ScanDataset(place, recipe.preparation, image_size=size, values=segmenter.values)
    prepared.prepare_all(chosen, progress)
    loss = import_monai("monai.losses").DiceCELoss(to_onehot_y=True, softmax=True, include_background=False, batch=True)
    samples = CropSamples(
        prepared,
        chosen,
        size=size,
        augmentation=recipe.augmentation,
        seed=recipe.seed,
        length=recipe.training.steps * recipe.training.batch_size,
    )
    fit(
        segmenter,
        lambda batch: loss(segmenter(batch[IMAGE]), batch[MASK]),
        samples,
        recipe.training,
        seed=recipe.seed,
        folder=folder,
        run_digest=digest,
        progress=progress,
    )
    facts = segmenter.facts()
    finish_run(folder, segmenter, kind=segmenter.kind, facts=facts, verb=VERB, recipe=recipe.to_dict(), digest=digest)
    return segmenter


def _labels_found(cases: Sequence[ScanCase], progress: Progress | None) -> dict[str, int]:
    """Every value of the training masks above 0, named by its number."""
    values: set[int] = set()
    for number, case in enumerate(cases, start=1):
        assert case.mask is not None
        values |= {
            int(value) for value in np.unique(read_volume(case.mask, unit="arbitrary", may_be_blank=True).voxels)
        }
        if progress is not None:
            progress("looking for labels", number, len(cases))
    values -= {0}
    if not values:
        raise ManifestError("every training mask is empty; expected at least one label above 0, check the masks")
    return {f"label {value}": value for value in sorted(values)}
