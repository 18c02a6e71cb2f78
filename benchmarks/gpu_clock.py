"""The clock, the device and its rates, for the items of gpu.py."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

GEMM_SIZE = {"cuda": 8192, "cpu": 512}
COPY_BYTES = {"cuda": 2**32, "cpu": 2**26}


class Skipped(Exception):  # noqa: N818
    """An item that cannot be had here; its text says what it needs."""


@dataclass
class Bench:
    """What every item is given.

    rates: flops by dtype and bytes per second, once measured. is_used_up: this process is slower than a new one.
    """

    device: str
    sizes: list[str]
    golden: Path | None
    rates: dict[str, Any] = field(default_factory=dict)
    is_used_up: bool = False

    @property
    def on_gpu(self) -> bool:
        return self.device == "cuda"

    @property
    def dtype_name(self) -> str:
        """The one that answers and trains: bfloat16 on a GPU."""
        return "bfloat16" if self.on_gpu else "float32"

    def need_gpu(self) -> None:
        if not self.on_gpu:
            raise Skipped("needs cuda")

    def sync(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize()

    def now(self) -> float:
        """The clock, once everything asked of the device is done."""
        self.sync()
        return time.perf_counter()

    def limits_from(self, dtype_name: str) -> dict[str, float]:
        """flops and bytes per second, measured now if no item did."""
        if not self.rates:
            self.rates = measure_rates(self)
        return {"flops": self.rates["flops"][dtype_name], "bytes": self.rates["bytes"]}


def clock(bench: Bench, way: Callable[[], Any], *, repeats: int, inner: int = 1, warm_up: int = 1) -> dict[str, float]:
    """Median seconds of one call and their spread; `inner` calls between two looks at the clock."""
    for _ in range(warm_up):
        way()
    seconds = []
    for _ in range(repeats):
        start = bench.now()
        for _ in range(inner):
            way()
        seconds.append((bench.now() - start) / inner)
    return summarise(seconds)


def summarise(seconds: list[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    middle = ordered[len(ordered) // 2] if len(ordered) % 2 else sum(ordered[len(ordered) // 2 - 1 :][:2]) / 2
    spread = (ordered[-1] - ordered[0]) / middle if middle else 0.0
    return {"seconds": middle, "spread": round(spread, 3), "runs": len(ordered)}


def short(value: float, digits: int = 4) -> float:
    """So many significant digits."""
    return float(f"{value:.{digits}g}")


@torch.inference_mode()
def measure_rates(bench: Bench) -> dict[str, Any]:
    """Products per second of a large square product on random numbers, and bytes per second.

    copy counts bytes read and written; 1 row and 11 rows read weights, as decoding does: what they read is far more
    than any cache holds.
    """
    kind = bench.device
    width = GEMM_SIZE[kind]
    flops, by_way = {}, {}
    for name in ("float32", "bfloat16"):
        dtype = getattr(torch, name)
        left, right = (torch.randn(width, width, device=kind, dtype=dtype) for _ in range(2))
        took = clock(bench, lambda left=left, right=right: left @ right, repeats=5, inner=10 if bench.on_gpu else 1)
        flops[name] = 2 * width**3 / took["seconds"]
    source = torch.empty(COPY_BYTES[kind], dtype=torch.uint8, device=kind)
    target = torch.empty_like(source)
    took = clock(bench, lambda source=source, target=target: target.copy_(source), repeats=5, inner=3)
    by_way["copy"] = 2 * len(source) / took["seconds"]
    del source, target
    dtype = getattr(torch, bench.dtype_name)
    weights = [torch.randn(width, width, device=kind, dtype=dtype) for _ in range(16 if bench.on_gpu else 8)]
    for rows in (1, 11):
        x = torch.randn(rows, width, device=kind, dtype=dtype)
        took = clock(bench, lambda x=x: [torch.nn.functional.linear(x, weight) for weight in weights], repeats=7)
        by_way[f"{rows} row{'s' * (rows > 1)}"] = sum(w.nbytes for w in weights) / took["seconds"]
    return {"flops": flops, "bytes": max(by_way.values()), "bytes_by_way": by_way}
