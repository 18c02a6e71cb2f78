"""One stage of training: its steps as the model's inputs, the Trainer that takes them, the cases that validate it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PrinterCallback, TrainerCallback, TrainingArguments

from slicesight.data.dataset import Dataset
from slicesight.errors import InputError
from slicesight.models.med2e3 import Med2E3ForConditionalGeneration, Med2E3Processor
from slicesight.models.med2e3.loss import IGNORED
from slicesight.training.checkpointing import CheckpointPolicy
from slicesight.training.collate import Collator, PromptWriter, StepParts, measure_visits
from slicesight.training.distributed import ProcessGroup, ProcessGroupCheck, process_group_arguments
from slicesight.training.feature_cache import ARGUMENTS, TrainingFeatureCache, fill_caches, open_caches
from slicesight.training.packing import PackingCollator, prove_packing
from slicesight.training.recipe import Recipe, Stage, Validation
from slicesight.training.schedule import Schedule, Visit
from slicesight.training.trainer import Log, LogLines, Progress, StageTrainer, make_tensorboard
from slicesight.training.validation import Validator


@dataclass(frozen=True, kw_only=True)
class StageBatches:
    """What one stage trains on: its steps, cut into parts, as the model's inputs."""

    parts: StepParts
    collator: Callable[[list[Any]], dict[str, Tensor]]
    num_steps: int
    writer: PromptWriter


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
    process_group: ProcessGroup,
    held_out: Dataset | None = None,
    progress: Progress = lambda done, total: None,
) -> None:
    """Train the model's unfrozen parts for one stage, or what is left of it, and validate on the held-out cases."""
    arguments = {
        **checkpoint_arguments(recipe.save_every, checkpoints.run.folder / "checkpoints"),
        **process_group_arguments(process_group),
        "seed": seed,
    }
    once: Log = log if checkpoints.start is None else lambda facts: None
    batches = make_batches(
        model, processor, data, stage, recipe, log=once, seed=seed, process_group=process_group, progress=progress
    )
    trainer = StageTrainer(
        score_weight=stage.score_weight,
        entropy_weight=stage.entropy_weight,
        checkpoints=checkpoints,
        model=model,
        args=training_arguments(stage, recipe, num_steps=batches.num_steps, **arguments),
        train_dataset=batches.parts,
        data_collator=batches.collator,
        callbacks=[LogLines(stage.name, log, progress), *make_loggers(recipe, stage, checkpoints, process_group)],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(ProcessGroupCheck(process_group, trainer))
    validator = None
    visits = validation_visits(held_out, stage, recipe.validation) if recipe.validation and held_out else []
    if recipe.validation and held_out and not visits:
        asked = ", ".join(stage.tasks)
        once({"stage": stage.name, "step": 0, "note": f"no case to validate on has a question of {asked}"})
    elif recipe.validation and held_out:
        validator = Validator(
            recipe.validation,
            lambda: answer_loss(trainer, held_out, visits, batches.writer),
            checkpoints=checkpoints,
            num_steps=batches.num_steps,
            log=lambda facts: log({"stage": stage.name, **facts}),
        )
    trainer.train_or_resume(steps=batches.num_steps, validator=validator)


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


def make_loggers(
    recipe: Recipe, stage: Stage, checkpoints: CheckpointPolicy, process_group: ProcessGroup
) -> list[TrainerCallback]:
    """TensorBoard, which would write below the checkpoints, gets its own folder; other loggers are the library's."""
    if "tensorboard" not in recipe.report_to or not process_group.is_main:
        return []
    return [make_tensorboard(checkpoints.run.folder / "tensorboard" / stage.name)]


def make_batches(
    model: Med2E3ForConditionalGeneration,
    processor: Med2E3Processor,
    data: Dataset,
    stage: Stage,
    recipe: Recipe,
    *,
    log: Log,
    seed: int,
    process_group: ProcessGroup,
    progress: Progress = lambda done, total: None,
) -> StageBatches:
    """Plan the stage's steps; where there is a feature cache, fill it with what its volumes lack."""
    whole = copy.copy(processor)
    whole.max_length = None  # training cuts and counts what inference refuses
    writer = PromptWriter(
        processor=whole,
        target=recipe.target,
        see_volume=recipe.see_volume,
        max_length=recipe.max_length or processor.max_length,
    )
    num_parts = stage.accumulation * process_group.num_processes
    schedule = Schedule(data, stage, seed=seed, num_parts=num_parts, measure=measure_visits(data, writer))
    caches: list[TrainingFeatureCache] = []
    if recipe.feature_cache and recipe.see_volume:
        caches = open_caches(recipe.feature_cache, model, data, bf16=recipe.bf16, is_main=process_group.is_main)
        device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
        mine = schedule.visited_cases()[process_group.rank :: process_group.num_processes]
        encoded = fill_caches(caches, model, data, mine, device=device, bf16=recipe.bf16, progress=progress)
        process_group.wait()
        log({"stage": stage.name, "step": 0, "volumes_encoded": encoded, "cached": [cache.part for cache in caches]})
    collator: Callable[[list[Any]], dict[str, Tensor]] = Collator(writer)
    if recipe.packing:
        prove_packing(model)
        collator = PackingCollator(collator, model)
    left = set(ARGUMENTS) & set(model.parts) - {cache.part for cache in caches}
    parts = StepParts(
        data,
        schedule,
        writer,
        seed=seed,
        num_parts=num_parts,
        augmentation=stage.augment,
        caches=caches,
        needs_voxels=bool(left),
    )
    return StageBatches(parts=parts, collator=collator, num_steps=len(schedule), writer=writer)


def training_arguments(stage: Stage, recipe: Recipe, *, num_steps: int, **others: Any) -> TrainingArguments:
    """The library's settings for a stage.

    Raises:
        InputError: an unknown or missing logger, or bfloat16 where it cannot be had.
    """
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
            **others,
        )
    except ValueError as error:
        raise InputError(f"stage {stage.name}: {' '.join(str(error).split())}") from error


def checkpoint_arguments(save_every: int | None, folder: Path) -> dict[str, Any]:
    """What `TrainingArguments` need to know of checkpoints."""
    if save_every is None:
        return {"output_dir": str(folder), "save_strategy": "no"}
    return {"output_dir": str(folder), "save_strategy": "steps", "save_steps": save_every}
