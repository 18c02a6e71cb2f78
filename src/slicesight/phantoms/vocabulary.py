"""Which of the language model's own words name what a cell shows?

Stage 0 brings pictures and words together as SigLIP does, in the language model's embedding space: a projected token
should point along the embeddings of the words for what lies in its cell. W words, Y cell labels, D its width.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from transformers import PreTrainedTokenizerBase

from slicesight.phantoms.anatomy import AORTA, LABEL_NAMES, ORGANS, PHASES
from slicesight.phantoms.texts import KINDS, LOCATIONS
from slicesight.volumes.volume import PLANES

ORGAN_LABELS = (*(organ.label for organ in ORGANS), AORTA)
PLACES = tuple(LOCATIONS)
CELL_LABELS = (*KINDS, *PLACES, *(LABEL_NAMES[label] for label in ORGAN_LABELS))
WHOLE_LABELS = (*PLANES, *PHASES)
EMPTY_WORDS = ("of", "the")


class LabelWords:
    """The tokens of every label's name: `of_label[name]` are positions in `ids` (W,), `in_label` is (labels, W) 0/1."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        skipped = {token for word in EMPTY_WORDS for token in tokenizer.encode(f" {word}", add_special_tokens=False)}
        tokens = {
            name: [t for t in tokenizer.encode(f" {name}", add_special_tokens=False) if t not in skipped]
            for name in (*CELL_LABELS, *WHOLE_LABELS)
        }
        unique = sorted({token for row in tokens.values() for token in row})
        self.ids = torch.tensor(unique)
        self.of_label = {name: [unique.index(token) for token in row] for name, row in tokens.items()}
        self.in_label = torch.zeros(len(tokens), len(unique))
        for row, positions in enumerate(self.of_label.values()):
            self.in_label[row, positions] = 1.0

    def __len__(self) -> int:
        return len(self.ids)

    def shown(self, cells_STY: Tensor, plane_S: Tensor, phase_S: Tensor) -> Tensor:
        """Words for what each cell shows, with those of the scan's plane and phase -> (S, T, W) 0/1."""
        whole = torch.cat([F.one_hot(plane_S, len(PLANES)), F.one_hot(phase_S, len(PHASES))], dim=-1).float()
        labels = torch.cat([cells_STY, whole[:, None].expand(-1, cells_STY.shape[1], -1)], dim=-1)
        return (labels @ self.in_label).clamp(max=1.0)


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
        kind_words = {position for kind in KINDS for position in words.of_label[kind]}
        weight = torch.tensor([4.0 if position in kind_words else 1.0 for position in range(len(words))])
        self.register_buffer("weight_W", weight)

    def forward(self, projected_STD: Tensor, shown_STW: Tensor) -> Tensor:
        """Weighted binary cross-entropy, summed over words and averaged over cells."""
        cosine = F.normalize(projected_STD, dim=-1) @ self.directions_WD.T
        logits = self.log_scale.exp() * cosine + self.bias
        loss = F.binary_cross_entropy_with_logits(logits, shown_STW, pos_weight=torch.tensor(3.0), reduction="none")
        return (loss.mean(dim=(0, 1)) * self.weight_W).sum()
