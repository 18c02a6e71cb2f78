"""How does a 3D backbone learn from frozen 2D models? (`slicesight insight pretrain`)"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Subset

from slicesight.errors import InputError
from slicesight.models.encoders3d.backbone import BackboneSpec
from slicesight.models.folder import finished_run
from slicesight.models.med3dinsight import InsightConfig, PretrainingModel
from slicesight.models.med3dinsight.losses import import_transport
from slicesight.models.med3dinsight.pretraining import TARGETS
from slicesight.training.fitting import (
    Progress,
    check_resume,
    digest_of,
    finish_run,
    fit,
    held_out_cases,
    settings_that_matter,
)
from slicesight.training.pretraining_recipe import VERB, PretrainRecipe
from slicesight.training.triplets.dataset import PretrainSteps, Triplets, open_triplets
from slicesight.training.triplets.making import make_triplets


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
    model = build_pretraining(
        recipe,
        image_size=triplets.size,
        sizes=triplets.sizes,
        shares_space=triplets.shares_space,
        token_size=triplets.token_size,
    )
    training = recipe.training_for(len(scans))
    held_out = held_out_cases(triplets.scans, recipe.validation)
    steps = partial(PretrainSteps, picture_size=int(triplets.settings["picture_size"]))
    fixed = steps(tuple(held_out), replace(recipe, intensity_jitter=0.0, pairing="matched"))
    fit(
        model,
        model,
        steps(scans, recipe),
        training,
        seed=recipe.seed,
        folder=folder,
        run_digest=digest,
        validation=recipe.validation,
        held_out=Subset(fixed, range(len(held_out))) if held_out else None,
        progress=progress,
    )
    facts = model.facts() | {"text_source": triplets.text_source, "num_scans": len(scans)}
    finish_run(folder, model, kind=model.kind, facts=facts, verb=VERB, recipe=recipe.to_dict(), digest=digest)
    return folder


def find_triplets(recipe: PretrainRecipe, progress: Progress | None = None) -> Triplets:
    """The triplets that `data` names, or those of its scans, made into output_dir/triplets."""
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


def build_pretraining(
    recipe: PretrainRecipe,
    *,
    image_size: tuple[int, ...],
    sizes: dict[str, int],
    shares_space: bool,
    token_size: int = 0,
) -> PretrainingModel:
    """Everything with random weights.

    Args:
        image_size: (D, H, W) of the cubes. sizes: components of the frozen vectors by target. shares_space: image and
            text vectors lie in one space. token_size: components of the kept patch tokens.

    Raises:
        InputError: a target has a weight and no vectors.
    """
    for name in TARGETS:
        if (weight := getattr(recipe, f"{name}_weight")) and name not in sizes:
            raise InputError(
                f"{name}_weight is {weight}, and the triplets hold no {name}s; set {name}_weight: 0, "
                f"or make triplets with another text than none"
            )
    if recipe.dense_weight and not token_size:
        raise InputError(
            f"dense_weight is {recipe.dense_weight}, and the triplets hold no patch tokens; set dense_weight: 0, or "
            "make triplets with dense_components: 64"
        )
    spec = BackboneSpec(name=recipe.backbone.name, image_size=image_size, settings=recipe.backbone.settings)
    about: dict[str, Any] = {"recipe": recipe.to_dict(), "sizes": sizes, "shares_space": shares_space}
    if recipe.dense_weight:
        about["token_size"] = token_size
    return PretrainingModel(InsightConfig(backbone=spec.to_dict(), pretraining=about))


def run_digest(recipe: PretrainRecipe, triplets: Triplets) -> str:
    """What must be alike for a checkpoint or a finished folder to be this very run."""
    made_of = hashlib.sha256((triplets.folder / "triplets.jsonl").read_bytes()).hexdigest()
    plain = replace(recipe, name="", output_dir="", data="").to_dict()
    plain["training"] = settings_that_matter(recipe.training)
    if recipe.validation is None:
        del plain["validation"]  # as in runs before there was any
    return digest_of(VERB, plain, triplets.settings, made_of)
