"""When is a checkpoint written during a section, how do weights go to it and back, and how does the section go on?

`CheckpointPolicy` serves the own loop (loop.py) directly and the Trainer of the stages through `StageTrainer`. In a
checkpoint: the weights, optimizer, learning-rate schedule, every random state and how many steps are done; the place in
the data follows from the steps. Weights are plain safetensors that `from_pretrained` reads, shared ones once.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_model, save_file, save_model
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import PreTrainedModel, ProcessorMixin

from slicesight.training.checkpoints import Checkpoint, DamagedCheckpointError, TrainingPosition
from slicesight.training.distributed import SINGLE_PROCESS, ProcessGroup
from slicesight.training.run_folder import RunFolder

LOOP_STATE, WEIGHTS = "loop.pt", "model.safetensors"


class CheckpointPolicy:
    """The checkpoints of one section of a run.

    save_every: steps between two checkpoints; None writes none. best_step: of the validation loss, where the best
    weights are wanted; its checkpoint stays until the section is over.
    """

    def __init__(
        self,
        run: RunFolder,
        *,
        section: int,
        name: str,
        model: nn.Module,
        save_every: int | None,
        processor: ProcessorMixin | None = None,
        process_group: ProcessGroup = SINGLE_PROCESS,
    ) -> None:
        self.run, self.section, self.name = run, section, name
        self.model, self.processor, self.save_every, self.process_group = model, processor, save_every, process_group
        self.steps, self.best_step = 0, 0

    @property
    def start(self) -> Checkpoint | None:
        """The checkpoint this section goes on from."""
        return self.run.start_of(self.section)

    @property
    def result(self) -> Checkpoint:
        """The checkpoint with the weights that the section ends with: the best, or the newest of the run."""
        complete = self.run.checkpoints.list_complete()
        wanted = (self.section, self.best_step)
        return next((found for found in complete if (found.place.section, found.place.step) == wanted), complete[-1])

    def is_due(self, step: int) -> bool:
        """Whether every so many steps one is written, or the loop ends here."""
        return self.save_every is not None and (step % self.save_every == 0 or step == self.steps)

    @contextmanager
    def writing(self, step: int) -> Iterator[Path]:
        """An empty folder; every process writes its share, the main process makes it the checkpoint of this step."""
        place = TrainingPosition(section=self.section, step=step, name=self.name)
        folder, group = self.run.checkpoints, self.process_group
        written = folder.begin(place) if group.is_main else folder.written(place)
        group.wait()
        try:
            yield written
            group.wait()
            if group.is_main:
                folder.complete(place, written, self.run.facts(), best=(self.section, self.best_step))
            group.wait()
        finally:
            if group.is_main:
                folder.give_up(place)

    def restore_best(self) -> None:
        """Load the best weights; raises DamagedCheckpointError where they are gone or damaged."""
        checkpoint = self.result
        if checkpoint.place.step != self.best_step:
            raise DamagedCheckpointError(f"{self.run.folder}: the best checkpoint of {self.name} is gone; start anew")
        checkpoint.check()
        read_weights(self.model, checkpoint.path)

    def begin_loop(
        self,
        *,
        optimizer: Optimizer,
        scheduler: LRScheduler,
        modules: Mapping[str, nn.Module],
        rng: np.random.Generator | None,
        steps: int,
    ) -> int:
        """Take up the loop's parts; where there is a checkpoint, load it into them -> steps already done.

        modules: what the loop trains beside the model and throws away afterwards.
        """
        self.optimizer, self.scheduler, self.modules, self.rng, self.steps = optimizer, scheduler, modules, rng, steps
        if self.start is None:
            return 0
        read_weights(self.model, self.start.path)
        state = torch.load(self.start.path / LOOP_STATE, weights_only=True)
        optimizer.load_state_dict(state["optimizer"])
        scheduler.load_state_dict(state["schedule"])
        for name, module in modules.items():
            module.load_state_dict(state["modules"][name])
        if rng is not None:
            rng.bit_generator.state = state["rng"]
        set_random_states(state["random"])
        return self.start.place.step

    def write_weights(self, folder: Path, gathered: dict[str, Tensor] | None = None) -> None:
        """The model's weights, configuration and processor, without what else a checkpoint holds."""
        write_weights(self.model, folder, processor=self.processor, gathered=gathered)

    def write_loop(self, step: int) -> None:
        """Write a checkpoint of the loop's parts."""
        with self.writing(step) as folder:
            self.write_weights(folder)
            state = {
                "optimizer": self.optimizer.state_dict(),
                "schedule": self.scheduler.state_dict(),
                "modules": {name: module.state_dict() for name, module in self.modules.items()},
                "rng": None if self.rng is None else self.rng.bit_generator.state,
                "random": random_states(),
            }
            torch.save(state, folder / LOOP_STATE)


def write_weights(
    model: nn.Module,
    folder: Path,
    *,
    processor: ProcessorMixin | None = None,
    gathered: dict[str, Tensor] | None = None,
) -> None:
    """Write every weight of the model under the names it has in memory, its configuration and processor.

    gathered: the whole state dictionary where the model itself holds only a share of it (FSDP, ZeRO-3).
    """
    folder.mkdir(parents=True, exist_ok=True)
    if gathered is None:
        save_model(model, str(folder / WEIGHTS), metadata={"format": "pt"})
    else:
        again = shared_names(model)
        whole = {name: tensor.detach().cpu().contiguous() for name, tensor in gathered.items() if name not in again}
        save_file(whole, folder / WEIGHTS, metadata={"format": "pt"})
    if isinstance(model, PreTrainedModel):
        model.config.save_pretrained(folder)
        if model.can_generate():
            model.generation_config.save_pretrained(folder)
    if processor is not None:
        processor.save_pretrained(folder)


def read_weights(model: nn.Module, folder: Path) -> None:
    """Load what `write_weights` wrote; raises DamagedCheckpointError where a name or shape differs from the model's."""
    try:
        load_model(model, folder / WEIGHTS)
    except RuntimeError as error:
        raise DamagedCheckpointError(
            f"{folder / WEIGHTS} does not fit the model of this recipe: {' '.join(str(error).split())[:300]}; "
            f"resume with the recipe and the version that wrote it"
        ) from error


def shared_names(model: nn.Module) -> set[str]:
    """Names under which a parameter comes again (a head tied to the embeddings)."""
    every_name = dict(model.named_parameters(remove_duplicate=False))
    return every_name.keys() - dict(model.named_parameters()).keys()


def random_states() -> dict[str, Any]:
    """The states of every global random generator, in types that `torch.load(weights_only=True)` reads."""
    version, numbers, gauss = random.getstate()
    state: Any = np.random.get_state()  # noqa: NPY002 (others draw from it)
    name, keys, position, has_gauss, cached = state
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
