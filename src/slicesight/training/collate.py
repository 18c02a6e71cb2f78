"""How does a part of a step become the model's inputs? Every volume once, behind it all prompts that ask about it.

V volumes of N slices H x W, B prompts of T tokens, visual ones included; volume_index (B, 1) is the volume of each.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils import data as torch_data

from slicesight.data.dataset import Dataset
from slicesight.data.manifest import Conversation
from slicesight.models.med2e3 import Med2E3Processor
from slicesight.models.med2e3.processing import EncodedPrompt
from slicesight.training.augmentation import Augmentation, augment
from slicesight.training.feature_cache import TrainingFeatureCache
from slicesight.training.schedule import Schedule, Visit, split_step

AUGMENT_STREAM = 23


@dataclass(frozen=True, kw_only=True)
class PromptWriter:
    """Writes training prompts with the model's processor; target, see_volume, max_length: as the recipe's."""

    processor: Med2E3Processor
    target: Callable[[Conversation], str] = operator.attrgetter("target")
    see_volume: bool = True
    max_length: int | None = None

    def write(self, conversation: Conversation) -> EncodedPrompt:
        """One prompt with its answer, whole."""
        return self.processor.encode_prompt(
            conversation.prompt, answer=self.target(conversation), num_volumes=int(self.see_volume)
        )

    def cut(self, prompt: EncodedPrompt) -> tuple[EncodedPrompt, bool]:
        """The prompt within max_length, and whether anything was cut; its volume is never cut."""
        if self.max_length is None or len(prompt.input_ids) <= self.max_length:
            return prompt, False
        rows = ("input_ids", "question_mask", "labels")
        return replace(prompt, **{name: getattr(prompt, name)[: self.max_length] for name in rows}), True

    def measure(self, conversations: Sequence[Conversation]) -> list[int]:
        """Lengths in tokens after cutting."""
        return [len(self.cut(self.write(conversation))[0].input_ids) for conversation in conversations]


@dataclass(frozen=True, kw_only=True)
class Item:
    """One volume with what is asked of it in one part of a step.

    voxels_NHW: None where nothing looks at them. features: what frozen encoders gave, by the name of the model's
    argument. true_slices_QN: per question.
    """

    voxels_NHW: NDArray[np.float32] | None  # noqa: N815
    features: dict[str, Tensor]
    conversations: list[Conversation]
    prompts: list[EncodedPrompt]
    true_slices_QN: NDArray[np.bool_]  # noqa: N815
    num_cut: int


class StepParts(torch_data.Dataset[list[Item]]):
    """Item k is part k % num_parts of step k // num_parts."""

    def __init__(
        self,
        data: Dataset,
        schedule: Sequence[list[Visit]] | Schedule,
        writer: PromptWriter,
        *,
        seed: int,
        num_parts: int = 1,
        augmentation: Augmentation | None = None,
        caches: Sequence[TrainingFeatureCache] = (),
        needs_voxels: bool = True,
    ) -> None:
        self.data, self.schedule, self.writer, self.seed, self.num_parts = data, schedule, writer, seed, num_parts
        self.augmentation = augmentation or Augmentation()
        self.caches, self.needs_voxels = caches, needs_voxels and writer.see_volume

    def __len__(self) -> int:
        return len(self.schedule) * self.num_parts

    def __getitem__(self, number: int) -> list[Item]:
        step, part = divmod(number, self.num_parts)
        return [self.make_item(visit) for visit in split_step(self.schedule[step], self.num_parts)[part]]

    def make_item(self, visit: Visit) -> Item:
        """Read, draw, change and tokenise what one visit needs."""
        case = self.data.cases[visit.case]
        everything = self.data.conversations(case, visit.epoch)
        conversations = [everything[place] for place in visit.asked]
        true_slices_QN = np.stack([self.data.true_slices(case, conversation) for conversation in conversations])
        voxels_NHW = self.data.voxels(case) if self.needs_voxels else None
        if voxels_NHW is not None and self.augmentation.changes_pixels:
            rng = np.random.default_rng([self.seed, AUGMENT_STREAM, visit.epoch, visit.case])
            plane = self.data.plane(case)
            voxels_NHW, conversations = augment(voxels_NHW, conversations, self.augmentation, rng, plane=plane)
        cut = [self.writer.cut(self.writer.write(conversation)) for conversation in conversations]
        return Item(
            voxels_NHW=voxels_NHW,
            features={cache.argument: cache.read(self.data, visit.case) for cache in self.caches},
            conversations=conversations,
            prompts=[prompt for prompt, _ in cut],
            true_slices_QN=true_slices_QN,
            num_cut=sum(was_cut for _, was_cut in cut),
        )


def measure_visits(data: Dataset, writer: PromptWriter) -> Callable[[Visit], list[int]]:
    """A `Measure` for a schedule with a token budget; what is asked again in every pass is tokenised once."""
    known: dict[tuple[int, tuple[int, ...]], list[int]] = {}

    def measure(visit: Visit) -> list[int]:
        key = (visit.case, visit.asked)
        if data.asks_anew or key not in known:
            everything = data.conversations(data.cases[visit.case], visit.epoch)
            known[key] = writer.measure([everything[place] for place in visit.asked])
        return known[key]

    return measure


class Collator:
    """Items -> the model's inputs, with `true_slices` (B, N) and `num_cut`, which the trainer takes out again."""

    def __init__(self, writer: PromptWriter) -> None:
        self.writer = writer

    def __call__(self, parts: Sequence[Sequence[Item]]) -> dict[str, Tensor]:
        items = [item for part in parts for item in part]
        processor, see_volume = self.writer.processor, self.writer.see_volume
        batch: dict[str, Any] = processor.pad_prompts([prompt for item in items for prompt in item.prompts], "right")
        batch |= processor.encode_questions([asked.prompt for item in items for asked in item.conversations])
        batch["num_cut"] = torch.tensor(sum(item.num_cut for item in items))
        if not see_volume:
            return batch
        batch["volume_index"] = torch.tensor([[row] for row, item in enumerate(items) for _ in item.prompts])
        batch["true_slices"] = torch.from_numpy(np.concatenate([item.true_slices_QN for item in items]))
        voxels = [item.voxels_NHW for item in items if item.voxels_NHW is not None]
        if voxels:
            batch["volumes"] = torch.from_numpy(np.stack(voxels))[:, None]
        for name in items[0].features:
            batch[name] = torch.stack([item.features[name] for item in items])
        return batch
