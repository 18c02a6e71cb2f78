"""How are many questions answered together, each as if it were alone?

    admit -> pass the new questions' tokens in blocks -> one token for every row -> drop finished rows -> admit ...

A row is a question at work: behind its volume's shared prefix it holds its own z_2D, its question and its answer so
far. A finished row's place goes to the last row, so that the rows stay a view of one store, and to the next question
waiting, of whichever volume. Rows never exceed what memory holds.
R rows, T tokens, P prefix tokens, D width, W vocabulary.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from slicesight.errors import InputError
from slicesight.inference.cpu.processor import choose_block
from slicesight.inference.prefix_attention import ROW_ATTENTION, BlockStep, Prefix, RowStore, Segment, Step, TokenStep
from slicesight.inference.sampling import RowSampler
from slicesight.models.med2e3 import Med2E3ForConditionalGeneration
from slicesight.planning.memory import GIB, block_bytes, cache_bytes_per_token, find_free_bytes

USABLE_SHARE = 0.8
"""Of the memory that is free; the rest is for what other programs take meanwhile."""
KNOWN_LAYERS = {"full_attention", "sliding_attention"}


@dataclass(frozen=True, kw_only=True)
class GenerationRequest:
    """One question: what stands before it is shared, suffix_TD is its own."""

    number: int
    prefix: Prefix | None
    suffix_TD: Tensor  # noqa: N815
    max_new_tokens: int

    @property
    def capacity(self) -> int:
        """Own tokens it may come to hold; the last one generated is never attended to."""
        return len(self.suffix_TD) + self.max_new_tokens - 1


@dataclass(frozen=True, kw_only=True)
class GenerationStep:
    """What was generated for question `number` so far; the end token, if it came, is the last."""

    number: int
    token_ids: list[int]
    is_finished: bool


@dataclass(kw_only=True)
class Row:
    """A question at work. length: own tokens whose keys and values the store holds."""

    request: GenerationRequest
    generator: Any
    length: int = 0
    token_ids: list[int] = field(default_factory=list)


class Scheduler:
    """Answers requests with one model.

    Args:
        block_tokens: tokens that pass through the language model together; None measures what is best here.
        free_bytes: says how much memory is free.
    """

    def __init__(
        self,
        model: Med2E3ForConditionalGeneration,
        *,
        block_tokens: int | None = None,
        free_bytes: Callable[[], int] | None = None,
    ) -> None:
        self.model = model
        self.free_bytes = free_bytes or (lambda: find_free_bytes(str(model.device)))
        self.bytes_per_token = cache_bytes_per_token(model.config, model.dtype)
        self._block_tokens = block_tokens
        self.lock = threading.Lock()

    @property
    def block_tokens(self) -> int:
        """Tokens that pass together, measured on first use."""
        if self._block_tokens is None:
            self._block_tokens = choose_block(self.model.language_model)
        return self._block_tokens

    def usable_bytes(self) -> int:
        """Memory that may be taken now."""
        return int(USABLE_SHARE * self.free_bytes())

    def make_prefix(self, embeds_PD: Tensor) -> Prefix:
        """Keys and values of what a volume's prompts share, in blocks."""
        store = RowStore(num_rows=1, capacity=len(embeds_PD))
        self._pass_row(store, 0, embeds_PD, prefix=None)
        return Prefix(store=store, length=len(embeds_PD))

    def answer(
        self, requests: Iterator[GenerationRequest | None], *, sampler: RowSampler, batch_size: int
    ) -> Iterator[list[GenerationStep]]:
        """Answer all requests, at most `batch_size` at a time -> after every step, each row's tokens so far.

        A request is taken from the iterator only when there is room for it; None means that none waits just now.

        Raises:
            InputError: one question alone does not fit into memory.
        """
        waiting = Waiting(requests)
        rows: list[Row] = []
        store = RowStore(num_rows=0, capacity=0)
        usable_at_start = self.usable_bytes()
        while True:
            if not rows:
                store = RowStore(num_rows=0, capacity=0)
            new: list[GenerationRequest] = []
            usable = min(usable_at_start, self.usable_bytes() + held_bytes(rows, store))
            while len(rows) + len(new) < batch_size and (request := waiting.peek()) is not None:
                others = [*(row.request for row in rows), *new]
                needed = self._bytes_for([*others, request], store)
                if needed > usable:
                    if not others:
                        raise InputError(self._too_large(request, needed, usable))
                    break
                new.append(waiting.take())
            if not new and not rows:
                return
            if new:
                lengths = [row.length for row in rows]
                capacity = max(store.capacity, *(request.capacity for request in new))
                num_rows = max(store.num_rows, len(rows) + len(new))
                if (num_rows, capacity) != (store.num_rows, store.capacity):
                    store.enlarge(num_rows=num_rows, capacity=capacity, lengths=lengths)
                added = [Row(request=request, generator=sampler.generator(request.number)) for request in new]
                logits_RW = self._pass_new(store, added, first_row=len(rows))
                rows += added
                yield self._choose_tokens(added, logits_RW, sampler)
                self._drop_finished(store, rows, sampler)
                continue  # a one-word answer leaves its place to the next question before the others go on
            yield self._choose_tokens(rows, self._pass_token(store, rows), sampler)
            self._drop_finished(store, rows, sampler)

    @staticmethod
    def _choose_tokens(rows: list[Row], logits_RW: Tensor, sampler: RowSampler) -> list[GenerationStep]:
        tokens = sampler.choose(logits_RW, [row.generator for row in rows])
        for row, token in zip(rows, tokens, strict=True):
            row.token_ids.append(token)
        return [
            GenerationStep(
                number=row.request.number, token_ids=list(row.token_ids), is_finished=is_finished(row, sampler)
            )
            for row in rows
        ]

    @staticmethod
    def _drop_finished(store: RowStore, rows: list[Row], sampler: RowSampler) -> None:
        """Give each finished row's place to the last row."""
        for place in reversed(range(len(rows))):
            if is_finished(rows[place], sampler):
                last = rows.pop()
                if place < len(rows):
                    store.move(len(rows), place, last.length)
                    rows[place] = last

    @torch.inference_mode()
    def _pass_new(self, store: RowStore, rows: list[Row], *, first_row: int) -> Tensor:
        """Pass the tokens of new rows; logits (R, W) of each one's first token."""
        logits: dict[int, Tensor] = {}
        for block in self._blocks([row.request for row in rows]):
            places = [first_row + index for index in block]
            requests = [rows[index].request for index in block]
            if len(block) == 1:
                found = self._pass_row(store, places[0], requests[0].suffix_TD, prefix=requests[0].prefix)
            else:
                found = self._pass_block(store, places, requests)
            logits.update(zip(block, found, strict=True))
        for row in rows:
            row.length = len(row.request.suffix_TD)
        return torch.stack([logits[index] for index in range(len(rows))])

    def _blocks(self, requests: list[GenerationRequest]) -> Iterator[list[int]]:
        """Neighbouring requests about one volume, together until a block is full; a longer one is alone."""
        block: list[int] = []
        held = 0
        for index, request in enumerate(requests):
            length = len(request.suffix_TD)
            if block and (request.prefix is not requests[block[0]].prefix or held + length > self.block_tokens):
                yield block
                block, held = [], 0
            block.append(index)
            held += length
        if block:
            yield block

    def _pass_block(self, store: RowStore, places: list[int], requests: list[GenerationRequest]) -> Tensor:
        """Several rows' tokens side by side in one sequence; logits (R, W) at the last token of each."""
        prefix = requests[0].prefix
        before = 0 if prefix is None else prefix.length
        lengths = [len(request.suffix_TD) for request in requests]
        embeds_1TD = torch.cat([request.suffix_TD for request in requests])[None]
        segments = [Segment(row=place, start=0, length=length) for place, length in zip(places, lengths, strict=True)]
        step = BlockStep(store, segments, prefix=prefix, dtype=embeds_1TD.dtype, device=embeds_1TD.device)
        positions_1T = before + torch.cat([torch.arange(length) for length in lengths])[None]
        last_R = torch.tensor(lengths).cumsum(0) - 1
        return self._run(embeds_1TD, positions_1T, step, keep=last_R.to(embeds_1TD.device))[0]

    def _pass_row(self, store: RowStore, place: int, embeds_TD: Tensor, *, prefix: Prefix | None) -> Tensor:
        """One row's tokens, block by block; logits (1, W) at its last token."""
        before = 0 if prefix is None else prefix.length
        logits_1W = None
        for start in range(0, len(embeds_TD), self.block_tokens):
            piece_1TD = embeds_TD[start : start + self.block_tokens][None]
            segment = Segment(row=place, start=start, length=piece_1TD.shape[1])
            step = BlockStep(store, [segment], prefix=prefix, dtype=piece_1TD.dtype, device=piece_1TD.device)
            positions_1T = before + start + torch.arange(piece_1TD.shape[1])[None]
            logits_1W = self._run(piece_1TD, positions_1T, step, keep=1)[0]
        assert logits_1W is not None, "no tokens"
        return logits_1W

    @torch.inference_mode()
    def _pass_token(self, store: RowStore, rows: list[Row]) -> Tensor:
        """Each row's latest token; logits (R, W) of its next one."""
        prefixes = [row.request.prefix for row in rows]
        lengths = [row.length for row in rows]
        step = TokenStep(store, lengths, prefixes=prefixes, device=self.model.device)
        tokens_R1 = torch.tensor([[row.token_ids[-1]] for row in rows], device=self.model.device)
        before = [0 if prefix is None else prefix.length for prefix in prefixes]
        positions_R1 = torch.tensor([[left + length] for left, length in zip(before, lengths, strict=True)])
        logits_R1W = self._run(self.model.embed_tokens(tokens_R1), positions_R1, step, keep=1)
        for row in rows:
            row.length += 1
        return logits_R1W[:, -1]

    @torch.inference_mode()
    def _run(self, embeds: Tensor, positions: Tensor, step: Step, *, keep: int | Tensor) -> Tensor:
        """The language model, with our attention for as long as it runs."""
        language_model = self.model.language_model
        with self.lock:
            usual = language_model.config._attn_implementation
            language_model.config._attn_implementation = ROW_ATTENTION
            try:
                outputs = language_model(
                    inputs_embeds=embeds,
                    position_ids=positions.to(embeds.device),
                    use_cache=False,
                    logits_to_keep=keep,
                    step=step,
                )
            finally:
                language_model.config._attn_implementation = usual
        logits: Tensor = outputs.logits
        return logits

    def _bytes_for(self, requests: list[GenerationRequest], store: RowStore) -> int:
        """What these rows need together: their places, their prefixes, and the largest block at work."""
        capacity = max(store.capacity, *(request.capacity for request in requests))
        prefixes = {id(request.prefix): request.prefix.length for request in requests if request.prefix is not None}
        num_keys = capacity + max(prefixes.values(), default=0)
        working = block_bytes(
            self.model.config,
            self.model.dtype,
            num_tokens=min(self.block_tokens, sum(len(request.suffix_TD) for request in requests)),
            num_keys=num_keys,
            num_logits=len(requests),
        )
        num_rows = max(store.num_rows, len(requests))
        return (num_rows * capacity + sum(prefixes.values())) * self.bytes_per_token + working

    def _too_large(self, request: GenerationRequest, needed: int, usable: int) -> str:
        return (
            f"question {request.number + 1} with {len(request.suffix_TD)} tokens and up to {request.max_new_tokens} in "
            f"its answer needs {needed / GIB:.2f} GiB, but {usable / GIB:.2f} GiB may be used; shorten it, lower "
            "max_new_tokens, or free memory."
        )


