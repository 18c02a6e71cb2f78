"""How is a closed question answered with one of its choices and nothing else?

A tree of the tokens of everything that names a choice: its letter, its words, or both ("B. venous phase"), tokenised
just as the model is taught answers. At every step only the tokens that go on in the tree may be said, and where a
choice is whole, the tokens that end an answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from slicesight.data.choices import listed_choices, read_choice
from slicesight.errors import InputError, ModelError
from slicesight.inference.answers import Answer

if TYPE_CHECKING:
    from torch import Tensor

    from slicesight.inference.requests import History
    from slicesight.models.med2e3 import Med2E3Processor

ChoicesMode = Literal["free", "only", "both"]
"""Closed questions are answered freely, with their choices only, or both, the latter as `Answer.choice`."""


class ChoiceTree:
    """What may be said next of several token sequences. ends: tokens that end an answer. names: of each sequence's
    choice, its letter."""

    def __init__(
        self, sequences: Sequence[Sequence[int]], *, ends: frozenset[int], names: Sequence[str] | None = None
    ) -> None:
        self.sequences, self.ends = [list(sequence) for sequence in sequences], ends
        self.root: dict[int, Any] = {}
        self.whole: set[int] = set()  # nodes, by identity, where a sequence is complete
        self._under: dict[int, set[str]] = {}  # names of what begins with a node, by its identity
        self._at: dict[int, set[str]] = {}  # names of what is complete there
        for sequence, name in zip(sequences, names or [""] * len(sequences), strict=True):
            node = self.root
            for token in sequence:
                node = node.setdefault(token, {})
                self._under.setdefault(id(node), set()).add(name)
            self.whole.add(id(node))
            self._at.setdefault(id(node), set()).add(name)

    def allowed(self, said: Sequence[int]) -> list[int]:
        """The tokens that may follow what was said; what ends an answer where nothing else may."""
        node = self._node(said)
        if node is None:
            return sorted(self.ends)
        return sorted({*node, *(self.ends if id(node) in self.whole else ())})

    def names_under(self, said: Sequence[int], token: int) -> set[str]:
        """The choices that may still be meant when `token` follows what was said."""
        node = self._node(said)
        if node is None:
            return set()
        if token in self.ends:
            return self._at.get(id(node), set())
        return self._under.get(id(node[token]), set()) if token in node else set()

    def names_at(self, said: Sequence[int]) -> set[str]:
        """The choices that were named by what was said, its end included; none where it is not whole."""
        words = [token for token in said if token not in self.ends]
        node = self._node(words)
        return set() if node is None or len(words) == len(said) else self._at.get(id(node), set())

    def _node(self, said: Sequence[int]) -> dict[int, Any] | None:
        node = self.root
        for token in said:
            if token not in node:
                return None
            node = node[token]
        return node

    def mask(self, logits_W: Tensor, said: Sequence[int]) -> Tensor:
        """The logits (W,) with -inf for what may not be said."""
        allowed = self.allowed(said)
        masked_W = logits_W.new_full(logits_W.shape, -float("inf"))
        masked_W[allowed] = logits_W[allowed]
        return masked_W


def make_choice_tree(
    processor: Med2E3Processor, question: str, *, history: History, num_volumes: int, ends: frozenset[int]
) -> ChoiceTree | None:
    """The tree of a question's choices; None for an open question.

    Raises:
        ModelError: the model has no token that ends an answer.
    """
    choices = listed_choices(question)
    if not choices:
        return None
    if not ends:
        raise ModelError(
            "this model has no token that ends an answer, so it cannot be held to choices; set eos_token_id in its "
            'generation_config.json, or ask with choices="free".'
        )
    from slicesight.models.med2e3.loss import IGNORED

    sequences: list[list[int]] = []
    names: list[str] = []
    for letter, text in choices.items():
        for form in (f"{letter}. {text}", text, letter):
            labels = processor.encode_prompt(question, answer=form, history=history, num_volumes=num_volumes).labels
            tokens = [token for token in labels if token != IGNORED]
            stop = next((place for place, token in enumerate(tokens) if token in ends), len(tokens))
            if tokens[:stop]:
                sequences.append(tokens[:stop])
                names.append(letter)
    return ChoiceTree(sequences, ends=ends, names=names)


def with_choice(answer: Answer) -> Answer:
    """An answer held to its choices, with the one it names, letter and words, as `choice`."""
    choices = listed_choices(answer.question)
    letter = read_choice(answer.text, tuple(choices.values())).letter
    return replace(answer, choice=f"{letter}. {choices[letter]}" if letter in choices else answer.text)


def check_choices_mode(mode: str, *, allowed: tuple[str, ...] = get_args(ChoicesMode)) -> None:
    """Raises InputError for a mode that is none of them."""
    if mode not in allowed:
        raise InputError(f"choices is {mode!r}; expected {' or '.join(allowed)}")
