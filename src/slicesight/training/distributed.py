"""On how many processes does a run train, and how are they joined: alone, DDP, FSDP2 or DeepSpeed?

torchrun and `accelerate launch` say it in environment variables; the library's Trainer follows them, but where it
cannot it trains unsharded without a word. So what was asked for is read here, and looked for in the prepared model.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed
from torch.nn.parallel import DistributedDataParallel

from slicesight.errors import InputError


class DistributedError(InputError):
    """The processes cannot be joined as asked."""


@dataclass(frozen=True, kw_only=True)
class ProcessGroup:
    """kind: "single", "ddp", "fsdp2", "zero2" or "zero3"; rank of num_processes."""

    kind: str = "single"
    rank: int = 0
    num_processes: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process logs and writes."""
        return self.rank == 0

    @property
    def is_sharded(self) -> bool:
        """Whether processes hold shares, of the optimizer at least; whole weights then come from a checkpoint."""
        return self.kind in ("fsdp2", "zero2", "zero3")

    def wait(self) -> None:
        """Until every process is here."""
        if self.num_processes > 1 and distributed.is_initialized():
            distributed.barrier()


SINGLE_PROCESS = ProcessGroup()


def find_process_group(environment: Mapping[str, str] = os.environ) -> ProcessGroup:
    """What torchrun or `accelerate launch` asked for.

    Raises DistributedError where it cannot be had here: going on would train unsharded in silence.
    """
    num_processes, rank = int(environment.get("WORLD_SIZE", "1")), int(environment.get("RANK", "0"))
    kind = "ddp" if num_processes > 1 else "single"
    if environment.get("ACCELERATE_USE_FSDP", "").lower() == "true":
        version = environment.get("FSDP_VERSION", "1")
        if version != "2":
            raise DistributedError(f"fsdp_version is {version}; expected 2 (FSDP1 is not supported)")
        kind = "fsdp2"
    if environment.get("ACCELERATE_USE_DEEPSPEED", "").lower() == "true":
        if find_spec("deepspeed") is None:
            raise DistributedError("DeepSpeed was asked for but is not installed: pip install deepspeed")
        kind = f"zero{find_zero_stage(environment)}"
    group = ProcessGroup(kind=kind, rank=rank, num_processes=num_processes)
    if group.is_sharded:
        if not torch.cuda.is_available():
            raise DistributedError(
                f"{kind} was asked for but there is no GPU, and accelerate would then train unsharded in silence; "
                f"start it with torchrun alone (DDP)"
            )
        if num_processes < 2:
            raise DistributedError(f"{kind} was asked for with one process; start at least two (--num_processes)")
    return group


def find_zero_stage(environment: Mapping[str, str]) -> int:
    """The ZeRO stage, 2 or 3, of accelerate's variables or of the DeepSpeed file they name."""
    stage: Any = environment.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")
    if file := environment.get("ACCELERATE_DEEPSPEED_CONFIG_FILE"):
        stage = json.loads(Path(file).read_text(encoding="utf-8")).get("zero_optimization", {}).get("stage")
    if str(stage) not in ("2", "3"):
        raise DistributedError(f"ZeRO stage is {stage}; expected 2 or 3")
    return int(stage)


def join(process_group: ProcessGroup) -> None:
    """Join the processes before any of them reads or writes."""
    if process_group.num_processes > 1 and not distributed.is_initialized():
        from accelerate import PartialState

        on_cpu = not torch.cuda.is_available()
        PartialState(cpu=on_cpu, **({"backend": "gloo"} if on_cpu else {}))


def leave(process_group: ProcessGroup) -> None:
    """Part again, so that the last process does not wait for those that are gone."""
    if process_group.num_processes > 1 and distributed.is_initialized():
        distributed.destroy_process_group()


def sum_over_processes(count: Tensor) -> Tensor:
    """The sum of every process's count."""
    total = count.clone()
    if distributed.is_initialized():
        distributed.all_reduce(total)
    return total


def process_group_arguments(process_group: ProcessGroup) -> dict[str, Any]:
    """What `TrainingArguments` need to know of the processes."""
    on_cpu = not torch.cuda.is_available()
    return {"use_cpu": on_cpu, "ddp_backend": "gloo" if on_cpu and process_group.num_processes > 1 else None}


def check_process_group(process_group: ProcessGroup, prepared: Any) -> None:
    """Raises DistributedError where the model is prepared otherwise; for FSDP2, where a parameter is no DTensor."""
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor

    found = "single"
    if isinstance(prepared, DistributedDataParallel):
        found = "ddp"
    elif isinstance(prepared, FSDPModule):
        sharded: Any = prepared
        whole = [name for name, parameter in sharded.named_parameters() if not isinstance(parameter, DTensor)]
        if whole:
            raise DistributedError(f"fsdp2 is on, but {len(whole)} parameters are not sharded, {whole[0]} among them")
        found = "fsdp2"
    elif type(prepared).__name__ == "DeepSpeedEngine":
        found = f"zero{prepared.zero_optimization_stage()}"
    if found != process_group.kind:
        raise DistributedError(
            f"{process_group.kind} was asked for, but the model was prepared as {found!r}; "
            f"check the launcher's configuration file and the number of GPUs"
        )
