"""How do items of a data set become one batch, each prompt with its own volumes? For a Trainer or a DataLoader.

B items of one prompt each, M volumes per prompt, V volumes in the batch; the library's default collator would leave
volume_index at 0 in every row, so that all prompts ask about the first volume.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import BatchFeature

from slicesight.errors import InputError
from slicesight.models.med2e3.loss import IGNORED
from slicesight.models.med2e3.processing import EncodedPrompt, Med2E3Processor

RAW_KEYS = ("question", "answer", "history", "volumes")
ENCODED_KEYS = (
    *("input_ids", "attention_mask", "question_mask", "labels"),
    *("volumes", "volume_index", "question_ids", "question_ids_mask"),
)


@dataclass(frozen=True)
class Med2E3Collator:
    """Makes a batch of items of one question each; `Trainer(data_collator=Med2E3Collator(processor))`.

    An item is a dict with `question`, and as it has them `answer`, `history` (earlier questions and answers) and
    `volumes` (a file, `Volume` or grid array, or a list of them); or what the processor made of one question, with or
    without the axis of one in front. A scan that several items share, as a file or as the same object, is encoded once.
    supervise: "last" answer only, or "all" answers of a conversation; of items that are not encoded yet.
    """

    processor: Med2E3Processor
    supervise: str = "last"

    def __call__(self, items: Sequence[Mapping[str, Any]]) -> BatchFeature:
        """The model's inputs.

        Raises:
            InputError: an item without a question, of several, or with a volume_index beyond its volumes; items of
                which some have an answer and others none.
        """
        if not items:
            raise InputError("there are no items; expected one question or more in a batch.")
        key = "input_ids" if "input_ids" in items[0] else "question"
        known = ENCODED_KEYS if key == "input_ids" else RAW_KEYS
        for number, item in enumerate(items):
            if key not in item or set(item) - set(known):
                raise InputError(
                    f"item {number} has the keys {sorted(item)}; expected {key!r} and others of {', '.join(known)}. A "
                    "Trainer leaves keys out that it does not know: set remove_unused_columns=False."
                )
        for optional in ("answer", "labels"):
            if 0 < sum(item.get(optional) is not None for item in items) < len(items):
                raise InputError(f"some items have {optional!r} and others none; give it in all or in none.")
        return self._join_encoded(items) if key == "input_ids" else self._encode(items)

    def _encode(self, items: Sequence[Mapping[str, Any]]) -> BatchFeature:
        volumes: dict[Any, Any] = {}
        index_BM = []
        for item in items:
            given = item.get("volumes")
            own = given if isinstance(given, list | tuple) else [] if given is None else [given]
            keys = [os.fspath(volume) if isinstance(volume, str | os.PathLike) else id(volume) for volume in own]
            volumes |= {key: volume for key, volume in zip(keys, own, strict=True) if key not in volumes}
            index_BM.append([list(volumes).index(key) for key in keys])
        return self.processor(
            [item["question"] for item in items],
            volumes=list(volumes.values()) or None,
            volume_index=index_BM,
            answers=None if items[0].get("answer") is None else [item["answer"] for item in items],
            history=[item.get("history") or () for item in items],
            supervise=self.supervise,
        )

    def _join_encoded(self, items: Sequence[Mapping[str, Any]]) -> BatchFeature:
        has_labels = items[0].get("labels") is not None
        rows, index_BM, volumes = [], [], []
        num_volumes = 0
        for number, item in enumerate(items):
            is_real = _row(item, "attention_mask", number).bool()
            ids, mask = (_row(item, name, number)[is_real] for name in ("input_ids", "question_mask"))
            labels = _row(item, "labels", number)[is_real] if has_labels else torch.full_like(ids, IGNORED)
            rows.append(EncodedPrompt(input_ids=ids.tolist(), question_mask=mask.tolist(), labels=labels.tolist()))
            own = torch.as_tensor([] if item.get("volumes") is None else item["volumes"])
            own = own[None] if own.ndim == 4 else own
            index_M = torch.as_tensor(item["volume_index"]).flatten()
            if int(index_M.max()) >= len(own):
                raise InputError(
                    f"item {number} asks about volume {int(index_M.max())} and holds {len(own)}; "
                    "an item's volume_index counts its own volumes from 0."
                )
            index_BM.append(torch.where(index_M < 0, -1, index_M + num_volumes))
            if len(own):
                volumes.append(own)
            num_volumes += len(own)
        data = self.processor.pad_prompts(rows, "right" if has_labels else "left")
        if not has_labels:
            del data["labels"]
        data["volume_index"] = pad_sequence(index_BM, batch_first=True, padding_value=-1)
        if volumes:
            data["volumes"] = torch.cat(volumes)
        for name in ("question_ids", "question_ids_mask") if "question_ids" in items[0] else ():
            padding = self.processor.question_padding if name == "question_ids" else 0
            texts = [_row(item, name, number) for number, item in enumerate(items)]
            data[name] = pad_sequence(texts, batch_first=True, padding_value=padding)
        return BatchFeature(data)


def _row(item: Mapping[str, Any], name: str, number: int) -> Tensor:
    """The one row of an item's tensor, with or without the axis of one in front."""
    if item.get(name) is None:
        raise InputError(f"item {number} has no {name!r}; take items from the model's own processor.")
    value = torch.as_tensor(item[name])
    if value.ndim == 2 and len(value) == 1:
        return value[0]
    if value.ndim != 1:
        raise InputError(f"item {number}: {name} has shape {tuple(value.shape)}; expected one question in an item.")
    return value
