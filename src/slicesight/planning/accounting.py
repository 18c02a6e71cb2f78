"""What does a piece of work allocate and multiply? Counted tensor by tensor, on real or on fake tensors alike."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True, kw_only=True)
class WorkStage:
    """One step of answering: its own allocations at their largest, what it leaves for the next, and its products.

    kept_bytes is negative where a step frees what an earlier one left.

    flops: floating-point operations of matrix products, convolutions and attention (a multiply-add is two).
    """

    name: str
    peak_bytes: int
    kept_bytes: int
    flops: int


class AllocationCounter(TorchDispatchMode):
    """Counts the bytes of living tensors made while it is on, and their largest sum; it can be switched on again."""

    def __init__(self, known: list[Tensor]) -> None:
        cast(Any, super()).__init__()
        self.sizes = {tensor.untyped_storage()._cdata: 0 for tensor in known}
        self.living = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                storage = leaf.untyped_storage()
                if storage._cdata not in self.sizes:
                    self.sizes[storage._cdata] = storage.nbytes()
                    self.living += storage.nbytes()
                    self.peak = max(self.peak, self.living)
                    weakref.finalize(storage, self.forget, storage._cdata)
        return out

    def forget(self, key: int) -> None:
        """A storage was freed."""
        self.living -= self.sizes.pop(key, 0)

    def watch(self, name: str, step: Callable[[], None], *, twice: bool = False) -> WorkStage:
        """Run one step; its peak and what it keeps are measured from where it began.

        twice: its products are counted in a second run, because their counter holds on to what a backward pass computes
        again until the whole pass is over.
        """
        before = self.peak = self.living
        flops = 0
        gc.freeze()  # what lives already is no garbage of this step; to look through it takes longer than the step
        try:
            if twice:
                with self:
                    step()
            else:
                flops = count_flops(step, beside=self)
            gc.collect()
        finally:
            gc.unfreeze()
        peak, kept = self.peak - before, self.living - before
        if twice:
            flops = count_flops(step)
        return WorkStage(name=name, peak_bytes=peak, kept_bytes=kept, flops=flops)


def count_flops(step: Callable[[], None], *, beside: AbstractContextManager[Any] | None = None) -> int:
    """Floating-point operations of one run, with another mode on meanwhile."""
    counter = FlopCounterMode(display=False)
    with counter, beside or nullcontext():
        step()
    return int(counter.get_total_flops())
