"""How does a whole volume become 3D tokens? (docs/method.md, eq. 2)

V volumes, N slices, H x W pixels, C channels, depth x rows x columns the token grid, K depth bins, P tokens per bin.
Every encoder gives features (V, depth, rows, columns, C); `Vision3D` averages them over pool_size -> (V, K, P, C).
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModel, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer

from slicesight.errors import ModelError
from slicesight.models.encoders3d.configuration import (
    CNN3DConfig,
    CoarseCNN3DConfig,
    M3DViTConfig,
    MonaiViTConfig,
    SwinUNETRConfig,
    Vision3DConfig,
)
from slicesight.models.encoders3d.monai import MonaiViT, SwinUNETREncoder


class Vision3D(nn.Module):
    """A 3D encoder chosen by its configuration, and the average pooling behind it."""

    def __init__(self, config: Vision3DConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = AutoModel.from_config(config)

    def forward(self, volumes_V1NHW: Tensor) -> Tensor:
        """Encode and pool -> (V, K, P, C); depth bins in the order of the slices."""
        found, expected = tuple(volumes_V1NHW.shape[1:]), (self.config.in_channels, *self.config.image_size)
        if found != expected:
            raise ModelError(f"volumes are {found} (channel, slices, rows, columns); this model reads {expected}.")
        features = self.encoder(volumes_V1NHW.to(self.encoder.dtype))
        return pool_grid(features, self.config.pool_size).flatten(2, 3)


def pool_grid(features_VdhwC: Tensor, pool_size: list[int] | tuple[int, ...]) -> Tensor:
    """Average blocks of pool_size cells -> (V, depth', rows', columns', C); a mean, so it runs in bfloat16 on a CPU."""
    depth, rows, columns = pool_size
    num_volumes, d, h, w, width = features_VdhwC.shape
    blocks = features_VdhwC.reshape(num_volumes, d // depth, depth, h // rows, rows, w // columns, columns, width)
    return blocks.mean(dim=(2, 4, 6))


class M3DViT(PreTrainedModel):
    """The ViT of M3D-CLIP: patch vectors ordered (depth, row, column, channel), tokens depth-major."""

    config: M3DViTConfig
    config_class = M3DViTConfig
    base_model_prefix = "vision3d"
    main_input_name = "volumes"
    supports_gradient_checkpointing = True
    _no_split_modules = {"ViTBlock"}  # noqa: RUF012

    def __init__(self, config: M3DViTConfig) -> None:
        super().__init__(config)
        width = config.hidden_size
        depth, rows, columns = config.token_grid
        p1, p2, p3 = config.patch_size
        self.patch_embedding = nn.Linear(p1 * p2 * p3 * config.in_channels, width)
        self.position_embedding = nn.Parameter(torch.empty(1, depth * rows * columns, width))
        self.cls_token = nn.Parameter(torch.empty(1, 1, width)) if config.use_cls_token else None
        self.blocks = nn.ModuleList(ViTBlock(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps) if config.final_norm else None
        cast(Any, self).post_init()

    def forward(self, volumes: Tensor) -> Tensor:
        """Features (V, depth, rows, columns, C) of volumes (V, 1, N, H, W)."""
        tokens = self.encode_tokens(volumes)
        if self.cls_token is not None:
            tokens = tokens[:, 1:]
        features: Tensor = tokens.unflatten(1, self.config.token_grid)
        return features

    def encode_tokens(self, volumes: Tensor) -> Tensor:
        """All tokens (V, 1 + patches, C) with the class token first, if there is one."""
        tokens = self.embed_patches(volumes)
        for block in self.blocks:
            tokens = block(tokens)
        return tokens if self.norm is None else self.norm(tokens)

    def embed_patches(self, volumes: Tensor) -> Tensor:
        """What the first block reads (V, 1 + patches, C): patch vectors with their positions, the class token first."""
        tokens: Tensor = self.patch_embedding(cut_patches(volumes, self.config.patch_size)) + self.position_embedding
        if self.cls_token is None:
            return tokens
        return torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens], dim=1)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        cast(Any, super())._init_weights(module)
        if isinstance(module, M3DViT):
            init.normal_(module.position_embedding, std=self.config.initializer_range)
            if module.cls_token is not None:
                init.normal_(module.cls_token, std=self.config.initializer_range)


def cut_patches(volumes_VCNHW: Tensor, patch_size: list[int] | tuple[int, ...]) -> Tensor:
    """Patch vectors (p1 p2 p3 c) in depth-major order -> (V, depth * rows * columns, p1 * p2 * p3 * C)."""
    p1, p2, p3 = patch_size
    num_volumes, channels, n, h, w = volumes_VCNHW.shape
    cells = volumes_VCNHW.reshape(num_volumes, channels, n // p1, p1, h // p2, p2, w // p3, p3)
    return cells.permute(0, 2, 4, 6, 3, 5, 7, 1).reshape(num_volumes, -1, p1 * p2 * p3 * channels)


class ViTBlock(GradientCheckpointingLayer):
    """A pre-norm transformer block; qkv is one Linear ordered (3, heads, head width)."""

    def __init__(self, config: M3DViTConfig) -> None:
        super().__init__()
        width = config.hidden_size
        if width % config.num_attention_heads:
            raise ModelError(
                f"vision3d_config: hidden_size {width} does not divide into {config.num_attention_heads} heads."
            )
        self.num_heads = config.num_attention_heads
        self.norm1 = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.qkv = nn.Linear(width, 3 * width, bias=config.qkv_bias)
        self.out_proj = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.linear1 = nn.Linear(width, config.intermediate_size)
        self.linear2 = nn.Linear(config.intermediate_size, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """One block over tokens (V, tokens, C)."""
        query, key, value = self.qkv(self.norm1(tokens)).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        tokens = tokens + self.out_proj(mixed)
        return cast(Tensor, tokens + self.linear2(functional.gelu(self.linear1(self.norm2(tokens)))))


class CNN3D(PreTrainedModel):
    """Residual 3D convolutions with GroupNorm: small, quick to train, indifferent to the batch size."""

    config: CNN3DConfig
    config_class = CNN3DConfig
    base_model_prefix = "vision3d"
    main_input_name = "volumes"
    supports_gradient_checkpointing = True

    def __init__(self, config: CNN3DConfig) -> None:
        super().__init__(config)
        layers: list[nn.Module] = []
        width = config.in_channels
        for next_width, num_blocks, stride in zip(config.widths, config.blocks, config.strides, strict=True):
            depth, rows, columns = stride
            layers.append(DownStep(width, next_width, (depth, rows, columns), config.num_groups))
            layers.extend(ResidualBlock(next_width, config.num_groups) for _ in range(num_blocks))
            width = next_width
        self.layers = nn.ModuleList(layers)
        cast(Any, self).post_init()

    def forward(self, volumes: Tensor) -> Tensor:
        """Features (V, depth, rows, columns, C) of volumes (V, 1, N, H, W)."""
        features = volumes
        for layer in self.layers:
            features = layer(features)
        return features.permute(0, 2, 3, 4, 1)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        cast(Any, super())._init_weights(module)
        if isinstance(module, nn.Conv3d):
            init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


class CoarseCNN3D(CNN3D):
    """A `CNN3D` of the volume averaged over input_pool: cheaper, and blind to what has no mean over such a block."""

    config: CoarseCNN3DConfig
    config_class = CoarseCNN3DConfig

    def forward(self, volumes: Tensor) -> Tensor:
        """Features (V, depth, rows, columns, C) of volumes (V, 1, N, H, W) at full size."""
        coarse = pool_grid(volumes.movedim(1, -1), self.config.input_pool).movedim(-1, 1)
        return super().forward(coarse)


class DownStep(GradientCheckpointingLayer):
    """A strided convolution that opens a stage; an odd size rounds up, as the configuration's token grid says."""

    def __init__(self, width: int, next_width: int, stride: tuple[int, int, int], num_groups: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(width, next_width, 3, stride=stride, padding=1, bias=False)
        self.norm = nn.GroupNorm(num_groups, next_width)

    def forward(self, features: Tensor) -> Tensor:
        """Stride and widen."""
        return functional.gelu(self.norm(self.conv(features)))


class ResidualBlock(GradientCheckpointingLayer):
    """Two 3x3x3 convolutions around a shortcut."""

    def __init__(self, width: int, num_groups: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(width, width, 3, padding=1, bias=False)
        self.norm1 = nn.GroupNorm(num_groups, width)
        self.conv2 = nn.Conv3d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(num_groups, width)

    def forward(self, features: Tensor) -> Tensor:
        """Add what the two convolutions find."""
        inner = self.norm2(self.conv2(functional.gelu(self.norm1(self.conv1(features)))))
        return functional.gelu(features + inner)


AutoModel.register(M3DViTConfig, M3DViT)
AutoModel.register(CNN3DConfig, CNN3D)
AutoModel.register(CoarseCNN3DConfig, CoarseCNN3D)
AutoModel.register(MonaiViTConfig, MonaiViT)
AutoModel.register(SwinUNETRConfig, SwinUNETREncoder)
