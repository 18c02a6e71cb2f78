"""How is a backbone fine-tuned to outline structures, and how well does it outline those it never saw?

Dice + cross-entropy on random crops (MONAI's DiceCELoss), sliding-window inference, scores in the scan's own voxels.
B crops of N x H x W voxels, K labelled structures, class 0 the background.
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
from slicesight.evaluation.metrics.masks import CaseScore, overlap, summarise
from slicesight.files import write_text
from slicesight.io.loading import read_volume
from slicesight.io.masks import write_mask
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
from slicesight.reports.overlays import write_overlay
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
from slicesight.training.insight.preparation import Preparation, ScanDataset, prepare_scan, read_labels
from slicesight.training.insight.samples import IMAGE, MASK, CropSamples, SpatialAugmentation
from slicesight.training.insight.scan_list import SPLITS, ScanCase, of_split, part_of_patients, read_cases
from slicesight.training.recipe import Validation
from slicesight.volumes.volume import Volume

VERB, KIND = "insight segment", "segmenter"
SCORES_FILE = "scores.json"
VALIDATION_CROPS = 4


@dataclass(frozen=True, kw_only=True)
class SegmentRecipe:
    """One fine-tuning run for segmentation.

    data: a .jsonl of image, mask, patient, split. labels: name -> value in the masks; None takes every value found.
    backbone: its image_size is the crop's; None takes what `init` holds. init: a folder of `insight pretrain`, None for
        random weights; init_parts: "encoder" leaves the decoder random.
    validation: of the training loss, on VALIDATION_CROPS fixed crops of each scan, unchanged.
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
    validation: Validation | None = None
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


class Segmenter(nn.Module):
    """A backbone and a 1x1x1 convolution to class logits, with what it takes to use it on a scan.

    names, values: of the K structures, and what a mask says for them.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        names: Sequence[str],
        values: Sequence[int],
        preparation: Preparation,
        overlap: float,
    ) -> None:
        super().__init__()
        assert len(names) == len(values) >= 1
        self.backbone, self.head = backbone, backbone.make_head(len(values) + 1)
        self.names, self.values = tuple(names), tuple(values)
        self.preparation, self.overlap = preparation, overlap

    def forward(self, volumes_B1NHW: Tensor) -> Tensor:
        """Logits (B, 1 + K, N, H, W)."""
        return self.head(self.backbone(volumes_B1NHW))

    def facts(self) -> dict[str, Any]:
        """What config.json holds besides the weights."""
        return {
            "backbone": self.backbone.spec.to_dict(),
            "labels": dict(zip(self.names, self.values, strict=True)),
            "preparation": self.preparation.to_dict(),
            "overlap": self.overlap,
        }


def read_segment_recipe(path: str | Path, changes: tuple[str, ...] = ()) -> SegmentRecipe:
    """Read and check a recipe of `slicesight insight segment`."""
    return read_settings(SegmentRecipe, path, changes, verb=VERB)


def load_segmenter(folder: str | Path) -> Segmenter:
    """The segmenter of a folder that `slicesight insight segment` wrote."""
    config, weights = read_model_folder(folder, kind=KIND)
    segmenter = Segmenter(
        backbone_from(spec_of(config, folder)),
        names=list(config["labels"]),
        values=list(config["labels"].values()),
        preparation=build_settings(Preparation, config["preparation"], where=f"{folder}: preparation"),
        overlap=float(config["overlap"]),
    )
    load_weights(segmenter, weights, folder)
    return segmenter.eval()


def run_segmentation(
    recipe: SegmentRecipe, *, resume: bool = False, progress: Progress | None = None
) -> list[CaseScore]:
    """Train and score; a stopped run goes on with `resume`, a finished one is only scored again.

    Writes config.json, model.safetensors, recipe.json, log.jsonl, scores.json, masks/ and overlays/ into output_dir.

    Raises:
        InputError: data, settings or weights that do not fit, or an output_dir that holds another run.
    """
    cases = read_cases(recipe.data, needs="mask")
    folder = Path(recipe.output_dir)
    check_resume(folder, resume=resume)
    folder.mkdir(parents=True, exist_ok=True)
    digest = digest_of_fine_tuning(recipe)
    if finished_run(folder, digest=digest):
        segmenter = load_segmenter(folder).to(recipe.training.torch_device)
    else:
        segmenter = train_segmenter(recipe, cases, run_digest=digest, progress=progress)
        facts = segmenter.facts()
        finish_run(folder, segmenter, kind=KIND, facts=facts, verb=VERB, recipe=recipe.to_dict(), digest=digest)
    scored = [case for split in SPLITS if split in recipe.score_splits for case in cases if case.split == split]
    scores = score_cases(segmenter, scored, recipe, progress=progress)
    content = {"scans": [score.to_dict() for score in scores], "summary": summarise(scores)}
    write_text(folder / SCORES_FILE, text=json.dumps(content, indent=1) + "\n")
    return scores


def train_segmenter(
    recipe: SegmentRecipe, cases: Sequence[ScanCase], *, run_digest: str, progress: Progress | None = None
) -> Segmenter:
    """A segmenter trained on the recipe's share of the training patients."""
    chosen = part_of_patients(of_split(list(cases), "train", path=recipe.data), recipe.train_share, seed=recipe.seed)
    labels = recipe.labels or _labels_found(chosen, progress)
    torch.manual_seed(recipe.seed)
    backbone = start_backbone(recipe.backbone, init=recipe.init, parts=recipe.init_parts)
    segmenter = Segmenter(
        backbone,
        names=list(labels),
        values=list(labels.values()),
        preparation=recipe.preparation,
        overlap=recipe.overlap,
    )
    size = backbone.spec.image_size
    place = Path(recipe.prepared_dir) if recipe.prepared_dir else Path(recipe.output_dir) / "prepared"
    prepared = ScanDataset(place, recipe.preparation, image_size=size, values=segmenter.values)
    held_out = held_out_cases(cases, recipe.validation)
    for number, case in enumerate((*chosen, *held_out), start=1):
        prepared.prepare(case)
        if progress is not None:
            progress("preparing scans", number, len(chosen) + len(held_out))
    loss = import_monai("monai.losses").DiceCELoss(to_onehot_y=True, softmax=True, include_background=False, batch=True)
    crops = functools.partial(CropSamples, prepared, size=size, seed=recipe.seed)
    num_samples = recipe.training.steps * recipe.training.batch_size
    samples = crops(chosen, augmentation=recipe.augmentation, length=num_samples)
    fixed = crops(held_out, augmentation=SpatialAugmentation(), length=VALIDATION_CROPS * len(held_out))
    fit(
        segmenter,
        lambda batch: loss(segmenter(batch[IMAGE]), batch[MASK]),
        samples,
        recipe.training,
        seed=recipe.seed,
        folder=Path(recipe.output_dir),
        run_digest=run_digest,
        validation=recipe.validation,
        held_out=fixed if held_out else None,
        progress=progress,
    )
    return segmenter


