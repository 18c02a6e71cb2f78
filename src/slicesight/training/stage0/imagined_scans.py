"""What would the tokens of a labelled scan show, if its encoders were taught already? Questions with imagined tokens.

3D tokens show faintly what lies in their cells; 2D tokens show strongly what the question names, as slices chosen by it
would, and the rest by accident. S visual tokens, T cells, Y structures, W words.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from slicesight.data.manifest import Conversation
from slicesight.errors import InputError
from slicesight.training.augmentation import Augmentation
from slicesight.training.stage0.label_maps import Cells, LabelledScans, without_side
from slicesight.training.stage0.labels import EncoderBatch, LabelScheme, LabelWords
from slicesight.training.stage0.sections import TokenGrids

NOT_DRAWN_SHOWS = 0.5
"""How often a structure that nobody drew is imagined somewhere: real pictures may show it."""


class LabelMapStage0:
    """Labelled scans as a `Stage0Source`; a scan is its case's number."""

    def __init__(self, scans: LabelledScans) -> None:
        self.scans = scans
        self._shown: dict[tuple[int, Cells], NDArray[np.bool_]] = {}

    @property
    def scheme(self) -> LabelScheme:
        return self.scans.scheme

    def slice_batches(
        self, *, size: int, cells: Cells, coarse: Cells, rng: np.random.Generator, augment: Augmentation
    ) -> Iterator[EncoderBatch]:
        return self.scans.slice_batches(size=size, cells=cells, coarse=coarse, rng=rng, augment=augment)

    def volume_batches(
        self, *, size: int, cells: Cells, coarse: Cells, rng: np.random.Generator, augment: Augmentation
    ) -> Iterator[EncoderBatch]:
        return self.scans.volume_batches(size=size, cells=cells, coarse=coarse, rng=rng, augment=augment)

    def draw(self, rng: np.random.Generator, count: int, *, report: bool) -> Sequence[tuple[int, Conversation]]:
        """Any question about a random scan; reports of a fifth as many, where there are any."""
        asked = self._reports if report and self._reports else self._questions or self._reports
        if not asked:
            raise InputError("stage 0: pretrain_language needs conversations, but no case has any; leave it out")
        drawn = []
        for place in rng.integers(len(asked), size=max(1, count // 5) if asked is self._reports else count):
            case, conversations = asked[place]
            drawn.append((case, conversations[rng.integers(len(conversations))]))
        return drawn

    def imagine(
        self, scan: int, conversation: Conversation, words: LabelWords, grids: TokenGrids, rng: np.random.Generator
    ) -> NDArray[np.float32]:
        """How much of each word the tokens of an imagined scan hold -> (S, W)."""
        bags = np.zeros((grids.num_deep + grids.num_flat, len(words)), dtype=np.float32)
        truth = self.scans.truths[scan]
        for name, value in truth.facts.items():
            assert value in self.scheme.wholes[name]
            bags[:, words.of_label[value]] += rng.uniform(0.2, 0.9)
        places = {
            first: self._cells_of(scan, cells)
            for first, cells in ((0, grids.deep), (grids.num_deep, grids.flat))
            if cells is not None
        }
        asked = self.asked_about(conversation)
        for number, structure in enumerate(self.scheme.cell_labels):
            is_drawn = structure in truth.structures
            for first, shown in places.items():
                is_flat = first == grids.num_deep and grids.flat is not None
                if is_drawn:
                    cells = np.flatnonzero(shown[:, number])
                else:
                    cells = rng.integers(len(shown), size=int(rng.random() < NOT_DRAWN_SHOWS))
                if not len(cells):
                    continue
                strength = _strength(conversation, structure in asked, rng) if is_flat else rng.uniform(0.1, 0.7)
                some = cells[rng.random(len(cells)) < 0.7]
                near = some if len(some) else cells[:1]
                bags[first + near[:, None], words.of_label[structure]] += strength
        return bags

    def asked_about(self, conversation: Conversation) -> set[str]:
        """The structures that question or choices name, by name or synonym; "the left", "which parotid" count too."""
        prompt = " ".join(conversation.prompt.lower().split())
        return {structure for structure, pattern in self._patterns.items() if pattern(prompt)}

    @cached_property
    def _patterns(self) -> dict[str, _Named]:
        synonyms: dict[str, set[str]] = {name: set() for name in self.scheme.cell_labels}
        for truth in self.scans.truths:
            for name in synonyms.keys() & truth.synonyms.keys():
                synonyms[name].update(truth.synonyms[name])
        return {name: _Named(name, sorted(others)) for name, others in synonyms.items()}

    @cached_property
    def _reports(self) -> list[tuple[int, list[Conversation]]]:
        return self._asked(is_report=True)

    @cached_property
    def _questions(self) -> list[tuple[int, list[Conversation]]]:
        return self._asked(is_report=False)

    def _asked(self, *, is_report: bool) -> list[tuple[int, list[Conversation]]]:
        found = (
            (number, [c for c in case.conversations if (c.task == "report") == is_report])
            for number, case in enumerate(self.scans.cases)
        )
        return [(number, conversations) for number, conversations in found if conversations]

    def _cells_of(self, scan: int, cells: Cells) -> NDArray[np.bool_]:
        if (scan, cells) not in self._shown:
            self._shown[scan, cells] = self.scans.shown_in(scan, cells) > 0
        return self._shown[scan, cells]


class _Named:
    """Whether a prompt in lower case names a structure."""

    def __init__(self, structure: str, synonyms: Sequence[str]) -> None:
        self.full = _one_of((structure, *synonyms))
        base = without_side(structure)
        side = next((word for word in ("left", "right") if word in structure.lower().split()), None)
        self.base = None if side is None or base == structure else _one_of((base,))
        self.side = None if side is None else re.compile(rf"\b{side}\b")

    def __call__(self, prompt: str) -> bool:
        if self.full.search(prompt):
            return True
        if self.base is None or self.side is None or not self.base.search(prompt):
            return False
        return bool(self.side.search(prompt)) or not re.search(r"\b(?:left|right)\b", prompt)


def _one_of(names: Sequence[str]) -> re.Pattern[str]:
    return re.compile(r"\b(?:" + "|".join(re.escape(name.lower()) for name in names) + r")(?:s|es)?\b")


def _strength(conversation: Conversation, is_asked: bool, rng: np.random.Generator) -> float:
    """How strongly slices chosen by the question show a structure."""
    if is_asked:
        return float(rng.uniform(0.4, 1.4))
    if conversation.task == "report":
        return float(rng.uniform(0.3, 1.0))
    return float(rng.uniform(0.1, 0.8)) if rng.random() < 0.4 else 0.0
