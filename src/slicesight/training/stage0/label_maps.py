"""What does stage 0 learn from prepared scans with label maps? Pictures with what their cells show, and questions.

Structures that were not drawn in a scan, and slices in which nobody knows, give no loss. Slices are drawn so that rare
structures come up as often as common ones; some are drawn at random, so that the encoder sees what is not there.
C cases, N slices, H rows, W columns, T tokens (row-major cells), Y structures.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from slicesight.data.dataset import PreparedDataset
from slicesight.data.label_grids import MaskTruth, mask_truth, read_label_grids
from slicesight.data.manifest import Case
from slicesight.errors import InputError
from slicesight.training.augmentation import Augmentation, draw_change, move
from slicesight.training.stage0.encoders import FILLED_SHARE, count_labels, vary_grey
from slicesight.training.stage0.labels import UNKNOWN, EncoderBatch, LabelScheme

Cells = tuple[int, int, int]
RANDOM_SHARE = 0.2
MOST_GROUPS = 12
LEAST_PIXELS = 4
PART_OF_FULLEST = 0.3
SIDES = re.compile(r"^(?:left|right)\s+|\s+(?:left|right)$", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelledScans:
    """Prepared scans and their label maps on one grid, in memory.

    voxels, labels: (C, N, H, W) uint8, 255 is white, 1 + the number of a structure of the scheme. known: (C, N, Y).
    wholes: (C,) class indices of every group of facts.
    """

    cases: Sequence[Case]
    truths: Sequence[MaskTruth]
    scheme: LabelScheme
    voxels: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    known: NDArray[np.bool_]
    wholes: dict[str, NDArray[np.int64]]

    def __len__(self) -> int:
        return len(self.cases)

    @cached_property
    def seen_in(self) -> list[NDArray[np.int64]]:
        """For every structure that is seen anywhere, the places (case · N + slice) that show a good part of it."""
        num_structures = len(self.scheme.cell_labels)
        pixels = np.stack([_pixels_by_slice(labels, num_structures) for labels in self.labels])
        enough = np.maximum(LEAST_PIXELS, PART_OF_FULLEST * pixels.max(axis=1, keepdims=True))
        enough = np.minimum(enough, np.maximum(pixels.max(axis=1, keepdims=True), 1))
        shown = (pixels >= enough) & self.known
        places = [np.flatnonzero(shown[..., number]) for number in range(num_structures)]
        return [each for each in places if len(each)]

    @cached_property
    def cases_by_fact(self) -> list[list[NDArray[np.int64]]]:
        """The cases of every value of every fact that has several values."""
        groups = []
        for indices in self.wholes.values():
            found = [np.flatnonzero(indices == value) for value in range(indices.max(initial=0) + 1)]
            if sum(map(bool, map(len, found))) > 1:
                groups.append([cases for cases in found if len(cases)])
        return groups

    def slice_batches(
        self, *, size: int, cells: Cells, coarse: Cells, rng: np.random.Generator, augment: Augmentation
    ) -> Iterator[EncoderBatch]:
        """Single slices for ever: a structure drawn evenly and a slice that shows it, or any slice."""
        num_slices = self.voxels.shape[1]
        while True:
            picked = []
            for _ in range(size):
                if self.seen_in and rng.random() >= RANDOM_SHARE:
                    places = self.seen_in[rng.integers(len(self.seen_in))]
                    case, place = divmod(int(places[rng.integers(len(places))]), num_slices)
                else:
                    case, place = self.draw_case(rng), int(rng.integers(num_slices))
                picked.append((case, slice(place, place + 1)))
            yield self._batch(picked, rng, cells=cells, coarse=coarse, keep_depth=False, augment=augment)

    def volume_batches(
        self, *, size: int, cells: Cells, coarse: Cells, rng: np.random.Generator, augment: Augmentation
    ) -> Iterator[EncoderBatch]:
        """Whole volumes for ever."""
        while True:
            picked = [(self.draw_case(rng), slice(None)) for _ in range(size)]
            yield self._batch(picked, rng, cells=cells, coarse=coarse, keep_depth=True, augment=augment)

    def draw_case(self, rng: np.random.Generator) -> int:
        """Any case; where scans differ in facts, every other time one of an evenly drawn fact."""
        if self.cases_by_fact and rng.random() < 0.5:
            groups = self.cases_by_fact[rng.integers(len(self.cases_by_fact))]
            cases = groups[rng.integers(len(groups))]
            return int(cases[rng.integers(len(cases))])
        return int(rng.integers(len(self)))

    def shown_in(self, case: int, cells: Cells) -> NDArray[np.float32]:
        """What lies in each cell of a case's whole volume -> (T, Y) 0/1; depth 1: what any slice shows there."""
        if cells[0] > 1:
            return cell_labels(self.labels[case], cells, len(self.scheme.cell_labels), self._fullest(case, cells))
        every = (self.labels.shape[1], *cells[1:])
        by_slice = cell_labels(self.labels[case], every, len(self.scheme.cell_labels), self._fullest(case, every))
        shown: NDArray[np.float32] = by_slice.reshape(every[0], -1, by_slice.shape[-1]).max(axis=0)
        return shown

    def _batch(
        self,
        picked: Sequence[tuple[int, slice]],
        rng: np.random.Generator,
        *,
        cells: Cells,
        coarse: Cells,
        keep_depth: bool,
        augment: Augmentation,
    ) -> EncoderBatch:
        pixels = np.stack([self.voxels[case, part] for case, part in picked]).astype(np.float32) / np.float32(255)
        labels = np.stack([self.labels[case, part] for case, part in picked])
        pixels = vary_grey(pixels, rng)
        if augment.changes_pixels:
            for number in range(len(picked)):
                pixels[number], labels[number] = _changed(pixels[number], labels[number], augment, rng)
        found = []
        for size in (cells, coarse):
            shown, known = [], []
            for (case, part), label_map in zip(picked, labels, strict=True):
                fullest = self._fullest(case, size if keep_depth else (self.labels.shape[1], *size[1:]))
                shown.append(cell_labels(label_map, size, len(self.scheme.cell_labels), fullest))
                known.append(known_cells(self.known[case, part], size) | (shown[-1] > 0))
            found.append((torch.from_numpy(np.stack(shown)), torch.from_numpy(np.stack(known).astype(np.float32))))
        case_numbers = [case for case, _ in picked]
        return EncoderBatch(
            pixels=torch.from_numpy(pixels[:, None] if keep_depth else pixels),
            cells=found[0][0],
            coarse=found[1][0],
            wholes={name: torch.from_numpy(indices[case_numbers]) for name, indices in self.wholes.items()},
            known=found[0][1],
            coarse_known=found[1][1],
        )

    def _fullest(self, case: int, cells: Cells) -> NDArray[np.int64]:
        return _fullest_cells(self, case, cells)