def score_cases(
    segmenter: Segmenter, cases: Sequence[ScanCase], recipe: SegmentRecipe, *, progress: Progress | None = None
) -> list[CaseScore]:
    """Dice and HD95 of every structure in every scan, in the scan's own voxels."""
    folder = Path(recipe.output_dir)
    scores = []
    for number, case in enumerate(cases, start=1):
        volume = read_volume(case.image)
        assert case.mask is not None
        true = read_labels(case.mask, volume)
        found = segment_volume(segmenter, volume, name=case.image.name)
        scores += case_scores(case, found, true, segmenter, spacing_mm=volume.spacing_mm)
        if recipe.save_masks and volume.affine_lps is not None:
            (folder / "masks").mkdir(exist_ok=True)
            write_mask(found, volume, source=case.image, out=folder / "masks" / f"{case.name}.nii.gz")
        if number <= recipe.num_overlays:
            (folder / "overlays").mkdir(exist_ok=True)
            dice = ", ".join(f"{score.structure} {score.dice:.2f}" for score in scores[-len(segmenter.values) :])
            write_overlay(
                volume,
                found,
                folder / "overlays" / f"{case.name}.png",
                names=segmenter.names,
                values=segmenter.values,
                true_ZYX=np.where(np.isin(true, segmenter.values), true, 0),
                window=segmenter.preparation.window,
                title=f"{recipe.name} · {case.split} scan of line {case.line} · Dice {dice[:80]}",
            )
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


@torch.inference_mode()
def segment_volume(segmenter: Segmenter, volume: Volume, *, name: str) -> NDArray[np.int32]:
    """Label values (Z, Y, X) on the scan's own canonical voxels.

    Windows overlap and are weighed by a Gaussian; logits are interpolated to the scan's voxels, then the highest wins.
    """
    size = segmenter.backbone.spec.image_size
    scan = prepare_scan(volume, segmenter.preparation, image_size=size, name=name)
    device = next(segmenter.parameters()).device
    logits_KNHW = import_monai("monai.inferers").sliding_window_inference(
        torch.from_numpy(scan.voxels)[None, None].to(device),
        size,
        1,
        segmenter.eval(),
        overlap=segmenter.overlap,
        mode="gaussian",
    )[0]
    extent = [stop - start for start, stop in scan.box]
    best, classes = None, torch.zeros(extent, dtype=torch.int32, device=device)
    for number, logits_NHW in enumerate(logits_KNHW):
        fine = functional.interpolate(logits_NHW[None, None], size=extent, mode="trilinear", align_corners=False)[0, 0]
        if best is None:
            best = fine
            continue
        classes[fine > best] = segmenter.values[number - 1]
        best = torch.maximum(best, fine)
    labels = np.zeros(volume.shape, np.int32)
    labels[tuple(slice(*part) for part in scan.box)] = classes.cpu().numpy()
    return labels


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
