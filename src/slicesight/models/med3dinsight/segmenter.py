"""Which structure does each voxel of a crop belong to? A backbone and a 1x1x1 convolution to class logits.

B crops of N x H x W voxels, K structures, class 0 the background.
"""

from __future__ import annotations

from torch import Tensor

from slicesight.errors import ModelError
from slicesight.models.encoders3d.backbone import Backbone
from slicesight.models.med3dinsight.modeling import InsightConfig, InsightModel


class Segmenter(InsightModel):
    """Outlines K structures. names, values: of each, and what a mask says for it."""

    kind = "segmenter"
    fields = ("labels", "preparation", "overlap", "trained_on")

    def __init__(self, config: InsightConfig, backbone: Backbone | None = None) -> None:
        super().__init__(config, backbone)
        if not config.labels:
            raise ModelError("labels is empty; expected the name and the mask's value of at least one structure")
        self.names: tuple[str, ...] = tuple(name for name, _ in config.labels)
        self.values: tuple[int, ...] = tuple(value for _, value in config.labels)
        self.head = self.backbone.make_head(len(self.values) + 1)
        self.post_init()

    def forward(self, volumes_B1NHW: Tensor) -> Tensor:
        """Logits (B, 1 + K, N, H, W)."""
        logits: Tensor = self.head(self.backbone(volumes_B1NHW))
        return logits
