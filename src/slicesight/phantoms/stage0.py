"""What does stage 0 learn from phantoms? Their questions, and what imagined scans of them would show.

The pictures of encoders are pretrain_encoders.py's; how both are taught is training/stage0's.
S visual tokens, W words.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slicesight.data.manifest import Conversation
from slicesight.phantoms.anatomy import ORGANS, PhantomTruth
from slicesight.phantoms.dataset import PhantomSet
from slicesight.phantoms.pretrain_encoders import SCHEME, slice_batches, volume_batches
from slicesight.phantoms.texts import conversation_rng, location_phrase, phantom_conversations
from slicesight.training.augmentation import Augmentation
from slicesight.training.stage0.labels import EncoderBatch, LabelScheme, LabelWords
from slicesight.training.stage0.sections import Cells, TokenGrids, pretrain

QUESTION_ORDER = (1, 2, 3, 3, 4, 4, 5, 5, 6, 7, 8, 8, 9, 9, 10, 10)  # plane and phase are learnt at once: fewer of them


class PhantomStage0:
    """A set of phantoms as a `Stage0Source`."""

    def __init__(self, phantoms: PhantomSet) -> None:
        self.phantoms = phantoms

    @property
    def scheme(self) -> LabelScheme:
        return SCHEME

    def slice_batches(
        self, *, size: int, cells: Cells, coarse: Cells, rng: np.random.Generator, augment: Augmentation
    ) -> Iterator[EncoderBatch]:
        assert not augment.changes_pixels, augment
        return slice_batches(self.phantoms, size=size, cells=cells, coarse=coarse, rng=rng)

    def volume_batches(
        self, *, size: int, cells: Cells, coarse: Cells, rng: np.random.Generator, augment: Augmentation
    ) -> Iterator[EncoderBatch]:
        assert not augment.changes_pixels, augment
        return volume_batches(self.phantoms, size=size, cells=cells, coarse=coarse, rng=rng)

    def draw(
        self, rng: np.random.Generator, count: int, *, report: bool
    ) -> Sequence[tuple[PhantomTruth, Conversation]]:
        return list(_draw(self.phantoms, rng, count, report=report))

    def imagine(
        self,
        scan: PhantomTruth,
        conversation: Conversation,
        words: LabelWords,
        grids: TokenGrids,
        rng: np.random.Generator,
    ) -> NDArray[np.float32]:
        return imagine(scan, conversation, words, (grids.num_deep, grids.num_flat), rng)


def pretrain_on_phantoms(phantoms: PhantomSet, *arguments: Any, **settings: Any) -> None:
    """Stage 0 on phantoms; arguments: `training.stage0.sections.pretrain`."""
    pretrain(PhantomStage0(phantoms), *arguments, **settings)


def sample_texts(phantoms: PhantomSet, *, count: int, seed: int) -> Iterator[str]:
    """Prompts and answers in the order the model reads them, for the tokenizer."""
    rng = np.random.default_rng([seed, 11])
    for report in (True, False):
        for _, conversation in _draw(phantoms, rng, count, report=report):
            yield f"{conversation.prompt} Answer: {conversation.target}"


def imagine(
    truth: PhantomTruth, conversation: Conversation, words: LabelWords, shape: tuple[int, int], rng: np.random.Generator
) -> NDArray[np.float32]:
    """How much of each word S imagined tokens hold -> (S, W).

    3D tokens show everything faintly; 2D tokens show what is asked, and the rest of the scan by accident.
    shape: visual tokens of the 3D branch and of the 2D branch.
    """
    num_3d, num_2d = shape
    bags = np.zeros((num_3d + num_2d, len(words)), dtype=np.float32)
    in_3d, in_2d = np.arange(num_3d), np.arange(num_3d, num_3d + num_2d)

    def add(near: NDArray[np.int64], strength: float, *names: str) -> None:
        for name in names:
            bags[near[:, None], words.of_label[name]] += strength

    for name in (truth.plane, truth.phase):
        bags[:, words.of_label[name]] += rng.uniform(0.2, 0.9)
    for organ in ORGANS:
        add(rng.permutation(in_3d)[:1], rng.uniform(0.1, 0.7), organ.name)
        if rng.random() < 0.4:
            add(rng.permutation(in_2d)[: rng.integers(1, 3)], rng.uniform(0.1, 0.8), organ.name)
    for finding in truth.findings:
        names = (finding.abnormality, location_phrase(finding.organ, finding.part))
        add(rng.permutation(in_3d)[:1], rng.uniform(0.0, 0.5), *names)
        if finding.abnormality in conversation.question or finding.organ in conversation.question:
            strength = rng.uniform(0.4, 1.4)
        elif conversation.task == "report":
            strength = rng.uniform(0.3, 1.0)
        else:
            strength = rng.uniform(0.0, 0.6) * (rng.random() < 0.6)
        add(rng.permutation(in_2d)[: rng.integers(1, 3)], strength, *names)
    return bags


def _draw(
    phantoms: PhantomSet, rng: np.random.Generator, count: int, *, report: bool
) -> Iterator[tuple[PhantomTruth, Conversation]]:
    """Questions about random scans, or the report of a fifth as many."""
    for case in rng.integers(len(phantoms), size=count // 5 if report else count):
        wording = conversation_rng(phantoms.seed, int(case), int(rng.integers(1, 2**31)))
        truth = phantoms.truths[case]
        pairs = phantom_conversations(truth, wording, num_slices=phantoms.num_source_slices[case])
        yield truth, pairs[0] if report else pairs[QUESTION_ORDER[rng.integers(len(QUESTION_ORDER))]]
