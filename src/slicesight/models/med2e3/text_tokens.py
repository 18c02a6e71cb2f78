"""How does text become tokens, none of which a user can turn into a control token?"""

from __future__ import annotations

import json
from collections.abc import Sequence

from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import Metaspace
from transformers import PreTrainedTokenizerBase

from slicesight.errors import InputError

Token = tuple[int, int, int]
"""A token's id, and where in the text it begins and ends."""


class TextTokenizer:
    """A model's tokenizer for templates that a user fills in; placeholder is the token that stands for a volume."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, placeholder: str) -> None:
        self.tokenizer = tokenizer
        self.adds_space = adds_prefix_space(tokenizer)
        self.control_tokens = find_control_tokens(tokenizer) | {tokenizer.get_vocab()[placeholder]: placeholder}
        self._without_added: Tokenizer | None = None

    def tokenize(self, text: str, is_user: Sequence[bool]) -> list[Token]:
        """The tokens of a template filled in by a user, of whom nothing is read as a control token.

        Raises:
            InputError: the user's text spells a control token, and this tokenizer has no other way to write it.
        """
        tokens = self._encode(text, 0, as_text=False)
        if not self._spelled_by_user(tokens, text, is_user):
            return tokens
        found, start = [], 0
        for token in tokens:
            if self.is_control(token, text) and not any(is_user[token[1] : token[2]]):  # the template's own
                found += [*self._encode(text[start : token[1]], start, as_text=True), token]
                start = token[2]
        found += self._encode(text[start:], start, as_text=True)
        if spelled := self._spelled_by_user(found, text, is_user):
            raise InputError(
                f"the text holds {spelled!r}, a control token that this model's tokenizer cannot write as text; "
                "leave it out or put a space into it."
            )
        return found

    def is_control(self, token: Token, text: str) -> bool:
        """Whether a token is one that controls the model, spelled out in the text (an unknown sign is none)."""
        return token[0] in self.control_tokens and self.control_tokens[token[0]] == text[token[1] : token[2]].strip()

    def _spelled_by_user(self, tokens: Sequence[Token], text: str, is_user: Sequence[bool]) -> str | None:
        for token in tokens:
            if self.is_control(token, text) and any(is_user[token[1] : token[2]]):
                return self.control_tokens[token[0]]
        return None

    def _encode(self, run: str, offset: int, *, as_text: bool) -> list[Token]:
        """Tokens with their place in the whole text; as_text: by a tokenizer that knows no added tokens."""
        if not run:
            return []
        extra = " " if self.adds_space and run.startswith(" ") else ""
        if as_text:
            self._without_added = self._without_added or without_added_tokens(self.tokenizer)
            encoding = self._without_added.encode(extra + run, add_special_tokens=False)
            ids, spans = encoding.ids, encoding.offsets
        else:
            encoded = self.tokenizer(extra + run, add_special_tokens=False, return_offsets_mapping=True)
            ids, spans = encoded["input_ids"], encoded["offset_mapping"]
        return [
            (token, offset + max(start - len(extra), 0), offset + max(end - len(extra), 1))
            for token, (start, end) in zip(ids, spans, strict=True)
        ]


def find_opening_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The ids a tokenizer puts before any text (a beginning-of-text token, or nothing)."""
    with_special, without = tokenizer("a")["input_ids"], tokenizer("a", add_special_tokens=False)["input_ids"]
    for start in range(len(with_special) - len(without) + 1):
        if with_special[start : start + len(without)] == without:
            return list(with_special[:start])
    return []


def adds_prefix_space(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether this tokenizer puts a space before a text that has none, as SentencePiece does before any text.

    SentencePiece adds one to a text that begins with a space too, the fast version does not: the processor adds it.
    """
    scheme = getattr(getattr(tokenizer, "backend_tokenizer", None), "pre_tokenizer", None)
    return isinstance(scheme, Metaspace) and scheme.prepend_scheme != "never"


def find_control_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    """The tokens that control a model, by id: special ones, and added ones that are spelled as such ("<|user|>")."""
    named = dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))
    return named | {
        number: token.content
        for number, token in tokenizer.added_tokens_decoder.items()
        if token.special or (token.content[:1], token.content[-1:]) in (("<", ">"), ("[", "]"))
    }


def without_added_tokens(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    """The same tokenizer, to which what was added to its vocabulary is text like any other."""
    settings = json.loads(tokenizer.backend_tokenizer.to_str())
    return Tokenizer.from_str(json.dumps({**settings, "added_tokens": [], "truncation": None, "padding": None}))
