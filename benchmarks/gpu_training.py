"""What does a training step take on one GPU: memory against `slicesight plan`, seconds, and its share of the products?

The item `train ...` of gpu.py: one volume with eleven prompts, weights random and made on the device, the stage's parts
learning. Engines: torch alone, FSDP2 (every layer a unit, as accelerate does), DeepSpeed's ZeRO-2 and ZeRO-3 with the
settings of recipes/engines. "learns in float32" is what the recipes do: float32 weights, products in bfloat16.
"""

from __future__ import annotations

import atexit
import json
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from ask_many import build_config
from gpu_clock import Bench, Skipped, short, summarise
from torch import Tensor, distributed, nn

from slicesight.planning.plan import RUNTIME_BYTES, TRAINED_PARTS, plan_training
from slicesight.planning.timing import random_model
from slicesight.training.distributed import ProcessGroup, check_process_group
from slicesight.training.run import set_trainable

NUM_SUPERVISED = 128
NUM_QUESTIONS = {"tiny": 2, "small": 11, "full": 11}
LENGTH = {"tiny": 320, "small": 768, "full": 768}
STEPS = {"tiny": 1, "small": 6, "full": 6}
ALLOWED = 0.10
GIB = 2**30
ENGINE_SETTINGS = Path(__file__).resolve().parents[1] / "recipes" / "engines"


@dataclass(frozen=True, kw_only=True)
class Run:
    """engine: "torch", "fsdp2", "zero2" or "zero3". recompute: activations are computed again for the backward pass."""

    size: str
    stage: str
    engine: str
    recompute: bool = True
    in_float32: bool = False

    @property
    def name(self) -> str:
        words = [f"train {self.size}, {self.stage}, {self.engine}"]
        words += ["learns in float32"] * self.in_float32 + ["nothing recomputed"] * (not self.recompute)
        return ", ".join(words)


def list_items(sizes: list[str]) -> dict[str, Callable[[Bench], dict[str, Any]]]:
    """At the largest size asked for."""
    size = sizes[-1]
    runs = [Run(size=size, stage=stage, engine="fsdp2") for stage in TRAINED_PARTS]
    runs += [
        Run(size=size, stage="stage 2", engine="torch"),
        Run(size=size, stage="stage 2", engine="fsdp2", recompute=False),
        Run(size=size, stage="stage 2", engine="fsdp2", in_float32=True),
    ]
    runs += [Run(size=size, stage=stage, engine=engine) for engine in ("zero2", "zero3") for stage in TRAINED_PARTS]
    return {run.name: partial(train, run=run) for run in runs}


def train(bench: Bench, run: Run) -> dict[str, Any]:
    """Seconds and memory of some steps, against the plan of the same step."""
    if run.engine.startswith("zero"):
        if find_spec("deepspeed") is None:
            raise Skipped("needs DeepSpeed, which is not installed")
        bench.need_gpu()
    config = build_config(run.size)
    settings = {"dtype": bench.dtype_name, "num_questions": NUM_QUESTIONS[run.size], "length": LENGTH[run.size]}
    planned = plan_training(config, run.stage, **settings, checkpointing=run.recompute)
    once = planned if not run.recompute else plan_training(config, run.stage, **settings)
    state_bytes = planned.state_bytes
    if run.in_float32 or run.engine.startswith("zero"):
        state_bytes += 4 * planned.trained * (2 if run.in_float32 else 3)  # twice 8, or 12 + 2 + 2 to the plan's 8
    if bench.on_gpu and state_bytes + planned.activation_bytes > 0.97 * torch.cuda.mem_get_info()[0]:
        needed = (state_bytes + planned.activation_bytes) / GIB
        raise Skipped(f"needs about {needed:.0f} GiB; {torch.cuda.mem_get_info()[0] / GIB:.0f} are free")
    before = torch.cuda.memory_allocated() if bench.on_gpu else 0
    with torch.device(bench.device):
        model = random_model(config, dtype=bench.dtype_name)
    prepare_parts(model, run, bench.dtype_name)
    batch = make_batch(bench, model, run)
    join_alone(bench)
    step = ENGINES[run.engine](bench, model, run)
    seconds, losses = [], [step(batch), step(batch)]  # the first makes the optimizer's moments
    if bench.on_gpu:
        torch.cuda.reset_peak_memory_stats()
    for _ in range(STEPS[run.size]):
        start = bench.now()
        losses.append(step(batch))
        seconds.append(bench.now() - start)
    memory = measure_memory(before, planned) if bench.on_gpu else {"skipped": "needs cuda"}
    took = summarise(seconds)
    tokens = NUM_QUESTIONS[run.size] * LENGTH[run.size]
    peak_rate = bench.limits_from(bench.dtype_name)["flops"]
    return {
        "questions": NUM_QUESTIONS[run.size],
        "tokens": tokens,
        "learning": planned.trained,
        "seconds": short(took["seconds"]),
        "spread": took["spread"],
        "tokens_per_s": round(tokens / took["seconds"]),
        "tflop_a_step": short(once.flops / 1e12),
        "tflop_a_step_with_recomputing": short(planned.flops / 1e12),
        "utilisation": short(once.flops / took["seconds"] / peak_rate, 3),
        "memory": memory,
        "loss": [short(losses[0]), short(losses[-1])],
    }


