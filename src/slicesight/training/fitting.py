"""How long and how fast does a Med3DInsight network learn, and what makes two runs the same one?

AdamW or Adam; the learning rate climbs over warmup_share of the steps, then stays or falls along half a cosine to zero.
All randomness of step s follows from (seed, s): a run that is stopped and resumed ends with the weights of one that was
not.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, Dataset, Subset

from slicesight.errors import InputError
from slicesight.files import write_text
from slicesight.models.folder import write_model_folder
from slicesight.training.checkpointing import CheckpointPolicy
from slicesight.training.checkpoints import CheckpointFolder
from slicesight.training.loop import Loss, Validator, train_loop
from slicesight.training.provenance import describe_software, draw_losses
from slicesight.training.recipe import Validation
from slicesight.training.run_folder import LOG_FILE, LOSS_PICTURE, VAL_LOSS, RunFolder, disk_errors, read_log

SECTION = "training"
NOT_PART_OF_A_RUN = ("log_every", "checkpoint_every", "num_workers")
Progress = Callable[[str, int, int], None]
"""What is being done, how many are done, how many in all."""


class HasSplit(Protocol):
    """A case or scan of one split."""

    @property
    def split(self) -> str: ...


Case = TypeVar("Case", bound=HasSplit)


@dataclass(frozen=True, kw_only=True)
class FitSettings:
    """How long and how fast a network learns.

    schedule: after the warm-up the rate falls along half a cosine, or stays. optimizer: "adam" adds weight decay to the
        gradient, "adamw" takes it off the weights.
    device: "auto" is the GPU where there is one. bf16: matrix products in bfloat16. num_workers: processes that read.
    """

    steps: int = 1000
    batch_size: int = 2
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    warmup_share: float = 0.05
    max_grad_norm: float = 1.0
    schedule: Literal["cosine", "constant"] = "cosine"
    optimizer: Literal["adamw", "adam"] = "adamw"
    bf16: bool = False
    device: str = "auto"
    num_workers: int = 0
    log_every: int = 10
    checkpoint_every: int = 100

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "log_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise InputError(f"training.{name} is {getattr(self, name)}; expected at least 1")
        for name in ("learning_rate", "max_grad_norm"):
            if not getattr(self, name) > 0:
                raise InputError(f"training.{name} is {getattr(self, name)}; expected a number above 0")
        if self.weight_decay < 0 or self.num_workers < 0 or not 0 <= self.warmup_share < 1:
            raise InputError("training: weight_decay and num_workers must not be negative, warmup_share in [0, 1)")

    @property
    def torch_device(self) -> torch.device:
        """Where the network learns."""
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        try:
            return torch.device(self.device)
        except RuntimeError:
            raise InputError(f"training.device is {self.device!r}; expected auto, cpu, cuda or cuda:1") from None


class Samples(Dataset[dict[str, Tensor]]):
    """Sample number i of the run, for i below steps * batch_size; the same number always gives the same sample."""

    def __len__(self) -> int:
        raise NotImplementedError

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        raise NotImplementedError


def fit(
    model: nn.Module,
    loss_of: Callable[[dict[str, Tensor]], Loss],
    samples: Samples,
    settings: FitSettings,
    *,
    seed: int,
    folder: Path,
    run_digest: str,
    validation: Validation | None = None,
    held_out: Dataset[dict[str, Tensor]] | None = None,
    progress: Progress | None = None,
) -> None:
    """Train the parameters that want a gradient for `settings.steps`, from the folder's last checkpoint if it has one.

    Convolutions learn with their channels last in memory: on a CPU 1.4 times as fast with 8 channels, about as fast
    with 16 or more (benchmarks/channels_last.py).

    Args:
        loss_of: a batch on the right device -> the loss, alone or with its parts for the log.
        run_digest: what must be alike for a checkpoint to be ours.
        held_out: fixed samples to validate on; None where the data hold none, which the log then says.

    Raises:
        InputError: the loss is no number any more, or the checkpoint belongs to another run.
    """
    device = settings.torch_device
    model.to(device=device, memory_format=torch.channels_last_3d).train()  # type: ignore[call-overload]
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    kind = torch.optim.AdamW if settings.optimizer == "adamw" else torch.optim.Adam
    optimizer = kind(learning, lr=settings.learning_rate, weight_decay=settings.weight_decay)

    def loss_on_device(batch: dict[str, Tensor]) -> Loss:
        on_device = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
        with torch.autocast(device.type, torch.bfloat16, enabled=settings.bf16):
            return loss_of(on_device)

    def batches_from(done: int) -> DataLoader[dict[str, Tensor]]:
        rest = range(done * settings.batch_size, settings.steps * settings.batch_size)
        return DataLoader(Subset(samples, rest), batch_size=settings.batch_size, num_workers=settings.num_workers)

    with disk_errors(folder):
        identity, can_go_on = {"settings and data": run_digest}, bool(stopped_at(folder))
        run = RunFolder(folder, identity, resume=can_go_on, say=lambda text: print(text, file=sys.stderr))
        checkpoints = CheckpointPolicy(run, section=0, name=SECTION, model=model, save_every=settings.checkpoint_every)

        def log(facts: dict[str, Any]) -> None:
            run.write_line({"stage": SECTION, **facts})

        validator = None
        if validation is not None and held_out is None:
            log({"step": 0, **validation.missing("the list")})
        elif validation is not None and held_out is not None:
            loader = DataLoader(held_out, batch_size=settings.batch_size)
            validator = Validator(
                validation,
                lambda: mean_loss(loss_on_device, loader),
                checkpoints=checkpoints,
                num_steps=settings.steps,
                log=log,
            )
        train_loop(
            loss_on_device,
            batches_from,
            steps=settings.steps,
            optimizer=optimizer,
            scheduler=LambdaLR(optimizer, lambda step: rate_share(step, settings)),
            checkpoints=checkpoints,
            log=log,
            log_every=settings.log_every,
            log_means=True,
            step_seed=seed,
            max_grad_norm=settings.max_grad_norm,
            lower="training.learning_rate",
            validator=validator,
            progress=lambda done, total: progress("training", done, total) if progress else None,
        )
        draw_losses(folder / LOG_FILE, folder / LOSS_PICTURE)
    model.to(memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]


def held_out_cases(cases: Sequence[Case], validation: Validation | None) -> list[Case]:
    """The cases to validate on, none where nothing is validated."""
    if validation is None:
        return []
    members = [case for case in cases if case.split == validation.split]
    return [members[number] for number in validation.chosen(len(members))]


def mean_loss(loss_of: Callable[[dict[str, Tensor]], Loss], batches: Iterable[dict[str, Tensor]]) -> float:
    """The mean of the batches' losses, each weighed by its samples."""
    total, count = 0.0, 0
    for batch in batches:
        found, size = loss_of(batch), len(next(iter(batch.values())))
        total += size * float(found[0] if isinstance(found, tuple) else found)
        count += size
    return total / count


