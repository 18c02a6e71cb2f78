"""Which pictures of phantoms do the encoders see in stage 0, and what is true of every cell of them?

Organs, abnormalities and named places of an abnormality lie in cells; the whole scan has a plane and a contrast phase.
S slices or volumes, T tokens (row-major cells), Y cell labels.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from slicesight.phantoms.anatomy import AORTA, LABEL_NAMES, ORGANS, PHASES
from slicesight.phantoms.dataset import PhantomSet
from slicesight.phantoms.texts import KINDS, LOCATIONS, location_phrase
from slicesight.training.stage0.encoders import FILLED_SHARE, count_labels, vary_grey
from slicesight.training.stage0.labels import EncoderBatch, LabelScheme
from slicesight.training.stage0.sections import Cells
from slicesight.volumes.volume import PLANES

ORGAN_LABELS = (*(organ.label for organ in ORGANS), AORTA)
PLACES = tuple(LOCATIONS)
SCHEME = LabelScheme(
    cells={"kind": KINDS, "place": PLACES, "organ": tuple(LABEL_NAMES[label] for label in ORGAN_LABELS)},
    wholes={"plane": tuple(PLANES), "phase": tuple(PHASES)},
    emphasised="kind",
)
LESION_SLICE_SHARE = 0.7
NUM_VALUES = 32


def slice_batches(
    phantoms: PhantomSet, *, size: int, cells: Cells, coarse: Cells, rng: np.random.Generator
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
        yield _batch(phantoms, picked, rng, cells=cells, coarse=coarse, keep_depth=False)


def volume_batches(
    phantoms: PhantomSet, *, size: int, cells: Cells, coarse: Cells, rng: np.random.Generator
) -> Iterator[EncoderBatch]:
    """Random whole volumes for ever."""
    while True:
        picked = [(int(case), slice(None)) for case in rng.choice(len(phantoms), size, replace=False)]
        yield _batch(phantoms, picked, rng, cells=cells, coarse=coarse, keep_depth=True)


def _batch(
    phantoms: PhantomSet,
    picked: list[tuple[int, slice]],
    rng: np.random.Generator,
    *,
    cells: Cells,
    coarse: Cells,
    keep_depth: bool,
) -> EncoderBatch:
    pixels = np.stack([phantoms.voxels[case, part] for case, part in picked]).astype(np.float32) / np.float32(255)
    pixels = vary_grey(pixels, rng)
    labels, coarse_labels = (
        np.stack([cell_labels(phantoms, case, part, size) for case, part in picked]) for size in (cells, coarse)
    )
    return EncoderBatch(
        pixels=torch.from_numpy(pixels[:, None] if keep_depth else pixels),
        cells=torch.from_numpy(labels),
        coarse=torch.from_numpy(coarse_labels),
        wholes={
            "plane": torch.tensor([PLANES.index(phantoms.truths[case].plane) for case, _ in picked]),
            "phase": torch.tensor([PHASES.index(phantoms.truths[case].phase) for case, _ in picked]),
        },
    )


def cell_labels(phantoms: PhantomSet, case: int, part: slice, cells: Cells) -> NDArray[np.float32]:
    """What lies in each cell -> (T, Y) 0/1: an organ that fills FILLED_SHARE of it, a good part of an abnormality.

    A good part: 4 pixels and 30 % of what the abnormality's fullest cell holds anywhere in the volume.
    """
    organs = count_labels(phantoms.organs[case, part], cells, values=NUM_VALUES)
    findings = count_labels(phantoms.findings[case, part], cells, values=NUM_VALUES)
    one_slice = part != slice(None)
    fullest = _fullest_cell(phantoms, case, (phantoms.findings.shape[1], *cells[1:]) if one_slice else cells)
    columns = np.zeros((len(organs), len(SCHEME.cell_labels)), dtype=np.float32)
    for number, finding in enumerate(phantoms.truths[case].findings, start=1):
        counts = findings[:, number]
        shown = counts >= max(4, 0.3 * fullest[number])
        columns[shown, KINDS.index(finding.abnormality)] = 1
        columns[shown, len(KINDS) + PLACES.index(location_phrase(finding.organ, finding.part))] = 1
    enough = FILLED_SHARE * organs[0].sum()
    columns[:, len(KINDS) + len(PLACES) :] = organs[:, ORGAN_LABELS] >= enough
    return columns


@functools.cache
def _fullest_cell(phantoms: PhantomSet, case: int, cells: Cells) -> NDArray[np.int64]:
    """For every finding number, the pixels in the cell that holds most of it -> (32,)."""
    return np.asarray(count_labels(phantoms.findings[case], cells, values=NUM_VALUES).max(axis=0))
