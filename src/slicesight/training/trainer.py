"""One stage of training with the Hugging Face Trainer: learning rate, gradient clipping and log from the library."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from slicesight.model import Med2E3ForConditionalGeneration, Med2E3Processor

from .batches import Collator, PhantomQuestions
from .phantom_set import PhantomSet
from .recipe import Recipe, Stage


def train_stage(
    model: Med2E3ForConditionalGeneration,
    processor: Med2E3Processor,
    phantoms: PhantomSet,
    stage: Stage,
    recipe: Recipe,
    *,
    log: Callable[[dict[str, Any]], None],
    seed: int,
) -> None:
    """Train the model's unfrozen parts for one stage."""
    arguments = TrainingArguments(
        output_dir=str(Path(recipe.output_dir) / stage.name),
        max_steps=stage.steps,
        per_device_train_batch_size=stage.volumes_per_step,
        learning_rate=stage.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=max(1, round(stage.warmup_share * stage.steps)),
        weight_decay=stage.weight_decay,
        max_grad_norm=1.0,
        logging_steps=min(10, stage.steps),
        save_strategy="no",
        report_to=[],
        remove_unused_columns=False,
        use_cpu=True,
        seed=seed,
        disable_tqdm=True,
        dataloader_num_workers=0,
    )
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=PhantomQuestions(phantoms, stage, seed=seed),
        data_collator=Collator(processor, see_volume=recipe.see_volume, target=recipe.target),
        callbacks=[LogLines(stage.name, log)],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()


class LogLines(TrainerCallback):
    """Hands the Trainer's log to ours, one line a time, with the minutes still to go."""

    def __init__(self, stage: str, log: Callable[[dict[str, Any]], None]) -> None:
        self.stage, self.log, self.started = stage, log, time.monotonic()

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
        spent = time.monotonic() - self.started
        left = spent / state.global_step * (state.max_steps - state.global_step) / 60
        facts = {"stage": self.stage, "step": state.global_step, "of": state.max_steps}
        self.log({**facts, "loss": float(logs["loss"]), "minutes_left": round(left, 1)})
