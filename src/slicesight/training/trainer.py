"""The Hugging Face Trainer with whole checkpoints, the losses on slice scores, our log and our validation."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations.integration_utils import (
    INTEGRATION_TO_CALLBACK,
    TensorBoardCallback,
    get_available_reporting_integrations,
)

from slicesight.errors import InputError
from slicesight.training.checkpointing import CheckpointPolicy, read_weights
from slicesight.training.distributed import check_process_group, sum_over_processes
from slicesight.training.loop import Validator
from slicesight.training.run_folder import Log, Progress


class StageTrainer(Trainer):
    """The library's Trainer with the losses on slice scores beside the model's own, and a count of cut prompts.

    Its checkpoints are whole or absent, hold every weight by its own name and no pickle.
    """

    def __init__(
        self, *, checkpoints: CheckpointPolicy, score_weight: float, entropy_weight: float = 0.0, **arguments: Any
    ) -> None:
        super().__init__(**arguments)
        self.remove_callback(PrinterCallback)
        self.checkpoints = checkpoints
        self.writing_to: Path | None = None
        self.score_weight, self.entropy_weight = score_weight, entropy_weight
        self.num_asked: Tensor = torch.tensor(0)
        self.num_scored: Tensor = torch.tensor(0)
        self.num_cut = 0

    def train_or_resume(self, *, steps: int, validator: Validator | None = None) -> None:
        """Train from the beginning, or from the section's checkpoint; nothing is left to do after its last step."""
        start = self.checkpoints.start
        if start is not None and (start.place.step >= steps or (validator is not None and validator.must_stop)):
            read_weights(self.checkpoints.model, start.path)
        else:
            self.train(resume_from_checkpoint=None if start is None else str(start.path))
        if validator is not None:
            validator.finish()

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
        return batches, None if num_items is None else torch.as_tensor(num_items).clamp(min=1)

    def compute_loss(  # type: ignore[override]
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

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the whole weights, gathered from all processes where each holds a share."""
        is_sharded = self.checkpoints.process_group.is_sharded
        self._save(output_dir, self.accelerator.get_state_dict(self.model_wrapped) if is_sharded else None)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        if self.args.should_save:
            self.checkpoints.write_weights(Path(output_dir or str(self.args.output_dir)), gathered=state_dict)

    def _get_output_dir(self, trial: Any) -> str:
        return str(self.args.output_dir if self.writing_to is None else self.writing_to)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        with self.checkpoints.writing(self.state.global_step) as folder:
            self.writing_to = folder
            try:
                super()._save_checkpoint(model, trial)
            finally:
                self.writing_to = None
            self.checkpoints.process_group.wait()
            if self.checkpoints.process_group.is_main:
                for file in (folder / f"checkpoint-{self.state.global_step}").iterdir():
                    file.rename(folder / file.name)
                (folder / f"checkpoint-{self.state.global_step}").rmdir()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            read_weights(self.checkpoints.model, Path(resume_from_checkpoint))


class StageCallback(TrainerCallback):
    """What happens around the Trainer's steps: a check of the processes, our log, validation, checkpoints.

    The loss is logged at every checkpoint, so that no step's loss is half before and half after it.
    """

    def __init__(
        self, trainer: StageTrainer, *, log: Log, progress: Progress, validator: Validator | None = None
    ) -> None:
        self.trainer, self.log, self.progress, self.validator = trainer, log, progress, validator
        self.checkpoints = trainer.checkpoints

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        check_process_group(self.checkpoints.process_group, self.trainer.model_wrapped)
        self.started, self.first_step = time.monotonic(), state.global_step

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        self.progress(state.global_step, state.max_steps)
        save_every, validator = self.checkpoints.save_every, self.validator
        if save_every is not None and state.global_step % save_every == 0:
            control.should_log = True
        if validator is not None:
            if validator.after_step(state.global_step) and save_every is not None:
                control.should_log = control.should_save = True
            control.should_training_stop = control.should_training_stop or validator.must_stop
        return control

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
        stage, step, of = self.checkpoints.name, state.global_step, state.max_steps
        if not math.isfinite(logs["loss"]):
            raise InputError(f"stage {stage}: the loss is {logs['loss']} at step {step}; lower its learning_rate")
        left = (time.monotonic() - self.started) / (step - self.first_step) * (of - step) / 60
        cut = {name: logs[name] for name in ("prompts_cut",) if name in logs}
        self.log({"step": step, "of": of, "loss": float(logs["loss"]), **cut, "minutes_left": round(left, 1)})


def score_loss(scores_BN: Tensor, true_BN: Tensor) -> Tensor:
    """Mean of -log(score mass on the true slices) over the questions that have any."""
    asked = true_BN.any(dim=-1)
    mass_B = (scores_BN * true_BN).sum(dim=-1)[asked]
    return -mass_B.clamp(min=1e-6).log().mean() if len(mass_B) else scores_BN.sum() * 0.0


def entropy_loss(scores_BMN: Tensor, is_scored_BM: Tensor) -> Tensor:
    """Mean entropy of the scores over log N, over the volumes of all prompts: 1 where spread evenly, 0 on one slice."""
    entropy_BM = torch.special.entr(scores_BMN.clamp(min=1e-12)).sum(dim=-1) / math.log(max(2, scores_BMN.shape[-1]))
    return entropy_BM[is_scored_BM].mean() if is_scored_BM.any() else scores_BMN.sum() * 0.0


def check_loggers(names: Iterable[str]) -> None:
    """Every logger of `report_to` exists and is installed; raises InputError where one does not, or is not."""
    for name in names:
        if name not in INTEGRATION_TO_CALLBACK:
            raise InputError(f"report_to: {name!r} is unknown; expected some of {', '.join(INTEGRATION_TO_CALLBACK)}")
        if name not in get_available_reporting_integrations():
            raise InputError(f"report_to: {name} is not installed; install it, or leave it out")


def make_tensorboard(folder: Path) -> TensorBoardCallback:
    """The library's callback, writing below the run's own folder."""
    from torch.utils.tensorboard import SummaryWriter

    folder.mkdir(parents=True, exist_ok=True)
    return TensorBoardCallback(SummaryWriter(log_dir=str(folder)))
