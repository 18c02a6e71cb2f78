"""What is one pre-training run, and how are its triplets made? Frozen settings, checked before anything is loaded."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from slicesight.errors import InputError
from slicesight.settings import build_settings, changed, read_settings
from slicesight.training.fitting import FitSettings
from slicesight.training.recipe import Validation
from slicesight.volumes.windows import checked_window

VERB = "insight pretrain"
SELF_TRAINED = "self-trained"
MIN_BATCH = 8
WEIGHTS = ("image_weight", "text_weight", "reconstruction_weight", "dense_weight", "contrast_weight")
AS_RELEASED: dict[str, Any] = {"optimizer": "adam", "learning_rate": 1e-5, "weight_decay": 1e-5, "schedule": "constant"}
PROMPT = (
    "This is a {plane} {modality} slice of the {region}. Describe the visible organs, their position, shape and any "
    "abnormality in 2–3 sentences."
)
TextSource = Literal["none", "position", "labels", "model"]
NEWER_TRIPLETS: dict[str, Any] = {
    "spacing_mm": None,
    "crops": 1,
    "dense_components": 0,
    "encode_bf16": False,
    "self_training": None,
}
NEWER: dict[str, Any] = {"near_slices": False, "dense_weight": 0.0, "dense_reads": "decoder", "contrast_weight": 0.0}
"""Settings that earlier versions did not have, at the values that change nothing; left out of a run's digest there."""


@dataclass(frozen=True, kw_only=True)
class SelfTraining:
    """How a 2D encoder learns from the slices themselves, without labels, before it teaches (triplets/self_teacher.py).

    widths: of the four stages of a ResNet of basic blocks, one block each. side: pixels of the crops it learns from.
    """

    steps: int = 2000
    batch_size: int = 48
    learning_rate: float = 2e-3
    side: int = 96
    widths: tuple[int, ...] = (32, 64, 128, 256)

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 2 or not self.learning_rate > 0 or self.side < 32:
            raise InputError(
                "self_training: steps must be at least 1, batch_size 2, side 32, and learning_rate above 0"
            )
        if len(self.widths) != 4 or min(self.widths) < 1:
            raise InputError(f"self_training.widths is {list(self.widths)}; expected four numbers of channels")


