"""Which token comes next: the likeliest, or one drawn?

R rows, W tokens of the vocabulary. Every row draws from its own generator, so that what is drawn for a question depends
on the seed and the question's number, never on which other questions share its batch.
"""

from __future__ import annotations

import inspect
import zlib
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import (
    GenerationMixin,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from slicesight.errors import InputError
from slicesight.inference.prompts import text_config
from slicesight.models.med2e3 import Med2E3ForConditionalGeneration

SAMPLING_OPTIONS = {"do_sample", "temperature", "top_k", "top_p", "seed"}
IGNORED_OPTIONS = {
    *("bos_token_id", "pad_token_id", "eos_token_id", "suppress_tokens", "max_length", "max_new_tokens", "use_cache"),
    *("transformers_version", "_from_model_config"),
}
GREEDY_BELOW = 1e-4
"""Temperatures below are greedy: scores divided by one overflow, and nothing but the likeliest could be drawn."""
DEFAULT_TOP_K = 50
"""What `generate` takes where nobody says otherwise."""


_NO_NUMBERS = "the model's scores for the next token are no numbers"


class RowSampler(Protocol):
    """What the scheduler asks of whoever chooses tokens: a generator per question, handed back at every step."""

    @property
    def ends(self) -> frozenset[int]: ...

    def generator(self, number: int) -> Any: ...

    def choose(self, logits_RW: Tensor, generators: list[Any]) -> list[int]: ...


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """How next tokens are chosen.

    suppressed: tokens that are never said. ends: tokens that end an answer.
    """

    do_sample: bool
    temperature: float
    top_k: int
    top_p: float
    seed: int
    suppressed: tuple[int, ...]
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
        """The next token of each row.

        Raises:
            ArithmeticError: the model gave a row no numbers.
        """
        scores_RW = logits_RW.to(torch.float32, copy=True)
        if self.suppressed:
            scores_RW[:, list(self.suppressed)] = -torch.inf
        if not self.do_sample or self.temperature < GREEDY_BELOW:
            best_R = scores_RW.argmax(dim=-1)
            is_number_R = scores_RW.gather(1, best_R[:, None])[:, 0].isfinite()  # a NaN counts as the largest
            tokens: list[int] = best_R.where(is_number_R, -1).tolist()  # one wait for a GPU, not one per row
            if min(tokens) < 0:
                raise ArithmeticError(_NO_NUMBERS)
            return tokens
        shares_RW = torch.softmax(self._warp(scores_RW), dim=-1).cpu()
        if not bool(shares_RW.isfinite().all()):
            raise ArithmeticError(_NO_NUMBERS)
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
    merged = {**settings, **{name: value for name, value in options.items() if value is not None}}
    if set(merged) - SAMPLING_OPTIONS - IGNORED_OPTIONS or "eos_token_id" in options or "suppress_tokens" in options:
        return None
    top_k = merged.get("top_k")
    return Sampler(
        do_sample=bool(merged.get("do_sample", False)),
        temperature=float(merged.get("temperature", 1.0)),
        top_k=DEFAULT_TOP_K if top_k is None else int(top_k),
        top_p=float(merged.get("top_p", 1.0)),
        seed=int(merged["seed"]) if "seed" in merged else _fresh_seed(merged),
        suppressed=_suppressed(model),
        ends=find_end_tokens(model),
    )


def check_options(model: Med2E3ForConditionalGeneration, options: dict[str, Any]) -> None:
    """Refuse options that neither sampling nor `generate` knows, and numbers that are none.

    Raises:
        InputError: with the option's name.
    """
    known = {
        *SAMPLING_OPTIONS,
        *model.generation_config.to_dict(),
        *inspect.signature(GenerationMixin.generate).parameters,
    }
    for name, value in options.items():
        if name not in known:
            raise InputError(
                f"{name} is no option of asking; expected {', '.join(sorted(SAMPLING_OPTIONS))}, "
                "or one of transformers' generate."
            )
        if name in ("temperature", "top_k", "top_p", "seed") and not isinstance(value, (int, float, type(None))):
            raise InputError(f"{name} is {value!r}; expected a number.")


def _fresh_seed(merged: dict[str, Any]) -> int:
    """From torch's own source of chance, which is left alone where nothing is drawn."""
    return int(torch.randint(2**31, ())) if merged.get("do_sample") else 0


def _suppressed(model: Med2E3ForConditionalGeneration) -> tuple[int, ...]:
    """The placeholder, which is not a word, and what the model's settings silence."""
    placeholder = int(model.config.placeholder_token_id)
    vocabulary = int(text_config(model.config).vocab_size)
    own = [placeholder] if placeholder < vocabulary else []
    return tuple(sorted({*own, *(model.generation_config.suppress_tokens or ())}))


def find_end_tokens(model: Med2E3ForConditionalGeneration) -> frozenset[int]:
    """Tokens that end an answer."""
    found = model.generation_config.eos_token_id
    if found is None:
        return frozenset()
    return frozenset([found] if isinstance(found, int) else found)
