"""How do MONAI's networks become backbones? Their own modules, called in their own order, without the last layer.

`decode(encode(x))` followed by the network's own last layer equals the network (tested against MONAI's forward).
MONAI is an optional dependency (`pip install "slicesight[monai]"`), imported when one of these is built.
"""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from slicesight.errors import ModelError
from slicesight.models.encoders3d.backbone import Backbone, BackboneSpec, Features
from slicesight.models.encoders3d.configuration import SwinUNETRConfig
from slicesight.models.encoders3d.monai_encoders import SwinUNETREncoder, import_monai
from slicesight.settings import nearest

OWN_ARGUMENTS = (
    "in_channels",
    "out_channels",
    "img_size",
    "spatial_dims",
    "deep_supervision",
    "deep_supr_num",
    "use_conv_final",
    "save_attn",
)
"""Arguments of MONAI's classes that the backbone itself decides."""
SWIN_VARIANTS = {"use_v2": False, "normalize": True, "downsample": "merging"}
"""Settings that change what the Swin transformer computes, at the values that Med-2E3's Swin encoder has."""


class SwinUNETRBackbone(Backbone):
    """SwinUNETR: memory is the deepest stage of the Swin transformer, at 1/32 of the image with patch_size 2."""

    decoder_parts = ("net.encoder", "net.decoder")

    def __init__(self, spec: BackboneSpec) -> None:
        net = _make(spec, "monai.networks.nets.swin_unetr", "SwinUNETR", {"feature_size": 24})
        width = net.out.conv.conv.in_channels
        super().__init__(spec, stride=(net.patch_size**5,) * 3, memory_width=16 * width, dense_width=width)
        net.out = nn.Identity()
        self.net = net

    def find_features(self, volumes_BINHW: Tensor) -> Features:
        stages = self.net.swinViT(volumes_BINHW, self.net.normalize)
        return Features(stages[4], (volumes_BINHW, *stages[:4]))

    def decode(self, features: Features) -> Tensor:
        net, (volumes, stage0, stage1, stage2, stage3) = self.net, features.skips
        dense = net.decoder5(net.encoder10(features.memory), stage3)
        dense = net.decoder4(dense, net.encoder4(stage2))
        dense = net.decoder3(dense, net.encoder3(stage1))
        dense = net.decoder2(dense, net.encoder2(stage0))
        found: Tensor = net.decoder1(dense, net.encoder1(volumes))
        return found

    def vision3d(self) -> PreTrainedModel:
        swin, settings = self.net.swinViT, self.spec.settings
        if other := [name for name in SWIN_VARIANTS if settings.get(name, SWIN_VARIANTS[name]) != SWIN_VARIANTS[name]]:
            raise ModelError(f"swin_unetr: Med-2E3's Swin encoder has no {other[0]}; pre-train without it")
        config = SwinUNETRConfig(
            image_size=list(self.spec.image_size),
            in_channels=self.spec.in_channels,
            feature_size=self.dense_width,
            patch_size=self.net.patch_size,
            output_stage=4,
            **{key: settings[key] for key in ("window_size", "depths", "num_heads") if key in settings},
        )
        return SwinUNETREncoder(config, swin=swin)


class UNETRBackbone(Backbone):
    """UNETR: memory is the ViT's last, normed output, 16³ voxels a token."""

    decoder_parts = ("net.encoder", "net.decoder")

    def __init__(self, spec: BackboneSpec) -> None:
        net = _make(spec, "monai.networks.nets.unetr", "UNETR", {}, img_size=spec.image_size)
        width = net.out.conv.conv.in_channels
        super().__init__(spec, stride=(16, 16, 16), memory_width=net.hidden_size, dense_width=width)
        net.out = nn.Identity()
        self.net = net

    def find_features(self, volumes_BINHW: Tensor) -> Features:
        normed, hidden = self.net.vit(volumes_BINHW)
        grids = [self.net.proj_feat(tokens) for tokens in (hidden[3], hidden[6], hidden[9])]
        return Features(self.net.proj_feat(normed), (volumes_BINHW, *grids))

    def decode(self, features: Features) -> Tensor:
        net, (volumes, early, middle, late) = self.net, features.skips
        dense = net.decoder5(features.memory, net.encoder4(late))
        dense = net.decoder4(dense, net.encoder3(middle))
        dense = net.decoder3(dense, net.encoder2(early))
        found: Tensor = net.decoder2(dense, net.encoder1(volumes))
        return found


