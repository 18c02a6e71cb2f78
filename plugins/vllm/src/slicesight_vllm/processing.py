"""How does vLLM turn the items of a request into the model's arguments, and where do their places lie in the prompt?

The prompt comes with all its places written (inputs.py): each scan's S places are found, the first K * P of them are
the "volume" item's, the other L the "slices" item's. A scan's voxels are known to vLLM by their key, so that its caches
need not read them again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import torch
from transformers import BatchFeature
from vllm.config.multimodal import MultiModalDummyOptions
from vllm.inputs import MultiModalDataDict
from vllm.multimodal.inputs import MultiModalFieldConfig, MultiModalKwargsItems
from vllm.multimodal.parse import ModalityDataItems, MultiModalDataItems, MultiModalDataParser
from vllm.multimodal.processing import (
    BaseDummyInputsBuilder,
    BaseMultiModalProcessor,
    BaseProcessingInfo,
    PromptReplacement,
    PromptUpdate,
)
from vllm.multimodal.processing.processor import PlaceholderFeaturesInfo

from slicesight.errors import InputError
from slicesight.models.med2e3.configuration import Med2E3Config
from slicesight.models.med2e3.processing import Med2E3Processor
from slicesight_vllm.inputs import SLICES, VOLUME, InputMaker, ScanInput, SlicesInput, find_places

if TYPE_CHECKING:
    from vllm.config import ModelConfig

FIELDS = {
    VOLUME: ("volume_voxels", "volume_key"),
    SLICES: ("slices_voxels", "slices_key", "scores_key", "question_ids", "encoder_ids"),
}
KEPT_ON_CPU = {"volume_key", "slices_key", "scores_key"}
NO_IDS = -1
"""Stands alone where a question has no ids, since a field cannot be empty."""


def load_maker(model_config: ModelConfig) -> InputMaker:
    """What writes the inputs of the model that vLLM loads, with a processor of its own."""
    processor = Med2E3Processor.from_pretrained(model_config.model, revision=model_config.revision)
    return InputMaker(cast(Med2E3Config, model_config.hf_config), processor)


class ScanItems(ModalityDataItems[Sequence[Any], Any]):
    """Items of one request: `ScanInput`s, or `SlicesInput`s."""

    def get_count(self) -> int:
        return len(self.data)

    def get(self, index: int) -> Any:
        return self.data[index]

    def get_item_for_hash(self, index: int) -> object:
        """What the item is known by: for slices the question too, which vLLM's caches of encoder outputs go by."""
        return self.data[index].key

    def get_processor_data(self) -> Mapping[str, object]:
        return {self.modality: list(self.data)}

    def get_passthrough_data(self) -> Mapping[str, object]:
        return {}


class ScanParser(MultiModalDataParser):
    """Takes what `AskInput.for_engine` gives."""

    def _get_subparsers(self) -> Mapping[str, Any]:
        return {VOLUME: self._parse_volumes, SLICES: self._parse_slices}

    def _parse_volumes(self, data: Any) -> ScanItems | None:
        return self._parse(data, VOLUME, ScanInput)

    def _parse_slices(self, data: Any) -> ScanItems | None:
        return self._parse(data, SLICES, SlicesInput)

    @staticmethod
    def _parse(data: Any, modality: str, kind: type) -> ScanItems | None:
        if data is None:
            return None
        given = list(data) if isinstance(data, (list, tuple)) else [data]
        if not all(isinstance(one, kind) for one in given):
            raise InputError(
                f"multi_modal_data[{modality!r}] holds a {type(given[0]).__name__}; expected what "
                "slicesight_vllm.inputs.InputMaker.ask gives: a question's slices depend on its tokens."
            )
        return ScanItems(given, modality)


class Med2E3ProcessingInfo(BaseProcessingInfo):
    """What vLLM asks about the model's inputs."""

    def get_hf_config(self) -> Med2E3Config:
        return cast(Med2E3Config, self.ctx.get_hf_config(Med2E3Config))

    def get_hf_processor(self, **kwargs: object) -> Med2E3Processor:
        return self.maker.processor

    def get_data_parser(self) -> MultiModalDataParser:
        return ScanParser(expected_hidden_size=self._get_expected_hidden_size())

    def get_supported_mm_processor_kwargs(self) -> dict[str, set[str]]:
        """None: how a scan is put on the grid is the model's own."""
        return {}

    @cached_property
    def maker(self) -> InputMaker:
        """What writes this model's inputs."""
        return load_maker(self.ctx.model_config)

    def get_supported_mm_limits(self) -> Mapping[str, int | None]:
        tokens = self.maker.tokens
        return {name: None for name, size in ((VOLUME, tokens.num_3d), (SLICES, tokens.num_2d)) if size}

    def get_mm_max_tokens_per_item(self, seq_len: int, mm_counts: Mapping[str, int]) -> Mapping[str, int]:
        tokens = self.maker.tokens
        return {name: size for name, size in ((VOLUME, tokens.num_3d), (SLICES, tokens.num_2d)) if size}