def cell_labels(
    labels_NHW: NDArray[np.uint8], cells: Cells, num_structures: int, fullest_Y: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Which structures lie in each cell -> (T, Y) 0/1: those that fill FILLED_SHARE of it, and small ones' good parts.

    fullest_Y: pixels of each structure in the cell that holds most of it; PART_OF_FULLEST of them are a good part.
    """
    counts = count_labels(labels_NHW, cells, values=num_structures + 1)
    enough = np.minimum(FILLED_SHARE * counts[0].sum(), np.maximum(2, PART_OF_FULLEST * fullest_Y))
    shown: NDArray[np.float32] = ((counts[:, 1:] >= enough) & (counts[:, 1:] > 0)).astype(np.float32)
    return shown


def known_cells(known_NY: NDArray[np.bool_], cells: Cells) -> NDArray[np.bool_]:
    """Whether the truth is known in all slices of each cell -> (T, Y)."""
    bins = np.arange(len(known_NY)) * cells[0] // len(known_NY)
    by_bin = np.stack([known_NY[bins == number].all(axis=0) for number in range(cells[0])])
    return by_bin.repeat(cells[1] * cells[2], axis=0)


def without_side(structure: str) -> str:
    """ "right parotid" -> "parotid"; other names stay."""
    return SIDES.sub("", structure)


def make_scheme(truths: Sequence[MaskTruth]) -> LabelScheme:
    """The structures that were drawn in any scan, both sides of one in a group, and the values of every fact.

    Above MOST_GROUPS all structures are reported as one group.
    """
    structures = sorted({name for truth in truths for name in truth.structures}, key=lambda n: (without_side(n), n))
    groups: dict[str, tuple[str, ...]] = {}
    for name in structures:
        group = without_side(name).replace(" ", "_")
        groups[group] = (*groups.get(group, ()), name)
    if len(groups) > MOST_GROUPS:
        groups = {"structures": tuple(structures)}
    facts = sorted({name for truth in truths for name in truth.facts})
    values = {name: tuple(sorted({t.facts[name] for t in truths if name in t.facts})) for name in facts}
    return LabelScheme(cells=groups, wholes=values)


def find_truths(dataset: PreparedDataset) -> list[tuple[Case, MaskTruth]]:
    """The cases that stage 0 can learn from, with what is said of their label maps.

    Raises:
        InputError: no case says which structures were drawn in it.
    """
    found = [(case, truth) for case in dataset.cases if (truth := mask_truth(case)) is not None]
    if not any(truth.structures and case.labels for case, truth in found):
        raise InputError(
            f"{dataset.prepared.folder}: stage 0 (pretrain_...) learns from label maps, but no case has labels and a "
            "truth that names its structures; prepare with --format masks, or start from init or parts instead"
        )
    return found


def read_labelled_scans(
    dataset: PreparedDataset, progress: Callable[[int, int], None] = lambda done, total: None
) -> LabelledScans:
    """Read every scan that has such truth, with its label map on its grid.

    Raises:
        InputError: there is none, or a label map is missing or lies on another grid.
    """
    cases, truths = zip(*find_truths(dataset), strict=True)
    scheme = make_scheme(truths)
    spec = dataset.own_spec
    shape = (len(cases), spec.num_slices, spec.height, spec.width)
    voxels, labels = np.zeros(shape, dtype=np.uint8), np.zeros(shape, dtype=np.uint8)
    known = np.zeros((*shape[:2], len(scheme.cell_labels)), dtype=bool)
    for done, (number, grid) in enumerate(read_label_grids(dataset.prepared, cases, scheme.cell_labels), start=1):
        stored = dataset.prepared.voxels(cases[number].id)
        voxels[number] = stored if stored.dtype == np.uint8 else np.rint(stored.astype(np.float32) * 255)
        labels[number], known[number] = grid.labels, grid.known
        progress(done, len(cases))
    wholes = {
        name: np.array([values.index(t.facts[name]) if name in t.facts else UNKNOWN for t in truths])
        for name, values in scheme.wholes.items()
    }
    return LabelledScans(
        cases=cases, truths=truths, scheme=scheme, voxels=voxels, labels=labels, known=known, wholes=wholes
    )


def _changed(
    pixels_NHW: NDArray[np.float32], labels_NHW: NDArray[np.uint8], augment: Augmentation, rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Picture and label map, moved alike."""
    change = draw_change(augment, rng)
    pixels = (move(pixels_NHW, change) - 0.5) * np.float32(change.contrast) + np.float32(0.5 + change.brightness)
    if change.noise:
        pixels = pixels + np.float32(change.noise) * rng.standard_normal(pixels.shape, np.float32)
    labels = move(labels_NHW.astype(np.float32), change, nearest=True)
    return np.clip(pixels, 0, 1), np.rint(labels).astype(np.uint8)


def _pixels_by_slice(labels_NHW: NDArray[np.uint8], num_structures: int) -> NDArray[np.int64]:
    """(N, Y)."""
    return count_labels(labels_NHW, (len(labels_NHW), 1, 1), values=num_structures + 1)[:, 1:]


@functools.cache
def _fullest_cells(scans: LabelledScans, case: int, cells: Cells) -> NDArray[np.int64]:
    """Pixels of every structure in the cell that holds most of it -> (Y,)."""
    counts = count_labels(scans.labels[case], cells, values=len(scans.scheme.cell_labels) + 1)
    return np.asarray(counts[:, 1:].max(axis=0))