class SegResNetBackbone(Backbone):
    """SegResNet: memory is its deepest residual stage."""

    decoder_parts = ("net.up_", "net.conv_final")

    def __init__(self, spec: BackboneSpec) -> None:
        net = _make(spec, "monai.networks.nets.segresnet", "SegResNet", {"init_filters": 16})
        depth, width = len(net.blocks_down) - 1, net.init_filters
        super().__init__(spec, stride=(2**depth,) * 3, memory_width=width * 2**depth, dense_width=width)
        net.conv_final = net.conv_final[:-1]
        self.net = net

    def find_features(self, volumes_BINHW: Tensor) -> Features:
        memory, stages = self.net.encode(volumes_BINHW)
        return Features(memory, tuple(stages))

    def decode(self, features: Features) -> Tensor:
        dense: Tensor = self.net.decode(features.memory, list(features.skips[::-1]))
        return dense


class DynUNetBackbone(Backbone):
    """DynUNet (the nnU-Net of MONAI): memory is the bottleneck."""

    decoder_parts = ("net.upsamples",)

    def __init__(self, spec: BackboneSpec) -> None:
        strides = [_three(step) for step in spec.settings.get("strides", (1, 2, 2, 2, 2))]
        defaults = {
            "kernel_size": [3] * len(strides),
            "strides": strides,
            "upsample_kernel_size": strides[1:],
        }
        net = _make(spec, "monai.networks.nets.dynunet", "DynUNet", defaults, spatial_dims=3)
        if strides[0] != (1, 1, 1):
            raise ModelError(f"dynunet: strides start with {strides[0]}; expected 1, for dense features at every voxel")
        whole = [1, 1, 1]
        for step in strides:
            whole = [a * b for a, b in zip(whole, step, strict=True)]
        super().__init__(
            spec, stride=(whole[0], whole[1], whole[2]), memory_width=net.filters[-1], dense_width=net.filters[0]
        )
        del net.skip_layers  # the same modules once more, nested
        net.output_block = nn.Identity()
        self.net = net

    def find_features(self, volumes_BINHW: Tensor) -> Features:
        features = self.net.input_block(volumes_BINHW)
        skips = [features]
        for downsample in self.net.downsamples:
            features = downsample(features)
            skips.append(features)
        return Features(self.net.bottleneck(features), tuple(skips))

    def decode(self, features: Features) -> Tensor:
        dense: Tensor = features.memory
        for upsample, skip in zip(self.net.upsamples, features.skips[::-1], strict=True):
            dense = upsample(dense, skip)
        return dense


def _make(spec: BackboneSpec, module: str, name: str, defaults: dict[str, Any], **fixed: Any) -> Any:
    """MONAI's network with one output channel, or one line about a setting that does not fit."""
    kind = getattr(import_monai(module), name)
    allowed = [key for key in inspect.signature(kind).parameters if key not in OWN_ARGUMENTS]
    for key in spec.settings:
        if key not in allowed:
            hint = nearest(str(key), allowed, noun="settings")
            raise ModelError(f"backbone {spec.name}: unknown setting {key!r}; {hint}")
    settings = {**defaults, **spec.settings, **fixed}
    try:
        return kind(in_channels=spec.in_channels, out_channels=1, **settings)
    except (ValueError, TypeError) as error:
        raise ModelError(f"backbone {spec.name}: {' '.join(str(error).split())}; change its settings") from error


def _three(step: Any) -> tuple[int, int, int]:
    values = tuple(step) if isinstance(step, (list, tuple)) else (step,) * 3
    if len(values) != 3 or not all(isinstance(value, int) and value >= 1 for value in values):
        raise ModelError(f"dynunet: stride {step!r}; expected a whole number or three of them")
    return values[0], values[1], values[2]