@dataclass(frozen=True, kw_only=True)
class TripletSettings:
    """How scans become (volume, slice, text) triplets.

    size: (D, H, W) of the canonical cube. picture_size: side of the slices that the 2D models see, cut from the scan.
    window, crop_foreground: as for every model grid (`GridSpec`). modality, region: fill prompt and templates;
        modality None takes the file's own.
    text: "model" asks `captioner`; "labels" is a template over the label map and counts as annotation; "position" is a
        template of plane and place alone; "none" leaves the text out.
    captioner, image_encoder, text_encoder: Hugging Face names or folders. The image encoder may also be "pixels", the
        text encoder "words": stand-ins without weights, for tests. text_encoder None takes a CLIP-like image encoder's
        own text side. image_encoder "self-trained" learns from the slices first, as `self_training` says.
    spacing_mm: (z, y, x). With it a cube is a crop of that voxel size, as a segmenter reads, and not the whole scan:
        `crops` of each scan, which count as scans of their own then; places in texts stay those in the scan.
    dense_components: of the principal components of the image encoder's patch tokens, kept for every slice as teachers
        of the 3D features at the same places (dense.py); 0 keeps none. encode_bf16: encode in bfloat16.
    image_encoder_size: pixels it is shown; None takes its own. label_names: label value -> what it is called.
    """

    image_encoder: str
    size: tuple[int, int, int] = (96, 96, 96)
    slices_per_plane: int = 12
    picture_size: int = 224
    window: str = "auto"
    crop_foreground: bool = True
    modality: str | None = None
    region: str = "body"
    text: TextSource = "none"
    label_names: dict[str, str] = field(default_factory=dict)
    captioner: str | None = None
    prompt: str = PROMPT
    max_new_tokens: int = 96
    caption_batch: int = 4
    image_encoder_size: int | None = None
    text_encoder: str | None = None
    encode_batch: int = 16
    spacing_mm: tuple[float, float, float] | None = None
    crops: int = 1
    dense_components: int = 0
    encode_bf16: bool = False
    self_training: SelfTraining | None = None

    def __post_init__(self) -> None:
        if not 8 <= self.slices_per_plane <= 16:
            raise InputError(f"slices_per_plane is {self.slices_per_plane}; expected 8 to 16 of each of three planes")
        if min(self.size) < 8 or max(self.size) > 512:
            raise InputError(f"size is {list(self.size)}; expected three numbers of voxels from 8 to 512")
        if min(self.picture_size, self.max_new_tokens, self.caption_batch, self.encode_batch) < 1:
            raise InputError("picture_size, max_new_tokens, caption_batch and encode_batch must be at least 1")
        names = {str(value): str(name) for value, name in self.label_names.items()}
        object.__setattr__(self, "label_names", names)  # YAML reads 1 as a number, JSON writes it as text
        object.__setattr__(self, "window", checked_window(self.window))
        if "+" in self.window:
            raise InputError(f"window {self.window!r} has three channels; pre-training reads one, name one window")
        if self.spacing_mm is None and self.crops != 1:
            raise InputError(f"crops is {self.crops} and spacing_mm is null; crops need a voxel size, set spacing_mm")
        if self.crops < 1 or self.dense_components < 0:
            raise InputError("crops must be at least 1, dense_components 0 or more")
        if self.spacing_mm is not None and not all(0.01 <= size <= 100 for size in self.spacing_mm):
            raise InputError(
                f"spacing_mm is {list(self.spacing_mm)}; expected three sizes from 0.01 to 100 mm, or null"
            )
        if (self.image_encoder == SELF_TRAINED) != (self.self_training is not None):
            raise InputError(
                f"image_encoder is {self.image_encoder!r} and self_training is {self.self_training}; set "
                f"both image_encoder: {SELF_TRAINED} and self_training: {{steps: 2000}}, or neither"
            )
        if (self.text == "model") != (self.captioner is not None):
            raise InputError(
                f"text is {self.text!r} and captioner is {self.captioner!r}; set both text: model and captioner: NAME, "
                "or neither"
            )
        try:
            self.prompt.format(plane="axial", modality="CT", region="body")
        except (KeyError, IndexError, ValueError) as error:
            raise InputError(
                f"prompt: {error} cannot be filled; its fields are {{plane}}, {{modality}}, {{region}}"
            ) from None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        plain = {**asdict(self), "size": list(self.size)}
        if self.spacing_mm is not None:
            plain["spacing_mm"] = list(self.spacing_mm)
        if self.self_training is not None:
            plain["self_training"]["widths"] = list(self.self_training.widths)
        return without(NEWER_TRIPLETS, plain)


@dataclass(frozen=True, kw_only=True)
class BackboneChoice:
    """Which network, with which of its settings (encoders3d/backbone.py); its image_size is the triplets' size."""

    name: str = "swin_unetr"
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class PsatSettings:
    """The transformer between volume and slices; None takes what the variant has (psat.py).

    plane_slice: False is the control that does not tell it plane and slice.
    """

    num_queries: int | None = None
    num_layers: int = 6
    num_heads: int = 8
    ffn_width: int | None = None
    dropout: float = 0.1
    plane_slice: bool = True


