"""Do the attention kernels of a GPU agree on this model's own shapes, and how long does each take?

The item `attention ...` of gpu.py. B rows, G query heads, T queries, S keys, d head width; the shapes are those of
med2e3-phi3 and SigLIP-L. Every kernel is held against the plain formula in float32 on the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from gpu_clock import Bench, Skipped, clock, short
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.bias import causal_lower_right

from slicesight.inference.prefix_attention import causal_mask
from slicesight.models.med2e3.packed import build_mask

BACKENDS = {
    "math": SDPBackend.MATH,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
}
TOLERANCE = {"float32": 1e-4, "bfloat16": 2e-2}


@dataclass(frozen=True, kw_only=True)
class Shape:
    """mask: "none", "causal", "prefix" (S - T keys that every query sees, then causal) or "packed"."""

    rows: int
    heads: int
    queries: int
    keys: int
    width: int
    mask: str

    def shrink(self) -> Shape:
        """The same kind, small enough for a CPU."""
        return Shape(
            rows=1,
            heads=2,
            queries=self.queries // 8,
            keys=self.keys // 8,
            width=self.width,
            mask=self.mask,
        )


WAYS = {
    "slices": Shape(rows=32, heads=16, queries=256, keys=256, width=64, mask="none"),
    "prefix": Shape(rows=1, heads=32, queries=264, keys=264, width=96, mask="causal"),
    "suffixes": Shape(rows=1, heads=32, queries=288, keys=552, width=96, mask="prefix"),
    "packed": Shape(rows=1, heads=32, queries=3328, keys=3328, width=96, mask="packed"),
}
NUM_PROMPTS = 11


def list_items(sizes: list[str]) -> dict[str, Callable[[Bench], dict[str, Any]]]:
    return {f"attention {name}": partial(attention, name=name) for name in WAYS}


def attention(bench: Bench, name: str) -> dict[str, Any]:
    """Every kernel's difference from the formula, relative to the largest value, and its milliseconds."""
    shape = WAYS[name] if bench.on_gpu and bench.sizes != ["tiny"] else WAYS[name].shrink()
    facts: dict[str, Any] = {
        "shape": {"rows": shape.rows, "heads": shape.heads, "T": shape.queries, "S": shape.keys, "d": shape.width},
        "mask": shape.mask,
    }
    for dtype_name in ("bfloat16", "float32"):
        facts[dtype_name] = compare_kernels(bench, shape, getattr(torch, dtype_name), TOLERANCE[dtype_name])
    ran = [row for kind in TOLERANCE for row in facts[kind].values() if "difference" in row]
    if not ran:
        raise Skipped("no kernel takes this shape here")
    return facts | {"all_equal": all(row["is_equal"] for row in ran)}


@torch.inference_mode()
def compare_kernels(bench: Bench, shape: Shape, dtype: torch.dtype, tolerance: float) -> dict[str, Any]:
    torch.manual_seed(0)
    query = torch.randn(shape.rows, shape.heads, shape.queries, shape.width, device=bench.device, dtype=dtype)
    key, value = (
        torch.randn(shape.rows, shape.heads, shape.keys, shape.width, device=bench.device, dtype=dtype)
        for _ in range(2)
    )
    sees, words, parts = make_mask(bench, shape, dtype)
    expected = by_formula(query, key, value, sees)
    rows = {}
    for name, (backend, way) in list_ways(query, key, value, words, parts, shape).items():
        try:
            with nullcontext() if backend is None else sdpa_kernel(backend):
                found = way().float()
                bench.sync()
                took = clock(bench, way, repeats=7, inner=20 if bench.on_gpu else 1)
        except Exception as error:  # a kernel that refuses is an answer too
            rows[name] = {"refused": " ".join(str(error).split())[:120]}
            continue
        difference = float((found - expected).abs().max() / expected.abs().max())
        rows[name] = {
            "difference": short(difference, 3),
            "is_equal": difference <= tolerance,
            "ms": short(1e3 * took["seconds"]),
            "spread": took["spread"],
        }
    return rows


def make_mask(bench: Bench, shape: Shape, dtype: torch.dtype) -> tuple[Tensor | None, dict[str, Any], Tensor | None]:
    """What each query sees, as the formula, as SDPA's arguments and, for packed rows, as parts."""
    queries, keys = shape.queries, shape.keys
    if shape.mask == "none":
        return None, {}, None
    if shape.mask == "packed":
        head = queries // (NUM_PROMPTS + 1)
        own = (torch.arange(queries) - head) * NUM_PROMPTS // (queries - head) + 1
        parts = torch.where(torch.arange(queries) < head, 0, own)[None].to(bench.device)
        sees = build_mask(parts, "sdpa", dtype)
        return sees, {"attn_mask": sees}, parts
    mask = causal_mask(queries, keys - queries, dtype).to(bench.device)
    return mask == 0, {"is_causal": True} if queries == keys else {"attn_mask": mask}, None


def by_formula(query: Tensor, key: Tensor, value: Tensor, sees: Tensor | None) -> Tensor:
    """softmax(q k^T / sqrt(d)) v in float32."""
    scores = query.float() @ key.float().transpose(-1, -2) * query.shape[-1] ** -0.5
    if sees is not None:
        scores = scores.masked_fill(~sees, -torch.inf)
    return torch.softmax(scores, dim=-1) @ value.float()


def list_ways(
    query: Tensor, key: Tensor, value: Tensor, words: dict[str, Any], parts: Tensor | None, shape: Shape
) -> dict[str, tuple[SDPBackend | None, Callable[[], Tensor]]]:
    """(the kernel to force, the call) by name; None leaves the choice to torch."""

    def attend(words: dict[str, Any]) -> Callable[[], Tensor]:
        return partial(functional.scaled_dot_product_attention, query, key, value, **words)

    ways: dict[str, tuple[SDPBackend | None, Callable[[], Tensor]]] = {
        name: (backend, attend(words)) for name, backend in BACKENDS.items()
    }
    ways["as the library chooses"] = None, attend(words)
    if shape.mask == "prefix":
        lower_right = {"attn_mask": causal_lower_right(shape.queries, shape.keys)}
        ways["flash, causal from the lower right"] = SDPBackend.FLASH_ATTENTION, attend(lower_right)
    if parts is not None:
        ways["flex"] = None, by_flex(query, key, value, parts)
    return ways


def by_flex(query: Tensor, key: Tensor, value: Tensor, parts: Tensor) -> Callable[[], Tensor]:
    """Flex attention with the mask the packed model gives it; compiled on a GPU, as it is meant to be."""
    from torch.nn.attention.flex_attention import flex_attention

    attend = torch.compile(flex_attention) if query.is_cuda else flex_attention
    masks: list[Any] = []

    def way() -> Tensor:
        if not masks:
            masks.append(build_mask(parts, "flex_attention", query.dtype))
        return attend(query, key, value, block_mask=masks[0])

    return way
