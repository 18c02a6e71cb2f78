"""How does one slice become 2D tokens? (docs/method.md, eq. 3)

S slices, H x W pixels, C channels, L tokens per slice. Any Hugging Face vision model by configuration: transformers
(tokens beside the patch grid, such as the class token, are dropped) and convolutional nets (their map is the tokens).
"""

from __future__ import annotations

import functools
import json
import math
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig

from slicesight.errors import ModelError
from slicesight.models.med2e3.configuration import Med2E3Config


class Vision2D(nn.Module):
    """A 2D encoder chosen by its configuration, shown each slice as a grey picture.

    feature: "last_hidden_state", or "before_final_norm" for the last block's output. pool: side of the square of tokens
    averaged together. mean, std: per channel or one for all, applied as (x - mean) / std.
    slices_at_once: how many pass the encoder together where no gradient is wanted; None is all of them.
    """

    slices_at_once: int | None = None

    def __init__(
        self,
        config: PreTrainedConfig,
        *,
        feature: str = "last_hidden_state",
        pool: int = 1,
        mean: float | list[float] = 0.0,
        std: float | list[float] = 1.0,
    ) -> None:
        super().__init__()
        self.encoder = AutoModel.from_config(config)
        self.feature, self.pool, self.mean, self.std = feature, pool, mean, std
        self.num_channels = getattr(config, "num_channels", 3)
        self.patch_size: Any = getattr(config, "patch_size", None)

    def forward(self, slices_S1HW: Tensor) -> Tensor:
        """Encode every slice on its own -> (S, L, C), L row-major over the pooled token grid."""
        if self.slices_at_once is not None and not torch.is_grad_enabled():
            return torch.cat([self.encode_pooled(few) for few in slices_S1HW.split(self.slices_at_once)])
        return self.encode_pooled(slices_S1HW)

    def encode_pooled(self, slices_S1HW: Tensor) -> Tensor:
        """Encode slices together -> (S, L, C)."""
        features_SChw = self.encode_map(slices_S1HW)
        if (pool := self.pool) > 1:
            rows, columns = features_SChw.shape[-2:]
            if rows % pool or columns % pool:
                raise ModelError(
                    f"slice_pool {pool} does not divide the 2D token grid {rows} x {columns}; choose a divisor of both."
                )
            features_SChw = features_SChw.unflatten(-1, (-1, pool)).unflatten(-3, (-1, pool)).mean(dim=(-1, -3))
        return features_SChw.flatten(2).transpose(1, 2)

    def encode_grid(self, slices_S1HW: Tensor) -> Tensor:
        """The encoder's own tokens before any pooling -> (S, h * w, C), row-major."""
        return self.encode_map(slices_S1HW).flatten(2).transpose(1, 2)

    def encode_map(self, slices_S1HW: Tensor) -> Tensor:
        """The encoder's tokens as a map -> (S, C, h, w)."""
        pixels = self.show(slices_S1HW.to(self.encoder.dtype))
        if self.feature == "before_final_norm":
            features = self.encoder(**self.arrange_pixels(pixels), output_hidden_states=True).hidden_states[-1]
        else:
            features = self.encoder(**self.arrange_pixels(pixels)).last_hidden_state
        return self.arrange_grid(features, *slices_S1HW.shape[-2:])

    def show(self, slices_S1HW: Tensor) -> Tensor:
        """Grey to the encoder's number of channels, then (x - mean) / std."""
        mean, std = (
            torch.as_tensor(value, dtype=slices_S1HW.dtype, device=slices_S1HW.device).reshape(1, -1, 1, 1)
            for value in (self.mean, self.std)
        )
        return (slices_S1HW.expand(-1, self.num_channels, -1, -1) - mean) / std

    def arrange_pixels(self, pixels: Tensor) -> dict[str, Tensor | None]:
        """The pictures as the encoder wants them: SigLIP 2 (NaFlex) takes patch vectors (row, column, channel)."""
        if self.encoder.config.model_type != "siglip2_vision_model":
            return {"pixel_values": pixels}
        patch = int(self.patch_size)
        rows, columns = pixels.shape[-2] // patch, pixels.shape[-1] // patch
        cells = pixels.unflatten(-1, (columns, patch)).unflatten(-3, (rows, patch)).permute(0, 2, 4, 3, 5, 1)
        shape = torch.tensor([[rows, columns]] * len(pixels), device="cpu")
        return {
            "pixel_values": cells.reshape(len(pixels), rows * columns, -1),
            "pixel_attention_mask": None,  # every patch is seen
            "spatial_shapes": shape,
        }

    def arrange_grid(self, features: Tensor, height: int, width: int) -> Tensor:
        """Bring tokens (S, T, C) or a map (S, C, h, w) to (S, C, h, w)."""
        if features.ndim == 4:
            return features
        patch_rows, patch_columns = (self.patch_size,) * 2 if isinstance(self.patch_size, int) else self.patch_size
        rows, columns = height // patch_rows, width // patch_columns
        num_extra = features.shape[1] - rows * columns
        assert num_extra >= 0, f"{features.shape[1]} tokens for a patch grid of {rows} x {columns}"
        grid: Tensor = features[:, num_extra:].transpose(1, 2).unflatten(-1, (rows, columns))
        return grid


def measure_slice_tokens(config: Med2E3Config) -> tuple[int, int]:
    """(L, C) of the configured 2D encoder at the configured slice size, found by a pass without memory (device meta).

    Raises:
        ModelError: the encoder cannot read slices of this size.
    """
    text = json.dumps(config.vision2d_config.to_dict(), sort_keys=True, default=str)
    height, width = config.image_size[1:]
    return _measure(text, height, width, config.slice_pool)


@functools.lru_cache(maxsize=64)
def _measure(config_text: str, height: int, width: int, slice_pool: int) -> tuple[int, int]:
    encoder_config: PreTrainedConfig = AutoConfig.for_model(**json.loads(config_text))
    patch = getattr(encoder_config, "patch_size", None)
    size = getattr(encoder_config, "image_size", None)
    found = f"a 2D encoder ({encoder_config.model_type}) for slices of {height} x {width} pixels"
    try:
        with torch.device("meta"), torch.no_grad():
            tokens = Vision2D(encoder_config, pool=slice_pool)(torch.empty(1, 1, height, width))
    except ModelError:
        raise
    except (ValueError, RuntimeError, AssertionError, TypeError, AttributeError, NotImplementedError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(
            f"{found} cannot work (its image_size {size}, patch_size {patch}): {reason}; "
            "change image_size or vision2d_config."
        ) from error
    assert math.prod(tokens.shape) > 0
    return tokens.shape[1], tokens.shape[2]
