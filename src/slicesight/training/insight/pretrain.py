"""How does a 3D backbone learn from frozen 2D models? (docs/method.md, Med3DInsight; `slicesight insight pretrain`)

    L = w_image · align(z, image) + w_text · align(z, text) + w_rec · MSE(x, x̂)

z is what PSAT reads of the volume for one plane and slice; image and text are the frozen vectors of that slice and of
what is said of it. B volumes, S slices of each, P = B · S pairs, O components.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import Subset

from slicesight.errors import InputError, ModelError
from slicesight.models.encoders3d.backbones import Backbone, backbone_from, build_backbone, load_weights, spec_of
from slicesight.models.folder import finished_run, read_model_folder
from slicesight.models.med3dinsight.losses import (
    ContrastiveLoss,
    PairQueue,
    TransportLoss,
    import_transport,
    normalised,
    reconstruction_loss,
)
from slicesight.models.med3dinsight.psat import PlaneSliceTransformer
from slicesight.settings import build_settings
from slicesight.training.insight.fitting import (
    Progress,
    check_resume,
    digest_of,
    finish_run,
    fit,
    held_out_cases,
    settings_that_matter,
)
from slicesight.training.insight.recipe import VERB, PretrainRecipe
from slicesight.training.insight.triplet_set import TARGETS, PretrainSteps, Triplets, open_triplets

KIND = "pretraining"
SHARED = "shared"


class Pretraining(nn.Module):
    """A backbone with all that it learns with: PSAT, the losses' own weights, the reconstruction head, the queue.

    Args:
        sizes: components of the frozen vectors by target. shares_space: image and text lie in one space, as of one
            CLIP-like model, so that one output serves both.
    """

    def __init__(
        self, backbone: Backbone, recipe: PretrainRecipe, *, sizes: dict[str, int], shares_space: bool
    ) -> None:
        super().__init__()
        wanted = {"image": recipe.image_weight, "text": recipe.text_weight}
        self.weights = {name: wanted[name] for name in TARGETS if wanted[name]}
        for name in self.weights:
            if name not in sizes:
                raise InputError(
                    f"{name}_weight is {wanted[name]}, and the triplets hold no {name}s; set {name}_weight: 0, "
                    f"or make triplets with another text than none"
                )
        self.recipe, self.backbone = recipe, backbone
        self.sizes = {name: sizes[name] for name in self.weights}
        self.shares_space = shares_space and len(self.sizes) == 2
        self.psat = self._make_psat() if self.weights else None
        self.align = nn.ModuleDict({name: self._make_loss(size) for name, size in self.sizes.items()})
        self.queue = PairQueue(recipe.queue, self.sizes) if recipe.queue and self.weights else None
        self.head = backbone.make_head(backbone.spec.in_channels) if recipe.reconstruction_weight else None

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
        return self._by_target(self.psat(memory_BCdhw, planes_BS, bins_BS))

    def loss_of(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a step, and its parts for the log.

        Slices are read from the whole volume, as they will be later; what is reconstructed is seen with cells hidden.
        """
        volumes, masked = batch["volumes"], batch.get("masked")
        whole = self.backbone.encode(volumes) if self.psat is not None or masked is None else None
        loss, facts = volumes.new_zeros(()), {}
        if self.psat is not None:
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
        if self.head is not None:
            seen = whole if masked is None else self.backbone.encode(volumes.masked_fill(masked, 0.0))
            part = reconstruction_loss(self.head(self.backbone.decode(seen)), volumes, masked)
            loss = loss + self.recipe.reconstruction_weight * part
            facts["reconstruction"] = part.detach()
        return loss, facts

    def _aligned(self, name: str, vectors_PO: Tensor, targets_PO: Tensor) -> Tensor:
        """The alignment loss of the step's own pairs; those held in the queue are partners only."""
        num_own = len(vectors_PO)
        with torch.autocast(vectors_PO.device.type, enabled=False):
            if self.queue is not None and self.training:
                vectors_PO, targets_PO = self.queue.join(name, vectors_PO, targets_PO)
            return self.align[name](vectors_PO, targets_PO)[:num_own].mean()

    def _by_target(self, found: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: found[SHARED if self.shares_space else name] for name in self.sizes}

    def _make_psat(self) -> PlaneSliceTransformer:
        outputs = {SHARED: next(iter(self.sizes.values()))} if self.shares_space else self.sizes
        return PlaneSliceTransformer(
            self.backbone.memory_width, outputs, variant=self.recipe.variant, **asdict(self.recipe.psat)
        )

    def _make_loss(self, size: int) -> nn.Module:
        if self.recipe.alignment == "contrastive":
            return ContrastiveLoss()
        return TransportLoss(
            size,
            full_metric=self.recipe.variant == "released",
            regularisation=self.recipe.regularisation,
            mass=self.recipe.mass,
            iterations=self.recipe.transport_iterations,
        )


