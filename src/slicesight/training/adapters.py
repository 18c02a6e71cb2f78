"""How is what a run's adapters learnt published without the model it began from? As a PEFT folder beside the model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from peft import LoraConfig
from safetensors.torch import save_file

from slicesight.files import write_text
from slicesight.models.card import CARD_FILE
from slicesight.models.med2e3 import Med2E3ForConditionalGeneration
from slicesight.training.recipe import Recipe, Stage
from slicesight.training.stage import ADAPTED

ADAPTER_NAME = "default"
PREFIX = "base_model.model."  # before every name in a file of peft's


def stands_alone(recipe: Recipe) -> bool:
    """Whether the adapters of the run's last stage, put on the model it began from, are all that it learnt."""
    is_one = recipe.init is not None and not recipe.pretrains and len(recipe.stages) == 1
    return is_one and recipe.stages[0].lora is not None


def write_adapter(
    model: Med2E3ForConditionalGeneration, stage: Stage, folder: Path, *, base: str, card: dict[str, Any]
) -> None:
    """The adapters, before they are merged, and the parts that learnt whole, as `peft` and `slicesight.load` read them.

    Args:
        base: the model the run began from, by its folder or name; whoever publishes the adapter writes its name on the
            hub in its place.
    """
    assert stage.lora is not None
    starts = tuple(f"{ADAPTED[part]}." for part in stage.lora.parts)
    targets = [
        name.removesuffix(".lora_A")
        for name, _ in model.named_modules()
        if name.startswith(starts) and name.endswith(".lora_A")
    ]
    settings = LoraConfig(
        r=stage.lora.rank,
        lora_alpha=stage.lora.alpha,
        lora_dropout=stage.lora.dropout,
        bias="none",
        target_modules=targets,
        modules_to_save=list(stage.trainable) or None,
        base_model_name_or_path=base,
        inference_mode=True,
    )
    names = {id(module): name for name, module in model.named_modules()}
    learnt = tuple(names[id(model.parts[part])] + "." for part in stage.trainable)
    weights = {
        PREFIX + name.replace(f".{ADAPTER_NAME}.", "."): weight.detach().cpu().contiguous()
        for name, weight in model.state_dict().items()
        if ".lora_A." in name or ".lora_B." in name or name.startswith(learnt)
    }
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_file(weights, partial / "adapter_model.safetensors", metadata={"format": "pt"})
    settings.save_pretrained(str(partial))
    write_text(partial / CARD_FILE, text=json.dumps(card, indent=2) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
