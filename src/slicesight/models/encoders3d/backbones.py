"""Which 3D network learns from slices, and how do its weights travel on? One coat over MONAI's networks and our own.

    encode: volumes (B, I, N, H, W) -> memory (B, C, d, h, w), the deepest features, and skips
    decode: memory and skips -> dense features (B, F, N, H, W), which a 1x1x1 head turns into voxels or classes

B volumes of I channels, M = d * h * w memory tokens of C channels, F channels at every voxel. The same weights
pre-train (insight/pretrain.py), segment, classify and, for the encoders Med-2E3 knows, become its 3D encoder.
"""

from __future__ import annotations

import difflib
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from slicesight.errors import ModelError
from slicesight.models.folder import read_model_folder, write_model_folder

if TYPE_CHECKING:
    from slicesight.models.med2e3 import Med2E3ForConditionalGeneration

BACKBONES = ("swin_unetr", "unetr", "segresnet", "dynunet", "m3d_vit", "cnn3d")
KIND = "backbone"


@dataclass(frozen=True, kw_only=True)
class BackboneSpec:
    """What rebuilds a backbone.

    image_size: (N, H, W) voxels of the cube or crop it reads. settings: arguments of MONAI's class, or fields of
        `M3DViTConfig` or `CNN3DConfig`; what is left out keeps the default.
    """

    name: str
    image_size: tuple[int, ...] = (64, 64, 64)
    in_channels: int = 1
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.name not in BACKBONES:
            near = difflib.get_close_matches(str(self.name), BACKBONES, n=1)
            hint = f"did you mean {near[0]!r}? else " if near else ""
            raise ModelError(f"backbone {self.name!r} is unknown; {hint}use one of {', '.join(BACKBONES)}")
        if len(self.image_size) != 3 or min(self.image_size) < 1:
            raise ModelError(f"backbone image_size is {list(self.image_size)}; expected three positive sizes, N, H, W")
        object.__setattr__(self, "image_size", tuple(int(size) for size in self.image_size))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON and YAML."""
        return {**asdict(self), "image_size": list(self.image_size)}


@dataclass(frozen=True)
class Features:
    """What the encoder found: memory (B, C, d, h, w) and the finer features its own decoder wants."""

    memory: Tensor
    skips: tuple[Tensor, ...]

    @property
    def memory_BMC(self) -> Tensor:
        """The memory as a row of tokens, depth-major."""
        return self.memory.flatten(2).transpose(1, 2)


class Backbone(nn.Module):
    """An encoder with its decoder.

    memory_width: C. memory_grid: (d, h, w). dense_width: F. decoder_parts: how names of weights begin that the memory
    does not depend on.
    """

    decoder_parts: tuple[str, ...] = ()

    def __init__(self, spec: BackboneSpec, *, stride: tuple[int, int, int], memory_width: int, dense_width: int):
        super().__init__()
        for size, step, axis in zip(spec.image_size, stride, ("slices", "rows", "columns"), strict=True):
            if size % step:
                raise ModelError(
                    f"{spec.name}: {size} {axis} of image_size {list(spec.image_size)} do not divide by {step}, the "
                    "network's whole stride; change image_size or the settings"
                )
        self.spec = spec
        self.memory_width, self.dense_width = memory_width, dense_width
        self.memory_grid = tuple(size // step for size, step in zip(spec.image_size, stride, strict=True))

    def encode(self, volumes_BINHW: Tensor) -> Features:
        """Memory and skips of volumes of exactly the spec's size."""
        found, expected = tuple(volumes_BINHW.shape[1:]), (self.spec.in_channels, *self.spec.image_size)
        if found != expected:
            raise ModelError(
                f"volumes are {found} (channels, slices, rows, columns); this {self.spec.name} reads {expected}"
            )
        return self.find_features(volumes_BINHW)

    def find_features(self, volumes_BINHW: Tensor) -> Features:
        """The network's own encoder."""
        raise NotImplementedError

    def decode(self, features: Features) -> Tensor:
        """Dense features (B, F, N, H, W)."""
        raise NotImplementedError

    def forward(self, volumes_BINHW: Tensor) -> Tensor:
        """Dense features (B, F, N, H, W) of volumes."""
        return self.decode(self.encode(volumes_BINHW))

    def make_head(self, out_channels: int) -> nn.Conv3d:
        """A fresh 1x1x1 convolution from dense features to voxels or class logits."""
        return nn.Conv3d(self.dense_width, out_channels, kernel_size=1)

    def vision3d(self) -> PreTrainedModel:
        """Its encoder as Med-2E3's 3D encoder, sharing these weights."""
        raise ModelError(
            f"{self.spec.name} has no counterpart among Med-2E3's 3D encoders; pre-train m3d_vit, cnn3d or swin_unetr"
        )

    @property
    def num_memory_tokens(self) -> int:
        """M."""
        return math.prod(self.memory_grid)


def build_backbone(
    name: str, *, image_size: tuple[int, ...] = (64, 64, 64), in_channels: int = 1, **settings: Any
) -> Backbone:
    """A backbone with random weights.

    Raises:
        ModelError: an unknown name or setting, or sizes that do not fit the network.
    """
    return backbone_from(BackboneSpec(name=name, image_size=image_size, in_channels=in_channels, settings=settings))


