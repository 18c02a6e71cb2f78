"""One stage of training: its steps as the model's inputs, the Trainer that takes them, the cases that validate it.

A part that learns by low-rank adapters computes W x + alpha / rank * B A x in its linear layers; afterwards
W + alpha / rank * B A takes the place of W.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Sequence
from typing import Any

import torch
from peft import LoraConfig, LoraModel
from torch import Tensor, nn
from transformers import TrainingArguments

from slicesight.data.dataset import Dataset
from slicesight.errors import InputError
from slicesight.models.med2e3 import Med2E3ForConditionalGeneration, Med2E3Processor
from slicesight.models.med2e3.loss import IGNORED
from slicesight.training.checkpointing import CheckpointPolicy
from slicesight.training.checkpoints import KEEP
from slicesight.training.collate import Collator, PromptWriter, StepParts, measure_visits
from slicesight.training.distributed import ProcessGroup, process_group_arguments
from slicesight.training.feature_cache import ARGUMENTS, TrainingFeatureCache, fill_caches, open_caches
from slicesight.training.loop import Validator
from slicesight.training.packing import PackingCollator, prove_packing
from slicesight.training.recipe import STAGE0_SECTIONS, Lora, Recipe, Stage, Validation
from slicesight.training.run_folder import Log, Progress, RunFolder
from slicesight.training.schedule import Schedule, Visit, questions_of
from slicesight.training.trainer import StageCallback, StageTrainer, make_tensorboard

ADAPTED = {"language_model": "language_model", "vision2d": "vision2d.encoder", "vision3d": "vision3d.encoder"}

ADAM_BYTES = 8
"""Of the optimizer's two moments, per weight that learns."""


def train_stage(
    model: Med2E3ForConditionalGeneration,
    processor: Med2E3Processor,
    data: Dataset,
    stage: Stage,
    recipe: Recipe,
    *,
    log: Log,
    seed: int,
    checkpoints: CheckpointPolicy,
    held_out: Dataset | None = None,
    progress: Progress = lambda done, total: None,
) -> None:
    """Train the model's unfrozen parts for one stage, or what is left of it, and validate on the held-out cases."""
    group, folder = checkpoints.process_group, checkpoints.run.folder

    def log_stage(facts: dict[str, Any]) -> None:
        log({"stage": stage.name, **facts})

    def once(facts: dict[str, Any]) -> None:
        if checkpoints.start is None:
            log_stage({"step": 0, **facts})

    writer = make_writer(processor, recipe)
    num_parts = stage.accumulation * group.num_processes
    schedule = Schedule(data, stage, seed=seed, num_parts=num_parts, measure=measure_visits(data, writer))
    caches: list[TrainingFeatureCache] = []
    if recipe.feature_cache and recipe.see_volume:
        caches = open_caches(recipe.feature_cache, model, data, bf16=recipe.bf16, is_main=group.is_main)
        device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
        mine = schedule.visited_cases()[group.rank :: group.num_processes]
        encoded = fill_caches(caches, model, data, mine, device=device, bf16=recipe.bf16, progress=progress)
        group.wait()
        once({"volumes_encoded": encoded, "cached": [cache.part for cache in caches]})
    collator: Callable[[list[Any]], dict[str, Tensor]] = Collator(writer)
    if recipe.packing:
        prove_packing(model)
        collator = PackingCollator(collator, model)
    parts = StepParts(
        data,
        schedule,
        writer,
        seed=seed,
        num_parts=num_parts,
        augmentation=stage.augment,
        caches=caches,
        needs_voxels=bool(set(ARGUMENTS) & set(model.parts) - {cache.part for cache in caches}),
    )
    # TensorBoard, which would write below the checkpoints, gets its own folder; other loggers are the library's
    has_tensorboard = "tensorboard" in recipe.report_to and group.is_main
    trainer = StageTrainer(
        score_weight=stage.score_weight,
        entropy_weight=stage.entropy_weight,
        checkpoints=checkpoints,
        model=model,
        args=training_arguments(
            stage,
            recipe,
            num_steps=len(schedule),
            output_dir=str(folder / "checkpoints"),
            seed=seed,
            **process_group_arguments(group),
        ),
        train_dataset=parts,
        data_collator=collator,
        callbacks=[make_tensorboard(folder / "tensorboard" / stage.name)] if has_tensorboard else [],
    )
    validator = None
    visits = validation_visits(held_out, stage, recipe.validation) if recipe.validation and held_out else []
    if recipe.validation and held_out and not visits:
        once({"note": f"no case to validate on has a question of {', '.join(stage.tasks)}"})
    elif recipe.validation and held_out:
        validator = Validator(
            recipe.validation,
            lambda: answer_loss(trainer, held_out, visits, writer),
            checkpoints=checkpoints,
            num_steps=len(schedule),
            log=log_stage,
        )
    trainer.add_callback(StageCallback(trainer, log=log_stage, progress=progress, validator=validator))
    trainer.train_or_resume(steps=len(schedule), validator=validator)


