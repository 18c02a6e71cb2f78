"""What does stage 0 learn from phantoms in which the branches must differ?

Both encoders are taught every word, those of COURSES and of DETAILS alike: what one of them cannot see it cannot learn.
S slices or volumes, or visual tokens; T tokens (row-major cells), Y cell labels, W words.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from slicesight.data.manifest import Conversation
from slicesight.phantoms.branch_dataset import BranchPhantoms, Kept
from slicesight.phantoms.branches import COURSES, DETAILS, ORGANS, SHAPE, SLICES_PER_LEVEL, VALUES, Piece
from slicesight.training.augmentation import Augmentation
from slicesight.training.stage0.encoders import count_labels, vary_grey
from slicesight.training.stage0.labels import EncoderBatch, LabelScheme, LabelWords
from slicesight.training.stage0.sections import Cells, TokenGrids

WORDS = tuple(word for words in VALUES.values() for word in words)
SCHEME = LabelScheme(cells={"value": WORDS, "organ": ORGANS}, wholes={}, emphasised="value")
MASS_SLICE_SHARE = 0.6
NUM_VALUES = 16
SHOWN_SHARE = 0.3
"""A piece is shown by a cell that holds this share of what its fullest cell holds."""


class BranchStage0:
    """These phantoms as a `Stage0Source`; a scan is its number."""

    scheme = SCHEME

    def __init__(self, phantoms: BranchPhantoms) -> None:
        self.phantoms = phantoms

    def slice_batches(
        self, *, size: int, cells: Cells, coarse: Cells, rng: np.random.Generator, augment: Augmentation
    ) -> Iterator[EncoderBatch]:
        """Random single slices, most of them through a mass."""
        while True:
            picked = []
            for case in rng.integers(len(self.phantoms), size=size):
                masses = self.phantoms.kept(int(case)).truth.masses
                shown = [place for mass in masses for place in mass.slices]
                place = rng.choice(shown) if rng.random() < MASS_SLICE_SHARE else rng.integers(SHAPE[0])
                picked.append((int(case), slice(int(place), int(place) + 1)))
            yield self._batch(picked, cells=cells, coarse=coarse, rng=rng, keep_depth=False)

    def volume_batches(
        self, *, size: int, cells: Cells, coarse: Cells, rng: np.random.Generator, augment: Augmentation
    ) -> Iterator[EncoderBatch]:
        """Random whole volumes."""
        while True:
            picked = [(int(case), slice(None)) for case in rng.integers(len(self.phantoms), size=size)]
            yield self._batch(picked, cells=cells, coarse=coarse, rng=rng, keep_depth=True)

    def draw(self, rng: np.random.Generator, count: int, *, report: bool) -> Sequence[tuple[int, Conversation]]:
        """Any question about a random scan; there are no reports."""
        drawn = []
        for place in rng.integers(len(self.phantoms), size=count):
            case = self.phantoms.cases[place]
            asked = self.phantoms.conversations(case, int(rng.integers(1000)))
            drawn.append((int(place), asked[int(rng.integers(len(asked)))]))
        return drawn

    def imagine(
        self, scan: int, conversation: Conversation, words: LabelWords, grids: TokenGrids, rng: np.random.Generator
    ) -> NDArray[np.float32]:
        """How much of each word the tokens of an imagined scan hold -> (S, W).

        3D tokens show what runs across slices, 2D tokens what lies within the slices asked for; of what they cannot see
        both words of a property, alike.
        """
        bags = np.zeros((grids.num_deep + grids.num_flat, len(words)), dtype=np.float32)
        asked = min(conversation.source_slices or (0,)) // SLICES_PER_LEVEL

        def add(tokens: NDArray[np.int64], strength: float, *names: str) -> None:
            for name in names:
                bags[tokens.reshape(-1, 1), words.of_label[name]] += strength

        pieces = self.phantoms.kept(scan).truth.pieces
        if grids.deep is not None:
            levels = np.arange(grids.num_deep).reshape(len(ORGANS), -1, grids.deep[2])
            for organ, tokens in zip(ORGANS, levels, strict=True):
                add(tokens, rng.uniform(0.2, 0.8), organ)
            for piece in pieces:
                for name, value in piece.values.items():
                    seen = (value,) if name in COURSES else DETAILS[name]
                    add(_half(levels[piece.level], piece), rng.uniform(0.2, 0.9), *seen)
        if grids.flat is not None:
            tokens = np.arange(grids.num_deep, len(bags)).reshape(grids.flat[1:])
            for number, organ in enumerate(ORGANS):
                add(tokens, rng.uniform(0.4, 1.2) if number == asked else rng.uniform(0, 0.3), organ)
            for piece in pieces:
                near = _half(tokens, piece)
                for name, value in piece.values.items():
                    strength = rng.uniform(0.4, 1.4) if piece.level == asked else rng.uniform(0, 0.3)
                    add(near, strength, *((value,) if name in DETAILS else COURSES[name]))
        return bags

    def _batch(
        self,
        picked: list[tuple[int, slice]],
        *,
        cells: Cells,
        coarse: Cells,
        rng: np.random.Generator,
        keep_depth: bool,
    ) -> EncoderBatch:
        cases = self.phantoms.cases
        pixels = vary_grey(np.stack([self.phantoms.voxels(cases[case])[part] for case, part in picked]), rng)
        labels, coarse_labels = (
            np.stack([cell_labels(self.phantoms.kept(case), part, size) for case, part in picked])
            for size in (cells, coarse)
        )
        return EncoderBatch(
            pixels=torch.from_numpy(pixels[:, None] if keep_depth else pixels),
            cells=torch.from_numpy(labels),
            coarse=torch.from_numpy(coarse_labels),
        )


def cell_labels(kept: Kept, part: slice, cells: Cells) -> NDArray[np.float32]:
    """What is true of each cell of a part of the slices -> (T, Y) 0/1: the words of its pieces, and its organ."""
    counts = count_labels(kept.labels[part], cells, values=NUM_VALUES)
    found = np.zeros((len(counts), len(SCHEME.cell_labels)), dtype=np.float32)
    for number, piece in enumerate(kept.truth.pieces, start=1):
        shown = counts[:, number] >= max(4, SHOWN_SHARE * counts[:, number].max())
        for word in piece.values.values():
            found[shown, WORDS.index(word)] = 1
    levels = np.repeat(np.arange(len(ORGANS)), SLICES_PER_LEVEL)[part]
    of_cell = levels.reshape(cells[0], -1).min(axis=1).repeat(cells[1] * cells[2])
    found[np.arange(len(found)), len(WORDS) + of_cell] = 1
    return found


def _half(tokens: NDArray[np.int64], piece: Piece) -> NDArray[np.int64]:
    """The columns in which a piece lies: masses on the right of the picture, what runs across slices on its left."""
    middle = tokens.shape[-1] // 2
    return tokens[..., middle:] if piece.kind == "mass" or not middle else tokens[..., :middle]
