"""What does a whole scan show? The backbone's memory as one vector, and a Linear layer to class logits.

B cubes of N x H x W voxels, C memory channels, Y classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from slicesight.errors import ModelError
from slicesight.models.encoders3d.backbone import Backbone
from slicesight.models.med3dinsight.modeling import InsightConfig, InsightModel


class Classifier(InsightModel):
    """A backbone's encoder, its memory averaged, and a Linear layer.

    The decoder stays in the folder, so that the whole backbone can travel on.
    """

    kind = "classifier"
    fields = ("classes", "preparation", "pool", "flip_axes", "trained_on")

    def __init__(self, config: InsightConfig, backbone: Backbone | None = None) -> None:
        super().__init__(config, backbone)
        self.classes, self.flip_axes = tuple(config.classes or ()), tuple(config.flip_axes)
        if len(self.classes) < 2:
            raise ModelError(f"classes is {list(self.classes)}; expected two or more names")
        self.dropout = nn.Dropout(config.dropout)
        width = self.backbone.memory_width * (2 if config.pool == "mean+max" else 1)
        self.head = nn.Linear(width, len(self.classes))
        self.post_init()

    def forward(self, volumes_B1NHW: Tensor) -> Tensor:
        """Logits (B, Y)."""
        logits: Tensor = self.head(self.dropout(self.features(volumes_B1NHW)))
        return logits

    def features(self, volumes_B1NHW: Tensor) -> Tensor:
        """One vector (B, C) or (B, 2C) per cube."""
        memory = self.backbone.encode(volumes_B1NHW).memory
        means = memory.mean(dim=(2, 3, 4))
        return means if self.config.pool == "mean" else torch.cat([means, memory.amax(dim=(2, 3, 4))], dim=1)

    @torch.inference_mode()
    def probabilities(self, volumes_B1NHW: Tensor) -> Tensor:
        """Class probabilities (B, Y), averaged over the mirrored cubes."""
        self.eval()
        votes = [functional.softmax(self(cube), dim=1) for cube in mirrored(volumes_B1NHW, self.flip_axes)]
        return torch.stack(votes).mean(dim=0)


def mirrored(volumes_B1NHW: Tensor, axes: Sequence[int]) -> list[Tensor]:
    """The cubes mirrored along every combination of the axes 0, 1, 2; first as they are."""
    results = [volumes_B1NHW]
    for axis in axes:
        results += [cube.flip(axis + 2) for cube in results]
    return results
