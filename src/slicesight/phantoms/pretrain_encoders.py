"""Stage 0 of the encoders: teach both what a phantom shows, before any language (the stand-in for SigLIP and M3D-CLIP).

Each token answers for its own cell of the picture: which organs, which abnormalities and which named places of an
abnormality lie in it; the mean token answers for plane and phase. Binary cross-entropy for cells, cross-entropy for
the whole. As SigLIP brings pictures and texts together, a projected token must also point along the language model's
own embeddings of the words for what lies in its cell, so that the connectors start aligned.
S slices or volumes, T tokens (row-major cells), C encoder channels, Y cell labels, W words, D language-model width.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.optim.lr_scheduler import OneCycleLR
from transformers import PreTrainedTokenizerBase

from slicesight.models.encoders3d.networks import pool_grid
from slicesight.phantoms.anatomy import AORTA, LABEL_NAMES, ORGANS, PHASES
from slicesight.phantoms.dataset import PhantomSet
from slicesight.phantoms.texts import KINDS, LOCATIONS, location_phrase
from slicesight.training.checkpointing import CheckpointPolicy
from slicesight.training.loop import train_loop
from slicesight.training.recipe import EncoderRun
from slicesight.training.run_folder import Log
from slicesight.volumes.volume import PLANES

ORGAN_LABELS = (*(organ.label for organ in ORGANS), AORTA)
PLACES = tuple(LOCATIONS)
CELL_LABELS = (*KINDS, *PLACES, *(LABEL_NAMES[label] for label in ORGAN_LABELS))
WHOLE_LABELS = (*PLANES, *PHASES)
EMPTY_WORDS = ("of", "the")
POSITIVE_WEIGHT = 4.0
KIND_WEIGHT = 4.0
LESION_SLICE_SHARE = 0.7
WORD_WEIGHT = 0.25
ORGAN_SHARE = 0.05


class Probe(nn.Module):
    """The heads that stage 0 reads an encoder's tokens with; thrown away afterwards."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.cells = nn.Linear(width, len(CELL_LABELS))
        self.whole = nn.Linear(width, len(PLANES) + len(PHASES))
        nn.init.constant_(self.cells.bias, -3.0)

    def forward(self, tokens_STC: Tensor) -> tuple[Tensor, Tensor]:
        return self.cells(tokens_STC), self.whole(tokens_STC.mean(dim=1))


@dataclass(frozen=True)
class EncoderBatch:
    """One step's pictures and what they show.

    pixels: (S, 1, ...) float32 in [0, 1]. cells, coarse: (S, T, Y) 0/1 labels of the encoder's own cells and of the
    larger ones that the model's tokens average. plane, phase: (S,) class indices.
    """

    pixels: Tensor
    cells: Tensor
    coarse: Tensor
    plane: Tensor
    phase: Tensor


def slice_batches(
    phantoms: PhantomSet, *, size: int, cells: tuple[int, int], coarse: tuple[int, int], rng: np.random.Generator
) -> Iterator[EncoderBatch]:
    """Random single slices for ever, most of them through an abnormality, the more of it the likelier."""
    num_slices = phantoms.voxels.shape[1]
    while True:
        picked = []
        for case in rng.choice(len(phantoms), size):
            pixels = np.count_nonzero(phantoms.findings[case], axis=(1, 2))
            shows_one = pixels.any() and rng.random() < LESION_SLICE_SHARE
            place = rng.choice(num_slices, p=pixels / pixels.sum()) if shows_one else rng.integers(num_slices)
            picked.append((int(case), slice(int(place), int(place) + 1)))
        yield _batch(phantoms, picked, rng, cells=(1, *cells), coarse=(1, *coarse), keep_depth=False)


def volume_batches(
    phantoms: PhantomSet,
    *,
    size: int,
    cells: tuple[int, int, int],
    coarse: tuple[int, int, int],
    rng: np.random.Generator,
) -> Iterator[EncoderBatch]:
    """Random whole volumes for ever."""
    while True:
        picked = [(int(case), slice(None)) for case in rng.choice(len(phantoms), size, replace=False)]
        yield _batch(phantoms, picked, rng, cells=cells, coarse=coarse, keep_depth=True)


