"""How do many questions share the keys and values of what they have in common?

Every prompt begins alike: its head and z_3D, which no question changes. Their keys and values are made once, a
`Prefix`; each question is a row of a `RowStore` that holds its own tokens only. Attention then runs over
[shared prefix ; own tokens] without ever copying the prefix per question:

    softmax([q K_prefix^T ; q K_own^T] / sqrt(d)) [V_prefix ; V_own]

The language model stays the library's own: this is one more entry in its table of attention functions, which gets its
state with each call (`step`), as the library's paged attention does.
R rows, T new tokens, P prefix tokens, C own tokens a row can hold, H key/value heads, G query heads per one, d their
width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AttentionInterface

ROW_ATTENTION = "slicesight_rows"
UNKNOWN_WORDS = ("softcap", "s_aux", "position_bias")
"""What some families' attention is given beside queries, keys and values, and this one does not know."""


class Step(Protocol):
    """One pass of new tokens through the language model."""

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Keep the new keys and values (., H, T, d), return what the queries (., H * G, T, d) see, of their shape."""
        ...


def attend_rows(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    step: Step,
    scaling: float | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """The attention function the language model calls in every layer while the engine runs it."""
    assert attention_mask is None, "the step knows what each token may see"
    assert all(others.get(word) is None for word in UNKNOWN_WORDS), others
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    mixed = step.attend(int(module.layer_idx), query, key, value, scale)  # type: ignore[arg-type]
    return mixed.transpose(1, 2).contiguous(), None


AttentionInterface.register(ROW_ATTENTION, attend_rows)


class RowStore:
    """Keys and values of up to R rows with room for C tokens each, layer by layer, allocated as layers first write."""

    def __init__(self, *, num_rows: int, capacity: int) -> None:
        self.num_rows, self.capacity = num_rows, capacity
        self.keys: list[Tensor] = []  # a layer each, (R, H, C, d)
        self.values: list[Tensor] = []

    def write(self, layer: int, row: int, start: int, key_HTd: Tensor, value_HTd: Tensor) -> None:
        """Put the keys and values of T new tokens of one row behind its first `start` ones."""
        self._open(layer, key_HTd, value_HTd)
        stop = start + key_HTd.shape[1]
        self.keys[layer][row, :, start:stop] = key_HTd
        self.values[layer][row, :, start:stop] = value_HTd

    def append(self, layer: int, rows_R: Tensor, lengths_R: Tensor, key_RHd: Tensor, value_RHd: Tensor) -> None:
        """One more token for each of these rows, row i holding lengths_R[i] of them before."""
        self.keys[layer][rows_R, :, lengths_R] = key_RHd
        self.values[layer][rows_R, :, lengths_R] = value_RHd

    def read(self, layer: int, row: int, length: int) -> tuple[Tensor, Tensor]:
        """The first `length` keys and values of a row (1, H, length, d), as views."""
        return self.keys[layer][row : row + 1, :, :length], self.values[layer][row : row + 1, :, :length]

    @torch.inference_mode()
    def move(self, source: int, target: int, length: int) -> None:
        """Copy a row into another's place."""
        for tensor in (*self.keys, *self.values):
            tensor[target, :, :length] = tensor[source, :, :length]

    @torch.inference_mode()
    def enlarge(self, *, num_rows: int, capacity: int, lengths: Sequence[int]) -> None:
        """Make room, keeping the first tokens of each row; one layer is held twice at a time."""
        self.num_rows, self.capacity = num_rows, capacity
        for tensors in (self.keys, self.values):
            for layer, old in enumerate(tensors):
                new = old.new_zeros(num_rows, old.shape[1], capacity, old.shape[3])
                for row, length in enumerate(lengths):
                    new[row, :, :length] = old[row, :, :length]
                tensors[layer] = new

    def _open(self, layer: int, key_HTd: Tensor, value_HTd: Tensor) -> None:
        if layer < len(self.keys):
            return
        assert layer == len(self.keys), "layers write in order"
        for tensors, like in ((self.keys, key_HTd), (self.values, value_HTd)):
            # zeros, because an unused place has weight 0 in a longer row's company, and 0 * NaN is NaN
            tensors.append(like.new_zeros(self.num_rows, like.shape[0], self.capacity, like.shape[2]))

    @property
    def num_bytes(self) -> int:
        return sum(tensor.numel() * tensor.element_size() for tensor in (*self.keys, *self.values))


