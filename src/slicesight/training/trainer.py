"""One stage of training with the Hugging Face Trainer: learning rate, gradient clipping and log from the library."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PrinterCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from slicesight.data.dataset import Dataset
from slicesight.errors import InputError
from slicesight.models.med2e3 import Med2E3ForConditionalGeneration, Med2E3Processor
from slicesight.training.checkpointing import CheckpointPolicy, ResumableTrainer, checkpoint_arguments
from slicesight.training.collate import Collator, PromptWriter, StepParts, measure_visits
from slicesight.training.distributed import ProcessGroup, ProcessGroupCheck, process_group_arguments, sum_over_processes
from slicesight.training.feature_cache import ARGUMENTS, TrainingFeatureCache, fill_caches, open_caches
from slicesight.training.packing import PackingCollator, prove_packing
from slicesight.training.provenance import make_tensorboard
from slicesight.training.recipe import Recipe, Stage
from slicesight.training.schedule import Schedule

Log = Callable[[dict[str, Any]], None]
Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class StageBatches:
    """What one stage trains on: its steps, cut into parts, as the model's inputs."""

    parts: StepParts
    collator: Callable[[list[Any]], dict[str, Tensor]]
    num_steps: int


def train_stage(
    model: Med2E3ForConditionalGeneration,
    processor: Med2E3Processor,
    data: Dataset,
    stage: Stage,
    recipe: Recipe,
    *,
    log: Log,
    seed: int,
    keeper: CheckpointPolicy,
    engine: ProcessGroup,
    progress: Progress = lambda done, total: None,
) -> None:
    """Train the model's unfrozen parts for one stage, or what is left of it."""
    arguments = {
        **checkpoint_arguments(recipe.save_every, keeper.run.folder / "checkpoints"),
        **process_group_arguments(engine),
        "seed": seed,
    }
    once: Log = log if keeper.start is None else lambda facts: None
    batches = make_batches(model, processor, data, stage, recipe, log=once, seed=seed, engine=engine, progress=progress)
    trainer = StageTrainer(
        score_weight=stage.score_weight,
        entropy_weight=stage.entropy_weight,
        keeper=keeper,
        model=model,
        args=training_arguments(stage, recipe, num_steps=batches.num_steps, **arguments),
        train_dataset=batches.parts,
        data_collator=batches.collator,
        callbacks=[LogLines(stage.name, log, progress), *make_loggers(recipe, stage, keeper, engine)],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(ProcessGroupCheck(engine, trainer))
    trainer.train_or_resume(steps=batches.num_steps)


def make_loggers(recipe: Recipe, stage: Stage, keeper: CheckpointPolicy, engine: ProcessGroup) -> list[TrainerCallback]:
    """TensorBoard, which would write below the checkpoints, gets its own folder; other loggers are the library's."""
    if "tensorboard" not in recipe.report_to or not engine.is_main:
        return []
    return [make_tensorboard(keeper.run.folder / "tensorboard" / stage.name)]


def make_batches(
    model: Med2E3ForConditionalGeneration,
    processor: Med2E3Processor,
    data: Dataset,
    stage: Stage,
    recipe: Recipe,
    *,
    log: Log,
    seed: int,
    engine: ProcessGroup,
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
    num_parts = stage.accumulation * engine.num_processes
    schedule = Schedule(data, stage, seed=seed, num_parts=num_parts, measure=measure_visits(data, writer))
    caches: list[TrainingFeatureCache] = []
    if recipe.feature_cache and recipe.see_volume:
        caches = open_caches(recipe.feature_cache, model, data, bf16=recipe.bf16, is_main=engine.is_main)
        device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
        mine = schedule.visited_cases()[engine.rank :: engine.num_processes]
        encoded = fill_caches(caches, model, data, mine, device=device, bf16=recipe.bf16, progress=progress)
        engine.wait()
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
    return StageBatches(parts=parts, collator=collator, num_steps=len(schedule))


def training_arguments(stage: Stage, recipe: Recipe, *, num_steps: int, **others: Any) -> TrainingArguments:
    """The library's words for a stage.

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


class StageTrainer(ResumableTrainer):
    """The library's Trainer with the losses on slice scores beside the model's own, and a count of cut prompts."""

    def __init__(self, *, score_weight: float, entropy_weight: float = 0.0, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.score_weight, self.entropy_weight = score_weight, entropy_weight
        self.num_asked: Tensor = torch.tensor(0)
        self.num_scored: Tensor = torch.tensor(0)
        self.num_cut = 0

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Any]:
        """As the library's; counts what every part of the step, on every process, will have to be weighed by."""
        batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        self.num_cut += sum(int(batch.pop("num_cut", 0)) for batch in batches)
        if self.score_weight:
            asked = sum(int(batch["true_slices"].any(dim=-1).sum()) for batch in batches if "true_slices" in batch)
            self.num_asked = sum_over_processes(torch.tensor(asked, device=device))
        if self.entropy_weight:
            scored = sum(int((batch["volume_index"] >= 0).sum()) for batch in batches if "volume_index" in batch)
            self.num_scored = sum_over_processes(torch.tensor(scored, device=device))
        return batches, None if num_items is None else num_items.clamp(min=1)

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Tensor], return_outputs: bool = False, **arguments: Any
    ) -> Any:
        """As the library's, plus score_weight times the cross-entropy of the scores, entropy_weight times their own."""
        true_BN = inputs.pop("true_slices", None)
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, **arguments)
        if self.score_weight and true_BN is not None and outputs.slice_scores is not None:
            # every question counts alike, however many each part of the step has
            share = self.args.world_size * true_BN.any(dim=-1).sum() / self.num_asked.clamp(min=1)
            loss = loss + share * self.score_weight * score_loss(outputs.slice_scores[:, 0], true_BN)
        if self.entropy_weight and outputs.slice_scores is not None:
            is_scored_BM = inputs["volume_index"] >= 0
            share = self.args.world_size * is_scored_BM.sum() / self.num_scored.clamp(min=1)
            loss = loss + share * self.entropy_weight * entropy_loss(outputs.slice_scores, is_scored_BM)
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As the library's, with the prompts cut since the last line."""
        if "loss" in logs:
            num_cut = int(sum_over_processes(torch.tensor(self.num_cut, device=self.args.device)))
            logs = {**logs, **({"prompts_cut": num_cut} if num_cut else {})}
            self.num_cut = 0
        super().log(logs, start_time)


