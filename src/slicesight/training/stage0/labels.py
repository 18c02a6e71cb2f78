"""In which words does stage 0 say what a picture shows?

A `LabelScheme` names what a cell may show (structures, abnormalities, places) and what a whole scan may be (its plane,
its modality). The names' words, as the language model's tokenizer spells them, are what projected tokens shall point
along. What nobody knows (a structure that was not drawn, a scan without a stated plane) is marked and gives no loss.
S slices or volumes, T tokens (row-major cells), Y cell labels, W words, D language-model width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from transformers import PreTrainedTokenizerBase

EMPTY_WORDS = ("of", "the")
UNKNOWN = -1
EMPHASIS = 4.0


@dataclass(frozen=True, kw_only=True)
class LabelScheme:
    """What cells and whole scans may be said to show.

    cells: groups of cell labels, by which recall and precision are reported; their order is that of the labels.
    wholes: groups of labels of which a scan has one each, such as {"plane": ("axial", "coronal", "sagittal")}.
    emphasised: the first group, where it counts EMPHASIS times as much as the others; None where all count alike.
    """

    cells: Mapping[str, tuple[str, ...]]
    wholes: Mapping[str, tuple[str, ...]]
    emphasised: str | None = None

    def __post_init__(self) -> None:
        assert self.emphasised in (None, next(iter(self.cells), None)), self.emphasised

    @cached_property
    def cell_labels(self) -> tuple[str, ...]:
        return tuple(label for group in self.cells.values() for label in group)

    @cached_property
    def whole_labels(self) -> tuple[str, ...]:
        return tuple(label for group in self.wholes.values() for label in group)

    @property
    def emphasised_labels(self) -> tuple[str, ...]:
        return () if self.emphasised is None else self.cells[self.emphasised]


@dataclass(frozen=True)
class EncoderBatch:
    """One step's pictures and what they show.

    pixels: (S, 1, ...) float32 in [0, 1]. cells, coarse: (S, T, Y) 0/1 labels of the encoder's own cells and of the
    larger ones that the model's tokens average. wholes: (S,) class indices per group, UNKNOWN where nobody knows.
    known, coarse_known: (S, T, Y) 0/1, whether the truth about a cell is known; None where all of it is.
    """

    pixels: Tensor
    cells: Tensor
    coarse: Tensor
    wholes: Mapping[str, Tensor] = field(default_factory=dict)
    known: Tensor | None = None
    coarse_known: Tensor | None = None


class LabelWords:
    """The tokens of every label's name: `of_label[name]` are positions in `ids` (W,), `in_label` is (labels, W) 0/1."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, scheme: LabelScheme) -> None:
        skipped = {token for word in EMPTY_WORDS for token in tokenizer.encode(f" {word}", add_special_tokens=False)}
        tokens = {
            name: [t for t in tokenizer.encode(f" {name}", add_special_tokens=False) if t not in skipped]
            for name in (*scheme.cell_labels, *scheme.whole_labels)
        }
        unique = sorted({token for row in tokens.values() for token in row})
        self.scheme = scheme
        self.ids = torch.tensor(unique)
        self.of_label = {name: [unique.index(token) for token in row] for name, row in tokens.items()}
        names = (*scheme.cell_labels, *scheme.whole_labels)
        self.in_label = torch.zeros(len(names), len(unique))
        for row, name in enumerate(names):
            self.in_label[row, self.of_label[name]] = 1.0

    def __len__(self) -> int:
        return len(self.ids)

    def shown(self, cells_STY: Tensor, wholes: Mapping[str, Tensor]) -> Tensor:
        """Words for what each cell shows, with those of the whole scan -> (S, T, W) 0/1."""
        return (self._labels(cells_STY, wholes) @ self.in_label).clamp(max=1.0)

    def known(self, shown_STW: Tensor, known_STY: Tensor | None, wholes: Mapping[str, Tensor]) -> Tensor | None:
        """Whether it is known that a word is shown or not -> (S, T, W) bool; None where all is known.

        A word is not known where it is not shown and a label that nobody knows would say it.
        """
        if known_STY is None and all(bool((index != UNKNOWN).all()) for index in wholes.values()):
            return None
        if known_STY is None:
            known_STY = torch.ones(*shown_STW.shape[:2], len(self.scheme.cell_labels))
        nobody_knows = [
            (wholes[name] == UNKNOWN).float()[:, None].expand(-1, len(labels))
            for name, labels in self.scheme.wholes.items()
        ]
        whole = torch.cat([*nobody_knows, known_STY.new_zeros(len(known_STY), 0)], dim=-1)
        labels = torch.cat([1 - known_STY, whole[:, None].expand(-1, known_STY.shape[1], -1)], dim=-1)
        return (shown_STW > 0) | (labels @ self.in_label == 0)

    def _labels(self, cells_STY: Tensor, wholes: Mapping[str, Tensor]) -> Tensor:
        one_hot = [
            F.one_hot(wholes[name].clamp(min=0), len(labels)) * (wholes[name] != UNKNOWN)[:, None]
            for name, labels in self.scheme.wholes.items()
        ]
        if not one_hot:
            return cells_STY
        whole = torch.cat(one_hot, dim=-1).float()
        return torch.cat([cells_STY, whole[:, None].expand(-1, cells_STY.shape[1], -1)], dim=-1)


