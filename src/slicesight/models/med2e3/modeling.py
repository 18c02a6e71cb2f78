"""How does Med-2E3 answer a question about a volume? embed -> encode -> score slices -> merge -> language model.

B prompts of T tokens, M volumes per prompt, V volumes of N slices H x W, K depth bins of P 3D tokens, L 2D tokens per
slice, S = K * P + L visual tokens per volume, D language-model width. A volume is encoded once, however many prompts
ask about it: volume_index (B, M) points into the V volumes, -1 (only after the given ones) is none. The whole way from
a prompt to the loss stands in this one file, to be read from top to bottom; what the library asks of a model besides is
in pretrained.py and generation.py.
"""

from __future__ import annotations

import inspect
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
)
from transformers import initialization as init
from transformers.models.auto import modeling_auto
from transformers.utils.generic import can_return_tuple

from slicesight.errors import ModelError
from slicesight.models.arguments import check_tensor
from slicesight.models.encoders3d.networks import Vision3D
from slicesight.models.med2e3 import slice_scoring
from slicesight.models.med2e3.configuration import Med2E3Config
from slicesight.models.med2e3.generation import Med2E3GenerationMixin
from slicesight.models.med2e3.loss import find_supervised, next_token_loss
from slicesight.models.med2e3.matching import (
    check_volumes,
    count_visual_tokens,
    place_visual_tokens,
    resolve_volume_index,
)
from slicesight.models.med2e3.packed import pack
from slicesight.models.med2e3.planes import PlaneEmbedding, cut_planes
from slicesight.models.med2e3.pretrained import Med2E3ImageFeatures, Med2E3Output, Med2E3PreTrainedModel
from slicesight.models.med2e3.slice_scorer import Question, SliceScorer, VolumeFeatures, is_frozen
from slicesight.models.med2e3.vision2d import Vision2D, measure_slice_tokens

PART_NAMES = ("vision3d", "projector_3d", "vision2d", "projector_2d", "plane_embedding", "scorer", "language_model")


class Projector(nn.Sequential):
    """The MLP of each branch (eq. 2, 3), applied to every token on its own: (..., input_size) -> (..., output_size)."""

    def __init__(self, input_size: int, output_size: int) -> None:
        super().__init__(nn.Linear(input_size, output_size), nn.GELU(), nn.Linear(output_size, output_size))


