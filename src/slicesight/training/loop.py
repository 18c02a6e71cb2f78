"""How does a network learn from its batches, and go on after an interruption as if there had been none?

The loop of everything that the Trainer does not run: the parts of stage 0, pre-training, segmentation, classification.
Their random numbers, learning rates and sums are their own, and the Trainer would draw and add in another order.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from slicesight.errors import InputError
from slicesight.training.checkpointing import CheckpointPolicy
from slicesight.training.validation import Validator

Batch = TypeVar("Batch")
Facts = Mapping[str, Tensor | float]
Loss = Tensor | tuple[Tensor, Facts]
"""The loss, alone or with other numbers for the log."""
Log = Callable[[dict[str, Any]], None]


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
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Train the optimizer's parameters, or what a checkpoint left of it, with clipped gradients.

    Args:
        batches_from: the batches from a step on, counted from 0.
        log_means: log the means of the steps since the last line, instead of the last step's numbers.
        modules: what is trained beside the checkpoints' model. rng: what batches are drawn from. Both are resumed.
        step_seed: every step's random numbers follow from this and the step alone; None draws on.
        lower: the setting to lower where the loss is no number.

    Raises:
        InputError: the loss is no number.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    done = first = checkpoints.begin_loop(
        optimizer=optimizer, scheduler=scheduler, modules=modules or {}, rng=rng, steps=steps
    )
    started, since_line = time.monotonic(), Means()
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
        nn.utils.clip_grad_norm_(parameters, max_grad_norm)
        optimizer.step()
        scheduler.step()
        done += 1
        progress(done, steps)
        since_line.add({"loss": loss.detach(), **facts})
        if done % log_every == 0 or done == steps or (log_means and checkpoints.is_due(done)):
            means = since_line.take()
            numbers: dict[str, Any] = {**means} if log_means else {"loss": loss.item(), **facts}
            left = (time.monotonic() - started) / (done - first) * (steps - done) / 60
            log({"step": done, "of": steps, **numbers, "learning_rate": round(rate, 9), "minutes_left": round(left, 2)})
        is_wanted = validator is not None and validator.after_step(done)
        if is_wanted or checkpoints.is_due(done):
            checkpoints.write_loop(done)
        if done == steps or (validator is not None and validator.must_stop):
            break
    if validator is not None:
        validator.finish()


class Means:
    """Means of numbers that come step by step, until they are taken."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor | float] = {}
        self.count = 0

    def add(self, facts: Facts) -> None:
        """One step's numbers, always the same names."""
        self.sums = {name: self.sums[name] + value if self.count else value for name, value in facts.items()}
        self.count += 1

    def take(self) -> dict[str, float]:
        """The means, to six places; then it begins anew."""
        means = {name: round(float(total) / self.count, 6) for name, total in self.sums.items()}
        self.sums, self.count = {}, 0
        return means