def make_writer(processor: Med2E3Processor, recipe: Recipe) -> PromptWriter:
    """What writes the stage's prompts; training cuts and counts what inference refuses."""
    whole = copy.copy(processor)
    whole.max_length = None
    limit = recipe.max_length or processor.max_length
    return PromptWriter(processor=whole, target=recipe.target, see_volume=recipe.see_volume, max_length=limit)


def validation_visits(held_out: Dataset, stage: Stage, validation: Validation) -> list[Visit]:
    """The held-out cases with all that the stage asks, always in the same words."""
    visits = []
    for number in validation.chosen(len(held_out)):
        conversations = held_out.conversations(held_out.cases[number], 0)
        asked = tuple(place for place, conversation in enumerate(conversations) if conversation.task in stage.tasks)
        visits += [Visit(case=number, epoch=0, asked=asked)] if asked else []
    return visits


def answer_loss(trainer: StageTrainer, held_out: Dataset, visits: Sequence[Visit], writer: PromptWriter) -> float:
    """Mean cross-entropy of the answers' tokens, over all visits, as the trainer's model is now."""
    cases = StepParts(held_out, [list(visits)], writer, seed=0)
    collate, model = Collator(writer), trainer.model
    assert model is not None
    total, num_tokens = 0.0, 0
    for visit in visits:
        batch = collate([[cases.make_item(visit)]])
        inputs = trainer._prepare_inputs(
            {name: batch[name] for name in batch if name not in ("num_cut", "true_slices")}
        )
        count = int((inputs["labels"][:, 1:] != IGNORED).sum())
        total += count * float(model(**inputs).loss)
        num_tokens += count
    return total / max(1, num_tokens)


def training_arguments(stage: Stage, recipe: Recipe, *, num_steps: int, **others: Any) -> TrainingArguments:
    """The library's settings for a stage.

    Raises InputError for an unknown or missing logger, or bfloat16 where it cannot be had.
    """
    if recipe.save_every is not None:
        others |= {"save_strategy": "steps", "save_steps": recipe.save_every}
    try:
        return TrainingArguments(
            max_steps=num_steps,
            per_device_train_batch_size=1,  # an item is a whole part of a step, and they come in their order
            train_sampling_strategy="sequential",
            accelerator_config={"even_batches": False},
            gradient_accumulation_steps=stage.accumulation,
            learning_rate=stage.learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=max(1, round(stage.warmup_share * num_steps)),
            weight_decay=stage.weight_decay,
            max_grad_norm=1.0,
            bf16=recipe.bf16,
            activation_checkpointing=recipe.recompute_activations,
            logging_steps=min(recipe.log_every, num_steps),
            logging_nan_inf_filter=False,
            report_to=[name for name in recipe.report_to if name != "tensorboard"],
            run_name=f"{recipe.name}-{stage.name}",
            remove_unused_columns=False,
            disable_tqdm=True,
            dataloader_num_workers=recipe.loader_workers,
            **{"save_strategy": "no", **others},
        )
    except ValueError as error:
        raise InputError(f"stage {stage.name}: {' '.join(str(error).split())}") from error


