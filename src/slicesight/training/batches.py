"""A volume with its questions is the unit of training: which volumes and which questions make the next step?

V volumes a step, B = V x (questions per volume) prompts. Texts are drawn anew every time a phantom comes up.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from slicesight.conversations.phantom_texts import conversation_rng, phantom_conversations
from slicesight.conversations.schema import Conversation
from slicesight.model import Med2E3Processor

from .phantom_set import PhantomSet
from .recipe import Stage


class PhantomQuestions(Dataset[dict[str, Any]]):
    """Item k: the voxels of one phantom and the questions asked of it this time; every pass asks others."""

    def __init__(self, phantoms: PhantomSet, stage: Stage, *, seed: int) -> None:
        self.phantoms, self.stage, self.seed = phantoms, stage, seed
        self.length = stage.steps * stage.volumes_per_step

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, item: int) -> dict[str, Any]:
        epoch, place = divmod(item, len(self.phantoms))
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.phantoms))
        case = int(order[place])
        conversations = self.draw(case, epoch)
        return {
            "voxels": self.phantoms.voxels[case],
            "conversations": conversations,
            "true_slices": [self.true_slices(case, conversation) for conversation in conversations],
        }

    def true_slices(self, case: int, conversation: Conversation) -> NDArray[np.bool_]:
        """Grid slices that show the abnormality a question is about -> (N,); none where it is about no single one."""
        findings = self.phantoms.findings[case]
        shown = np.zeros(findings.shape[0], dtype=bool)
        if conversation.topic in ("organ", "abnormality", "location"):
            for number, finding in enumerate(self.phantoms.truths[case].findings, start=1):
                if finding.abnormality in conversation.question or finding.organ in conversation.question:
                    pixels = np.count_nonzero(findings == number, axis=(1, 2))
                    shown |= pixels > 0.3 * pixels.max()
        return shown

    def draw(self, case: int, epoch: int) -> list[Conversation]:
        """The questions of one phantom in one pass."""
        rng = conversation_rng(self.phantoms.seed, case, 1 + epoch + 1000 * self.seed)
        drawn = phantom_conversations(self.phantoms.truths[case], rng, num_slices=self.phantoms.num_source_slices[case])
        wanted = [conversation for conversation in drawn if conversation.task in self.stage.tasks]
        count = self.stage.questions_per_volume
        if count is None or count >= len(wanted):
            return wanted
        return [wanted[i] for i in rng.permutation(len(wanted))[:count]]


class Collator:
    """Items -> the model's inputs; `see_volume=False` makes the blind baseline's."""

    def __init__(
        self,
        processor: Med2E3Processor,
        *,
        see_volume: bool = True,
        target: Callable[[Conversation], str] = operator.attrgetter("target"),
    ) -> None:
        self.processor, self.see_volume, self.target = processor, see_volume, target

    def __call__(self, items: list[dict[str, Any]]) -> dict[str, Tensor]:
        pairs = [(row, conversation) for row, item in enumerate(items) for conversation in item["conversations"]]
        questions = [conversation.prompt for _, conversation in pairs]
        answers = [self.target(conversation) for _, conversation in pairs]
        rows = [[row if self.see_volume else -1] for row, _ in pairs]
        volumes = torch.from_numpy(to_float(np.stack([item["voxels"] for item in items])))[:, None]
        batch = self.processor(
            questions, answers=answers, volumes=volumes if self.see_volume else None, volume_index=rows
        )
        if self.see_volume:
            batch["true_slices"] = torch.from_numpy(np.stack([true for item in items for true in item["true_slices"]]))
        return dict(batch) if self.see_volume else {k: v for k, v in batch.items() if k != "volume_index"}


def to_float(voxels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Stored uint8 voxels as the [0, 1] the model reads."""
    return voxels.astype(np.float32) / np.float32(255)
