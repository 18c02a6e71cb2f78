"""How does the library's `generate` answer about volumes, each encoded once and seen in the first step only?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import GenerationMixin
from transformers.utils.generic import ModelOutput

from slicesight.models.med2e3.configuration import Med2E3Config
from slicesight.models.med2e3.matching import resolve_volume_index
from slicesight.models.med2e3.slice_scorer import VolumeFeatures

VOLUME_INPUTS = ("volumes", "volume_features", "volume_index", "question_mask", "question_ids", "question_ids_mask")


class Med2E3GenerationMixin(GenerationMixin):
    """The library's generation for a model that encodes volumes, scores their slices and knows its placeholder."""

    config: Med2E3Config
    encode_volumes: Callable[..., VolumeFeatures]
    score_slices: Callable[..., Tensor | None]
    is_placeholder: Callable[[Tensor], Tensor]

    @torch.no_grad()
    def generate(
        self,
        inputs: Tensor | None = None,
        *args: Any,
        volumes: Tensor | None = None,
        volume_features: VolumeFeatures | None = None,
        **kwargs: Any,
    ) -> Any:
        """As GenerationMixin.generate; volumes are encoded once and never repeated for beams or samples.

        The placeholder is never generated: it stands for no text. With return_dict_in_generate=True the output has
        slice_scores too, (B, M, N) of the prompts, None without 2D slices.
        """
        is_given = volumes is not None and volume_features is None
        if is_given:
            volume_features = self.encode_volumes(volumes)
        if volume_features is not None:
            prompts = inputs if inputs is not None else kwargs["input_ids"]
            if (mask := kwargs.get("question_mask")) is not None:
                kwargs["question_mask"] = pad_mask(mask, prompts.shape[1])
            kwargs["volume_index"] = resolve_volume_index(
                kwargs.get("volume_index"), volume_features, num_prompts=len(prompts), all_asked=is_given
            )
        placeholder = self.config.placeholder_token_id
        if placeholder < self.config.text_config.get_text_config().vocab_size:
            settings = kwargs.get("generation_config") or self.generation_config
            suppressed = kwargs.get("suppress_tokens") or settings.suppress_tokens or []
            kwargs["suppress_tokens"] = sorted({*suppressed, placeholder})
        base: Any = super()  # the mixin's methods are typed for a protocol, not for a class that mixes them in
        found = base.generate(inputs, *args, volume_features=volume_features, **kwargs)
        if isinstance(found, ModelOutput):
            asked = {name: value for name, value in kwargs.items() if name in ("input_ids", *VOLUME_INPUTS)}
            if inputs is not None:
                asked["input_ids"] = inputs
            found["slice_scores"] = None if volume_features is None else self.score_slices(volume_features, **asked)
        return found

    def prepare_inputs_for_generation(self, input_ids: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Volumes are seen once: as long as the cache is empty, and where tokens behind it have places for them."""
        is_first, use_cache = kwargs.get("is_first_iteration", False), kwargs.get("use_cache", True)
        past = kwargs.get("past_key_values")
        base: Any = super()
        model_inputs: dict[str, Any] = base.prepare_inputs_for_generation(input_ids, *args, **kwargs)
        is_begun = bool(use_cache) and past is not None and past.get_seq_length() > 0
        if is_begun and is_first and (ids := model_inputs.get("input_ids")) is not None:  # goes on from a cache
            is_begun = not bool(self.is_placeholder(ids).any())
        if is_begun:
            for name in VOLUME_INPUTS:
                model_inputs.pop(name, None)
        elif (mask := model_inputs.get("question_mask")) is not None:
            model_inputs["question_mask"] = pad_mask(mask, input_ids.shape[1])
        return model_inputs


def pad_mask(mask_BT: Tensor, length: int) -> Tensor:
    """A mask of a prompt, False for the tokens that were generated behind it."""
    return functional.pad(mask_BT, (0, max(0, length - mask_BT.shape[1])))
