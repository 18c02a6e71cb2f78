"""How do Med-2E3's own 3D encoders become backbones? The encoder as it is, and a decoder of MONAI's UNETR blocks.

m3d_vit: hidden states of ever earlier layers, upsampled to ever finer grids, are the skips (as in UNETR, for patches
that need not be cubes). cnn3d: the features of its own stages are.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, cast

from torch import Tensor, nn
from transformers import PreTrainedModel

from slicesight.errors import ModelError
from slicesight.models.encoders3d.backbone import Backbone, BackboneSpec, Features
from slicesight.models.encoders3d.configuration import CNN3DConfig, M3DViTConfig, Vision3DConfig
from slicesight.models.encoders3d.monai import import_monai
from slicesight.models.encoders3d.networks import CNN3D, DownStep, M3DViT

FEATURE_SIZE = 16
FIXED_FIELDS = ("image_size", "in_channels", "model_type")
Step = tuple[int, int, int]


class M3DViTBackbone(Backbone):
    """The ViT of M3D; settings are fields of `M3DViTConfig`, and feature_size, the decoder's width at full size."""

    decoder_parts = ("decoder.", "skip_growers.")

    def __init__(self, spec: BackboneSpec) -> None:
        settings, width = _own_settings(spec, M3DViTConfig())
        config = M3DViTConfig(image_size=list(spec.image_size), in_channels=spec.in_channels, **settings)
        patch = _three(config.patch_size)
        super().__init__(spec, stride=patch, memory_width=config.hidden_size, dense_width=width)
        self.encoder = M3DViT(config)
        steps = _doublings(patch)
        widths = [width * min(2**level, 8) for level in range(len(steps) - 1, -1, -1)]
        self.skip_layers = [config.num_hidden_layers * left // len(steps) for left in range(len(steps) - 1, 0, -1)]
        reaches = list(itertools.accumulate(steps, _product))
        self.skip_growers = nn.ModuleList(
            _grow(config.hidden_size, skip_width, reach)
            for skip_width, reach in zip(widths[:-1], reaches[:-1], strict=True)
        )
        self.decoder = SkipDecoder(spec.in_channels, config.hidden_size, widths, steps)

    def find_features(self, volumes_BINHW: Tensor) -> Features:
        vit = self.encoder
        hidden = [vit.embed_patches(volumes_BINHW)]
        for block in vit.blocks:
            hidden.append(block(hidden[-1]))
        memory = hidden[-1] if vit.norm is None else vit.norm(hidden[-1])
        return Features(
            self._to_grid(memory), (*(self._to_grid(hidden[layer]) for layer in self.skip_layers), volumes_BINHW)
        )

    def decode(self, features: Features) -> Tensor:
        grown = [grow(skip) for grow, skip in zip(self.skip_growers, features.skips[:-1], strict=True)]
        return cast(Tensor, self.decoder(features.memory, [*grown, features.skips[-1]]))

    def vision3d(self) -> PreTrainedModel:
        return self.encoder

    def _to_grid(self, tokens_BTC: Tensor) -> Tensor:
        """The patches' tokens as (B, C, d, h, w), without the class token."""
        cells_BCM = tokens_BTC[:, -self.num_memory_tokens :].transpose(1, 2)
        return cast(Tensor, cells_BCM.unflatten(2, self.memory_grid))


class CNN3DBackbone(Backbone):
    """The residual 3D CNN; settings are fields of `CNN3DConfig`, and feature_size, the decoder's width at full size."""

    decoder_parts = ("decoder.",)

    def __init__(self, spec: BackboneSpec) -> None:
        settings, width = _own_settings(spec, CNN3DConfig())
        config = CNN3DConfig(image_size=list(spec.image_size), in_channels=spec.in_channels, **settings)
        steps = [_three(step) for step in config.strides]
        whole = list(itertools.accumulate(steps, _product))[-1]
        super().__init__(spec, stride=whole, memory_width=config.hidden_size, dense_width=width)
        self.encoder = CNN3D(config)
        widths = [*config.widths[-2::-1], width]
        self.decoder = SkipDecoder(spec.in_channels, config.hidden_size, widths, steps[::-1])

    def find_features(self, volumes_BINHW: Tensor) -> Features:
        features, stages = volumes_BINHW, []
        for layer in self.encoder.layers:
            if isinstance(layer, DownStep):
                stages.append(features)
            features = layer(features)
        return Features(features, tuple(stages[::-1]))

    def decode(self, features: Features) -> Tensor:
        return cast(Tensor, self.decoder(features.memory, features.skips))

    def vision3d(self) -> PreTrainedModel:
        return self.encoder


class SkipDecoder(nn.Module):
    """Upsample step by step and join the skip of that size; the last skip is the volume itself.

    Args:
        widths: channels after each step, which are also its skip's, the volume's excepted; steps: factors of each.
    """

    def __init__(self, in_channels: int, memory_width: int, widths: Sequence[int], steps: Sequence[Step]) -> None:
        super().__init__()
        blocks = import_monai("monai.networks.blocks.unetr_block")
        self.first = blocks.UnetrBasicBlock(3, in_channels, widths[-1], 3, 1, "instance", res_block=True)
        self.ups = nn.ModuleList(
            blocks.UnetrUpBlock(3, before, after, 3, step, "instance", res_block=True)
            for before, after, step in zip([memory_width, *widths[:-1]], widths, steps, strict=True)
        )

    def forward(self, memory_BCdhw: Tensor, skips: Sequence[Tensor]) -> Tensor:
        """Dense features (B, F, N, H, W)."""
        dense = memory_BCdhw
        for up, skip in zip(self.ups, [*skips[:-1], self.first(skips[-1])], strict=True):
            dense = up(dense, skip)
        return dense


def _grow(width_in: int, width_out: int, factors: Step) -> nn.Sequential:
    """Hidden states to a skip of the decoder: every cell becomes a block of cells."""
    return nn.Sequential(
        nn.ConvTranspose3d(width_in, width_out, kernel_size=factors, stride=factors, bias=False),
        nn.InstanceNorm3d(width_out),
        nn.LeakyReLU(0.01),
    )


def _doublings(patch: Step) -> list[Step]:
    """Factors of 1 or 2 per axis whose product is the patch, the axes with less to do starting later."""
    exponents = [size.bit_length() - 1 for size in patch]
    if any(size != 2**exponent for size, exponent in zip(patch, exponents, strict=True)) or max(exponents) < 1:
        raise ModelError(
            f"m3d_vit: patch_size is {list(patch)}; a decoder needs powers of two, change settings.patch_size"
        )
    num_steps = max(exponents)
    steps = [[2 if exponent >= num_steps - number else 1 for exponent in exponents] for number in range(num_steps)]
    return [_three(step) for step in steps]


def _own_settings(spec: BackboneSpec, defaults: Vision3DConfig) -> tuple[dict[str, Any], int]:
    """The settings for the configuration, checked by name, and the decoder's width."""
    allowed = [name for name in type(defaults).__annotations__ if name not in FIXED_FIELDS]
    allowed += [name for name in ("hidden_size", "pool_size", "initializer_range") if name not in allowed]
    spec.check_settings((*allowed, "feature_size"))
    settings = dict(spec.settings)
    return settings, int(settings.pop("feature_size", FEATURE_SIZE))


def _three(values: Sequence[int]) -> Step:
    first, second, third = values
    return int(first), int(second), int(third)


def _product(left: Step, right: Step) -> Step:
    return left[0] * right[0], left[1] * right[1], left[2] * right[2]