@dataclass(frozen=True, kw_only=True)
class PretrainRecipe:
    """One pre-training run.

    data: a folder written by `slicesight insight triplets`, or scans to make triplets of (into output_dir/triplets), as
        `triplets` says.
    split: only scans of this split, and those without one.
    variant: "corrected", or "released": what the authors' snapshot computes, faults included (docs/method.md).
    alignment: "transport" (2025) or "contrastive" (2024). A weight of 0 leaves a term out; both alignments at 0 is the
        control "reconstruction only".
    dense_weight: of the agreement with the 2D encoder's patch tokens, place by place (dense.py; dense_components of the
        triplets); dense_reads: from the whole network's features, or its memory alone. contrast_weight: of telling a
        volume from others by two random views of it (volume_contrast.py), the baseline without any 2D model.
    pairing: "shuffled" is the control that gives every volume another volume's slices.
    mask_share: of the input's cells that are hidden and must be reconstructed; None is 0.5 corrected, 0 released.
    intensity_jitter: largest random change of contrast. slices_per_volume: slices of each volume in a step.
    validation: of the training loss, on one pass through the scans of its split, with fixed slices and hidden cells and
        no queue. It depends on the batch size: compare it within one run.
    queue: earlier pairs kept as further partners. near_slices: the slices of a volume in one step lie side by side in
        one plane, so that each must be told from its neighbours. epochs: passes over the scans, for training.steps.
    """

    name: str
    output_dir: str
    data: str
    split: str = "train"
    seed: int = 0
    triplets: TripletSettings | None = None
    backbone: BackboneChoice = field(default_factory=BackboneChoice)
    variant: Literal["released", "corrected"] = "corrected"
    psat: PsatSettings = field(default_factory=PsatSettings)
    alignment: Literal["transport", "contrastive"] = "transport"
    image_weight: float = 1.0
    text_weight: float = 1.0
    reconstruction_weight: float = 1.0
    regularisation: float = 0.03
    mass: float = 0.95
    transport_iterations: int = 100
    pairing: Literal["matched", "shuffled"] = "matched"
    mask_share: float | None = None
    mask_cell: int = 8
    intensity_jitter: float = 0.0
    slices_per_volume: int = 1
    near_slices: bool = False
    queue: int = 0
    dense_weight: float = 0.0
    dense_reads: Literal["decoder", "memory"] = "decoder"
    contrast_weight: float = 0.0
    epochs: int | None = None
    training: FitSettings = field(default_factory=lambda: FitSettings(batch_size=10, **AS_RELEASED))
    validation: Validation | None = None

    def __post_init__(self) -> None:
        for name in ("slices_per_volume", "mask_cell", "transport_iterations"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; expected at least 1")
        if self.epochs is not None and self.epochs < 1:
            raise InputError(f"epochs is {self.epochs}; expected at least 1, or null to train for training.steps")
        for name in (*WEIGHTS, "intensity_jitter", "queue"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} is {getattr(self, name)}; expected 0 or more")
        if not any(getattr(self, name) for name in WEIGHTS):
            raise InputError("all weights are 0: nothing would be learnt; set one of them above 0")
        if (self.aligns or self.contrast_weight) and self.training.batch_size < MIN_BATCH:
            raise InputError(
                f"training.batch_size is {self.training.batch_size}: a slice is told from those of other volumes, and "
                "few others give next to no signal (of one pair the transport loss is 0.0513 whatever the model says); "
                f"set training.batch_size to at least {MIN_BATCH}"
            )
        if not 0 <= self.masked_share < 1:
            raise InputError(f"mask_share is {self.mask_share}; expected 0 up to, not including, 1")
        if not (0 < self.mass <= 1 and self.regularisation > 0):
            raise InputError("mass must lie above 0 up to 1, regularisation above 0")

    @property
    def aligns(self) -> bool:
        """Whether slices and texts play a part at all."""
        return bool(self.image_weight or self.text_weight)

    @property
    def masked_share(self) -> float:
        """mask_share, or the variant's own."""
        if self.mask_share is not None:
            return self.mask_share
        return 0.5 if self.variant == "corrected" else 0.0

    def training_for(self, num_scans: int) -> FitSettings:
        """The training settings, with the steps that `epochs` passes over the scans take."""
        if self.epochs is None:
            return self.training
        return replace(self.training, steps=math.ceil(self.epochs * num_scans / self.training.batch_size))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        plain = {**asdict(self), "triplets": None if self.triplets is None else self.triplets.to_dict()}
        return without(NEWER, plain)


def without(defaults: dict[str, Any], plain: dict[str, Any]) -> dict[str, Any]:
    """The settings, less those that stand at these values."""
    return {name: value for name, value in plain.items() if name not in defaults or value != defaults[name]}


def read_triplet_settings(path: str | Path | None = None, changes: tuple[str, ...] = ()) -> TripletSettings:
    """The `triplets` of a pretrain recipe, or the defaults, with changes of its own keys."""
    content: dict[str, Any] = {}
    if path is not None:
        recipe = read_pretrain_recipe(path)
        if recipe.triplets is None:
            raise InputError(f"{Path(path).name}: has no `triplets:`; add them, or leave --recipe out")
        content = recipe.triplets.to_dict()
    return build_settings(TripletSettings, changed(content, changes), where=Path(path).name if path else "triplets")


def read_pretrain_recipe(path: str | Path, changes: tuple[str, ...] = ()) -> PretrainRecipe:
    """Read and check a recipe of `slicesight insight pretrain`."""
    return read_settings(PretrainRecipe, path, changes, verb=VERB)
