"""One stage of training with the Hugging Face Trainer: learning rate, gradient clipping and log from the library."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor, nn
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
    trainer = StageTrainer(
        score_weight=stage.score_weight,
        model=model,
        args=arguments,
        train_dataset=PhantomQuestions(phantoms, stage, seed=seed),
        data_collator=Collator(processor, see_volume=recipe.see_volume, target=recipe.target),
        callbacks=[LogLines(stage.name, log)],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()


class StageTrainer(Trainer):
    """The library's Trainer with the loss on slice scores beside the model's own."""

    def __init__(self, *, score_weight: float, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.score_weight = score_weight

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Tensor], return_outputs: bool = False, **arguments: Any
    ) -> Any:
        """As the library's, plus score_weight times the cross-entropy of the scores."""
        true_BN = inputs.pop("true_slices", None)
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, **arguments)
        if self.score_weight and true_BN is not None and outputs.slice_scores is not None:
            loss = loss + self.score_weight * score_loss(outputs.slice_scores[:, 0], true_BN)
        return (loss, outputs) if return_outputs else loss


def score_loss(scores_BN: Tensor, true_BN: Tensor) -> Tensor:
    """Mean of -log(score mass on the true slices) over the questions that have any."""
    asked = true_BN.any(dim=-1)
    mass_B = (scores_BN * true_BN).sum(dim=-1)[asked]
    return -mass_B.clamp(min=1e-6).log().mean() if len(mass_B) else scores_BN.sum() * 0.0


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
