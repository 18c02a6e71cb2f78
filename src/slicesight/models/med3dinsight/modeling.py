"""What does each network of Med3DInsight make of a scan, and what have they in common?

A backbone with a head: a segmenter's 1x1x1 convolution to the class of every voxel, a classifier's Linear layer on its
averaged memory, or what pretraining.py adds. `Segmenter.from_pretrained(folder)` reads what an insight verb or
`save_pretrained` wrote; `InsightModel.from_pretrained`, and so `AutoModel`, reads a folder of any kind. Weights must
fit to the last name: nothing is initialised in silence.
B crops of N x H x W voxels, K structures beside the background (class 0), C memory channels, Y classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

from slicesight.errors import ModelError
from slicesight.models.checksums import write_checksums
from slicesight.models.encoders3d.backbone import Backbone
from slicesight.models.encoders3d.backbones import backbone_from, misfit, spec_of
from slicesight.models.folder import FAMILY, one_line_for_damage, read_model_folder
from slicesight.models.med3dinsight.preparation import Preparation
from slicesight.models.med3dinsight.sides import mirrored_classes
from slicesight.settings import build_settings

RARE = -4.0
"""First logit of an independent structure: few voxels belong to it."""


class InsightConfig(PreTrainedConfig):
    """What rebuilds a segmenter, a classifier or a pre-training model, by `kind`.

    backbone: the fields of a `BackboneSpec`. preparation: those of a `Preparation`, for the first two.
    trained_on: of the first two, the kind of scans they learnt from (trained_on.py).
    Segmenter: labels, (name, value in a mask) of each structure, or a dict of them; overlap of neighbouring windows;
        outputs, "softmax" over the background and all structures or "sigmoid", each structure by itself;
        mirror_average, whether the logits of a scan and of its mirror image are averaged; bf16, whether it learnt in
        bfloat16 and so may work in it; least_piece, the share of a structure's largest piece below which others go.
    Classifier: classes; pool, "mean" or "mean+max"; dropout; flip_axes, whose mirrored cubes have a vote each.
    Pre-training model: pretraining, the recipe's settings, the frozen vectors' sizes, and whether they share a space.
    """

    model_type = FAMILY

    kind: str | None = None
    backbone: dict[str, Any] | None = None
    preparation: dict[str, Any] | None = None
    trained_on: dict[str, Any] | None = None
    labels: Any = None
    overlap: float = 0.5
    outputs: str = "softmax"
    mirror_average: bool = False
    bf16: bool = False
    least_piece: float = 0.0
    classes: list[str] | None = None
    pool: str = "mean"
    dropout: float = 0.0
    flip_axes: list[int] | tuple[int, ...] = ()
    pretraining: dict[str, Any] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        if isinstance(self.labels, dict):  # JSON with sorted keys would lose their order, which is the classes'
            self.labels = [list(pair) for pair in self.labels.items()]
        cast(Any, super()).__post_init__(**kwargs)


class InsightModel(PreTrainedModel):
    """A network of this family; each kind says which of the configuration's fields it writes."""

    config: InsightConfig
    config_class = InsightConfig
    base_model_prefix = ""
    main_input_name = "volumes"
    kind: ClassVar[str] = ""
    fields: ClassVar[tuple[str, ...]] = ()

    def __init__(self, config: InsightConfig, backbone: Backbone | None = None) -> None:
        super().__init__(config)
        config.kind = self.kind
        self.backbone = backbone or backbone_from(spec_of({"backbone": config.backbone}, "the configuration"))
        config.backbone = self.backbone.spec.to_dict()

    @property
    def preparation(self) -> Preparation:
        """How a scan is brought to this network."""
        return build_settings(Preparation, dict(self.config.preparation or {}), where="preparation")

    def facts(self) -> dict[str, Any]:
        """What config.json holds besides the weights."""
        found = {name: getattr(self.config, name) for name in ("backbone", *self.fields)}
        return found | ({"labels": dict(self.config.labels)} if "labels" in found else {})

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """The network of a folder, in evaluation mode; ModelError for another kind, a damaged folder or a misfit."""
        folder = pretrained_model_name_or_path
        kinds = {model.kind: model for model in InsightModel.__subclasses__()}
        if Path(folder).is_dir():
            config, _ = read_model_folder(folder, kind=cls.kind or None)
            if cls is InsightModel:
                if config["kind"] not in kinds:
                    raise ModelError(f"{folder}: holds a {config['kind']}; expected a {' or a '.join(kinds)}")
                return kinds[config["kind"]].from_pretrained(folder, *args, **kwargs)
            with one_line_for_damage(folder):
                spec_of(config, folder)
        wants_info = kwargs.pop("output_loading_info", False)
        before = logging.get_verbosity()
        logging.set_verbosity_error()  # its own table of what does not fit
        try:
            with one_line_for_damage(folder) if Path(folder).is_dir() else nullcontext():
                found: Any = super().from_pretrained(folder, *args, output_loading_info=True, **kwargs)
        finally:
            logging.set_verbosity(before)
        model, info = found
        if problem := misfit(info["missing_keys"], info["unexpected_keys"]):
            raise ModelError(f"{folder}: {problem}")
        return (model, info) if wants_info else model

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """As the library does, with the checksums of the weights beside them."""
        super().save_pretrained(save_directory, *args, **kwargs)
        if kwargs.get("is_main_process", True):
            write_checksums(save_directory)

    def _init_weights(self, module: nn.Module) -> None:
        """Every part is initialised where it is made."""


