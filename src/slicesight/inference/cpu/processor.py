"""What can this processor do, and in which pieces is work fastest on it?

A matrix product's rate rises with its rows until weights are reused enough, and falls again where the activations no
longer stay in the nearest memory: the best block lies between and is measured, on the model's own layers.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

BLOCK_SIZES = (256, 512, 1024, 2048)
DEFAULT_BLOCK = 512
NEARLY_BEST = 0.95
COLD_BYTES = 2**26
"""Weights that a measurement walks through, so that they are not all in the processor's cache."""
WORTH_MEASURING = 2**30
"""Bytes of a language model's weights below which a block of the default size will do."""
now = time.perf_counter
"""The clock of measurements; a benchmark on a shared machine takes time.process_time and one thread."""
BF16_FLAGS = ("avx512_bf16", "amx_bf16", "bf16")  # x86 twice, arm


@dataclass(frozen=True, kw_only=True)
class Processor:
    """What the CPU helps with: products in bfloat16, products of 8-bit integers, a matrix unit; and its cores."""

    has_bf16: bool
    has_int8: bool
    has_matrix_unit: bool
    num_cores: int


def read_processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> Processor:
    """From the flags the kernel lists; without that file (not Linux), nothing is assumed."""
    flags = read_flags(cpuinfo)
    return Processor(
        has_bf16=not flags.isdisjoint(BF16_FLAGS),
        has_int8=not flags.isdisjoint(("avx512_vnni", "avx_vnni", "amx_int8", "i8mm")),
        has_matrix_unit="amx_tile" in flags,
        num_cores=count_cores(),
    )


def read_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> set[str]:
    """The names of what the processor has, as the kernel lists them."""
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() in ("flags", "Features"):
                return set(value.split())
    return set()


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
    quota, _, period = path.read_text(encoding="utf-8").strip().partition(" ")
    return None if quota == "max" else int(quota) / int(period)


def _quota_v1(folder: Path) -> float | None:
    quota_file, period_file = folder / "cpu.cfs_quota_us", folder / "cpu.cfs_period_us"
    if not (quota_file.is_file() and period_file.is_file()):
        return None
    quota = int(quota_file.read_text(encoding="utf-8"))
    return None if quota < 0 else quota / int(period_file.read_text(encoding="utf-8"))


def measure_block(linears: Sequence[nn.Module], *, dtype: torch.dtype, sizes: Sequence[int] = BLOCK_SIZES) -> int:
    """The smallest number of rows at which these linear layers work within 5 % of their best rate."""
    rates = {rows: measure_rate(linears, rows=rows, dtype=dtype) for rows in sizes}
    best = max(rates.values())
    return min(rows for rows, rate in rates.items() if rate >= NEARLY_BEST * best)


@torch.inference_mode()
def measure_rate(
    linears: Sequence[nn.Module],
    *,
    rows: int,
    dtype: torch.dtype,
    repeats: int = 2,
    clock: Callable[[], float] | None = None,
) -> float:
    """Products per second (a multiply-add is two) of rows passing through these layers, the best of `repeats`."""
    time_now = clock or now
    inputs = [torch.ones(rows, _width(layer), dtype=dtype, device=_device(layer)) for layer in linears]
    seconds = []
    for _ in range(repeats):
        start = time_now()
        for layer, x in zip(linears, inputs, strict=True):
            layer(x)
        seconds.append(time_now() - start)
    return 2 * rows * sum(map(count_weights, linears)) / max(min(seconds), 1e-9)


def cold_linears(model: nn.Module, *, dtype: torch.dtype) -> list[nn.Module]:
    """As many of a language model's linear layers as hold 64 MiB of weights, the head left out.

    A real pass walks through all of them and finds none in the processor's cache; a measurement has to do the same.
    """
    head = getattr(model, "lm_head", None)
    chosen: list[nn.Module] = []
    for layer in model.modules():
        if hasattr(layer, "in_features") and hasattr(layer, "out_features") and layer is not head:
            chosen.append(layer)
            if sum(map(count_weights, chosen)) * dtype.itemsize >= COLD_BYTES:
                break
    return chosen


def choose_block(model: nn.Module) -> int:
    """Tokens that pass through a language model together: measured for a large one on the CPU, else the default."""
    first = next(model.parameters())
    if first.device.type != "cpu":
        return 8 * DEFAULT_BLOCK
    linears = [layer for layer in model.modules() if hasattr(layer, "in_features") and hasattr(layer, "out_features")]
    if sum(map(count_weights, linears)) * first.dtype.itemsize < WORTH_MEASURING:
        return DEFAULT_BLOCK
    return measure_block(cold_linears(model, dtype=first.dtype), dtype=first.dtype)


def count_weights(layer: nn.Module) -> int:
    """Weights of a linear layer of any kind."""
    return _width(layer) * int(layer.out_features)  # type: ignore[arg-type]


def _device(layer: nn.Module) -> torch.device:
    return next((tensor.device for tensor in layer.parameters()), torch.device("cpu"))


def _width(layer: nn.Module) -> int:
    return int(layer.in_features)  # type: ignore[arg-type]