def train_encoder(
    encode: Callable[[Tensor], tuple[Tensor, Tensor]],
    encoder: nn.Module,
    projector: nn.Module,
    match: WordMatch,
    batches: Iterator[EncoderBatch],
    *,
    rng: np.random.Generator,
    checkpoints: CheckpointPolicy,
    width: int,
    run: EncoderRun,
    log: Log,
) -> None:
    """Train `encoder` and `projector` until tokens answer the probe and, averaged as the model will, match words.

    rng: what `batches` draws from, so that a resumed run draws on.

    encode: pixels -> tokens (S, T, C) of the encoder's own cells, and the tokens that the model is to see.
    AdamW, weight decay 0.01, one-cycle learning rate with 10 % warm-up.
    """
    probe = Probe(width)
    parameters = [p for part in (encoder, projector, probe, match) for p in part.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=run.learning_rate, weight_decay=0.01)

    def loss_of(batch: EncoderBatch) -> tuple[Tensor, dict[str, float]]:
        tokens, averaged = encode(batch.pixels)
        loss, facts = probe_loss(probe, tokens, batch)
        by_words = match(projector(averaged), match.words.shown(batch.coarse, batch.plane, batch.phase))
        return loss + WORD_WEIGHT * by_words, {"words": round(by_words.item(), 4), **facts}

    encoder.train()
    train_loop(
        loss_of,
        lambda done: batches,
        steps=run.steps,
        optimizer=optimizer,
        scheduler=one_cycle(optimizer, run.learning_rate, run.steps),
        checkpoints=checkpoints,
        log=log,
        modules={"probe": probe, "match": match},
        rng=rng,
    )
    encoder.eval()


def one_cycle(optimizer: torch.optim.Optimizer, rate: float, steps: int) -> OneCycleLR:
    """10 % of the steps warm up, but 20 % of ten: there the library divides by the warm-up's last step, number zero."""
    return OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.2 if steps == 10 else 0.1)


