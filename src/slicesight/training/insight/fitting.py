"""How does a network learn from its samples, and go on after an interruption as if there had been none?

AdamW or Adam; the learning rate climbs over warmup_share of the steps, then stays or falls along half a cosine to zero.
All randomness of step s follows from (seed, s): a run that is stopped and resumed ends with the weights of one that was
not.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset

from slicesight.errors import InputError
from slicesight.files import replacing
from slicesight.models.folder import write_model_folder
from slicesight.training.insight.run_log import RunLog, draw_losses, write_provenance

CHECKPOINT_FILE = "checkpoint.pt"
NOT_PART_OF_A_RUN = ("log_every", "checkpoint_every", "num_workers")
NOT_PART_OF_FINE_TUNING = (
    "name",
    "output_dir",
    "data",
    "prepared_dir",
    "score_splits",
    "save_masks",
    "num_overlays",
)
LOG_FILE, LOSS_PICTURE = "log.jsonl", "loss.png"
Loss = Tensor | tuple[Tensor, dict[str, Tensor]]
Progress = Callable[[str, int, int], None]
"""What is being done, how many are done, how many in all."""


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
    progress: Progress | None = None,
) -> None:
    """Train the parameters that want a gradient for `settings.steps`, from the folder's checkpoint if it has one.

    Convolutions learn with their channels last in memory: on a CPU 1.4 times as fast with 8 channels, about as fast
    with 16 or more (benchmarks/channels_last.py).

    Args:
        loss_of: a batch on the right device -> the loss, alone or with its parts for the log.
        run_digest: what must be alike for a checkpoint to be ours.

    Raises:
        InputError: the loss is no number any more, or the checkpoint belongs to another run.
    """
    device = settings.torch_device
    model.to(device=device, memory_format=torch.channels_last_3d).train()
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    kind = torch.optim.AdamW if settings.optimizer == "adamw" else torch.optim.Adam
    optimizer = kind(learning, lr=settings.learning_rate, weight_decay=settings.weight_decay)
    done = _resume(folder / CHECKPOINT_FILE, model, optimizer, run_digest)
    log = RunLog(folder / LOG_FILE, keep_until=done or None)
    started, first, since_line = time.monotonic(), done, Means()
    for batch in _batches(samples, settings, first=done):
        rate = settings.learning_rate * rate_share(done, settings)
        for group in optimizer.param_groups:
            group["lr"] = rate
        torch.manual_seed(seed * 1_000_003 + done)
        on_device = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
        with torch.autocast(device.type, torch.bfloat16, enabled=settings.bf16):
            found = loss_of(on_device)
        loss, facts = found if isinstance(found, tuple) else (found, {})
        if not math.isfinite(loss.item()):
            raise InputError(f"the loss is {loss.item()} at step {done + 1}; lower training.learning_rate")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(learning, settings.max_grad_norm)
        optimizer.step()
        done += 1
        if progress is not None:
            progress("training", done, settings.steps)
        since_line.add({"loss": loss.detach(), **facts})
        if done % settings.log_every == 0 or done == settings.steps:
            left = (time.monotonic() - started) / (done - first) * (settings.steps - done) / 60
            line = {"step": done, "of": settings.steps, **since_line.take(), "learning_rate": round(rate, 9)}
            log.write({**line, "minutes_left": round(left, 2)})
        if done % settings.checkpoint_every == 0 and done < settings.steps:
            _save(folder / CHECKPOINT_FILE, model, optimizer, done, run_digest)
    draw_losses(folder / LOG_FILE, folder / LOSS_PICTURE)
    model.to(memory_format=torch.contiguous_format).eval()


class Means:
    """Means of numbers that come step by step, until they are taken."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.count = 0

    def add(self, facts: dict[str, Tensor]) -> None:
        """One step's numbers, always the same names."""
        self.sums = {name: self.sums[name] + value if self.count else value for name, value in facts.items()}
        self.count += 1

    def take(self) -> dict[str, float]:
        """The means, to six places; then it begins anew."""
        means = {name: round(float(total) / self.count, 6) for name, total in self.sums.items()}
        self.sums, self.count = {}, 0
        return means


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


class FineTuning(Protocol):
    """What the recipes of segment and classify have in common."""

    @property
    def data(self) -> str: ...

    @property
    def training(self) -> FitSettings: ...

    def to_dict(self) -> dict[str, Any]: ...


def digest_of_fine_tuning(recipe: FineTuning) -> str:
    """What must be alike for a checkpoint or a finished model to be this run's: the settings, and the list itself."""
    settings = {key: value for key, value in recipe.to_dict().items() if key not in NOT_PART_OF_FINE_TUNING}
    settings["training"] = settings_that_matter(recipe.training)
    return digest_of(settings, Path(recipe.data).read_bytes().hex())


def check_resume(folder: Path, *, resume: bool) -> None:
    """Raises InputError where a stopped run lies in the folder and nobody said to go on with it."""
    if (folder / CHECKPOINT_FILE).is_file() and not resume:
        raise InputError(f"{folder}: holds a run that was stopped; add --resume to go on, or set another output_dir")


def finish_run(
    folder: Path, model: nn.Module, *, kind: str, facts: dict[str, Any], verb: str, recipe: dict[str, Any], digest: str
) -> None:
    """Write the model with what it was made from, its config.json last, and remove the checkpoint."""
    write_provenance(folder, recipe, verb=verb)
    write_model_folder(folder, kind=kind, facts={**facts, "run": digest}, model=model)
    (folder / CHECKPOINT_FILE).unlink(missing_ok=True)


def _batches(samples: Samples, settings: FitSettings, *, first: int) -> DataLoader[dict[str, Tensor]]:
    rest = range(first * settings.batch_size, settings.steps * settings.batch_size)
    return DataLoader(
        Subset(samples, rest), batch_size=settings.batch_size, shuffle=False, num_workers=settings.num_workers
    )


def _resume(file: Path, model: nn.Module, optimizer: torch.optim.Optimizer, run_digest: str) -> int:
    """Steps done already."""
    if not file.exists():
        return 0
    kept = torch.load(file, map_location="cpu", weights_only=True)
    if kept["run"] != run_digest:
        raise InputError(
            f"{file.parent}: holds an unfinished run with other settings or data; delete it or set another output_dir"
        )
    model.load_state_dict(kept["model"])
    optimizer.load_state_dict(kept["optimizer"])
    return int(kept["step"])


def _save(file: Path, model: nn.Module, optimizer: torch.optim.Optimizer, step: int, run_digest: str) -> None:
    state = {"step": step, "run": run_digest, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
    with replacing(file) as temporary:
        torch.save(state, temporary)
