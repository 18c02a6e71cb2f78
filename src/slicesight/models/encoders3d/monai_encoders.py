"""Which of MONAI's 3D encoders can read the volume? Thin coats that give features (V, depth, rows, columns, C).

MONAI is an optional dependency (`pip install "slicesight[monai]"`), imported when one of these is built.
"""

from __future__ import annotations

import importlib
from types import ModuleType

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from slicesight.errors import ModelError
from slicesight.models.encoders3d.configuration import MonaiViTConfig, SwinUNETRConfig, Vision3DConfig


class MonaiEncoder(PreTrainedModel):
    """What both have in common: MONAI initialises its own weights."""

    config: Vision3DConfig
    base_model_prefix = "vision3d"
    main_input_name = "volumes"

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """MONAI's modules are initialised where they are made; only a module without that is done here."""
        if isinstance(module, (nn.Linear, nn.Conv3d, nn.LayerNorm)) and any(p.is_meta for p in module.parameters()):
            super()._init_weights(module)


class MonaiViT(MonaiEncoder):
    """MONAI's ViT."""

    config: MonaiViTConfig
    config_class = MonaiViTConfig

    def __init__(self, config: MonaiViTConfig) -> None:
        super().__init__(config)
        vit = import_monai("monai.networks.nets.vit").ViT
        self.vit = vit(
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
        self.post_init()

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
        self.post_init()

    def forward(self, volumes: Tensor) -> Tensor:
        """Features (V, depth, rows, columns, C) of volumes (V, 1, N, H, W)."""
        features: Tensor = self.swin(volumes)[self.config.output_stage].permute(0, 2, 3, 4, 1)
        return features


def import_monai(name: str) -> ModuleType:
    """A module of MONAI, or the one line that says how to get it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ModelError(f'this 3D encoder needs MONAI ({error}); run: pip install "slicesight[monai]".') from error
