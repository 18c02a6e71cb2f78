"""How likely was an answer while it was said? Read from the logits that chose its tokens, so that it costs no pass.

Whole vocabulary: log p of every token said, its end included. Closed questions: the same logits held to the tree of
their choices (`choice_decoding.ChoiceTree`), which gives the share of the choice that was named. At every node of the
tree on the answer's path the branches are renormalised; a branch not taken counts for the choice where nothing else is
said beneath it (the letter alone, say, where the answer went on with the words).
R rows, W vocabulary, A tokens allowed at a node.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from slicesight.inference.choice_decoding import ChoiceTree


@dataclass(frozen=True, kw_only=True)
class AnswerLikelihood:
    """Natural logarithms. token_logs: of each token said, given all before it.

    share: of the choice that was named among all of them, in (0, 1]; None for an open question, and for an answer whose
    words are none of the choices' own.
    """

    token_logs: tuple[float, ...]
    share: float | None = None

    @property
    def total(self) -> float:
        """log p of the whole answer."""
        return math.fsum(self.token_logs)


@dataclass(kw_only=True)
class TokenRecord:
    """Grows with an answer. tree: of a closed question's choices."""

    tree: ChoiceTree | None = None
    tokens: list[int] = field(default_factory=list)
    logs: list[Tensor] = field(default_factory=list)
    branches: list[tuple[list[int], Tensor]] = field(default_factory=list)

    def add(self, token: int, logs_W: Tensor) -> None:
        """A token was chosen from these log-probabilities."""
        if self.tree is not None:
            allowed = self.tree.allowed(self.tokens)
            if token in allowed:
                self.branches.append((allowed, logs_W[allowed]))
            else:
                self.tree = None
        self.logs.append(logs_W[token])
        self.tokens.append(token)

    def finish(self) -> AnswerLikelihood:
        """What the whole answer's tokens say; one wait for a GPU."""
        import torch

        logs = torch.stack(self.logs).double().cpu().tolist() if self.logs else []
        return AnswerLikelihood(token_logs=tuple(logs), share=None if self.tree is None else self._share(self.tree))

    def _share(self, tree: ChoiceTree) -> float | None:
        """The share of the choice that the path ends in."""
        import torch

        named = tree.names_at(self.tokens)
        if len(named) != 1:
            return None
        share, mass = 0.0, 1.0
        for place, ((allowed, logs_A), token) in enumerate(zip(self.branches, self.tokens, strict=False)):
            parts = torch.softmax(logs_A.double(), dim=-1).cpu().tolist()
            before = self.tokens[:place]
            taken = 0.0
            for other, part in zip(allowed, parts, strict=True):
                if other == token or (token in tree.ends and other in tree.ends):
                    taken += part
                elif tree.names_under(before, other) == named:
                    share += mass * part
            mass *= taken
        return min(1.0, share + mass)


def note_tokens(logits_RW: Tensor, tokens: Sequence[int], records: Sequence[TokenRecord | None]) -> None:
    """Note each row's chosen token; rows without a record are left out."""
    import torch

    rows = [row for row, (record, token) in enumerate(zip(records, tokens, strict=True)) if record and token >= 0]
    if not rows:
        return
    logs_RW = torch.log_softmax(logits_RW[rows].float(), dim=-1)
    for logs_W, row in zip(logs_RW, rows, strict=True):
        record = records[row]
        assert record is not None
        record.add(tokens[row], logs_W)
