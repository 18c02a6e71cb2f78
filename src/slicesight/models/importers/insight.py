"""How does a backbone of Med3DInsight become the 3D encoder of a Med-2E3?"""

from __future__ import annotations

import torch

from slicesight.errors import ModelError
from slicesight.models.encoders3d.backbone import Backbone
from slicesight.models.med2e3.modeling import Med2E3ForConditionalGeneration


@torch.no_grad()
def put_into_med2e3(model: Med2E3ForConditionalGeneration, backbone: Backbone) -> None:
    """Copy a pre-trained encoder into a Med-2E3 whose vision3d_config asks for the same network.

    Raises:
        ModelError: the model has no 3D encoder, or one of another kind or size.
    """
    encoder = backbone.vision3d()
    if model.vision3d is None:
        raise ModelError(f"this Med-2E3 has no 3D encoder (fusion is {model.config.fusion!r}); nothing to load into")
    own, wanted = model.vision3d.encoder.state_dict(), encoder.state_dict()
    different = sorted(
        n for n in own.keys() | wanted.keys() if n not in own or n not in wanted or own[n].shape != wanted[n].shape
    )
    if different:
        raise ModelError(
            f"the model's 3D encoder ({model.config.vision3d_config.model_type}) differs from the pre-trained "
            f"{backbone.spec.name}, first at {different[0]!r}; build it with vision3d_config=backbone.vision3d().config"
        )
    model.vision3d.encoder.load_state_dict(wanted)
