"""How does a network learn from its samples, and go on after an interruption as if there had been none?

AdamW; the learning rate climbs over warmup_share of the steps and falls along half a cosine to zero. All randomness of
step s follows from (seed, s): a run that is stopped and resumed ends with the same weights as one that was not.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset

from slicesight.atomic import replacing
from slicesight.errors import InputError
from slicesight.insight.run_log import RunLog, draw_losses

CHECKPOINT_FILE = "checkpoint.pt"
NOT_PART_OF_A_RUN = ("log_every", "checkpoint_every", "num_workers")
LOG_FILE, LOSS_PICTURE = "log.jsonl", "loss.png"
Progress = Callable[[str, int, int], None]
"""What is being done, how many are done, how many in all."""


@dataclass(frozen=True, kw_only=True)
class FitSettings:
    """How long and how fast a network learns.

    device: "auto" is the GPU where there is one. bf16: matrix products in bfloat16. num_workers: processes that read.
    """

    steps: int = 1000
    batch_size: int = 2
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    warmup_share: float = 0.05
    max_grad_norm: float = 1.0
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
    loss_of: Callable[[dict[str, Tensor]], Tensor],
    samples: Samples,
    settings: FitSettings,
    *,
    seed: int,
    folder: Path,
    run_digest: str,
    progress: Progress | None = None,
) -> None:
    """Train the parameters that want a gradient for `settings.steps`, from the folder's checkpoint if it has one.

    Args:
        loss_of: a batch on the right device -> the loss. run_digest: what must be alike for a checkpoint to be ours.

    Raises:
        InputError: the loss is no number any more, or the checkpoint belongs to another run.
    """
    device = settings.torch_device
    model.to(device).train()
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=settings.learning_rate, weight_decay=settings.weight_decay)
    done = _resume(folder / CHECKPOINT_FILE, model, optimizer, run_digest)
    log = RunLog(folder / LOG_FILE, keep_until=done or None)
    started, first = time.monotonic(), done
    for batch in _batches(samples, settings, first=done):
        rate = settings.learning_rate * rate_share(done, settings)
        for group in optimizer.param_groups:
            group["lr"] = rate
        torch.manual_seed(seed * 1_000_003 + done)
        on_device = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
        with torch.autocast(device.type, torch.bfloat16, enabled=settings.bf16):
            loss = loss_of(on_device)
        if not math.isfinite(loss.item()):
            raise InputError(f"the loss is {loss.item()} at step {done + 1}; lower training.learning_rate")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(learning, settings.max_grad_norm)
        optimizer.step()
        done += 1
        if progress is not None:
            progress("training", done, settings.steps)
        if done % settings.log_every == 0 or done == settings.steps:
            left = (time.monotonic() - started) / (done - first) * (settings.steps - done) / 60
            facts = {"step": done, "of": settings.steps, "loss": round(loss.item(), 6), "learning_rate": round(rate, 9)}
            log.write({**facts, "minutes_left": round(left, 2)})
        if done % settings.checkpoint_every == 0 and done < settings.steps:
            _save(folder / CHECKPOINT_FILE, model, optimizer, done, run_digest)
    draw_losses(folder / LOG_FILE, folder / LOSS_PICTURE)
    model.eval()


def rate_share(step: int, settings: FitSettings) -> float:
    """Share of the full learning rate at a step, counted from 0."""
    warmup = max(1, round(settings.warmup_share * settings.steps))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, settings.steps - warmup)))


def digest_of(*facts: Any) -> str:
    """A short name of plain values."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def settings_that_matter(settings: FitSettings) -> dict[str, Any]:
    """Without those that change no number of the result."""
    return {key: value for key, value in asdict(settings).items() if key not in NOT_PART_OF_A_RUN}


def forget_checkpoint(folder: Path) -> None:
    """Remove the checkpoint of a run that is complete."""
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