@dataclass(frozen=True, kw_only=True)
class Prefix:
    """What prompts about one volume have in common, as keys and values: row 0 of a store, P tokens long."""

    store: RowStore
    length: int

    def read(self, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values (1, H, P, d)."""
        return self.store.read(layer, 0, self.length)


@dataclass(frozen=True, kw_only=True)
class Segment:
    """Tokens of one row among the tokens of a block: `length` of them, behind `start` that the row holds already."""

    row: int
    start: int
    length: int


class BlockStep:
    """Passes one block of tokens of several rows that share a prefix, side by side in one sequence (1, T).

    Nothing is padded and no row's queries are multiplied with another row's keys: each row attends on its own to the
    prefix and its own tokens. Only a row that is alone in its block may hold earlier tokens, which is how a long text
    goes through in pieces.
    """

    def __init__(
        self, store: RowStore, segments: Sequence[Segment], *, prefix: Prefix | None, dtype: torch.dtype, device: Any
    ) -> None:
        assert len(segments) == 1 or all(segment.start == 0 for segment in segments)
        self.store, self.segments, self.prefix = store, segments, prefix
        self.num_before = (0 if prefix is None else prefix.length) + segments[0].start
        longest = max(segment.length for segment in segments)
        self.mask_TS = None if self.num_before == 0 else causal_mask(longest, self.num_before, dtype).to(device)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        seen = [] if self.prefix is None else [self.prefix.read(layer)]
        if self.segments[0].start:
            seen.append(self.store.read(layer, self.segments[0].row, self.segments[0].start))
        groups = query.shape[1] // key.shape[1]
        before = [repeat_heads(torch.cat(parts, dim=2), groups) for parts in zip(*seen, strict=True)]
        keys, values = repeat_heads(key, groups), repeat_heads(value, groups)
        mixed = []
        offset = 0
        for segment in self.segments:
            piece = slice(offset, offset + segment.length)
            self.store.write(layer, segment.row, segment.start, key[0, :, piece], value[0, :, piece])
            own = keys[:, :, piece], values[:, :, piece]
            if before:
                own = torch.cat([before[0], own[0]], dim=2), torch.cat([before[1], own[1]], dim=2)
            mask_TS = None if self.mask_TS is None else self.mask_TS[: segment.length, : own[0].shape[2]]
            mixed.append(
                functional.scaled_dot_product_attention(
                    query[:, :, piece], *own, attn_mask=mask_TS, is_causal=mask_TS is None, scale=scale
                )
            )
            offset += segment.length
        return torch.cat(mixed, dim=2)


def causal_mask(num_tokens: int, num_before: int, dtype: torch.dtype) -> Tensor:
    """0 where a token may look, at all before it and itself, -inf elsewhere (T, num_before + T)."""
    own_TT = torch.full((num_tokens, num_tokens), -torch.inf, dtype=dtype).triu(1)
    return functional.pad(own_TT, (num_before, 0))


class TokenStep:
    """Passes one new token of each of the first R rows (R, 1); rows of several volumes may be among them.

    prefixes: the prefix of every row. lengths: own tokens each row holds before this one.
    """

    def __init__(
        self, store: RowStore, lengths: Sequence[int], *, prefixes: Sequence[Prefix | None], device: Any
    ) -> None:
        assert len(lengths) == len(prefixes)
        self.store = store
        self.longest = max(lengths) + 1
        self.rows_R = torch.arange(len(lengths), device=device)
        self.lengths_R = torch.tensor(lengths, device=device)
        places = torch.arange(self.longest, device=device)
        self.unseen_R11C = (places > self.lengths_R[:, None])[:, None, None]
        self.is_even = min(lengths) == max(lengths)
        rows_of: dict[int, list[int]] = {}
        for row, prefix in enumerate(prefixes):
            rows_of.setdefault(id(prefix), []).append(row)
        self.groups = [(prefixes[rows[0]], torch.tensor(rows, device=device)) for rows in rows_of.values()]

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        self.store.append(layer, self.rows_R, self.lengths_R, key[:, :, 0], value[:, :, 0])
        num_rows, num_heads = query.shape[0], key.shape[1]
        query_RHGd = query.reshape(num_rows, num_heads, -1, query.shape[-1]) * scale
        keys_RHCd = self.store.keys[layer][:num_rows, :, : self.longest]
        values_RHCd = self.store.values[layer][:num_rows, :, : self.longest]
        own_RHGC = query_RHGd @ keys_RHCd.transpose(2, 3)
        if not self.is_even:
            own_RHGC = own_RHGC.masked_fill(self.unseen_R11C, -torch.inf)
        if len(self.groups) == 1:
            mixed_RHGd = self._mix(layer, query_RHGd, own_RHGC, values_RHCd, self.groups[0][0])
        else:
            mixed_RHGd = query_RHGd.new_empty(*query_RHGd.shape[:3], value.shape[-1])
            for prefix, rows in self.groups:
                mixed_RHGd[rows] = self._mix(layer, query_RHGd[rows], own_RHGC[rows], values_RHCd[rows], prefix)
        return mixed_RHGd.flatten(1, 2).unsqueeze(2)

    @staticmethod
    def _mix(layer: int, query_RHGd: Tensor, own_RHGC: Tensor, values_RHCd: Tensor, prefix: Prefix | None) -> Tensor:
        """Softmax over prefix and own tokens together; the prefix is one matrix for all rows' queries."""
        if prefix is None:
            return softmax_like(own_RHGC) @ values_RHCd
        keys_HPd, values_HPd = (tensor[0] for tensor in prefix.read(layer))
        num_rows, _, num_groups, _ = query_RHGd.shape
        num_heads = len(keys_HPd)
        flat_HXd = query_RHGd.transpose(0, 1).flatten(1, 2)
        shared_HXP = flat_HXd @ keys_HPd.transpose(1, 2)
        shared_RHGP = shared_HXP.reshape(num_heads, num_rows, num_groups, -1).transpose(0, 1)
        weights = softmax_like(torch.cat([shared_RHGP, own_RHGC], dim=-1))
        from_prefix_HXd = weights[..., : prefix.length].transpose(0, 1).flatten(1, 2) @ values_HPd
        from_prefix_RHGd = from_prefix_HXd.reshape(num_heads, num_rows, num_groups, -1).transpose(0, 1)
        mixed: Tensor = from_prefix_RHGd + weights[..., prefix.length :] @ values_RHCd
        return mixed


def softmax_like(scores: Tensor) -> Tensor:
    """Softmax over the last axis in float32, given back in the scores' dtype."""
    return torch.softmax(scores, dim=-1, dtype=torch.float32).to(scores.dtype)


def repeat_heads(heads_RHTd: Tensor, groups: int) -> Tensor:
    """Each key/value head for all of its query heads -> (R, H * groups, T, d)."""
    return heads_RHTd if groups == 1 else heads_RHTd.repeat_interleave(groups, dim=1)
