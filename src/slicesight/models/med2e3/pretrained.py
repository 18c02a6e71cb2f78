"""What does the library have to know of every Med-2E3 model, and what do its calls give back?"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.quantizers.auto import AutoQuantizationConfig
from transformers.utils.generic import ModelOutput

from slicesight.models.checksums import check_checksums, write_checksums
from slicesight.models.folder import refuse_adapter
from slicesight.models.med2e3.configuration import Med2E3Config
from slicesight.models.med2e3.slice_scorer import VolumeFeatures

UNROUNDED = ("vision3d", "projector_3d", "projector_2d", "plane_embedding", "scorer", "lm_head")


@dataclass
class Med2E3ImageFeatures(ModelOutput):
    """What the library's tools expect of `get_image_features`, for V scans of N slices.

    last_hidden_state: the 2D tokens (V, N * L, D) behind their projector; the 3D ones where there are no 2D ones.
    pooler_output: of each scan all its tokens before any question weighs its slices (K * P + N * L, D), 3D ones first.
    features: the same for `forward` and `generate`, as volume_features.
    """

    last_hidden_state: Tensor | None = None
    pooler_output: tuple[Tensor, ...] | None = None
    features: VolumeFeatures | None = None


@dataclass
class Med2E3Output(CausalLMOutputWithPast):
    """slice_scores: (B, M, N) float32, each volume's sum to one; None where no 2D slices are aggregated."""

    slice_scores: Tensor | None = None


class Med2E3PreTrainedModel(PreTrainedModel):
    """What the library has to know of every Med-2E3 model."""

    config: Med2E3Config
    config_class = Med2E3Config
    base_model_prefix = ""
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _skip_keys_device_placement = ["past_key_values", "volume_features"]  # noqa: RUF012
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """As the library does; a folder with an adapter is read with the model it names, or refused by its name.

        Weights rounded by a `quantization_config` are those of the language model and the 2D encoder, unless it names
        what to leave out itself: the scores and the projectors are small, and every answer goes through them.
        """
        if (settings := kwargs.get("quantization_config")) is not None:
            kwargs["quantization_config"] = leave_small_parts(settings)
        if Path(pretrained_model_name_or_path).is_dir():
            check_checksums(pretrained_model_name_or_path)
        try:
            return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        except OSError:
            refuse_adapter(pretrained_model_name_or_path, missing="that model cannot be read")
            raise

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """As the library does, with the checksums of the weights beside them."""
        super().save_pretrained(save_directory, *args, **kwargs)
        if kwargs.get("is_main_process", True):
            write_checksums(save_directory)


def leave_small_parts(settings: Any) -> Any:
    """The settings of a quantization that name no parts to leave out, with those that are too small to gain by it."""
    settings = AutoQuantizationConfig.from_dict(settings) if isinstance(settings, dict) else copy.deepcopy(settings)
    for name in ("llm_int8_skip_modules", "modules_to_not_convert"):
        if getattr(settings, name, ()) is None:
            setattr(settings, name, list(UNROUNDED))
    return settings
