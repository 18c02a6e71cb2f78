"""How does a network learn from its batches, go on after an interruption, and end with its best weights?

`train_loop` is the loop of everything that the Trainer does not run: the parts of stage 0, pre-training, segmentation,
classification. Their random numbers, learning rates and sums are their own, and the Trainer would draw and add in
another order. `Validator` serves both: every so many steps the loss of a fixed set of held-out cases is measured in
evaluation mode, without augmentation, and logged as val_loss. Nothing that training draws from is touched: with and
without validation the weights are the same, bit by bit, until the best are chosen.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from slicesight.errors import InputError
from slicesight.training.checkpointing import CheckpointPolicy, random_states, set_random_states
from slicesight.training.recipe import Validation
from slicesight.training.run_folder import VAL_LOSS, Log, Progress

Batch = TypeVar("Batch")
Facts = Mapping[str, Tensor | float]
Loss = Tensor | tuple[Tensor, Facts]
"""The loss, alone or with other numbers for the log."""


class Validator:
    """The validation losses of one section of a run, those before an interruption included.

    measure: the validation loss of the model as it is; called with the model in evaluation mode.
    """

    def __init__(
        self,
        settings: Validation,
        measure: Callable[[], float],
        *,
        checkpoints: CheckpointPolicy,
        num_steps: int,
        log: Log,
    ) -> None:
        self.settings, self.measure, self.checkpoints = settings, measure, checkpoints
        self.num_steps, self.log = num_steps, log
        lines = checkpoints.run.lines_of(checkpoints.name) if checkpoints.start else []
        self.losses: dict[int, float] = {line["step"]: line[VAL_LOSS] for line in lines if VAL_LOSS in line}
        if settings.keep_best:
            checkpoints.best_step = self.best_step

    @property
    def best_step(self) -> int:
        """The first step with the lowest loss; 0 before any was measured."""
        return min(self.losses, key=self.losses.__getitem__, default=0)

    @property
    def must_stop(self) -> bool:
        """Whether patience has run out."""
        stop = self.settings.early_stop
        return stop is not None and sum(step > self.best_step for step in self.losses) >= stop.patience

    def after_step(self, step: int) -> bool:
        """Measure if it is time -> whether a checkpoint is due for it: the best so far, or the end.

        Raises InputError where the loss is no number.
        """
        if step in self.losses or (step % self.settings.every and step != self.num_steps):
            return False
        with frozen_in_evaluation(self.checkpoints.model):
            loss = round(self.measure(), 6)
        if not math.isfinite(loss):
            raise InputError(
                f"{self.checkpoints.name}: the validation loss is {loss} at step {step}; lower its learning_rate"
            )
        self.losses[step] = loss
        self.log({"step": step, VAL_LOSS: loss})
        if self.settings.keep_best and self.best_step == step:
            self.checkpoints.best_step = step
            return True
        return self.must_stop

    def finish(self) -> None:
        """Bring the best weights back, where the best are wanted, and say which they are."""
        if not self.settings.keep_best or not self.losses:
            return
        best = self.best_step
        if best != max(self.losses) and not self.checkpoints.process_group.is_sharded:
            self.checkpoints.restore_best()
        self.checkpoints.run.best[self.checkpoints.name] = {"step": best, VAL_LOSS: self.losses[best]}


def train_loop(
    loss_of: Callable[[Batch], Loss],
    batches_from: Callable[[int], Iterable[Batch]],
    *,
    steps: int,
    optimizer: Optimizer,
    scheduler: LRScheduler,
    checkpoints: CheckpointPolicy,
    log: Log,
    log_every: int = 25,
    log_means: bool = False,
    modules: Mapping[str, nn.Module] | None = None,
    rng: np.random.Generator | None = None,
    step_seed: int | None = None,
    max_grad_norm: float = 1.0,
    lower: str = "its learning_rate",
    validator: Validator | None = None,
    progress: Progress = lambda done, total: None,
) -> None:
    """Train the optimizer's parameters, or what a checkpoint left of it, with clipped gradients.

    Args:
        batches_from: the batches from a step on, counted from 0.
        log_means: log the means of the steps since the last line, instead of the last step's numbers.
        modules: what is trained beside the checkpoints' model. rng: what batches are drawn from. Both are resumed.
        step_seed: every step's random numbers follow from this and the step alone; None draws on.
        lower: the setting to lower where the loss is no number.

    Raises:
        InputError: the loss, or the gradient's norm, is no number.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    done = first = checkpoints.begin_loop(
        optimizer=optimizer, scheduler=scheduler, modules=modules or {}, rng=rng, steps=steps
    )
    started = time.monotonic()
    since_line: list[Facts] = []
    finished = done >= steps or (validator is not None and validator.must_stop)
    for batch in () if finished else batches_from(done):
        rate = float(scheduler.get_last_lr()[0])
        if step_seed is not None:
            torch.manual_seed(step_seed * 1_000_003 + done)
        found = loss_of(batch)
        loss, facts = found if isinstance(found, tuple) else (found, {})
        if not math.isfinite(loss.item()):
            raise InputError(f"{checkpoints.name}: the loss is {loss.item()} at step {done + 1}; lower {lower}")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(parameters, max_grad_norm)
        if not math.isfinite(norm.item()):  # clipping by an infinite norm would make a step of nothing, without a word
            raise InputError(
                f"{checkpoints.name}: the gradient's norm is {norm.item()} at step {done + 1}; lower {lower}, or set "
                "bf16: false where it is true"
            )
        optimizer.step()
        scheduler.step()
        done += 1
        progress(done, steps)
        since_line.append({"loss": loss.detach(), **facts})
        if done % log_every == 0 or done == steps or (log_means and checkpoints.is_due(done)):
            numbers: Mapping[str, Any] = means(since_line) if log_means else {"loss": loss.item(), **facts}
            since_line.clear()
            left = (time.monotonic() - started) / (done - first) * (steps - done) / 60
            log({"step": done, "of": steps, **numbers, "learning_rate": round(rate, 9), "minutes_left": round(left, 2)})
        is_wanted = validator is not None and validator.after_step(done)
        if is_wanted or checkpoints.is_due(done):
            checkpoints.write_loop(done)
        if done == steps or (validator is not None and validator.must_stop):
            break
    if validator is not None:
        validator.finish()


def means(steps: list[Facts]) -> dict[str, float]:
    """The mean of every number over the steps, to six places."""
    return {name: round(float(sum(facts[name] for facts in steps)) / len(steps), 6) for name in steps[0]}


@contextmanager
def frozen_in_evaluation(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; every module's mode and every random state are afterwards as before."""
    modes = {module: module.training for module in model.modules()}
    states = random_states()
    model.eval()
    torch.manual_seed(0)
    try:
        with torch.no_grad():
            yield
    finally:
        set_random_states(states)
        for module, mode in modes.items():
            module.training = mode
