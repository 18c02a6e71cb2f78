"""How does stage 0 teach an encoder what a scan shows, before any language (the stand-in for SigLIP and M3D-CLIP)?

Each token answers for its own cell of the picture: which structures lie in it; the mean token answers for the whole
scan. Binary cross-entropy for cells, cross-entropy for the whole. As SigLIP brings pictures and texts together, a
projected token must also point along the language model's own embeddings of the words for what lies in its cell, so
that the connectors start aligned.
S slices or volumes, T tokens (row-major cells), C encoder channels, Y cell labels.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.optim.lr_scheduler import OneCycleLR

from slicesight.models.encoders3d.networks import pool_grid
from slicesight.training.checkpointing import CheckpointPolicy
from slicesight.training.loop import train_loop
from slicesight.training.recipe import EncoderRun
from slicesight.training.run_folder import Log
from slicesight.training.stage0.labels import EMPHASIS, UNKNOWN, EncoderBatch, Probe, WordMatch, mean_where_known

POSITIVE_WEIGHT = 4.0
WORD_WEIGHT = 0.25
WHOLE_WEIGHT = 0.3
FILLED_SHARE = 0.05
"""A structure that fills this share of a cell is shown by it."""


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
    words = match.words
    probe = Probe(width, words.scheme)
    parameters = [p for part in (encoder, projector, probe, match) for p in part.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=run.learning_rate, weight_decay=0.01)

    def loss_of(batch: EncoderBatch) -> tuple[Tensor, dict[str, float]]:
        tokens, averaged = encode(batch.pixels)
        loss, facts = probe_loss(probe, tokens, batch)
        shown = words.shown(batch.coarse, batch.wholes)
        by_words = match(projector(averaged), shown, words.known(shown, batch.coarse_known, batch.wholes))
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
    """Loss and how well the probe reads: recall and precision of every group of cells, accuracy on whole scans.

    Of label maps a group is left out where the batch neither shows nor claims any of it.
    """
    scheme = probe.scheme
    cells, whole = probe(tokens_STC)
    positive = torch.tensor(POSITIVE_WEIGHT)
    by_label = F.binary_cross_entropy_with_logits(cells, batch.cells, pos_weight=positive, reduction="none")
    by_label = mean_where_known(by_label, batch.known)
    num_emphasised = len(scheme.emphasised_labels)
    loss = EMPHASIS * by_label[:num_emphasised].sum() + by_label[num_emphasised:].sum()
    said_of = dict(zip(scheme.wholes, whole.split([len(labels) for labels in scheme.wholes.values()], -1), strict=True))
    for name, said in said_of.items():
        if (batch.wholes[name] != UNKNOWN).any():
            loss = loss + WHOLE_WEIGHT * F.cross_entropy(said, batch.wholes[name], ignore_index=UNKNOWN)
    with torch.no_grad():
        facts, first = {}, 0
        for name, labels in scheme.cells.items():
            part = slice(first, first := first + len(labels))
            found, true = cells[..., part] > 0, batch.cells[..., part] > 0.5
            if batch.known is not None:
                found = found & (batch.known[..., part] > 0)
            if batch.known is not None and not (found | true).any():
                continue  # none there to be found
            hits = (found & true).sum().item()
            facts[f"{name}_recall"] = round(hits / max(1, true.sum().item()), 3)
            facts[f"{name}_precision"] = round(hits / max(1, found.sum().item()), 3)
        for name, said in said_of.items():
            is_known = batch.wholes[name] != UNKNOWN
            right = (said.argmax(-1) == batch.wholes[name])[is_known].float()
            if len(right):
                facts[name] = round(right.mean().item(), 3)
    return loss, facts


def count_labels(labels: NDArray[np.uint8], cells: tuple[int, int, int], *, values: int) -> NDArray[np.int64]:
    """Pixels of every label 0 … values - 1 in every cell of an (N, H, W) label map -> (T, values)."""
    numbers = _cell_numbers(labels.shape, cells, values) + labels
    return np.bincount(numbers.ravel(), minlength=values * int(np.prod(cells))).reshape(-1, values)


@functools.lru_cache(maxsize=8)
def _cell_numbers(shape: tuple[int, int, int], cells: tuple[int, int, int], values: int) -> NDArray[np.int64]:
    """`values` times the row-major number of the cell that each pixel lies in."""
    depth, row, column = (np.arange(size) * cell // size for size, cell in zip(shape, cells, strict=True))
    numbers = (depth[:, None, None] * cells[1] + row[None, :, None]) * cells[2] + column[None, None, :]
    return values * numbers.astype(np.int64)


def vary_grey(pixels_SNHW: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """The pictures with slightly other contrast and brightness, in [0, 1]."""
    contrast = rng.uniform(0.92, 1.08, (len(pixels_SNHW), 1, 1, 1)).astype(np.float32)
    brightness = rng.uniform(-0.03, 0.03, (len(pixels_SNHW), 1, 1, 1)).astype(np.float32)
    varied: NDArray[np.float32] = np.clip((pixels_SNHW - 0.5) * contrast + 0.5 + brightness, 0, 1)
    return varied
