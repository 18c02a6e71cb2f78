"""How does a vision-language model of transformers answer about pictures, and how likely is its answer without some?

The model's own processor and chat template make the prompt; `generate` makes the answer; a forward pass over prompt and
answer, the logits of the answer's places only, gives its log-likelihood. Pictures are prepared once as they are and
once black: a mask takes rows of either, so that no mask is prepared anew.

V masks, N slices, T tokens of prompt and answer, R rows of pixels of one picture.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import GenerationMixin, PreTrainedModel, StoppingCriteria, StoppingCriteriaList

from slicesight.data.choices import listed_choices
from slicesight.errors import InputError, ModelError
from slicesight.inference.choice_decoding import ChoiceTree
from slicesight.inference.guests.guest import GuestQuestion, Measure, OnText, Said, compose, system_words
from slicesight.inference.occlusion import Likelihood
from slicesight.inference.sampling import SAMPLING_OPTIONS
from slicesight.models.fingerprint import digest_weights, plain
from slicesight.models.guests.preset import Preset

TOKENS_AT_ONCE = {"cpu": 4096, "cuda": 32768}
"""Of all prompts in one forward pass; one prompt always passes."""
Inputs = dict[str, Tensor]


class TransformersGuest:
    """A model with the processor it came with.

    Args:
        model: of `AutoModelForImageTextToText`, moved to `device`, in evaluation mode.
    """

    def __init__(
        self, *, model: PreTrainedModel, processor: Any, preset: Preset, name: str, device: str | torch.device = "cpu"
    ) -> None:
        model.to(device)  # type: ignore[arg-type]  # the library's wrapper hides the parameter's type
        self.model, self.processor, self.preset, self._name = model, processor, preset, name
        self.model.train(False)
        self.tokenizer = processor.tokenizer
        self.ends = _end_tokens(model, self.tokenizer)
        self.placeholders = _placeholders(model, processor)
        _make_greedy(model)

    @property
    def name(self) -> str:
        return self._name

    def answer(self, asked: GuestQuestion, on_text: OnText | None = None) -> Said:
        """Generate; greedy unless the options say otherwise.

        Raises:
            InputError: the prompt is longer than the model reads, or does not fit into memory.
        """
        inputs = self.inputs(asked, None if asked.shown is None else asked.shown.pictures())
        length = inputs["input_ids"].shape[1]
        longest = self.longest_text
        if longest is not None and length + 1 > longest:
            raise InputError(
                f"the prompt has {length} tokens but {self.name} reads at most {longest}; take a --preset of fewer or "
                "smaller slices, or shorten the question."
            )
        limit = asked.max_new_tokens if longest is None else min(asked.max_new_tokens, longest - length)
        options = {"suppress_tokens": sorted(self.placeholders)} if self.placeholders else {}
        options |= {name: value for name, value in asked.options.items() if value is not None and name != "seed"}
        if asked.only_choices:
            options["prefix_allowed_tokens_fn"] = self._held_to(asked.question, length)
        if on_text is not None:
            decode = partial(self._whole_text, asked.prefix)
            options["stopping_criteria"] = StoppingCriteriaList([_Watch(on_text, decode, length)])
        with torch.inference_mode(), _seeded(asked.options), _memory_told(self.name):
            tokens_1T = self.model.generate(  # type: ignore[operator]  # of GenerationMixin, which every such model is
                **inputs, max_new_tokens=limit, pad_token_id=self._pad, **options
            )
        token_ids = tuple(tokens_1T[0, length:].tolist())
        return Said(
            text=self._whole_text(asked.prefix, token_ids),
            token_ids=token_ids,
            num_prompt_tokens=length,
            num_answer_tokens=len(token_ids),
            is_cut=not token_ids or token_ids[-1] not in self.ends,
        )

    def likelihood(self, asked: GuestQuestion, said: Said) -> tuple[Likelihood, Measure] | None:
        """log p of the answer's tokens and its end under each mask."""
        if asked.shown is None or not said.token_ids:
            return None
        prompts = MaskedPrompts.prepare(self, asked)
        answer = torch.tensor([said.token_ids], device=self.model.device)

        def measure(kept_VN: NDArray[np.bool_]) -> NDArray[np.float64]:
            length = prompts.length + answer.shape[1]
            at_once = max(1, TOKENS_AT_ONCE.get(self.model.device.type, 4096) // length)
            if not prompts.are_alike:
                at_once = 1
            found = [
                self._log_likelihoods(prompts.batch(kept_VN[first : first + at_once]), answer)
                for first in range(0, len(kept_VN), at_once)
            ]
            return np.concatenate(found)

        return measure, "log-likelihood"

    def inputs(self, asked: GuestQuestion, pictures: Sequence[Any] | None) -> Inputs:
        """The model's inputs of one question.

        Raises:
            ModelError: its processor cannot take them.
        """
        try:
            text = self._prompt(asked) + asked.prefix
            given = {"images": [list(pictures)], **self.preset.processor} if pictures else {}
            if self.tokenizer.bos_token and text.startswith(self.tokenizer.bos_token):
                given["add_special_tokens"] = False
            made = self.processor(text=[text], return_tensors="pt", **given)
        except (InputError, MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # whatever a processor of somebody else's raises
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise ModelError(
                f"{self.name}: its processor does not take what preset {self.preset.name} shows ({reason}); choose "
                "another --preset."
            ) from error
        return {
            name: value.to(self.model.device, self.model.dtype if value.is_floating_point() else None)
            for name, value in made.items()
            if isinstance(value, Tensor)
        }

    def _prompt(self, asked: GuestQuestion) -> str:
        """By the model's own template; what the system says by the user where the template knows no system."""

        def render(*, has_system_role: bool) -> str:
            text: str = self.processor.apply_chat_template(
                compose(asked, self.preset, has_system_role=has_system_role),
                add_generation_prompt=True,
                tokenize=False,
                chat_template=self.preset.chat_template or None,
            )
            return text

        told = system_words(asked, self.preset).strip()
        try:
            text = render(has_system_role=True)
        except Exception:  # jinja's, or whatever the template raises: "System role not supported"
            if not told:
                raise
            return render(has_system_role=False)
        return text if told in text else render(has_system_role=False)  # some leave it out without a word

    def check_options(self, options: dict[str, Any]) -> None:
        """Raises InputError for an option that neither sampling nor `generate` has."""
        known = {*SAMPLING_OPTIONS, *inspect.signature(GenerationMixin.generate).parameters}
        known |= set(self.model.generation_config.to_dict()) if self.model.generation_config is not None else set()
        for name in options:
            if name not in known:
                raise InputError(
                    f"{name} is no option of asking; expected {', '.join(sorted(SAMPLING_OPTIONS))}, or one of "
                    "transformers' generate."
                )

    def decode(self, token_ids: Sequence[int]) -> str:
        """The answer's words, without what the model said to itself first."""
        text: str = self.tokenizer.decode(self._after_thinking(list(token_ids)), skip_special_tokens=True)
        return text

    def _whole_text(self, prefix: str, token_ids: Sequence[int]) -> str:
        """The answer's words behind those that the one who asks began it with."""
        if not prefix:
            return self.decode(token_ids)
        begun = self.tokenizer(prefix, add_special_tokens=False).input_ids
        return self.decode([*begun, *self._after_thinking(list(token_ids))])

    def digest(self) -> str:
        """Of weights, configuration, processor and preset."""
        settings = [plain(self.model.config), self.processor.to_dict(), repr(self.preset)]
        return digest_weights(self.model.state_dict(), settings=settings)

    @property
    def longest_text(self) -> int | None:
        """Tokens the language model was made to read, where its configuration says so."""
        found = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        return None if found is None else int(found)

    @property
    def _pad(self) -> int:
        pad = self.tokenizer.pad_token_id
        return int(pad if pad is not None else min(self.ends, default=0))

    def _log_likelihoods(self, inputs: Inputs, answer_1A: Tensor) -> NDArray[np.float64]:
        """log p of the answer after each prompt of the batch -> (V,)."""
        count, length = len(inputs["input_ids"]), answer_1A.shape[1]
        batch = dict(inputs)
        for name, value in inputs.items():
            if value.shape[:2] == inputs["input_ids"].shape:  # a value per token: of the answer's, words that are seen
                fill = answer_1A if name == "input_ids" else torch.full_like(answer_1A, name == "attention_mask")
                batch[name] = torch.cat([value, fill.expand(count, -1).to(value.dtype)], dim=1)
        if "logits_to_keep" in inspect.signature(self.model.forward).parameters:
            batch["logits_to_keep"] = length + 1  # type: ignore[assignment]  # a number among tensors
        with torch.inference_mode(), _memory_told(self.name):
            logits_VAW = self.model(**batch, use_cache=False).logits[:, -length - 1 : -1]
        spread = torch.log_softmax(logits_VAW.float(), dim=-1)
        said = spread.gather(-1, answer_1A.expand(count, -1)[..., None])[..., 0].sum(dim=-1)
        return said.double().cpu().numpy()

    def _held_to(self, question: str, prompt_length: int) -> Any:
        """For `generate`: the tokens that go on in one of the question's choices, or end it."""
        forms = [
            form for letter, text in listed_choices(question).items() for form in (f"{letter}. {text}", text, letter)
        ]
        sequences = [self.tokenizer(form, add_special_tokens=False).input_ids for form in forms]
        tree = ChoiceTree(sequences, ends=self.ends)
        return lambda row, tokens: tree.allowed(tokens[prompt_length:].tolist())

    def _after_thinking(self, token_ids: list[int]) -> list[int]:
        if not self.preset.thinking:
            return token_ids
        first, last = (self.tokenizer(mark, add_special_tokens=False).input_ids for mark in self.preset.thinking)
        if (place := _find(token_ids, last)) is not None:
            return token_ids[place + len(last) :]
        return [] if _find(token_ids[: len(first) + 2], first) is not None else token_ids


@dataclass(frozen=True)
class MaskedPrompts:
    """The prompts of one question about a scan under any mask.

    seen, blank: the inputs with every slice and with none. axes: of each input the axis along which pictures lie, for
    those that differ. are_alike: whether both have the same shapes, so that rows can be taken from either.
    """

    guest: TransformersGuest
    asked: GuestQuestion
    seen: Inputs
    blank: Inputs
    axes: dict[str, int]
    are_alike: bool

    @classmethod
    def prepare(cls, guest: TransformersGuest, asked: GuestQuestion) -> MaskedPrompts:
        """Prepare both once."""
        assert asked.shown is not None
        count = len(asked.shown.slices)
        seen = guest.inputs(asked, asked.shown.pictures())
        blank = guest.inputs(asked, asked.shown.pictures(np.zeros(count, dtype=bool)))
        alike = not asked.shown.is_sheet and all(seen[name].shape == blank[name].shape for name in seen)
        axes: dict[str, int] = {}
        if alike:
            for name, value in seen.items():
                if not torch.equal(value, blank[name]):
                    axis = next((axis for axis in (0, 1) if axis < value.ndim and value.shape[axis] % count == 0), None)
                    if axis is None:
                        alike = False
                        break
                    axes[name] = axis
        return cls(guest, asked, seen, blank, axes, alike)

    @property
    def length(self) -> int:
        return self.seen["input_ids"].shape[1]

    def batch(self, kept_VN: NDArray[np.bool_]) -> Inputs:
        """The inputs of several masks as one batch."""
        prompts = [self._masked(kept_N) for kept_N in kept_VN]
        return {name: torch.cat([prompt[name] for prompt in prompts]) for name in self.seen}

    def _masked(self, kept_N: NDArray[np.bool_]) -> Inputs:
        if not self.are_alike:
            assert self.asked.shown is not None
            return self.guest.inputs(self.asked, self.asked.shown.pictures(kept_N))
        made = dict(self.seen)
        for name, axis in self.axes.items():
            value = self.seen[name]
            rows = torch.from_numpy(np.repeat(kept_N, value.shape[axis] // len(kept_N))).to(value.device)
            shape = [1] * value.ndim
            shape[axis] = -1
            made[name] = torch.where(rows.view(shape), value, self.blank[name])
        return made


class _Watch(StoppingCriteria):
    """Tells somebody what was said so far, and stops where nobody wants more."""

    def __init__(self, on_text: OnText, decode: Callable[[Sequence[int]], str], prompt_length: int) -> None:
        self.on_text, self.decode, self.prompt_length = on_text, decode, prompt_length

    def __call__(self, input_ids: Tensor, scores: Any, **settings: Any) -> Tensor:
        goes_on = self.on_text(lambda: self.decode(input_ids[0, self.prompt_length :].tolist()))
        return torch.full((len(input_ids),), not goes_on, dtype=torch.bool, device=input_ids.device)


def _find(tokens: list[int], part: list[int]) -> int | None:
    """Where a part begins."""
    places = range(len(tokens) - len(part) + 1)
    return next((place for place in places if part and tokens[place : place + len(part)] == part), None)


def _end_tokens(model: PreTrainedModel, tokenizer: Any) -> frozenset[int]:
    settings = model.generation_config
    found = None if settings is None else settings.eos_token_id
    if found is None:
        found = tokenizer.eos_token_id
    return frozenset([found] if isinstance(found, int) else found or ())


def _placeholders(model: PreTrainedModel, processor: Any) -> frozenset[int]:
    """Tokens that stand for pictures: none is a word, and a said one would count as a picture that was never shown."""
    names = ("image_token_id", "image_token_index", "video_token_id", "video_token_index")
    found = {getattr(holder, name, None) for holder in (model.config, processor) for name in names}
    found |= set(getattr(processor, "image_token_ids", None) or ())
    return frozenset(token for token in found if isinstance(token, int))


def _make_greedy(model: PreTrainedModel) -> None:
    """The same question gives the same answer, whatever the model's own settings would draw."""
    settings = model.generation_config
    if settings is not None:
        settings.do_sample = False
        settings.temperature = settings.top_p = settings.top_k = None


@contextmanager
def _seeded(options: dict[str, Any]) -> Iterator[None]:
    """Drawing from its own source of chance, where a seed is named."""
    if options.get("seed") is None:
        yield
        return
    with torch.random.fork_rng():
        torch.manual_seed(int(options["seed"]))
        yield


@contextmanager
def _memory_told(name: str) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise InputError(
            f"{name}: one prompt with its pictures does not fit into memory; take a --preset of fewer or smaller "
            "slices (slicesight plan says what fits)."
        ) from error