def hit_share(vectors_PO: Tensor, targets_PO: Tensor) -> Tensor:
    """How many vectors lie nearest to their own target among the step's; chance is 1 / P."""
    nearest = (normalised(vectors_PO) @ normalised(targets_PO).T).argmax(dim=-1)
    return (nearest == torch.arange(len(nearest), device=nearest.device)).float().mean()


def run_pretraining(recipe: PretrainRecipe, *, resume: bool = False, progress: Progress | None = None) -> Path:
    """Make the triplets where the data are scans, train, and write the model; returns its folder.

    output_dir: config.json and model.safetensors (a folder that `init:` of the other verbs takes), recipe.json,
    log.jsonl, loss.png, and triplets/ where they were made here. A stopped run goes on with `resume`.

    Raises:
        InputError: data or settings that do not fit, an unfinished run without `resume`, or another run's folder.
    """
    folder = Path(recipe.output_dir)
    check_resume(folder, resume=resume)
    if recipe.aligns and recipe.alignment == "transport":
        import_transport()
    triplets = find_triplets(recipe, progress)
    folder.mkdir(parents=True, exist_ok=True)
    digest = run_digest(recipe, triplets)
    if finished_run(folder, digest=digest):
        return folder
    scans = triplets.of_split(recipe.split)
    torch.manual_seed(recipe.seed)
    model = build_pretraining(recipe, triplets)
    training = recipe.training_for(len(scans))
    held_out = held_out_cases(triplets.scans, recipe.validation)
    fixed = PretrainSteps(tuple(held_out), replace(recipe, intensity_jitter=0.0, pairing="matched"))
    fit(
        model,
        model.loss_of,
        PretrainSteps(scans, recipe),
        training,
        seed=recipe.seed,
        folder=folder,
        run_digest=digest,
        validation=recipe.validation,
        held_out=Subset(fixed, range(len(held_out))) if held_out else None,
        progress=progress,
    )
    facts = {
        "backbone": model.backbone.spec.to_dict(),
        "pretraining": {"recipe": recipe.to_dict(), "sizes": triplets.sizes, "shares_space": triplets.shares_space},
        "text_source": triplets.text_source,
        "num_scans": len(scans),
    }
    finish_run(folder, model, kind=KIND, facts=facts, verb=VERB, recipe=recipe.to_dict(), digest=digest)
    return folder


def find_triplets(recipe: PretrainRecipe, progress: Progress | None = None) -> Triplets:
    """The triplets that `data` names, or those of its scans, made into output_dir/triplets."""
    from slicesight.training.insight.triplets import make_triplets

    if (Path(recipe.data) / "settings.json").is_file():
        return open_triplets(recipe.data)
    if recipe.triplets is None:
        raise InputError(
            f"data: {recipe.data} holds no triplets, and the recipe does not say how to make them; name a folder that "
            "slicesight insight triplets wrote, or add `triplets:`"
        )
    folder = Path(recipe.output_dir) / "triplets"
    make_triplets(recipe.data, folder, recipe.triplets, device=recipe.training.torch_device, progress=progress)
    return open_triplets(folder)


def build_pretraining(recipe: PretrainRecipe, triplets: Triplets) -> Pretraining:
    """Everything with random weights."""
    backbone = build_backbone(recipe.backbone.name, image_size=triplets.size, **recipe.backbone.settings)
    return Pretraining(backbone, recipe, sizes=triplets.sizes, shares_space=triplets.shares_space)


def load_pretraining(folder: str | Path) -> Pretraining:
    """The model of a folder that `slicesight insight pretrain` wrote, to read slices with."""
    config, weights = read_model_folder(folder, kind=KIND)
    about = config["pretraining"]
    recipe = build_settings(PretrainRecipe, about["recipe"], where=f"{folder}: recipe")
    model = Pretraining(
        backbone_from(spec_of(config, folder)), recipe, sizes=about["sizes"], shares_space=about["shares_space"]
    )
    load_weights(model, weights, folder)
    return model.eval()


def run_digest(recipe: PretrainRecipe, triplets: Triplets) -> str:
    """What must be alike for a checkpoint or a finished folder to be this very run."""
    made_of = hashlib.sha256((triplets.folder / "triplets.jsonl").read_bytes()).hexdigest()
    plain = replace(recipe, name="", output_dir="", data="").to_dict()
    plain["training"] = settings_that_matter(recipe.training)
    if recipe.validation is None:
        del plain["validation"]  # as in runs before there was any
    return digest_of(VERB, plain, triplets.settings, made_of)
