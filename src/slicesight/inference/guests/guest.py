"""What is asked of a guest, whatever runs it, and in which words is it asked?

A guest says something about pictures, and how likely that is when some of them are blank. N slices, V masks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from slicesight.inference.occlusion import Likelihood
from slicesight.inference.requests import History
from slicesight.models.guests.pictures import ShownSlices
from slicesight.models.guests.preset import Preset

Measure = Literal["log-likelihood", "first tokens", "agreement"]
"""What falls when slices are blanked: the whole answer's log-likelihood, that of its tokens as far as a server tells,
or how far what is then said agrees with the answer."""
Part = dict[str, str]
Message = dict[str, Any]
OnText = Callable[[Callable[[], str]], bool]
"""Called while an answer grows, with what gives its text so far; False stops it."""


@dataclass(frozen=True, kw_only=True)
class GuestQuestion:
    """One question with all that its answer depends on.

    history: earlier turns. system: a message before them, after the preset's own. prefix: how the answer begins.
    only_choices: held to the choices it lists. options: as of `Predictor.ask`.
    """

    question: str
    shown: ShownSlices | None
    history: History = ()
    system: str | None = None
    prefix: str = ""
    max_new_tokens: int = 160
    only_choices: bool = False
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Said:
    """What a guest said. token_ids: empty for a server, which gives none. log_probs: of its tokens, where told."""

    text: str
    token_ids: tuple[int, ...] = ()
    tokens: tuple[str, ...] = ()
    log_probs: tuple[float, ...] = ()
    num_prompt_tokens: int = 0
    num_answer_tokens: int = 0
    is_cut: bool = False


class Guest(Protocol):
    """A model of somebody else's, wherever it runs."""

    preset: Preset

    @property
    def name(self) -> str: ...

    def answer(self, asked: GuestQuestion, on_text: OnText | None = None) -> Said:
        """Answer one question."""
        ...

    def likelihood(self, asked: GuestQuestion, said: Said) -> tuple[Likelihood, Measure] | None:
        """How likely what was said is when only some slices are left; None where it cannot be told."""
        ...

    def check_options(self, options: dict[str, Any]) -> None:
        """Raises InputError for an option that it does not have."""
        ...

    def decode(self, token_ids: Sequence[int]) -> str:
        """What these tokens of an answer say."""
        ...

    def digest(self) -> str:
        """Changes with whatever changes its answers, as far as that is known."""
        ...


def compose(asked: GuestQuestion, preset: Preset, *, has_system_role: bool = True) -> list[Message]:
    """The conversation, with a place {"type": "image"} for every picture, in their order.

    Args:
        has_system_role: False puts what the system says at the beginning of the user's first message, as the makers of
            models without that role ask for (https://ai.google.dev/gemma/docs/core/prompt-structure).
    """
    told = system_words(asked, preset)
    turns = [*(turn for pair in asked.history for turn in pair), asked.question]
    messages: list[Message] = []
    if told and has_system_role:
        messages.append({"role": "system", "content": [_text(told)]})
    for number, turn in enumerate(turns):
        role = "assistant" if number % 2 else "user"
        parts: list[Part] = []
        words = preset.question.format(question=turn) if role == "user" else turn
        if number == 0 and asked.shown is not None:
            parts = _picture_parts(asked.shown, preset)
            words = f"\n\n{words}"
        if number == 0 and told and not has_system_role:
            parts = [_text(f"{told}\n\n"), *parts]
        messages.append({"role": role, "content": [*parts, _text(words)]})
    return messages


def system_words(asked: GuestQuestion, preset: Preset) -> str:
    """What the preset and the one who asks tell the model beforehand."""
    return "\n\n".join(filter(None, (preset.system, asked.system)))


def _picture_parts(shown: ShownSlices, preset: Preset) -> list[Part]:
    """What is said before the pictures, then every picture with its caption."""
    parts = [_text(preset.instruction)] if preset.instruction else []
    if shown.is_sheet:
        return [*parts, {"type": "image"}, _text(shown.sheet_caption)]
    for caption in shown.captions:
        pair = [_text(f"\n{caption}\n"), {"type": "image"}] if caption else [{"type": "image"}]
        parts += reversed(pair) if preset.caption_after else pair
    return parts


def _text(words: str) -> Part:
    return {"type": "text", "text": words}
