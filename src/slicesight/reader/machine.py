"""What can this processor do, and in which pieces is work fastest on it?

A matrix product's rate rises with its rows until weights are reused enough, and falls again where the activations no
longer stay in the nearest memory: the best block lies between and is measured, on the model's own layers.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

BLOCK_SIZES = (128, 256, 512, 1024, 2048)
DEFAULT_BLOCK = 512
WORTH_MEASURING = 1_000_000_000
"""Parameters of a language model below which any block of the default size will do."""
NEARLY_BEST = 0.95
COLD_BYTES = 2**28
"""Weights that a measurement walks through, so that they are not all in the processor's cache."""
BF16_FLAGS = ("avx512_bf16", "amx_bf16", "bf16")  # x86 twice, arm


@dataclass(frozen=True, kw_only=True)
class Processor:
    """What the CPU helps with: products in bfloat16, products of 8-bit integers, a matrix unit; and its cores."""

    has_bf16: bool
    has_int8: bool
    has_matrix_unit: bool
    num_cores: int

    @property
    def best_dtype(self) -> str:
        """bfloat16 only where the processor multiplies it itself; elsewhere it is slower than float32."""
        return "bfloat16" if self.has_bf16 else "float32"


def read_processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> Processor:
    """From the flags the kernel lists; without that file (not Linux), nothing is assumed."""
    flags: set[str] = set()
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() in ("flags", "Features"):
                flags = set(value.split())
                break
    return Processor(
        has_bf16=not flags.isdisjoint(BF16_FLAGS),
        has_int8=not flags.isdisjoint(("avx512_vnni", "avx_vnni", "amx_int8", "i8mm")),
        has_matrix_unit="amx_tile" in flags,
        num_cores=count_cores(),
    )


def count_cores() -> int:
    """Cores this process may use, which in a container are fewer than the machine has."""
    try:
        allowed = len(os.sched_getaffinity(0))
    except AttributeError:  # not on this system
        allowed = os.cpu_count() or 1
    limits = [_quota(Path("/sys/fs/cgroup/cpu.max")), _quota_v1(Path("/sys/fs/cgroup/cpu"))]
    return max(1, min(allowed, *(int(limit) for limit in limits if limit is not None and limit >= 1), allowed))


def _quota(path: Path) -> float | None:
    if not path.is_file():
        return None
    quota, _, period = path.read_text().strip().partition(" ")
    return None if quota == "max" else int(quota) / int(period)


def _quota_v1(folder: Path) -> float | None:
    quota_file, period_file = folder / "cpu.cfs_quota_us", folder / "cpu.cfs_period_us"
    if not (quota_file.is_file() and period_file.is_file()):
        return None
    quota = int(quota_file.read_text())
    return None if quota < 0 else quota / int(period_file.read_text())


def measure_block(linears: Sequence[nn.Linear], *, sizes: Sequence[int] = BLOCK_SIZES) -> int:
    """The smallest number of rows at which these layers work within 5 % of their best rate.

    Each size passes through as many different layers as hold 256 MiB of weights, as a real pass does.
    """
    chosen, held = [], 0
    for layer in linears:
        chosen.append(layer)
        held += layer.weight.numel() * layer.weight.element_size()
        if held >= COLD_BYTES:
            break
    rates = {}
    with torch.inference_mode():
        for rows in sizes:
            inputs = [torch.ones(rows, layer.in_features, dtype=layer.weight.dtype) for layer in chosen]
            seconds = []
            for _ in range(2):
                start = time.perf_counter()
                for layer, x in zip(chosen, inputs, strict=True):
                    layer(x)
                seconds.append(time.perf_counter() - start)
            rates[rows] = rows / min(seconds)
    best = max(rates.values())
    return min(rows for rows, rate in rates.items() if rate >= NEARLY_BEST * best)


def choose_block(model: nn.Module) -> int:
    """Tokens that pass through a language model together: measured for a large one on the CPU, else the default."""
    weights = sum(parameter.numel() for parameter in model.parameters())
    device = next(model.parameters()).device
    if device.type != "cpu":
        return 8 * DEFAULT_BLOCK
    linears = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    linears = [layer for layer in linears if layer is not getattr(model, "lm_head", None)]
    if weights < WORTH_MEASURING or not linears:
        return DEFAULT_BLOCK
    return measure_block(linears)
