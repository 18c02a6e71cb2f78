"""What is a backbone? A 3D encoder with its decoder, whose weights pre-train, segment, classify and travel on.

    encode: volumes (B, I, N, H, W) -> memory (B, C, d, h, w), the deepest features, and skips
    decode: memory and skips -> dense features (B, F, N, H, W), which a 1x1x1 head turns into voxels or classes

B volumes of I channels, M = d * h * w memory tokens of C channels, F channels at every voxel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from slicesight.data.plugins import known_names
from slicesight.errors import ModelError
from slicesight.models.arguments import check_tensor
from slicesight.models.encoders3d.configuration import divide_grid
from slicesight.settings import nearest

BACKBONES = {
    "swin_unetr": "slicesight.models.encoders3d.monai:SwinUNETRBackbone",
    "unetr": "slicesight.models.encoders3d.monai:UNETRBackbone",
    "segresnet": "slicesight.models.encoders3d.monai:SegResNetBackbone",
    "dynunet": "slicesight.models.encoders3d.monai:DynUNetBackbone",
    "m3d_vit": "slicesight.models.encoders3d.own_backbones:M3DViTBackbone",
    "cnn3d": "slicesight.models.encoders3d.own_backbones:CNN3DBackbone",
}
"""Name -> module:class. Another package adds its own by an entry point of the group below."""
ENTRY_POINTS = "slicesight.backbones"


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
        if self.name not in known_names(BACKBONES, ENTRY_POINTS):
            raise ModelError(
                f"backbone {self.name!r} is unknown; {nearest(str(self.name), BACKBONES, noun='backbones')}"
            )
        if len(self.image_size) != 3 or min(self.image_size) < 1:
            raise ModelError(f"backbone image_size is {list(self.image_size)}; expected three positive sizes, N, H, W")
        object.__setattr__(self, "image_size", tuple(int(size) for size in self.image_size))

    def check_settings(self, allowed: Sequence[str]) -> None:
        """Raises ModelError for a setting of another name than these."""
        for key in self.settings:
            if key not in allowed:
                hint = nearest(str(key), allowed, noun="settings")
                raise ModelError(f"backbone {self.name}: unknown setting {key!r}; {hint}")

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
        self.spec, self.memory_width, self.dense_width = spec, memory_width, dense_width
        self.memory_grid = divide_grid(
            spec.image_size, stride, where=spec.name, of="image_size", by="the network's whole stride"
        )

    def encode(self, volumes_BINHW: Tensor) -> Features:
        """Memory and skips of volumes of exactly the spec's size."""
        check_tensor(volumes_BINHW, "volumes", ndim=5)
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
