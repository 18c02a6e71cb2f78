"""One stage of training with the Hugging Face Trainer: learning rate, gradient clipping and log from the library."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from transformers import PrinterCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from slicesight.model import Med2E3ForConditionalGeneration, Med2E3Processor

from .batches import Collator, PhantomQuestions
from .engines import Engine, EngineCheck, engine_arguments, sum_over_processes
from .keeping import Keeper, ResumableTrainer, checkpoint_arguments
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
    keeper: Keeper,
    engine: Engine,
) -> None:
    """Train the model's unfrozen parts for one stage, or what is left of it."""
    arguments = TrainingArguments(
        **checkpoint_arguments(recipe.save_every, keeper.run.folder / "checkpoints"),
        **engine_arguments(engine, volumes_per_step=stage.volumes_per_step),
        max_steps=stage.steps,
        learning_rate=stage.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=max(1, round(stage.warmup_share * stage.steps)),
        weight_decay=stage.weight_decay,
        max_grad_norm=1.0,
        logging_steps=min(10, stage.steps),
        report_to=[],
        remove_unused_columns=False,
        seed=seed,
        disable_tqdm=True,
        dataloader_num_workers=0,
    )
    trainer = StageTrainer(
        score_weight=stage.score_weight,
        keeper=keeper,
        model=model,
        args=arguments,
        train_dataset=PhantomQuestions(phantoms, stage, seed=seed),
        data_collator=Collator(processor, see_volume=recipe.see_volume, target=recipe.target),
        callbacks=[LogLines(stage.name, log)],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(EngineCheck(engine, trainer))
    trainer.train_or_resume(steps=stage.steps)


class StageTrainer(ResumableTrainer):
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
            share = 1.0
            if self.args.world_size > 1:  # every question counts alike, however many each process has
                num_asked = true_BN.any(dim=-1).sum()
                share = self.args.world_size * num_asked / sum_over_processes(num_asked).clamp(min=1)
            loss = loss + share * self.score_weight * score_loss(outputs.slice_scores[:, 0], true_BN)
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
        self.first_step = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.started, self.first_step = time.monotonic(), state.global_step

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
        left = spent / (state.global_step - self.first_step) * (state.max_steps - state.global_step) / 60
        facts = {"stage": self.stage, "step": state.global_step, "of": state.max_steps}
        self.log({**facts, "loss": float(logs["loss"]), "minutes_left": round(left, 1)})
