"""Which of MONAI's networks read volumes? Encoders as they are, and backbones: the networks without their last layer.

Encoders give features (V, depth, rows, columns, C). A backbone calls its network's own modules in their own order:
`decode(encode(x))` followed by the network's own last layer equals the network (tested against MONAI's forward).
MONAI is an optional dependency (`pip install "slicesight[monai]"`), imported when one of these is built.
"""

from __future__ import annotations

import importlib
import inspect
import math
from types import ModuleType
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from slicesight.errors import ModelError
from slicesight.models.encoders3d.backbone import Backbone, BackboneSpec, Features
from slicesight.models.encoders3d.configuration import MonaiViTConfig, SwinUNETRConfig, Vision3DConfig

OWN_ARGUMENTS = {
    *("in_channels", "out_channels", "img_size", "spatial_dims"),
    *("deep_supervision", "deep_supr_num", "use_conv_final", "save_attn"),
}
"""Arguments of MONAI's classes that the backbone itself decides."""
SWIN_VARIANTS = {"use_v2": False, "normalize": True, "downsample": "merging"}
"""Settings that change what the Swin transformer computes, at the values that Med-2E3's Swin encoder has."""


def import_monai(name: str) -> ModuleType:
    """A module of MONAI, or the one line that says how to get it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ModelError(f'this 3D encoder needs MONAI ({error}); run: pip install "slicesight[monai]".') from error


class MonaiEncoder(PreTrainedModel):
    """What both have in common: MONAI initialises its own weights."""

    config: Vision3DConfig
    base_model_prefix = "vision3d"
    main_input_name = "volumes"

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """MONAI's modules are initialised where they are made; only a module without that is done here."""
        if isinstance(module, (nn.Linear, nn.Conv3d, nn.LayerNorm)) and any(p.is_meta for p in module.parameters()):
            cast(Any, super())._init_weights(module)


class MonaiViT(MonaiEncoder):
    """MONAI's ViT."""

    config: MonaiViTConfig
    config_class = MonaiViTConfig

    def __init__(self, config: MonaiViTConfig) -> None:
        super().__init__(config)
        self.vit = import_monai("monai.networks.nets.vit").ViT(
            in_channels=config.in_channels,
            img_size=tuple(config.image_size),
            patch_size=tuple(config.patch_size),
            hidden_size=config.hidden_size,
            mlp_dim=config.intermediate_size,
            num_layers=config.num_hidden_layers,
            num_heads=config.num_attention_heads,
            proj_type=config.patch_projection,
            classification=config.use_cls_token,
            qkv_bias=config.qkv_bias,
        )
        self.vit.classification_head = nn.Identity()
        del self.vit.classification_head
        cast(Any, self).post_init()

    def forward(self, volumes: Tensor) -> Tensor:
        """Features (V, depth, rows, columns, C) of volumes (V, 1, N, H, W)."""
        normed, blocks = self.vit(volumes)
        tokens = normed if self.config.final_norm else blocks[-1]
        if self.config.use_cls_token:
            tokens = tokens[:, 1:]
        features: Tensor = tokens.unflatten(1, self.config.token_grid)
        return features


class SwinUNETREncoder(MonaiEncoder):
    """The Swin transformer of SwinUNETR, without its decoder."""

    config: SwinUNETRConfig
    config_class = SwinUNETRConfig

    def __init__(self, config: SwinUNETRConfig, swin: nn.Module | None = None) -> None:
        """swin: the transformer of a SwinUNETR that is there already, whose weights are then shared."""
        super().__init__(config)
        self.swin = swin or import_monai("monai.networks.nets.swin_unetr").SwinTransformer(
            in_chans=config.in_channels,
            embed_dim=config.feature_size,
            window_size=(config.window_size,) * 3,
            patch_size=(config.patch_size,) * 3,
            depths=tuple(config.depths),
            num_heads=tuple(config.num_heads),
        )
        cast(Any, self).post_init()

    def forward(self, volumes: Tensor) -> Tensor:
        """Features (V, depth, rows, columns, C) of volumes (V, 1, N, H, W)."""
        features: Tensor = self.swin(volumes)[self.config.output_stage].permute(0, 2, 3, 4, 1)
        return features


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
        defaults = {"kernel_size": [3] * len(strides), "strides": strides, "upsample_kernel_size": strides[1:]}
        net = _make(spec, "monai.networks.nets.dynunet", "DynUNet", defaults, spatial_dims=3)
        if strides[0] != (1, 1, 1):
            raise ModelError(f"dynunet: strides start with {strides[0]}; expected 1, for dense features at every voxel")
        depth, rows, columns = (math.prod(steps) for steps in zip(*strides, strict=True))
        super().__init__(spec, stride=(depth, rows, columns), memory_width=net.filters[-1], dense_width=net.filters[0])
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
    spec.check_settings([key for key in inspect.signature(kind).parameters if key not in OWN_ARGUMENTS])
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