def rate_share(step: int, settings: FitSettings) -> float:
    """Share of the full learning rate at a step, counted from 0."""
    warmup = max(1, round(settings.warmup_share * settings.steps))
    if step < warmup:
        return (step + 1) / warmup
    if settings.schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, settings.steps - warmup)))


def digest_of(*facts: Any) -> str:
    """A short name of plain values."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def settings_that_matter(settings: FitSettings) -> dict[str, Any]:
    """Without those that change no number of the result."""
    return {key: value for key, value in asdict(settings).items() if key not in NOT_PART_OF_A_RUN}


def stopped_at(folder: Path) -> str | None:
    """Where the run that was stopped in this folder would go on."""
    complete = CheckpointFolder(folder / "checkpoints").list_complete()
    return str(complete[-1].place) if complete else None


def check_resume(folder: Path, *, resume: bool) -> None:
    """Raises InputError where a stopped run lies in the folder and nobody said to go on with it."""
    if stopped_at(folder) and not resume:
        raise InputError(f"{folder}: holds a run that was stopped; add --resume to go on, or set another output_dir")
    if (folder / "checkpoint.pt").is_file():
        raise InputError(
            f"{folder}: checkpoint.pt is of a run that an earlier version stopped, which cannot go on here; delete it, "
            "or set another output_dir"
        )


def finish_run(
    folder: Path, model: nn.Module, *, kind: str, facts: dict[str, Any], verb: str, recipe: dict[str, Any], digest: str
) -> None:
    """Write the model with what it was made from, its config.json last, and remove the checkpoints.

    recipe.json says which step's weights it holds, where they were chosen by their validation loss.
    """
    losses = {line[VAL_LOSS]: line["step"] for line in reversed(read_log(folder / LOG_FILE)) if VAL_LOSS in line}
    best = {"lowest_val_loss": min(losses), "at_step": losses[min(losses)]} if losses else {}
    content = {"verb": verb, "recipe": recipe, **describe_software(), **({"validation": best} if best else {})}
    write_text(folder / "recipe.json", text=json.dumps(content, indent=2) + "\n")
    write_model_folder(folder, kind=kind, facts={**facts, "run": digest}, model=model)
    CheckpointFolder(folder / "checkpoints").drop_all()
