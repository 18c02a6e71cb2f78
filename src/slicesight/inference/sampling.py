"""Which token comes next: the likeliest, or one drawn?

R rows, W words of the vocabulary. Every row draws from its own generator, so that what is drawn for a question depends
on the seed and the question's number, never on which other questions share its batch.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from slicesight.errors import InputError
from slicesight.inference.prompts import text_config
from slicesight.models.med2e3 import Med2E3ForConditionalGeneration

OWN_WORDS = {"do_sample", "temperature", "top_k", "top_p", "seed"}
HARMLESS_WORDS = {
    *("bos_token_id", "pad_token_id", "eos_token_id", "suppress_tokens", "max_length", "max_new_tokens", "use_cache"),
    *("transformers_version", "_from_model_config"),
}
DEFAULT_TOP_K = 50
"""What `generate` takes where nobody says otherwise."""


class RowSampler(Protocol):
    """What the engine asks of whoever chooses words: a source of chance per question, handed back at every step."""

    @property
    def ends(self) -> frozenset[int]: ...

    def generator(self, number: int) -> Any: ...

    def choose(self, logits_RW: Tensor, generators: list[Any]) -> list[int]: ...


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """How next tokens are chosen.

    silent: tokens that are never said. ends: tokens that end an answer.
    """

    do_sample: bool
    temperature: float
    top_k: int
    top_p: float
    seed: int
    silent: tuple[int, ...]
    ends: frozenset[int]

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise InputError(f"temperature is {self.temperature}; expected a number above 0.")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p is {self.top_p}; expected a number above 0 and at most 1.")
        if self.top_k < 0:
            raise InputError(f"top_k is {self.top_k}; expected a whole number, 0 for every token.")

    def generator(self, number: int) -> torch.Generator:
        """The source of chance of question `number`."""
        return torch.Generator().manual_seed(zlib.crc32(f"{self.seed},{number}".encode()))

    def choose(self, logits_RW: Tensor, generators: list[torch.Generator]) -> list[int]:
        """The next token of each row."""
        scores_RW = logits_RW.to(torch.float32, copy=True)
        if self.silent:
            scores_RW[:, list(self.silent)] = -torch.inf
        if not self.do_sample:
            tokens: list[int] = scores_RW.argmax(dim=-1).tolist()  # one wait for a GPU, not one per row
            return tokens
        shares_RW = torch.softmax(self._warp(scores_RW), dim=-1).cpu()
        return [
            int(torch.multinomial(shares, 1, generator=generator))
            for shares, generator in zip(shares_RW, generators, strict=True)
        ]

    def _warp(self, scores_RW: Tensor) -> Tensor:
        """The library's own warpers in its own order."""
        warpers = LogitsProcessorList()
        if self.temperature != 1.0:
            warpers.append(TemperatureLogitsWarper(self.temperature))
        if self.top_k:
            warpers.append(TopKLogitsWarper(top_k=self.top_k))
        if self.top_p < 1.0:
            warpers.append(TopPLogitsWarper(top_p=self.top_p))
        warped: Tensor = warpers(torch.empty(len(scores_RW), 0, dtype=torch.long), scores_RW)  # type: ignore[arg-type]
        return warped


def make_sampler(model: Med2E3ForConditionalGeneration, options: dict[str, Any]) -> Sampler | None:
    """The model's own settings with the caller's on top; None where they ask for what only `generate` can do."""
    settings = {
        name: value
        for name, value in model.generation_config.to_diff_dict().items()
        if value is not None and not name.startswith(("output_", "return_dict"))
    }
    words = {**settings, **{name: value for name, value in options.items() if value is not None}}
    if set(words) - OWN_WORDS - HARMLESS_WORDS or "eos_token_id" in options or "suppress_tokens" in options:
        return None
    top_k = words.get("top_k")
    return Sampler(
        do_sample=bool(words.get("do_sample", False)),
        temperature=float(words.get("temperature", 1.0)),
        top_k=DEFAULT_TOP_K if top_k is None else int(top_k),
        top_p=float(words.get("top_p", 1.0)),
        seed=int(words["seed"]) if "seed" in words else _fresh_seed(words),
        silent=_silent(model),
        ends=_ends(model),
    )


def _fresh_seed(words: dict[str, Any]) -> int:
    """From torch's own source of chance, which is left alone where nothing is drawn."""
    return int(torch.randint(2**31, ())) if words.get("do_sample") else 0


def _silent(model: Med2E3ForConditionalGeneration) -> tuple[int, ...]:
    """The placeholder, which is not a word, and what the model's settings silence."""
    placeholder = int(model.config.placeholder_token_id)
    vocabulary = int(text_config(model.config).vocab_size)
    own = [placeholder] if placeholder < vocabulary else []
    return tuple(sorted({*own, *(model.generation_config.suppress_tokens or ())}))


def _ends(model: Med2E3ForConditionalGeneration) -> frozenset[int]:
    found = model.generation_config.eos_token_id
    if found is None:
        return frozenset()
    return frozenset([found] if isinstance(found, int) else found)
