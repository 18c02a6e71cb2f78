"""Med-2E3 as vLLM runs it: our encoders and scores, and a language model of vLLM's own.

    embed_multimodal: "volume" -> z_3D (K * P, D); "slices" -> z_2D (L, D), weighted for the item's question
    forward: embeddings -> vLLM's language model, by its own paged attention

The encoders, projectors and scores are the very modules and functions of the package's own model, so that both give the
same tokens; only what is kept between calls differs (scan_features.py). V scans, N slices, D width.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from vllm.config import VllmConfig
from vllm.model_executor.models.interfaces import (
    MultiModalEmbeddings,
    SupportsLoRA,
    SupportsMultiModal,
    SupportsPP,
)
from vllm.model_executor.models.module_mapping import MultiModelKeys
from vllm.model_executor.models.utils import AutoWeightsLoader, init_vllm_registered_model, maybe_prefix
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.sequence import IntermediateTensors

from slicesight.errors import ModelError
from slicesight.models.encoders3d.networks import Vision3D
from slicesight.models.med2e3.configuration import Med2E3Config
from slicesight.models.med2e3.modeling import Med2E3ForConditionalGeneration as PlainModel
from slicesight.models.med2e3.modeling import Projector
from slicesight.models.med2e3.planes import PlaneEmbedding
from slicesight.models.med2e3.slice_scorer import Question, SliceScorer, VolumeFeatures
from slicesight.models.med2e3.vision2d import Vision2D, measure_slice_tokens
from slicesight_vllm.adapters import LANGUAGE_MODEL, refuse_other_layers
from slicesight_vllm.inputs import SLICES, VOLUME
from slicesight_vllm.processing import (
    NO_IDS,
    Med2E3DummyInputs,
    Med2E3MultiModalProcessor,
    Med2E3ProcessingInfo,
    as_key,
)
from slicesight_vllm.scan_features import ScanFeatures, read_feature_bytes


@MULTIMODAL_REGISTRY.register_processor(
    Med2E3MultiModalProcessor, info=Med2E3ProcessingInfo, dummy_inputs=Med2E3DummyInputs
)
class Med2E3ForConditionalGeneration(nn.Module, SupportsMultiModal, SupportsLoRA, SupportsPP):
    """What `ModelRegistry` knows by the architecture of config.json."""

    embedding_modules: ClassVar[dict[str, str]] = {}

    encode_volumes = PlainModel.encode_volumes
    encode_3d = PlainModel.encode_3d
    encode_2d = PlainModel.encode_2d

    @classmethod
    def get_placeholder_str(cls, modality: str, i: int) -> str | None:
        """None: the renderer writes the prompt's tokens itself."""
        return None

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__()
        config = cast(Med2E3Config, vllm_config.model_config.hf_config)
        self.config = config
        text_config = config.text_config.get_text_config()
        self.configure_mm_token_handling(text_config.vocab_size, [config.placeholder_token_id])
        width = config.text_width
        self.vision3d = self.projector_3d = self.vision2d = self.projector_2d = None
        self.plane_embedding = self.scorer = None
        with self._mark_tower_model(vllm_config, {VOLUME, SLICES}):
            if config.needs_3d:
                self.vision3d = Vision3D(config.vision3d_config)
                self.projector_3d = Projector(config.vision3d_config.hidden_size, width)
            if config.needs_2d:
                self.vision2d = Vision2D(
                    config.vision2d_config,
                    feature=config.vision2d_feature,
                    pool=config.slice_pool,
                    mean=config.slice_mean,
                    std=config.slice_std,
                )
                self.projector_2d = Projector(measure_slice_tokens(config)[1], width)
                if config.planes is not None:
                    self.plane_embedding = PlaneEmbedding(len(config.planes), config.num_slices, width)
                self.scorer = SliceScorer(config)
        with self._mark_language_model(vllm_config):
            self.language_model = init_vllm_registered_model(
                vllm_config,
                hf_config=config.text_config,
                architectures=[name_architecture(text_config.model_type)],
                prefix=maybe_prefix(prefix, LANGUAGE_MODEL),
            )
        self.packed_modules_mapping = dict(getattr(self.language_model, "packed_modules_mapping", {}))
        # no adapters of embeddings: the slice scores read them outside of a batch, where vLLM's would fail
        self.language_model.embedding_modules = {}
        self.make_empty_intermediate_tensors = self.language_model.make_empty_intermediate_tensors
        self.dtype = vllm_config.model_config.dtype
        self.scan_features = ScanFeatures(max_bytes=read_feature_bytes())

    def get_mm_mapping(self) -> MultiModelKeys:
        """Which layers adapters stand beside: the language model's."""
        own = [name for name, _ in self.named_children() if name != LANGUAGE_MODEL]
        return MultiModelKeys.from_string_field(language_model=LANGUAGE_MODEL, tower_model=own)

    @property
    def lora_manager(self) -> Any:
        """vLLM's keeper of adapters, which names itself here."""
        return self._lora_manager

    @lora_manager.setter
    def lora_manager(self, manager: Any) -> None:
        """An adapter that it would add in part is refused before it does."""
        add = manager.add_adapter

        def add_whole(adapter: Any) -> Any:
            refuse_other_layers(adapter.loras)
            return add(adapter)

        manager.add_adapter = add_whole
        self._lora_manager = manager

    def embed_multimodal(self, **kwargs: object) -> MultiModalEmbeddings:
        """The visual tokens of a batch of items of one kind, a tensor each."""
        if "volume_key" in kwargs:
            return [self._embed_volume(*item) for item in rows(kwargs, "volume_voxels", "volume_key")]
        names = ("slices_voxels", "slices_key", "scores_key", "question_ids", "encoder_ids")
        return [self._embed_slices(*item) for item in rows(kwargs, *names)] if "slices_key" in kwargs else []

    def _embed_volume(self, voxels_1NHW: Tensor, key: Tensor) -> Tensor:
        tokens_3d = self.features(as_key(key), voxels_1NHW).tokens_3d_VKPD
        assert tokens_3d is not None
        return tokens_3d[0].flatten(0, 1)

    def _embed_slices(
        self, voxels_1NHW: Tensor, key: Tensor, scores_key: Tensor, question_ids: Tensor, encoder_ids: Tensor
    ) -> Tensor:
        return self.score(voxels_1NHW, as_key(key), as_key(scores_key), question_ids, encoder_ids)[0]

    def score(
        self, voxels_1NHW: Tensor, scan_key: str, scores_key: str, question_ids: Tensor, encoder_ids: Tensor
    ) -> tuple[Tensor, list[float]]:
        """z_2D (L, D) of a scan for a question, and the slice scores (N,) that made it, which are kept."""
        assert self.scorer is not None
        features = self.features(scan_key, voxels_1NHW)
        index_11 = torch.zeros(1, 1, dtype=torch.long, device=features.slices_VNLD.device)
        slices_11LD, scores_11N = self.scorer(features, index_11, self._question(question_ids, encoder_ids))
        scores = scores_11N[0, 0].double().cpu().tolist()
        self.scan_features.keep_scores(scores_key, scores)
        return slices_11LD[0, 0], scores

    def features(self, key: str, voxels_1NHW: Tensor) -> VolumeFeatures:
        """The scan's tokens, encoded if they are not kept."""

        def encode() -> VolumeFeatures:
            return self.encode_volumes(voxels_1NHW[None].to(self.dtype))

        return self.scan_features.get(key, encode)

    def _question(self, question_ids: Tensor, encoder_ids: Tensor) -> Question:
        """The question as the scores take it; only its own tokens, which is all they read of a prompt."""
        ids_1T = question_ids[question_ids != NO_IDS][None]
        encoder_1Q = encoder_ids[encoder_ids != NO_IDS][None]
        return Question(
            input_ids=ids_1T,
            mask=torch.ones_like(ids_1T, dtype=torch.bool),
            embeds=self.language_model.embed_input_ids(ids_1T[0])[None],
            encoder_ids=encoder_1Q if encoder_1Q.shape[1] else None,
            encoder_mask=torch.ones_like(encoder_1Q) if encoder_1Q.shape[1] else None,
        )

    def forward(
        self,
        input_ids: Tensor | None,
        positions: Tensor,
        intermediate_tensors: IntermediateTensors | None = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: object,
    ) -> Tensor | IntermediateTensors:
        """Hidden states of a batch's tokens, as vLLM's own language models give them."""
        if intermediate_tensors is not None:
            inputs_embeds = None
        return cast(
            "Tensor | IntermediateTensors",
            self.language_model.model(input_ids, positions, intermediate_tensors, inputs_embeds=inputs_embeds),
        )

    def compute_logits(self, hidden_states: Tensor) -> Tensor | None:
        """Logits, the placeholder's out of reach: it stands for no text and is never said."""
        logits = cast("Tensor | None", self.language_model.compute_logits(hidden_states))
        if logits is not None and self.config.placeholder_token_id < logits.shape[-1]:
            logits[..., self.config.placeholder_token_id] = -torch.inf
        return logits

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """The language model by vLLM's loader, the rest as it stands in the folder.

        Raises:
            ModelError: the folder lacks weights of the encoders, projectors or scores.
        """
        own: dict[str, Tensor] = {}

        def language() -> Iterable[tuple[str, Tensor]]:
            for name, tensor in weights:
                if name.startswith(f"{LANGUAGE_MODEL}."):
                    yield name, tensor
                else:
                    own[name] = tensor

        loaded = AutoWeightsLoader(self).load_weights(language())
        wanted = {name for name in self.state_dict() if not name.startswith(f"{LANGUAGE_MODEL}.")}
        if missing := sorted(wanted - set(own)):
            raise ModelError(
                f"the weights lack {missing[0]!r} and {len(missing) - 1} more that config.json asks for; copy the "
                "model's folder again."
            )
        self.load_state_dict({name: own[name] for name in wanted}, strict=False)
        own_parts = (
            self.vision3d,
            self.projector_3d,
            self.vision2d,
            self.projector_2d,
            self.plane_embedding,
            self.scorer,
        )
        for part in own_parts:
            if part is not None:
                part.to(self.dtype).eval()  # the library makes encoders in their configuration's dtype, not in vLLM's
        return loaded | wanted


def name_architecture(model_type: str) -> str:
    """The class that a language model's configuration stands for, by which vLLM knows its own.

    Raises:
        ModelError: it writes no text.
    """
    found = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(model_type)
    if found is None:
        raise ModelError(f"text_config is a {model_type}, which writes no text; expected a causal language model.")
    return cast(str, found)


def rows(kwargs: dict[str, Any], *names: str) -> list[tuple[Tensor, ...]]:
    """The fields of each item, from batched tensors or lists of them."""
    return list(zip(*(list(kwargs[name]) for name in names), strict=True))