class Segmenter(InsightModel):
    """Outlines K structures. names, values: of each, and what a mask says for it."""

    kind = "segmenter"
    fields = ("labels", "preparation", "overlap", "outputs", "mirror_average", "bf16", "least_piece", "trained_on")

    def __init__(self, config: InsightConfig, backbone: Backbone | None = None) -> None:
        super().__init__(config, backbone)
        if not config.labels:
            raise ModelError("labels is empty; expected the name and the mask's value of at least one structure")
        self.names: tuple[str, ...] = tuple(name for name, _ in config.labels)
        self.values: tuple[int, ...] = tuple(value for _, value in config.labels)
        self.mirrored_classes = mirrored_classes(self.names) if config.mirror_average else ()
        if config.outputs not in ("softmax", "sigmoid"):
            raise ModelError(f"outputs is {config.outputs!r}; expected softmax or sigmoid")
        self.is_independent = config.outputs == "sigmoid"
        self.head = self.backbone.make_head(len(self.values) + (0 if self.is_independent else 1))
        if self.is_independent and self.head.bias is not None:
            nn.init.constant_(self.head.bias, RARE)
        cast(Any, self).post_init()

    def forward(self, volumes_B1NHW: Tensor) -> Tensor:
        """Logits (B, 1 + K, N, H, W); with independent structures the background's are 0, so that the highest wins."""
        return self.with_memory(volumes_B1NHW)[0]

    def with_memory(self, volumes_B1NHW: Tensor) -> tuple[Tensor, Tensor]:
        """The logits, and the encoder's memory (B, C, d, h, w)."""
        features = self.backbone.encode(volumes_B1NHW)
        logits: Tensor = self.head(self.backbone.decode(features))
        if self.is_independent:
            logits = torch.cat([torch.zeros_like(logits[:, :1]), logits], dim=1)
        return logits, features.memory


class Classifier(InsightModel):
    """A backbone's encoder, its memory averaged, and a Linear layer.

    The decoder stays in the folder, so that the whole backbone can travel on.
    """

    kind = "classifier"
    fields = ("classes", "preparation", "pool", "flip_axes", "trained_on")

    def __init__(self, config: InsightConfig, backbone: Backbone | None = None) -> None:
        super().__init__(config, backbone)
        self.classes, self.flip_axes = tuple(config.classes or ()), tuple(config.flip_axes)
        if len(self.classes) < 2:
            raise ModelError(f"classes is {list(self.classes)}; expected two or more names")
        self.dropout = nn.Dropout(config.dropout)
        width = self.backbone.memory_width * (2 if config.pool == "mean+max" else 1)
        self.head = nn.Linear(width, len(self.classes))
        cast(Any, self).post_init()

    def forward(self, volumes_B1NHW: Tensor) -> Tensor:
        """Logits (B, Y)."""
        return cast(Tensor, self.head(self.dropout(self.features(volumes_B1NHW))))

    def features(self, volumes_B1NHW: Tensor) -> Tensor:
        """One vector (B, C) or (B, 2C) per cube."""
        memory = self.backbone.encode(volumes_B1NHW).memory
        means = memory.mean(dim=(2, 3, 4))
        return means if self.config.pool == "mean" else torch.cat([means, memory.amax(dim=(2, 3, 4))], dim=1)

    @torch.inference_mode()
    def probabilities(self, volumes_B1NHW: Tensor) -> Tensor:
        """Class probabilities (B, Y), averaged over the mirrored cubes."""
        self.train(False)
        votes = [functional.softmax(self(cube), dim=1) for cube in mirrored(volumes_B1NHW, self.flip_axes)]
        return torch.stack(votes).mean(dim=0)


def mirrored(volumes_B1NHW: Tensor, axes: Sequence[int]) -> list[Tensor]:
    """The cubes mirrored along every combination of the axes 0, 1, 2; first as they are."""
    results = [volumes_B1NHW]
    for axis in axes:
        results += [cube.flip(axis + 2) for cube in results]
    return results


AutoConfig.register(InsightConfig.model_type, InsightConfig)
AutoModel.register(InsightConfig, InsightModel)
