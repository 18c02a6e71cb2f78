"""Do the parts, the volumes and the prompts belong together, and which volume does each prompt ask about?

B prompts, M volumes per prompt, V volumes of N slices H x W, K depth bins of P 3D tokens, L 2D tokens per slice.
A prompt is head | z_3D | z_2D | question, cue: the head is the template's, z_3D the volume's; z_2D is weighted for the
question, so it and everything behind it differ. Where z_2D does not depend on the question, it is shared too.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from slicesight.errors import ModelError
from slicesight.models.arguments import check_tensor
from slicesight.models.encoders3d.configuration import VISION3D_CONFIGS, Vision3DConfig
from slicesight.models.med2e3.configuration import Med2E3Config
from slicesight.models.med2e3.slice_scorer import VolumeFeatures
from slicesight.models.med2e3.vision2d import measure_slice_tokens


def check_parts(config: Med2E3Config) -> None:
    """Raises ModelError for a text part that is no language model, or a 3D part that is no 3D encoder."""
    kind = config.text_config.model_type
    if type(config.text_config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ModelError(
            f"text_config is a {kind}, which writes no text; expected a causal language model (llama, say)."
        )
    if config.needs_3d and not isinstance(config.vision3d_config, Vision3DConfig):
        known = ", ".join(sorted(own.model_type for own in VISION3D_CONFIGS))
        raise ModelError(f"vision3d_config is a {config.vision3d_config.model_type}; expected one of {known}.")


def count_visual_tokens(config: Med2E3Config) -> int:
    """S, the placeholders of one volume: K * P for a 3D branch plus L for a 2D branch; ModelError for a misfit."""
    check_parts(config)
    num_tokens = 0
    if config.needs_3d:
        found, expected = tuple(config.vision3d_config.image_size), tuple(config.image_size)
        if found != expected:
            raise ModelError(
                f"vision3d_config.image_size is {found} but the model's image_size is {expected}; make them equal."
            )
        depth, rows, columns = config.vision3d_config.pooled_grid
        if config.needs_2d and config.num_slices % depth:
            raise ModelError(
                f"{config.num_slices} slices do not divide into the 3D encoder's {depth} depth bins; "
                f"change image_size, patch_size or pool_size so that they do."
            )
        num_tokens += depth * rows * columns if "3d" in config.fusion.split("+") else 0
    if config.needs_2d:
        num_tokens += measure_slice_tokens(config)[0]
    return num_tokens


def place_visual_tokens(inputs_embeds: Tensor, is_placeholder_BT: Tensor, visual_BSD: Tensor) -> Tensor:
    """The prompts' embeddings (B, T, D) with the visual tokens where the placeholders stand, in order."""
    slot_BT = (is_placeholder_BT.long().cumsum(-1) - 1).clamp(min=0)
    visual_BTD = visual_BSD.gather(1, slot_BT.unsqueeze(-1).expand(-1, -1, visual_BSD.shape[-1]))
    return torch.where(is_placeholder_BT.unsqueeze(-1), visual_BTD.to(inputs_embeds.dtype), inputs_embeds)


def check_volumes(given: Any, config: Med2E3Config) -> Tensor:
    """The volumes, if they are numbers (V, 1, N, H, W) of the configured size."""
    volumes = check_tensor(given, "volumes", ndim=5)
    if not volumes.is_floating_point():
        raise ModelError(f"volumes are {volumes.dtype}; expected floating-point numbers in [0, 1]: divide grey by 255.")
    if tuple(volumes.shape[1:]) != (1, *config.image_size):
        wanted = ", ".join(map(str, config.image_size))
        raise ModelError(
            f"volumes have shape {tuple(volumes.shape)}; this model reads (V, 1, {wanted}): resample them to its grid."
        )
    return volumes


def resolve_volume_index(
    volume_index: Tensor | None, features: VolumeFeatures, *, num_prompts: int, all_asked: bool = False
) -> Tensor:
    """volume_index (B, M), checked against the encoded volumes; left out it is one for all prompts, or one each.

    all_asked: refuse volumes that no prompt asks about; of features that are kept, some may lie idle.
    """
    tokens = features.tokens_3d_VKPD if features.tokens_3d_VKPD is not None else features.slices_VNLD
    num_volumes, device = len(tokens), tokens.device
    if volume_index is None:
        if num_volumes not in (1, num_prompts):
            raise ModelError(
                f"{num_prompts} prompts and {num_volumes} volumes; pass volume_index to say which is asked about which."
            )
        one_each = torch.arange(num_prompts, device=device)
        return (one_each if num_volumes == num_prompts else torch.zeros_like(one_each)).unsqueeze(1)
    check_tensor(volume_index, "volume_index", ndim=(2, 1))
    if volume_index.is_floating_point():
        raise ModelError(f"volume_index is {volume_index.dtype}; expected whole numbers, -1 for none.")
    volume_index = volume_index.to(device)
    volume_index = volume_index.unsqueeze(1) if volume_index.ndim == 1 else volume_index
    if not torch.compiler.is_compiling():
        rows = volume_index.tolist()
        if len(rows) != num_prompts:
            raise ModelError(f"volume_index has {len(rows)} rows for {num_prompts} prompts; give one for each.")
        if any(later >= 0 > earlier for row in rows for earlier, later in itertools.pairwise(row)):
            raise ModelError("volume_index has -1 before a volume; put each prompt's volumes first.")
        check_asked({number for row in rows for number in row}, num_volumes, all_of_them=all_asked)
    return volume_index


def count_shared_visual_tokens(config: Med2E3Config, *, training: bool = False) -> int:
    """A volume's visual tokens that no question changes: z_3D, and z_2D where no question weighs its slices.

    training: dropout on the scores then weighs every question's slices anew.
    """
    num_tokens = count_visual_tokens(config)
    if config.needs_2d and (config.reads_question or (training and config.score_dropout)):
        num_tokens -= measure_slice_tokens(config)[0]
    return num_tokens


def check_asked(asked: set[int], num_volumes: int, *, all_of_them: bool = True) -> None:
    """Raises ModelError where prompts ask about a volume that is not there, or none about one that was given."""
    if asked and max(asked) >= num_volumes:
        raise ModelError(
            f"volume_index holds {max(asked)}; expected entries below {num_volumes}, the number of volumes, "
            "or -1 for none."
        )
    if all_of_them and (unasked := set(range(num_volumes)) - asked):
        raise ModelError(
            f"no prompt asks about volume {min(unasked)} of {num_volumes}: volume_index holds {sorted(asked)}; count "
            "volumes through the whole batch, as Med2E3Collator does, and leave out those that nobody asks about."
        )