def add_adapters(model: Med2E3ForConditionalGeneration, lora: Lora | None) -> list[LoraModel]:
    """Put adapters, which learn, beside the linear layers of the named parts, which do not.

    Raises InputError for a part that takes none, or layers that are not there.
    """
    if lora is None:
        return []
    settings: dict[str, Any] = {"r": lora.rank, "lora_alpha": lora.alpha, "lora_dropout": lora.dropout, "bias": "none"}
    return [
        LoraModel(model.get_submodule(ADAPTED[part]), LoraConfig(target_modules=targets, **settings), "default")
        for part, targets in adapter_targets(model, lora).items()
    ]


def adapter_targets(model: Med2E3ForConditionalGeneration, lora: Lora) -> dict[str, list[str]]:
    """The names of the layers of each part that adapters stand beside.

    Raises InputError for a part that takes none, and for a name under lora.targets that no layer has.
    """
    found: dict[str, list[str]] = {}
    known: set[str] = set()
    for part in lora.parts:
        if part not in ADAPTED or part not in model.parts:
            raise InputError(f"lora: {part!r} takes no adapters here; expected one of {', '.join(ADAPTED)}")
        module = model.get_submodule(ADAPTED[part])
        found[part] = find_targets(module, lora.targets)
        known |= {name.split(".")[-1] for name in find_targets(module, None)}
        if not found[part]:
            asked = "no linear layer" if lora.targets is None else f"no linear layer called {', '.join(lora.targets)}"
            raise InputError(f"lora: {part} has {asked}; change lora.targets or lora.parts")
    for ending in lora.targets or ():
        if not any(f".{name}".endswith(f".{ending}") for names in found.values() for name in names):
            raise InputError(
                f"lora: no linear layer of {', '.join(found)} is called {ending}; "
                f"expected some of {', '.join(sorted(known))} under lora.targets"
            )
    return found


def check_parts(model: Med2E3ForConditionalGeneration, parts: Sequence[str]) -> None:
    """Raises InputError for a name that is no part of this model."""
    for part in parts:
        if part not in model.parts:
            raise InputError(f"trainable: {part!r} is no part of this model; its parts are {', '.join(model.parts)}")


def check_stages(
    model: Med2E3ForConditionalGeneration, data: Dataset, recipe: Recipe, run: RunFolder, group: ProcessGroup
) -> None:
    """Find before the first step of the run what a stage still to come would be refused for.

    Raises InputError for parts or layers that the model has not, questions that the data have not, too little disk.
    """
    needed = 0
    num_weights = sum(weight.numel() for weight in model.parameters())
    for number, stage in enumerate(recipe.stages):
        if run.is_behind(len(STAGE0_SECTIONS) + number):
            continue
        try:
            check_parts(model, stage.trainable)
            if stage.lora:
                adapter_targets(model, stage.lora)
        except InputError as error:
            raise InputError(f"stage {stage.name}: {error}") from None
        questions_of(data, stage, seed=recipe.seed + number)
        learning = sum(weight.numel() for part in stage.trainable for weight in model.parts[part].parameters())
        needed = max(needed, 4 * num_weights + ADAM_BYTES * learning)
    if recipe.save_every is None:
        needed = 0
    kept = KEEP + 1 + bool(recipe.validation and recipe.validation.keep_best)
    there = sum(file.stat().st_size for file in run.checkpoints.path.rglob("*") if file.is_file())
    total = max(0, kept * needed - there) + 2 * num_weights
    free = shutil.disk_usage(run.folder).free
    if group.is_main and total > free:
        raise InputError(
            f"{run.folder}: {free / 1e9:.2f} GB are free, and this run writes about {total / 1e9:.2f} GB "
            f"({kept} checkpoints of up to {needed / 1e9:.2f} GB, and the model); make room, give another folder with "
            "--set output_dir=DIR, or set save_every: null"
        )


def merge_adapters(adapters: list[LoraModel]) -> None:
    """Add every adapter to the weights it stands beside and take it away."""
    for adapter in adapters:
        adapter.merge_and_unload()


def find_targets(module: Any, endings: tuple[str, ...] | None) -> list[str]:
    """Full names of the linear layers, without the head that says the words."""
    head = module.get_output_embeddings() if hasattr(module, "get_output_embeddings") else None
    return [
        name
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear)
        and layer is not head
        and (endings is None or any(f".{name}".endswith(f".{ending}") for ending in endings))
    ]