def backbone_from(spec: BackboneSpec) -> Backbone:
    """The backbone of a spec, with random weights."""
    from slicesight.models.encoders3d import monai_backbones as backbones_monai
    from slicesight.models.encoders3d import own_backbones as backbones_own

    kinds = {
        "swin_unetr": backbones_monai.SwinUNETRBackbone,
        "unetr": backbones_monai.UNETRBackbone,
        "segresnet": backbones_monai.SegResNetBackbone,
        "dynunet": backbones_monai.DynUNetBackbone,
        "m3d_vit": backbones_own.M3DViTBackbone,
        "cnn3d": backbones_own.CNN3DBackbone,
    }
    return kinds[spec.name](spec)


def start_backbone(
    spec: BackboneSpec | None, *, init: str | Path | None = None, parts: Literal["all", "encoder"] = "all"
) -> Backbone:
    """The backbone a fine-tuning starts from: random weights, or those of a folder.

    Args:
        spec: what to build; None builds what `init` holds. It may ask for another image_size than was pre-trained,
            where the network allows that. parts: "encoder" leaves the decoder random.

    Raises:
        ModelError: neither is given, or the folder's weights do not fit the spec.
    """
    if init is None:
        if spec is None:
            raise ModelError(
                "no backbone is named; set `backbone:`, or `init:` to a folder that insight pretrain wrote"
            )
        return backbone_from(spec)
    saved = load_backbone(init)
    if spec is not None and spec.name != saved.spec.name:
        raise ModelError(f"{init}: holds a {saved.spec.name}, the recipe asks for a {spec.name}; change one of them")
    backbone = backbone_from(spec or saved.spec)
    weights = saved.state_dict()
    if parts == "encoder":
        random = backbone.state_dict()
        weights = {n: random.get(n, w) if n.startswith(backbone.decoder_parts) else w for n, w in weights.items()}
    load_weights(backbone, weights, init)
    return backbone


def save_backbone(backbone: Backbone, folder: str | Path, *, about: dict[str, Any] | None = None) -> None:
    """Write config.json and model.safetensors; `about` (how it was trained, say) goes into config.json beside."""
    write_model_folder(folder, kind=KIND, facts={"backbone": backbone.spec.to_dict(), **(about or {})}, model=backbone)


def load_backbone(folder: str | Path) -> Backbone:
    """The backbone of a pre-training run, or the one inside a segmenter or classifier.

    Raises:
        ModelError: the folder holds no such model, or weights of other names or shapes.
    """
    config, weights = read_model_folder(folder)
    spec = spec_of(config, folder)
    if config["kind"] != KIND:
        weights = {n.removeprefix("backbone."): w for n, w in weights.items() if n.startswith("backbone.")}
    backbone = backbone_from(spec)
    load_weights(backbone, weights, folder)
    return backbone


def spec_of(config: dict[str, Any], folder: str | Path) -> BackboneSpec:
    """The spec written in a model folder's config.json."""
    found = config.get("backbone")
    if not isinstance(found, dict) or not {"name", "image_size"} <= set(found):
        raise ModelError(f"{folder}: config.json names no backbone; expected a folder that insight pretrain wrote")
    known = {key: found[key] for key in ("name", "image_size", "in_channels", "settings") if key in found}
    return BackboneSpec(**known)


def load_weights(module: nn.Module, weights: dict[str, Tensor], folder: str | Path) -> None:
    """Load all of a module's weights or none, with one line about the first that does not fit."""
    own = module.state_dict()
    missing, extra = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    if missing or extra:
        which, name = ("lacks", missing[0]) if missing else ("holds an unknown", extra[0])
        raise ModelError(
            f"{folder}: model.safetensors {which} weight {name!r}; the folder does not fit its config.json"
        )
    for name, tensor in weights.items():
        if tensor.shape != own[name].shape:
            raise ModelError(
                f"{folder}: weight {name!r} is {tuple(tensor.shape)}, this model's {tuple(own[name].shape)}; "
                "the folder does not fit its config.json"
            )
    module.load_state_dict(weights)


@torch.no_grad()
def put_into_med2e3(model: Med2E3ForConditionalGeneration, backbone: Backbone) -> None:
    """Copy a pre-trained encoder into a Med-2E3 whose vision3d_config asks for the same network.

    Raises:
        ModelError: the model has no 3D encoder, or one of another kind or size.
    """
    encoder = backbone.vision3d()
    if model.vision3d is None:
        raise ModelError(f"this Med-2E3 has no 3D encoder (fusion is {model.config.fusion!r}); nothing to load into")
    own, wanted = model.vision3d.encoder.state_dict(), encoder.state_dict()
    different = sorted(
        n for n in own.keys() | wanted.keys() if n not in own or n not in wanted or own[n].shape != wanted[n].shape
    )
    if different:
        raise ModelError(
            f"the model's 3D encoder ({model.config.vision3d_config.model_type}) differs from the pre-trained "
            f"{backbone.spec.name}, first at {different[0]!r}; build it with vision3d_config=backbone.vision3d().config"
        )
    model.vision3d.encoder.load_state_dict(wanted)