class Med2E3DummyInputs(BaseDummyInputsBuilder[Med2E3ProcessingInfo]):
    """A black scan with a question of one token, with which vLLM measures what memory an item takes."""

    def get_dummy_text(self, mm_counts: Mapping[str, int]) -> str:
        return ""

    def get_dummy_mm_data(
        self, seq_len: int, mm_counts: Mapping[str, int], mm_options: MultiModalDummyOptions
    ) -> MultiModalDataDict:
        scan = ScanInput.of(torch.zeros(1, *self.info.get_hf_config().image_size))
        slices = SlicesInput(scan=scan, question_ids=(0,), encoder_ids=(0,))
        found = {VOLUME: [scan] * mm_counts.get(VOLUME, 0), SLICES: [slices] * mm_counts.get(SLICES, 0)}
        return cast(MultiModalDataDict, {name: items for name, items in found.items() if items})


class Med2E3MultiModalProcessor(BaseMultiModalProcessor[Med2E3ProcessingInfo]):
    """Items to tensors, and their places in the prompt."""

    def get_dummy_inputs(self, seq_len: int, mm_counts: Mapping[str, int], mm_options: MultiModalDummyOptions) -> Any:
        """As the library does, the prompt made of places alone."""
        inputs = super().get_dummy_inputs(seq_len, mm_counts, mm_options)
        tokens, placeholder = self.info.maker.tokens, self.info.get_hf_config().placeholder_token_id
        num_scans = max(mm_counts.values(), default=0)
        inputs.prompt = [placeholder] * ((tokens.num_3d + tokens.num_2d) * num_scans)
        return inputs

    def _apply_hf_processor_main(self, mm_items: MultiModalDataItems, hf_kwargs: Mapping[str, object]) -> BatchFeature:
        data: dict[str, list[torch.Tensor]] = {}
        if VOLUME in mm_items:
            scans = [cast(ScanInput, one) for one in mm_items[VOLUME].get_all()]
            data["volume_voxels"] = [scan.voxels for scan in scans]
            data["volume_key"] = [as_bytes(scan.key) for scan in scans]
        if SLICES in mm_items:
            slices = [cast(SlicesInput, one) for one in mm_items[SLICES].get_all()]
            data["slices_voxels"] = [one.scan.voxels for one in slices]
            data["slices_key"] = [as_bytes(one.scan.key) for one in slices]
            data["scores_key"] = [as_bytes(one.key) for one in slices]
            data["question_ids"] = [torch.tensor(one.question_ids or (NO_IDS,)) for one in slices]
            data["encoder_ids"] = [torch.tensor(one.encoder_ids or (NO_IDS,)) for one in slices]
        return BatchFeature(data)

    def _get_mm_fields_config(
        self, hf_inputs: BatchFeature, hf_processor_mm_kwargs: Mapping[str, object]
    ) -> Mapping[str, MultiModalFieldConfig]:
        return {
            name: MultiModalFieldConfig.batched(modality, keep_on_cpu=name in KEPT_ON_CPU)
            for modality, names in FIELDS.items()
            for name in names
        }

    def _get_prompt_updates(
        self,
        mm_items: MultiModalDataItems,
        hf_processor_mm_kwargs: Mapping[str, object],
        out_mm_kwargs: MultiModalKwargsItems,
    ) -> Sequence[PromptUpdate]:
        tokens, placeholder = self.info.maker.tokens, self.info.get_hf_config().placeholder_token_id
        return [
            PromptReplacement(modality=name, target=[placeholder] * size, replacement=[placeholder] * size)
            for name, size in ((VOLUME, tokens.num_3d), (SLICES, tokens.num_2d))
            if size
        ]

    def _apply_prompt_updates(
        self, token_ids: list[int], mm_prompt_updates: Any
    ) -> tuple[list[int], Mapping[str, list[PlaceholderFeaturesInfo]]]:
        """The prompt as it is, and which of its places are whose.

        Raises:
            InputError: the prompt's places are not those of its scans.
        """
        tokens, placeholder = self.info.maker.tokens, self.info.get_hf_config().placeholder_token_id
        num_scans = max((len(items) for items in mm_prompt_updates.values()), default=0)
        size = tokens.num_3d + tokens.num_2d
        starts = find_places(token_ids, placeholder, size, num_scans)
        found: dict[str, list[PlaceholderFeaturesInfo]] = {}
        for modality, offset, length in ((VOLUME, 0, tokens.num_3d), (SLICES, tokens.num_3d, tokens.num_2d)):
            if length and num_scans:
                found[modality] = [
                    PlaceholderFeaturesInfo(
                        modality=modality,
                        item_idx=number,
                        start_idx=start + offset,
                        tokens=[placeholder] * length,
                        is_embed=None,
                    )
                    for number, start in enumerate(starts)
                ]
        return token_ids, found


def as_bytes(key: str) -> torch.Tensor:
    """A key in hex as a tensor of its bytes, which is what vLLM passes on."""
    return torch.tensor(list(bytes.fromhex(key)), dtype=torch.uint8)


def as_key(written: torch.Tensor) -> str:
    """The key in hex again."""
    return bytes(written.tolist()).hex()
