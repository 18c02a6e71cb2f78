"""When is a checkpoint written during a section, and how does the section go on from one?

`CheckpointPolicy` serves the loops of stage 0 directly and the Trainer of the stages through `ResumableTrainer`. In a
checkpoint: the weights, optimizer, learning-rate schedule, every random state and how many steps are done; the place in
the data follows from the steps.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import (
    ProcessorMixin,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from slicesight.training.checkpoints import Checkpoint, TrainingPosition
from slicesight.training.distributed import SINGLE, ProcessGroup
from slicesight.training.resume import RunFolder
from slicesight.training.weights import read_weights, write_weights

LOOP_STATE = "loop.pt"


class CheckpointPolicy:
    """The checkpoints of one section of a run.

    save_every: steps between two checkpoints; None writes none.
    """

    def __init__(
        self,
        run: RunFolder,
        *,
        section: int,
        name: str,
        model: nn.Module,
        processor: ProcessorMixin | None,
        save_every: int | None,
        engine: ProcessGroup = SINGLE,
    ) -> None:
        self.run, self.section, self.name = run, section, name
        self.model, self.processor, self.save_every, self.engine = model, processor, save_every, engine
        self.steps = 0

    @property
    def start(self) -> Checkpoint | None:
        """The checkpoint this section goes on from."""
        return self.run.start_of(self.section)

    @property
    def last(self) -> Checkpoint:
        """The newest checkpoint of the run."""
        return self.run.checkpoints.list_complete()[-1]

    @contextmanager
    def writing(self, step: int) -> Iterator[Path]:
        """An empty folder; every process writes its share, the main process makes it the checkpoint of this step."""
        place = TrainingPosition(section=self.section, step=step, name=self.name)
        folder = self.run.checkpoints
        written = folder.begin(place) if self.engine.is_main else folder.written(place)
        self.engine.wait()
        try:
            yield written
            self.engine.wait()
            if self.engine.is_main:
                folder.complete(place, written, self.run.facts())
            self.engine.wait()
        finally:
            if self.engine.is_main:
                folder.give_up(place)

    def begin_loop(
        self,
        *,
        optimizer: Optimizer,
        schedule: LRScheduler,
        modules: dict[str, nn.Module],
        rng: np.random.Generator,
        steps: int,
    ) -> int:
        """Take up the loop's parts; where there is a checkpoint, load it into them -> steps already done.

        modules: what the loop trains beside the model and throws away afterwards.
        """
        self.optimizer, self.schedule, self.modules, self.rng, self.steps = optimizer, schedule, modules, rng, steps
        if self.start is None:
            return 0
        read_weights(self.model, self.start.path)
        state = torch.load(self.start.path / LOOP_STATE, weights_only=True)
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        for name, module in modules.items():
            module.load_state_dict(state["modules"][name])
        rng.bit_generator.state = state["rng"]
        set_random_states(state["random"])
        return self.start.place.step

    def after_loop_step(self, step: int) -> None:
        """Write a checkpoint if one is due, and at the end of the loop."""
        if self.save_every is None or (step % self.save_every and step != self.steps):
            return
        with self.writing(step) as folder:
            write_weights(self.model, folder, processor=self.processor)
            state = {
                "optimizer": self.optimizer.state_dict(),
                "schedule": self.schedule.state_dict(),
                "modules": {name: module.state_dict() for name, module in self.modules.items()},
                "rng": self.rng.bit_generator.state,
                "random": random_states(),
            }
            torch.save(state, folder / LOOP_STATE)


class ResumableTrainer(Trainer):
    """The library's Trainer, whose checkpoints are whole or absent, hold every weight by its own name and no pickle."""

    def __init__(self, *, keeper: CheckpointPolicy, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.keeper = keeper
        self.writing_to: Path | None = None
        self.add_callback(LogBeforeSaving(keeper.save_every))

    def train_or_resume(self, *, steps: int) -> None:
        """Train from the beginning, or from the section's checkpoint; nothing is left to do after its last step."""
        start = self.keeper.start
        if start is not None and start.place.step >= steps:
            read_weights(self.keeper.model, start.path)
        else:
            self.train(resume_from_checkpoint=None if start is None else str(start.path))

    def _get_output_dir(self, trial: Any) -> str:
        return self.args.output_dir if self.writing_to is None else str(self.writing_to)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        with self.keeper.writing(self.state.global_step) as folder:
            self.writing_to = folder
            try:
                super()._save_checkpoint(model, trial)
            finally:
                self.writing_to = None
            self.keeper.engine.wait()
            if self.keeper.engine.is_main:
                for file in (folder / f"checkpoint-{self.state.global_step}").iterdir():
                    file.rename(folder / file.name)
                (folder / f"checkpoint-{self.state.global_step}").rmdir()

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the whole weights, gathered from all processes where each holds a share."""
        gathered = None
        if self.keeper.engine.is_sharded:
            gathered = self.accelerator.get_state_dict(self.model_wrapped)
        self._save(output_dir, state_dict=gathered)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        if self.args.should_save:
            folder = Path(output_dir or self.args.output_dir)
            write_weights(self.keeper.model, folder, processor=self.keeper.processor, gathered=state_dict)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            read_weights(self.keeper.model, Path(resume_from_checkpoint))


class LogBeforeSaving(TrainerCallback):
    """Logs the loss at every checkpoint, so that no step's loss is half before and half after it."""

    def __init__(self, save_every: int | None) -> None:
        self.save_every = save_every

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        if self.save_every is not None and state.global_step % self.save_every == 0:
            control.should_log = True
        return control


def checkpoint_arguments(save_every: int | None, folder: Path) -> dict[str, Any]:
    """What `TrainingArguments` need to know of checkpoints."""
    if save_every is None:
        return {"output_dir": str(folder), "save_strategy": "no"}
    return {"output_dir": str(folder), "save_strategy": "steps", "save_steps": save_every}


def random_states() -> dict[str, Any]:
    """The states of every global random generator, in types that `torch.load(weights_only=True)` reads."""
    version, numbers, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002 (others draw from it)
    states = {
        "python": [version, list(numbers), gauss],
        "numpy": [name, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, cached],
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state_all()
    return states


def set_random_states(states: dict[str, Any]) -> None:
    """Put back what `random_states` returned."""
    version, numbers, gauss = states["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, keys, position, has_gauss, cached = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))  # noqa: NPY002
    torch.set_rng_state(states["torch"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(states["cuda"])