def with_average(
    tokens_STC: Tensor, cells: tuple[int, int, int], coarse: tuple[int, int, int]
) -> tuple[Tensor, Tensor]:
    """The encoder's tokens and their averages over blocks of cells, both row-major."""
    blocks = [cell // kept for cell, kept in zip(cells, coarse, strict=True)]
    return tokens_STC, pool_grid(tokens_STC.reshape(len(tokens_STC), *cells, -1), blocks).flatten(1, 3)


def probe_loss(probe: Probe, tokens_STC: Tensor, batch: EncoderBatch) -> tuple[Tensor, dict[str, float]]:
    """Loss and how well the probe reads: recall and precision of abnormality cells, accuracy of plane and phase."""
    cells, whole = probe(tokens_STC)
    positive = torch.tensor(POSITIVE_WEIGHT)
    by_label = F.binary_cross_entropy_with_logits(cells, batch.cells, pos_weight=positive, reduction="none")
    by_label = by_label.mean(dim=(0, 1))
    by_cell = KIND_WEIGHT * by_label[: len(KINDS)].sum() + by_label[len(KINDS) :].sum()
    plane, phase = whole.split([len(PLANES), len(PHASES)], dim=-1)
    loss = by_cell + 0.3 * F.cross_entropy(plane, batch.plane) + 0.3 * F.cross_entropy(phase, batch.phase)
    with torch.no_grad():
        facts = {}
        organs = len(KINDS) + len(PLACES)
        parts = {"kind": slice(len(KINDS)), "place": slice(len(KINDS), organs), "organ": slice(organs, None)}
        for name, part in parts.items():
            said, true = cells[..., part] > 0, batch.cells[..., part] > 0.5
            hits = (said & true).sum().item()
            facts[f"{name}_recall"] = round(hits / max(1, true.sum().item()), 3)
            facts[f"{name}_precision"] = round(hits / max(1, said.sum().item()), 3)
        facts["plane"] = round((plane.argmax(-1) == batch.plane).float().mean().item(), 3)
        facts["phase"] = round((phase.argmax(-1) == batch.phase).float().mean().item(), 3)
    return loss, facts


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


def _batch(
    phantoms: PhantomSet,
    picked: list[tuple[int, slice]],
    rng: np.random.Generator,
    *,
    cells: tuple[int, int, int],
    coarse: tuple[int, int, int],
    keep_depth: bool,
) -> EncoderBatch:
    pixels = np.stack([phantoms.voxels[case, part] for case, part in picked]).astype(np.float32) / 255
    contrast = rng.uniform(0.92, 1.08, (len(picked), 1, 1, 1)).astype(np.float32)
    brightness = rng.uniform(-0.03, 0.03, (len(picked), 1, 1, 1)).astype(np.float32)
    pixels = np.clip((pixels - 0.5) * contrast + 0.5 + brightness, 0, 1)
    labels, coarse_labels = (
        np.stack([cell_labels(phantoms, case, part, size) for case, part in picked]) for size in (cells, coarse)
    )
    return EncoderBatch(
        pixels=torch.from_numpy(pixels[:, None] if keep_depth else pixels),
        cells=torch.from_numpy(labels),
        coarse=torch.from_numpy(coarse_labels),
        plane=torch.tensor([PLANES.index(phantoms.truths[case].plane) for case, _ in picked]),
        phase=torch.tensor([PHASES.index(phantoms.truths[case].phase) for case, _ in picked]),
    )


def cell_labels(phantoms: PhantomSet, case: int, part: slice, cells: tuple[int, int, int]) -> NDArray[np.float32]:
    """What lies in each cell -> (T, Y) 0/1: an organ that fills ORGAN_SHARE of it, a good part of an abnormality.

    A good part: 4 pixels and 30 % of what the abnormality's fullest cell holds anywhere in the volume.
    """
    organs = _count(phantoms.organs[case, part], cells)
    findings = _count(phantoms.findings[case, part], cells)
    one_slice = part != slice(None)
    fullest = _fullest_cell(phantoms, case, (phantoms.findings.shape[1], *cells[1:]) if one_slice else cells)
    columns = np.zeros((len(organs), len(CELL_LABELS)), dtype=np.float32)
    for number, finding in enumerate(phantoms.truths[case].findings, start=1):
        counts = findings[:, number]
        shown = counts >= max(4, 0.3 * fullest[number])
        columns[shown, KINDS.index(finding.abnormality)] = 1
        columns[shown, len(KINDS) + PLACES.index(location_phrase(finding.organ, finding.part))] = 1
    enough = ORGAN_SHARE * organs[0].sum()
    columns[:, len(KINDS) + len(PLACES) :] = organs[:, ORGAN_LABELS] >= enough
    return columns


@functools.cache
def _fullest_cell(phantoms: PhantomSet, case: int, cells: tuple[int, int, int]) -> NDArray[np.int64]:
    """For every finding number, the pixels in the cell that holds most of it -> (32,)."""
    return np.asarray(_count(phantoms.findings[case], cells).max(axis=0))


def _count(labels: NDArray[np.uint8], cells: tuple[int, int, int]) -> NDArray[np.int64]:
    """Pixels of every label in every cell -> (T, 32)."""
    numbers = _cell_numbers(labels.shape, cells) + labels
    return np.bincount(numbers.ravel(), minlength=32 * int(np.prod(cells))).reshape(-1, 32)


@functools.lru_cache(maxsize=8)
def _cell_numbers(shape: tuple[int, int, int], cells: tuple[int, int, int]) -> NDArray[np.int64]:
    """32 times the row-major number of the cell that each pixel lies in."""
    depth, row, column = (np.arange(size) * cell // size for size, cell in zip(shape, cells, strict=True))
    numbers = (depth[:, None, None] * cells[1] + row[None, :, None]) * cells[2] + column[None, None, :]
    return 32 * numbers.astype(np.int64)