def held_bytes(rows: list[Row], store: RowStore) -> int:
    """What the rows at work hold already."""
    prefixes = {id(prefix): prefix.store.num_bytes for row in rows if (prefix := row.request.prefix) is not None}
    return store.num_bytes + sum(prefixes.values())


class Waiting:
    """Requests in their order, the next one visible before it is taken."""

    def __init__(self, requests: Iterator[GenerationRequest | None]) -> None:
        self._requests = requests
        self._next: GenerationRequest | None = None

    def peek(self) -> GenerationRequest | None:
        if self._next is None:
            self._next = next(self._requests, None)
        return self._next

    def take(self) -> GenerationRequest:
        found = self.peek()
        assert found is not None
        self._next = None
        return found


def is_finished(row: Row, sampler: RowSampler) -> bool:
    """It has an end token, or as many tokens as it may."""
    return row.token_ids[-1] in sampler.ends or len(row.token_ids) >= row.request.max_new_tokens


def longest_prompt(model: Med2E3ForConditionalGeneration) -> int | None:
    """Tokens up to which every layer of this language model sees all before it, as the scheduler's attention does.

    0 for a language model that the scheduler cannot run (attention of its own kind, a recurrent state): `generate` can.
    None where there is no limit.
    """
    language_model = model.language_model
    text = language_model.config
    kinds = set(getattr(text, "layer_types", None) or KNOWN_LAYERS)
    has_own_kind = not kinds <= KNOWN_LAYERS or getattr(text, "attn_logit_softcapping", None) is not None
    if has_own_kind or not language_model._supports_attention_backend or not model.takes_position_ids:
        return 0
    if getattr(language_model, "_is_stateful", False):
        return 0
    limits = [getattr(text, "sliding_window", None) if "sliding_attention" in kinds else None]
    rope = getattr(text, "rope_parameters", None) or {}
    limits.append(rope.get("original_max_position_embeddings") if rope.get("rope_type") == "longrope" else None)
    known = [int(limit) for limit in limits if limit]
    return min(known) if known else None