def prepare_parts(model: nn.Module, run: Run, dtype_name: str) -> None:
    """The stage's parts learn; in float32 or in the dtype all weights have."""
    if run.in_float32:
        trained = tuple(name for name in TRAINED_PARTS[run.stage] if name in model.parts)
        set_trainable(model, trained, frozen_dtype=getattr(torch, dtype_name))
    else:
        model.requires_grad_(False)
        for name in TRAINED_PARTS[run.stage]:
            if name in model.parts:
                model.parts[name].requires_grad_(True)
    if run.recompute:
        model.activation_checkpointing_enable()
    model.train()


def make_batch(bench: Bench, model: Any, run: Run) -> dict[str, Tensor]:
    """One random volume, prompts of the same length whose last tokens are supervised."""
    torch.manual_seed(0)
    length, visual = LENGTH[run.size], model.num_visual_tokens
    num_supervised = min(NUM_SUPERVISED, (length - visual) // 2)
    words = torch.randint(3, 1000, (NUM_QUESTIONS[run.size], length))
    words[:, 8 : 8 + visual] = model.config.placeholder_token_id
    labels = words.clone()
    labels[:, :-num_supervised] = -100
    mask = torch.zeros_like(words, dtype=torch.bool)
    mask[:, 8 + visual : -num_supervised] = True
    batch = {
        "input_ids": words,
        "attention_mask": torch.ones_like(words),
        "labels": labels,
        "question_mask": mask,
        "volume_index": torch.zeros(NUM_QUESTIONS[run.size], 1, dtype=torch.long),
        "volumes": torch.rand(1, 1, *model.config.image_size).to(getattr(torch, bench.dtype_name)),
    }
    return {name: value.to(bench.device) for name, value in batch.items()}


def measure_memory(before: int, planned: Any) -> dict[str, Any]:
    """Peaks of what torch's allocator gave out and of what it holds, and the plan of the same step.

    The plan has weights, gradients and moments in one dtype; float32 for all of a learning number is 8 bytes more.
    """
    peak, held = torch.cuda.max_memory_allocated() - before, torch.cuda.max_memory_reserved()
    expected = planned.peak_bytes - RUNTIME_BYTES  # which is Python's and the library's, on the host
    return {
        "peak_gib": short(peak / GIB),
        "held_gib": short(held / GIB),
        "planned_gib": short(expected / GIB),
        "planned_state_gib": short(planned.state_bytes / GIB),
        "ratio": short(peak / expected, 3),
        "within_10_percent": abs(peak / expected - 1) <= ALLOWED,
        "ratio_with_float32_state": short(peak / (expected + 8 * planned.trained), 3),
    }


def join_alone(bench: Bench) -> None:
    """This process as the only one of its kind, for as long as it lives: DeepSpeed remembers the group."""
    if distributed.is_initialized():
        return
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511"}
    for name, value in alone.items():
        os.environ.setdefault(name, value)
    kind, more = ("nccl", {"device_id": torch.device("cuda", 0)}) if bench.on_gpu else ("gloo", {})
    distributed.init_process_group(kind, store=distributed.HashStore(), rank=0, world_size=1, **more)
    atexit.register(distributed.destroy_process_group)


# --- the engines ------------------------------------------------------------------------------------------------------


def with_torch(bench: Bench, model: nn.Module, run: Run) -> Callable[[dict[str, Tensor]], float]:
    """A step of AdamW in the weights' own dtype."""
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=1e-5, fused=bench.on_gpu)

    def step(batch: dict[str, Tensor]) -> float:
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    return step


def with_fsdp2(bench: Bench, model: nn.Module, run: Run) -> Callable[[dict[str, Tensor]], float]:
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    policy = {}
    if run.in_float32:
        policy["mp_policy"] = MixedPrecisionPolicy(
            param_dtype=getattr(torch, bench.dtype_name), reduce_dtype=torch.float32
        )
    units = set(getattr(model, "_no_split_modules", None) or ())
    for part in (model.language_model, model.vision2d.encoder, model.vision3d.encoder):
        units |= set(getattr(part, "_no_split_modules", None) or ())
    for module in model.modules():
        if type(module).__name__ in units:
            fully_shard(module, **policy)
    fully_shard(model, **policy)
    check_process_group(ProcessGroup(kind="fsdp2", num_processes=1), model)
    return with_torch(bench, model, run)


def with_deepspeed(bench: Bench, model: nn.Module, run: Run) -> Callable[[dict[str, Tensor]], float]:
    import deepspeed

    settings = json.loads((ENGINE_SETTINGS / f"deepspeed-{run.engine}.json").read_text())
    settings |= {
        "bf16": {"enabled": bench.on_gpu},
        "gradient_clipping": 1.0,
        "gradient_accumulation_steps": 1,
        "train_micro_batch_size_per_gpu": 1,
        "train_batch_size": 1,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        optimizer = torch.optim.AdamW(learning, lr=1e-5, fused=bench.on_gpu)
        engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=settings)
    check_process_group(ProcessGroup(kind=run.engine, num_processes=1), engine)

    def step(batch: dict[str, Tensor]) -> float:
        loss = engine(**batch).loss
        engine.backward(loss)
        engine.step()
        return float(loss.detach())

    return step


ENGINES = {"torch": with_torch, "fsdp2": with_fsdp2, "zero2": with_deepspeed, "zero3": with_deepspeed}