def score_loss(scores_BN: Tensor, true_BN: Tensor) -> Tensor:
    """Mean of -log(score mass on the true slices) over the questions that have any."""
    asked = true_BN.any(dim=-1)
    mass_B = (scores_BN * true_BN).sum(dim=-1)[asked]
    return -mass_B.clamp(min=1e-6).log().mean() if len(mass_B) else scores_BN.sum() * 0.0


def entropy_loss(scores_BMN: Tensor, is_scored_BM: Tensor) -> Tensor:
    """Mean entropy of the scores over log N, over the volumes of all prompts: 1 where spread evenly, 0 on one slice."""
    entropy_BM = torch.special.entr(scores_BMN.clamp(min=1e-12)).sum(dim=-1) / math.log(max(2, scores_BMN.shape[-1]))
    return entropy_BM[is_scored_BM].mean() if is_scored_BM.any() else scores_BMN.sum() * 0.0


class LogLines(TrainerCallback):
    """Hands the Trainer's log to ours, one line a time, with the minutes to go, and stops where a loss is none."""

    def __init__(self, stage: str, log: Log, progress: Progress = lambda done, total: None) -> None:
        self.stage, self.log, self.progress, self.started = stage, log, progress, time.monotonic()
        self.first_step = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.started, self.first_step = time.monotonic(), state.global_step

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.progress(state.global_step, state.max_steps)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if not logs or "loss" not in logs:
            return
        if not math.isfinite(logs["loss"]):
            raise InputError(
                f"stage {self.stage}: the loss is {logs['loss']} at step {state.global_step}; lower its learning_rate"
            )
        spent = time.monotonic() - self.started
        left = spent / (state.global_step - self.first_step) * (state.max_steps - state.global_step) / 60
        facts = {"stage": self.stage, "step": state.global_step, "of": state.max_steps, "loss": float(logs["loss"])}
        facts |= {name: logs[name] for name in ("prompts_cut",) if name in logs}
        self.log({**facts, "minutes_left": round(left, 1)})
