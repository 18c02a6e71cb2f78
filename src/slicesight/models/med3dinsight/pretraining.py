"""What does a 3D backbone learn from frozen 2D models? (docs/method.md, Med3DInsight)

    L = w_image · align(z, image) + w_text · align(z, text) + w_rec · MSE(x, x̂) + w_dense · D + w_contrast · C

z is what PSAT reads of the volume for one plane and slice; image and text are the frozen vectors of that slice and of
its text. D is dense.py's, C volume_contrast.py's; both are 0 in the paper. B volumes, S slices of each, P = B · S
pairs, O components.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from slicesight.errors import ModelError
from slicesight.models.encoders3d.backbone import Backbone
from slicesight.models.med3dinsight.dense import build_dense_head, dense_loss
from slicesight.models.med3dinsight.losses import (
    ContrastiveLoss,
    PairQueue,
    TransportLoss,
    normalised,
    reconstruction_loss,
)
from slicesight.models.med3dinsight.modeling import InsightConfig, InsightModel
from slicesight.models.med3dinsight.psat import PlaneSliceTransformer, Variant
from slicesight.models.med3dinsight.volume_contrast import VolumeContrast, nt_xent

SHARED = "shared"
TARGETS = ("image", "text")


class PretrainingModel(InsightModel):
    """A backbone with all that it learns with: PSAT, the losses' own weights, the reconstruction head, the queue.

    `config.pretraining` holds the recipe's settings, the sizes of the frozen vectors by target, and shares_space:
    image and text lie in one space, as of one CLIP-like model, so that one output serves both.
    """

    kind = "pretraining"
    fields = ("pretraining",)

    def __init__(self, config: InsightConfig, backbone: Backbone | None = None) -> None:
        super().__init__(config, backbone)
        about = config.pretraining
        if about is None:
            raise ModelError("pretraining is not set; expected the recipe's settings, sizes and shares_space")
        recipe = self.settings = dict(about["recipe"])
        self.variant: Variant = recipe["variant"]
        self.weights = {name: recipe[f"{name}_weight"] for name in TARGETS if recipe[f"{name}_weight"]}
        self.sizes = {name: int(about["sizes"][name]) for name in self.weights}
        self.shares_space = bool(about["shares_space"]) and len(self.sizes) == 2
        self.psat = self._make_psat(recipe["psat"]) if self.weights else None
        self.align = nn.ModuleDict({name: self._make_loss(size) for name, size in self.sizes.items()})
        self.queue = PairQueue(recipe["queue"], self.sizes) if recipe["queue"] and self.weights else None
        rebuilds = recipe["reconstruction_weight"]
        self.head = self.backbone.make_head(self.backbone.spec.in_channels) if rebuilds else None
        self.dense = (
            build_dense_head(self.backbone, recipe, int(about["token_size"])) if self._weighs("dense") else None
        )
        self.contrast = VolumeContrast(self.backbone.memory_width) if self._weighs("contrast") else None
        cast(Any, self).post_init()

    def read(self, volumes_B1DHW: Tensor, planes_BS: Tensor, bins_BS: Tensor) -> dict[str, Tensor]:
        """What the volumes say of these slices, a vector per target -> {target: (B, S, O)}.

        Raises:
            ModelError: a model that was trained on reconstruction alone.
        """
        return self.read_memory(self.backbone.encode(volumes_B1DHW).memory, planes_BS, bins_BS)

    def read_memory(self, memory_BCdhw: Tensor, planes_BS: Tensor, bins_BS: Tensor) -> dict[str, Tensor]:
        """The same from a memory that is known already."""
        if self.psat is None:
            raise ModelError("this model learnt by reconstruction alone; it reads no vectors for slices")
        found = self.psat(memory_BCdhw, planes_BS, bins_BS)
        return {name: found[SHARED if self.shares_space else name] for name in self.sizes}

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a step, and its parts for the log.

        Slices are read from the whole volume, as they will be later; what is reconstructed is seen with cells hidden.
        """
        volumes, masked = batch["volumes"], batch.get("masked")
        decodes = self.head is not None or self.dense is not None
        whole = self.backbone.encode(volumes) if self.psat is not None or (decodes and masked is None) else None
        loss, facts = volumes.new_zeros(()), {}
        if self.psat is not None:
            assert whole is not None
            found = self.read_memory(whole.memory, batch["planes"], batch["bins"])
            pairs = {
                name: (vectors.flatten(0, 1).float(), batch[name].flatten(0, 1).float())
                for name, vectors in found.items()
            }
            for name, (vectors_PO, targets_PO) in pairs.items():
                part = self._aligned(name, vectors_PO, targets_PO)
                loss = loss + self.weights[name] * part
                facts[name] = part.detach()
                facts[f"{name}_hits"] = hit_share(vectors_PO.detach(), targets_PO)
            if self.queue is not None and self.training:
                self.queue.remember(pairs)
        if decodes:
            seen = self.backbone.encode(volumes.masked_fill(masked, 0.0)) if masked is not None else whole
            assert seen is not None
            needs_all = self.head is not None or self.settings.get("dense_reads", "decoder") == "decoder"
            decoded = self.backbone.decode(seen) if needs_all else seen.memory
            parts = {}
            if self.head is not None:
                parts["reconstruction"] = reconstruction_loss(self.head(decoded), volumes, masked)
            if self.dense is not None:
                source = decoded if self.settings.get("dense_reads", "decoder") == "decoder" else seen.memory
                with torch.autocast(volumes.device.type, enabled=False):
                    found = self.dense(source, batch["planes"], batch["points"], batch["spread"])
                    parts["dense"], facts["dense_cosine"] = dense_loss(found, batch["tokens"])
            for name, part in parts.items():
                loss = loss + self.settings[f"{name}_weight"] * part
                facts[name] = part.detach()
        if self.contrast is not None:
            first, second = (self.contrast(self.backbone.encode(view).memory) for view in batch["views"].unbind(1))
            facts["contrast"] = nt_xent(first, second)
            loss = loss + self._weighs("contrast") * facts["contrast"]
            facts["contrast"] = facts["contrast"].detach()
        return loss, facts

    def _weighs(self, name: str) -> float:
        """The weight of a part that earlier versions' recipes do not know."""
        return float(self.settings.get(f"{name}_weight", 0.0))

    def _aligned(self, name: str, vectors_PO: Tensor, targets_PO: Tensor) -> Tensor:
        """The alignment loss of the step's own pairs; those held in the queue are partners only."""
        num_own = len(vectors_PO)
        with torch.autocast(vectors_PO.device.type, enabled=False):
            if self.queue is not None and self.training:
                vectors_PO, targets_PO = self.queue.join(name, vectors_PO, targets_PO)
            losses: Tensor = self.align[name](vectors_PO, targets_PO)
            return losses[:num_own].mean()

    def _make_psat(self, settings: dict[str, Any]) -> PlaneSliceTransformer:
        outputs = {SHARED: next(iter(self.sizes.values()))} if self.shares_space else self.sizes
        return PlaneSliceTransformer(self.backbone.memory_width, outputs, variant=self.variant, **settings)

    def _make_loss(self, size: int) -> nn.Module:
        if self.settings["alignment"] == "contrastive":
            return ContrastiveLoss()
        return TransportLoss(
            size,
            full_metric=self.variant == "released",
            regularisation=self.settings["regularisation"],
            mass=self.settings["mass"],
            iterations=self.settings["transport_iterations"],
        )


def hit_share(vectors_PO: Tensor, targets_PO: Tensor) -> Tensor:
    """How many vectors lie nearest to their own target among the step's; chance is 1 / P."""
    nearest = (normalised(vectors_PO) @ normalised(targets_PO).T).argmax(dim=-1)
    return (nearest == torch.arange(len(nearest), device=nearest.device)).float().mean()
