"""Which 3D encoders are there, what volume does each take, and which grid of tokens does it give?

Sizes: N slices, H x W pixels; the token grid is depth x rows x columns before pooling, and after pooling K depth bins
of P tokens each. Importing this registers the configurations with the Auto classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from transformers import AutoConfig, PreTrainedConfig

from slicesight.errors import ModelError


def divide_grid(
    sizes: Sequence[int], steps: Sequence[int], *, of: str, by: str, where: str = "vision3d_config"
) -> tuple[int, int, int]:
    """Cells along (depth, rows, columns): every size over its step; ModelError where one leaves a rest."""
    for size, step, axis in zip(sizes, steps, ("slices", "rows", "columns"), strict=True):
        if size % step:
            raise ModelError(
                f"{where}: {size} {axis} of {of} {tuple(sizes)} do not divide by {step} "
                f"({by} {tuple(steps)}); change one of them."
            )
    depth, rows, columns = (size // step for size, step in zip(sizes, steps, strict=True))
    return depth, rows, columns


class Vision3DConfig(PreTrainedConfig):
    """What every 3D encoder's configuration has: the volume it takes and how its token grid is pooled.

    image_size: (N, H, W) it takes. pool_size: token grid cells averaged together along (depth, rows, columns).
    """

    image_size: list[int] | tuple[int, ...] = (32, 256, 256)
    pool_size: list[int] | tuple[int, ...] = (2, 2, 2)
    hidden_size: int = 768
    in_channels: int = 1
    initializer_range: float = 0.02

    @property
    def token_grid(self) -> tuple[int, int, int]:
        """Cells along (depth, rows, columns) before pooling."""
        raise NotImplementedError

    @property
    def pooled_grid(self) -> tuple[int, int, int]:
        """Cells along (depth, rows, columns) after pooling: K is the first, P the product of the other two."""
        return divide_grid(
            self.token_grid, self.pool_size, of=f"the tokens of image_size {tuple(self.image_size)}", by="pool_size"
        )


class M3DViTConfig(Vision3DConfig):
    """The ViT of M3D: perceptron patches, learned positions, qkv without bias, a class token dropped at the end.

    final_norm: False gives the last block's output before the final norm (released Med-2E3), True after it (LaMed).
    """

    model_type = "m3d_vit"

    patch_size: list[int] | tuple[int, ...] = (4, 16, 16)
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    qkv_bias: bool = False
    use_cls_token: bool = True
    final_norm: bool = False
    layer_norm_eps: float = 1e-5

    @property
    def token_grid(self) -> tuple[int, int, int]:
        return divide_grid(self.image_size, self.patch_size, of="image_size", by="patch_size")


class CNN3DConfig(Vision3DConfig):
    """A small residual 3D CNN with GroupNorm: one stage per entry of widths, the first convolution of each strided.

    strides: (depth, rows, columns) of each stage; blocks: residual blocks per stage; hidden_size follows from widths.
    """

    model_type = "cnn3d"

    widths: list[int] | tuple[int, ...] = (32, 64, 128)
    blocks: list[int] | tuple[int, ...] = (1, 1, 1)
    strides: list[Any] | tuple[Any, ...] = ((1, 2, 2), (2, 2, 2), (2, 2, 2))
    num_groups: int = 8
    pool_size: list[int] | tuple[int, ...] = (1, 1, 1)

    def __post_init__(self, **kwargs: Any) -> None:
        if not len(self.widths) == len(self.blocks) == len(self.strides):
            raise ModelError(
                f"vision3d_config: {len(self.widths)} widths, {len(self.blocks)} blocks, {len(self.strides)} strides; "
                "a cnn3d needs one of each per stage."
            )
        self.hidden_size = self.widths[-1]
        cast(Any, super()).__post_init__(**kwargs)

    @property
    def token_grid(self) -> tuple[int, int, int]:
        grid = list(self.image_size)
        for stride in self.strides:
            grid = [-(-cells // step) for cells, step in zip(grid, stride, strict=True)]
        return grid[0], grid[1], grid[2]


class CoarseCNN3DConfig(CNN3DConfig):
    """A cnn3d that reads a coarser volume: voxels are averaged over input_pool (depth, rows, columns) first."""

    model_type = "coarse_cnn3d"

    input_pool: list[int] | tuple[int, ...] = (1, 2, 2)

    @property
    def token_grid(self) -> tuple[int, int, int]:
        grid = divide_grid(self.image_size, self.input_pool, of="image_size", by="input_pool")
        for stride in self.strides:
            depth, rows, columns = (-(-cells // step) for cells, step in zip(grid, stride, strict=True))
            grid = depth, rows, columns
        return grid


class MonaiViTConfig(M3DViTConfig):
    """MONAI's ViT (its own weights and names); patch_projection is its proj_type, "perceptron" or "conv"."""

    model_type = "monai_vit"

    patch_projection: str = "perceptron"
    use_cls_token: bool = False
    final_norm: bool = True


class SwinUNETRConfig(Vision3DConfig):
    """The Swin encoder of MONAI's SwinUNETR; tokens are its features at output_stage (0 the finest, 4 the coarsest).

    Every stage halves the grid along all three axes, the patch embedding by patch_size; hidden_size follows.
    """

    model_type = "swin_unetr"

    feature_size: int = 24
    patch_size: int = 2
    window_size: int = 7
    depths: list[int] | tuple[int, ...] = (2, 2, 2, 2)
    num_heads: list[int] | tuple[int, ...] = (3, 6, 12, 24)
    output_stage: int = 3
    pool_size: list[int] | tuple[int, ...] = (1, 1, 1)

    def __post_init__(self, **kwargs: Any) -> None:
        if not 0 <= self.output_stage <= len(self.depths):
            raise ModelError(
                f"vision3d_config: output_stage is {self.output_stage}; expected 0 to {len(self.depths)}, the stages."
            )
        self.hidden_size = self.feature_size * 2**self.output_stage
        cast(Any, super()).__post_init__(**kwargs)

    @property
    def token_grid(self) -> tuple[int, int, int]:
        stride = (self.patch_size * 2**self.output_stage,) * 3
        return divide_grid(self.image_size, stride, of="image_size", by="the stride of output_stage")


VISION3D_CONFIGS = (M3DViTConfig, CNN3DConfig, CoarseCNN3DConfig, MonaiViTConfig, SwinUNETRConfig)
for own_config in VISION3D_CONFIGS:
    AutoConfig.register(own_config.model_type, own_config)
