"""The same model in the package's own engine and in vLLM, and what "the same answers" means."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np

import slicesight

CLOSE = 2e-6
"""Between slice scores: both engines sum in float32, in another order."""


@contextmanager
def loaded(model: Any, **settings: Any) -> Iterator[SimpleNamespace]:
    """Name, own, vllm. settings: of vLLM's engine."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # one process: imports are most of a test's time
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

    from slicesight_vllm.loading import load

    own = slicesight.load(model)
    found = SimpleNamespace(name=own.card.name, own=own, vllm=load(model, **settings))
    try:
        yield found
    finally:
        found.vllm.close()
        del found.vllm
        cleanup_dist_env_and_memory()
        gc.collect()


def assert_same(found: Any, wanted: Any) -> None:
    for one, other in zip(found, wanted, strict=True):
        assert one.text == other.text
        assert one.cut_at == other.cut_at
        assert np.allclose(one.scores, other.scores, atol=CLOSE, rtol=0), one.question
        assert len(one.scores) == len(other.scores)
        assert one.slices[:1] == () or one.slices[0].source_slices == other.slices[0].source_slices