class Med2E3ForConditionalGeneration(Med2E3PreTrainedModel, Med2E3GenerationMixin):
    """Med-2E3: two encoders of one volume, slices weighted by the question, a language model."""

    def __init__(self, config: Med2E3Config) -> None:
        super().__init__(config)
        self.num_visual_tokens = count_visual_tokens(config)
        width = config.text_width
        self.language_model = AutoModelForCausalLM.from_config(config.text_config)
        self.vision3d = Vision3D(config.vision3d_config) if config.needs_3d else None
        self.projector_3d = Projector(config.vision3d_config.hidden_size, width) if config.needs_3d else None
        self.vision2d = self.projector_2d = None
        if config.needs_2d:
            self.vision2d = Vision2D(
                config.vision2d_config,
                feature=config.vision2d_feature,
                pool=config.slice_pool,
                mean=config.slice_mean,
                std=config.slice_std,
            )
            self.projector_2d = Projector(measure_slice_tokens(config)[1], width)
        has_planes = config.needs_2d and config.planes is not None
        self.plane_embedding = PlaneEmbedding(len(config.planes), config.num_slices, width) if has_planes else None
        self.scorer = SliceScorer(config) if config.needs_2d else None
        cast(Any, self).post_init()
        present = {type(module).__name__ for module in self.modules()}
        # the parts' classes also name layers that only their other models have
        self._no_split_modules = set(self._no_split_modules or ()) & present

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        cast(Any, super())._init_weights(module)
        if isinstance(module, Projector):
            for layer in module:
                if isinstance(layer, nn.Linear):  # keeps the tokens' size whatever the widths
                    init.normal_(layer.weight, std=layer.in_features**-0.5)
        elif isinstance(module, SliceScorer):
            module.reset_parameters()
        elif isinstance(module, PlaneEmbedding):
            module.reset_parameters(self.config.initializer_range)

    @property
    def parts(self) -> dict[str, nn.Module]:
        """The parts a stage may freeze or train, by name; those the configuration leaves out are absent."""
        parts = {name: getattr(self, name) for name in PART_NAMES}
        parts["text_encoder"] = None if self.scorer is None else self.scorer.text_encoder
        return {name: part for name, part in parts.items() if part is not None}

    def get_input_embeddings(self) -> Any:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language_model.set_input_embeddings(value)

    def get_output_embeddings(self) -> Any:
        return self.language_model.get_output_embeddings()

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        self.language_model.set_output_embeddings(new_embeddings)

    def get_decoder(self) -> Any:
        return self.language_model.get_decoder()

    def train(self, mode: bool = True) -> Med2E3ForConditionalGeneration:
        """As usual, but a part all of whose parameters are frozen stays in evaluation mode (no dropout), and batch norm
        always keeps its running statistics, so that training and inference see the same network."""
        super().train(mode)
        for part in self.parts.values():
            if mode and any(True for _ in part.parameters()) and is_frozen(part):
                part.eval()
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    @can_return_tuple  # type: ignore[untyped-decorator]
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        shift_labels: Tensor | None = None,
        volumes: Tensor | None = None,
        volume_features: VolumeFeatures | None = None,
        volume_index: Tensor | None = None,
        question_mask: Tensor | None = None,
        question_ids: Tensor | None = None,
        question_ids_mask: Tensor | None = None,
        packed_places: Tensor | None = None,
        packed_parts: Tensor | None = None,
        features_3d: Tensor | None = None,
        features_2d: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> Med2E3Output:
        """Answer B prompts about V volumes.

        Args:
            volumes: (V, 1, N, H, W) in [0, 1]; or volume_features of an earlier `encode_volumes`.
            volume_index: (B, M) int64; by default one volume for all prompts or one each.
            question_mask: (B, T) bool, the bare question's tokens; needed when the scores read the question.
            question_ids, question_ids_mask: (B, Q) the same question for a text encoder.
            labels: (B, T), -100 is not supervised. In training the logits hold only the positions that are.
            shift_labels: the same, each at the position before its token, in place of labels.
            packed_places, packed_parts: (R, U) rows in which prompts share their beginning (packed.py); the logits then
                are the rows', the slice scores the prompts'.
            features_3d, features_2d: the encoders' outputs (V, K, P, C) and (V, N, L, C), where they ran before.
        """
        slice_scores = None
        if volume_features is None and any(given is not None for given in (volumes, features_3d, features_2d)):
            volume_features = self.encode_volumes(volumes, features_3d=features_3d, features_2d=features_2d)
            if input_ids is not None:
                volume_index = resolve_volume_index(
                    volume_index, volume_features, num_prompts=len(input_ids), all_asked=True
                )
        if inputs_embeds is None:
            input_ids = check_tensor(input_ids, "input_ids", ndim=2)
            if volume_features is not None:
                inputs_embeds, slice_scores = self.embed_prompts(
                    input_ids,
                    volume_features=volume_features,
                    volume_index=volume_index,
                    question_mask=question_mask,
                    question_ids=question_ids,
                    question_ids_mask=question_ids_mask,
                )
            else:
                inputs_embeds = self.embed_tokens(input_ids)
                is_first = past_key_values is None or past_key_values.get_seq_length() == 0
                if is_first and not torch.compiler.is_compiling() and bool(self.is_placeholder(input_ids).any()):
                    raise ModelError("the prompt has a place for a volume but no volumes were given; pass volumes=.")
        is_shifted = shift_labels is not None
        labels = shift_labels if is_shifted else labels
        if packed_places is not None and packed_parts is not None:
            if is_shifted:
                raise ModelError("packed prompts take labels, which are shifted behind the packing; no shift_labels.")
            if not self.takes_position_ids:
                raise ModelError(
                    f"packing restarts positions, which {type(self.language_model).__name__} does not take."
                )
            packed = pack(self.language_model, inputs_embeds, labels, packed_places, packed_parts)
            inputs_embeds, labels = packed["inputs_embeds"], packed["labels"]
            attention_mask, position_ids = packed["attention_mask"], packed["position_ids"]
        if position_ids is None and attention_mask is not None and attention_mask.ndim == 2 and past_key_values is None:
            position_ids = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)
        if position_ids is not None and self.takes_position_ids:
            kwargs["position_ids"] = position_ids
        wants_all = isinstance(logits_to_keep, int) and logits_to_keep == 0
        if labels is not None and self.training and wants_all and not torch.compiler.is_compiling():
            logits_to_keep = find_supervised(labels, is_shifted=is_shifted)
        outputs = self.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            logits_to_keep=logits_to_keep,
            **{name: value for name, value in kwargs.items() if name != "num_items_in_batch"},
        )
        loss = None
        if labels is not None:
            loss = next_token_loss(
                outputs.logits,
                labels,
                logits_to_keep,
                num_items_in_batch=kwargs.get("num_items_in_batch"),
                is_shifted=is_shifted,
            )
        return Med2E3Output(
            loss=loss,
            logits=outputs.logits,
            past_key_values=outputs.get("past_key_values"),
            hidden_states=outputs.get("hidden_states"),
            attentions=outputs.get("attentions"),
            slice_scores=slice_scores,
        )

    def embed_prompts(
        self, input_ids: Tensor, *, volume_features: VolumeFeatures, **inputs: Any
    ) -> tuple[Tensor, Tensor | None]:
        """What the language model is shown: text and visual tokens in place (B, T, D), and the slice scores (B, M, N).

        Takes the processor's whole output: what is not needed here is ignored.
        """
        index_BM, question = self.read_prompts(input_ids, volume_features, **inputs)
        visual_BMSD, slice_scores = self.compose_visual_tokens(volume_features, index_BM, question)
        assert question.embeds is not None
        return self.merge(input_ids, question.embeds, visual_BMSD, index_BM), slice_scores

    def score_slices(self, volume_features: VolumeFeatures, *, input_ids: Tensor, **inputs: Any) -> Tensor | None:
        """Slice scores (B, M, N) without running the language model; None where no 2D slices are aggregated.

        Takes the processor's whole output: what scoring does not need is ignored.
        """
        if self.scorer is None:
            return None
        return self.scorer.score(volume_features, *self.read_prompts(input_ids, volume_features, **inputs))

    def read_prompts(
        self,
        input_ids: Tensor,
        features: VolumeFeatures,
        *,
        volume_index: Tensor | None = None,
        question_mask: Tensor | None = None,
        question_ids: Tensor | None = None,
        question_ids_mask: Tensor | None = None,
        **_: Any,
    ) -> tuple[Tensor, Question]:
        """Which volumes each prompt asks about (B, M), and the question as the scores may need it.

        Raises:
            ModelError: the mask is not the prompts'.
        """
        if question_mask is not None and question_mask.shape != input_ids.shape:
            raise ModelError(
                f"question_mask has shape {tuple(question_mask.shape)} and input_ids {tuple(input_ids.shape)}; "
                "expected a mark for every token: pad both alike."
            )
        question = Question(
            input_ids=input_ids,
            mask=question_mask,
            embeds=self.embed_tokens(input_ids),
            encoder_ids=question_ids,
            encoder_mask=question_ids_mask,
        )
        return resolve_volume_index(volume_index, features, num_prompts=len(input_ids)), question

    def encode_volumes(
        self, volumes: Tensor | None, *, features_3d: Tensor | None = None, features_2d: Tensor | None = None
    ) -> VolumeFeatures:
        """Encode and project V volumes (V, 1, N, H, W), once for all their prompts (eq. 2 and 3).

        features_3d, features_2d: what the encoders gave before; their encoder then does not run, and without any left
        to run the volumes may be None.
        """
        tokens_3d_VKPD = tokens_2d_VNLD = None
        if self.vision3d is not None:
            features_VKPC = self.encode_3d(volumes) if features_3d is None else features_3d
            assert self.projector_3d is not None
            tokens_3d_VKPD = self.projector_3d(features_VKPC)
        if self.vision2d is not None:
            assert self.projector_2d is not None
            features_VNLC = self.encode_2d(volumes) if features_2d is None else features_2d
            tokens_2d_VNLD = self.projector_2d(features_VNLC.flatten(0, 1)).unflatten(0, features_VNLC.shape[:2])
            if self.plane_embedding is not None:
                tokens_2d_VNLD = self.plane_embedding(tokens_2d_VNLD)
        return VolumeFeatures(tokens_3d_VKPD=tokens_3d_VKPD, tokens_2d_VNLD=tokens_2d_VNLD)

    @can_return_tuple  # type: ignore[untyped-decorator]
    def get_image_features(self, volumes: Tensor) -> Med2E3ImageFeatures:
        """What both encoders make of V volumes (V, 1, N, H, W), as the library's tools ask for it.

        What the language model is shown depends on the question too: give `features` to `forward` or `generate`.
        """
        features = self.encode_volumes(volumes)
        tokens_2d, tokens_3d = features.tokens_2d_VNLD, features.tokens_3d_VKPD
        tokens = [tokens.flatten(1, 2) for tokens in (tokens_3d, tokens_2d) if tokens is not None]
        return Med2E3ImageFeatures(
            last_hidden_state=tokens[-1], pooler_output=tuple(torch.cat(tokens, dim=1)), features=features
        )

    def encode_3d(self, volumes: Tensor | None) -> Tensor:
        """The 3D encoder's features (V, K, P, C) before projection; no graph is kept where the encoder is frozen."""
        assert self.vision3d is not None
        volumes = check_volumes(volumes, self.config)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not is_frozen(self.vision3d)):
            return cast(Tensor, self.vision3d(volumes))

    def encode_2d(self, volumes: Tensor | None) -> Tensor:
        """The 2D encoder's features (V, N, L, C) before projection, plane after plane where there are several."""
        assert self.vision2d is not None
        volumes = check_volumes(volumes, self.config)
        planes = self.config.planes
        slices_VNHW = volumes.squeeze(1) if planes is None else cut_planes(volumes, planes)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not is_frozen(self.vision2d)):
            features_SLC = self.vision2d(slices_VNHW.flatten(0, 1).unsqueeze(1))
        return cast(Tensor, features_SLC.unflatten(0, slices_VNHW.shape[:2]))

    def compose_visual_tokens(
        self, features: VolumeFeatures, volume_index: Tensor, question: Question
    ) -> tuple[Tensor, Tensor | None]:
        """The visual tokens z_I of every prompt's volumes (B, M, S, D), and their slice scores (B, M, N)."""
        slices_BMLD, scores_BMN = (None, None) if self.scorer is None else self.scorer(features, volume_index, question)
        tokens_3d_VKPD = features.tokens_3d_VKPD if "3d" in self.config.fusion.split("+") else None
        return slice_scoring.join_branches(tokens_3d_VKPD, slices_BMLD, volume_index), scores_BMN

    def embed_tokens(self, input_ids: Tensor) -> Tensor:
        """Token embeddings; placeholders, whose id may lie outside the vocabulary, are embedded as token 0 for now."""
        return cast(Tensor, self.get_input_embeddings()(input_ids.masked_fill(self.is_placeholder(input_ids), 0)))

    def is_placeholder(self, input_ids: Tensor) -> Tensor:
        return input_ids == self.config.placeholder_token_id

    def merge(self, input_ids: Tensor, inputs_embeds: Tensor, visual_BMSD: Tensor, volume_index: Tensor) -> Tensor:
        """Put each prompt's visual tokens where its placeholders stand, in order.

        Raises:
            ModelError: a prompt's placeholders are not S per volume; going on would mix text and visual embeddings.
        """
        is_placeholder = self.is_placeholder(input_ids)
        if not torch.compiler.is_compiling():
            found = is_placeholder.sum(-1)
            expected = (volume_index >= 0).sum(-1) * visual_BMSD.shape[2]
            if not torch.equal(found, expected):
                row = int((found != expected).nonzero()[0])
                raise ModelError(
                    f"prompt {row} holds {int(found[row])} placeholder tokens for {int(expected[row])} visual tokens "
                    f"({visual_BMSD.shape[2]} per volume); make the prompt with this model's own processor."
                )
        return place_visual_tokens(inputs_embeds, is_placeholder, visual_BMSD.flatten(1, 2))

    @property
    def takes_position_ids(self) -> bool:
        """Whether the language model takes position_ids."""
        return "position_ids" in inspect.signature(self.language_model.forward).parameters


for _auto_class in (AutoModel, AutoModelForImageTextToText, AutoModelForMultimodalLM):
    _auto_class.register(Med2E3Config, Med2E3ForConditionalGeneration)
for _table in ("MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES", "MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES"):
    # the pipelines look for a model's name here, and log an error about a working one that is registered alone
    getattr(modeling_auto, _table, {}).setdefault(Med2E3Config.model_type, Med2E3ForConditionalGeneration.__name__)