class WordMatch(nn.Module):
    """Sigmoid loss between projected tokens and word embeddings, by direction (as SigLIP: scale and bias learnt)."""

    directions_WD: Tensor  # noqa: N815
    weight_W: Tensor  # noqa: N815

    def __init__(self, words: LabelWords, embeddings: Tensor) -> None:
        super().__init__()
        self.words = words
        self.register_buffer("directions_WD", F.normalize(embeddings[words.ids].detach().float(), dim=-1))
        self.log_scale = nn.Parameter(torch.tensor(np.log(10.0), dtype=torch.float32))
        self.bias = nn.Parameter(torch.full((len(words),), -3.0))
        heavy = {position for name in words.scheme.emphasised_labels for position in words.of_label[name]}
        weight = torch.tensor([EMPHASIS if position in heavy else 1.0 for position in range(len(words))])
        self.register_buffer("weight_W", weight)

    def forward(self, projected_STD: Tensor, shown_STW: Tensor, known_STW: Tensor | None = None) -> Tensor:
        """Weighted binary cross-entropy, summed over words and averaged over the cells in which it is known."""
        cosine = F.normalize(projected_STD, dim=-1) @ self.directions_WD.T
        logits = self.log_scale.exp() * cosine + self.bias
        loss = F.binary_cross_entropy_with_logits(logits, shown_STW, pos_weight=torch.tensor(3.0), reduction="none")
        return (mean_where_known(loss, known_STW) * self.weight_W).sum()


class Probe(nn.Module):
    """The heads that stage 0 reads an encoder's tokens with; thrown away afterwards."""

    def __init__(self, width: int, scheme: LabelScheme) -> None:
        super().__init__()
        self.scheme = scheme
        self.cells = nn.Linear(width, len(scheme.cell_labels))
        self.whole = nn.Linear(width, len(scheme.whole_labels))
        nn.init.constant_(self.cells.bias, -3.0)

    def forward(self, tokens_STC: Tensor) -> tuple[Tensor, Tensor]:
        return self.cells(tokens_STC), self.whole(tokens_STC.mean(dim=1))


def mean_where_known(loss_STY: Tensor, known_STY: Tensor | None) -> Tensor:
    """The mean over slices and cells of every label's loss where its truth is known, 0 where it nowhere is -> (Y,)."""
    if known_STY is None:
        return loss_STY.mean(dim=(0, 1))
    return (loss_STY * known_STY).sum(dim=(0, 1)) / known_STY.sum(dim=(0, 1)).clamp(min=1)
