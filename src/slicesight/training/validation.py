"""How good is the model on cases it does not learn from, and which of its checkpoints is the best?

Every `every` steps the loss of a fixed set of held-out cases is measured in evaluation mode, without augmentation, and
logged as val_loss. Nothing that training draws from is touched: with and without validation the weights are the same,
bit by bit, until the best are chosen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from slicesight.errors import InputError
from slicesight.training.checkpointing import CheckpointPolicy, random_states, set_random_states
from slicesight.training.recipe import Validation
from slicesight.training.run_folder import VAL_LOSS


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
        log: Callable[[dict[str, Any]], None],
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

        Raises:
            InputError: the loss is no number.
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
