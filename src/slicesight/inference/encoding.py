"""How does a grid volume pass the encoders in pieces that suit the machine, and do two runs have the same weights?

Slices are independent of one another in the 2D encoder: a few at a time keep their activations near the processor and
the peak of memory low, and give what all at once would. N slices, L tokens per slice.
"""

from __future__ import annotations

import hashlib

import torch
from torch import nn

from slicesight.inference.scheduler import Scheduler
from slicesight.models.med2e3 import Med2E3ForConditionalGeneration, VolumeFeatures
from slicesight.models.med2e3.vision2d import measure_slice_tokens
from slicesight.volumes.grid import GridVolume

ENCODING_PARTS = ("vision3d", "projector_3d", "vision2d", "projector_2d", "plane_embedding")


@torch.inference_mode()
def encode_grid(engine: Scheduler, grid: GridVolume) -> VolumeFeatures:
    """Both encoders' tokens of one volume."""
    model = engine.model
    volumes_V1NHW = torch.from_numpy(grid.voxels)[None, None].to(model.device, model.dtype)
    if model.vision2d is None:
        return model.encode_volumes(volumes_V1NHW)
    num_tokens = measure_slice_tokens(model.config)[0] * model.config.slice_pool**2
    model.vision2d.slices_at_once = max(1, engine.block_tokens // num_tokens)
    return model.encode_volumes(volumes_V1NHW)


def weights_fingerprint(model: nn.Module) -> int:
    """Changes whenever a weight is written to or replaced in this process; costs microseconds."""
    return hash(
        tuple(
            (id(parameter), 0 if parameter.is_inference() else parameter._version) for parameter in model.parameters()
        )
    )


def encoder_digest(model: Med2E3ForConditionalGeneration) -> str:
    """The same for the same encoder weights, configuration and dtype, in any run on any machine."""
    digest = hashlib.sha256(model.config.to_json_string(use_diff=False).encode())
    for name in ENCODING_PARTS:
        part = getattr(model, name)
        if part is None:
            continue
        for key, value in sorted(part.state_dict().items()):
            digest.update(f"{name}.{key} {value.dtype} {tuple(value.shape)}\n".encode())
            digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
