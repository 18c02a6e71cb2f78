"""How does Med-2E3 answer a question about a volume? embed -> encode -> score slices -> merge -> language model.

B prompts of T tokens, M volumes per prompt, V volumes of N slices H x W, K depth bins of P 3D tokens, L 2D tokens per
slice, S = K * P + L visual tokens per volume, D language-model width. A volume is encoded once, however many prompts
ask about it: volume_index (B, M) points into the V volumes, -1 (only after the given ones) is none.
"""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText, GenerationMixin, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils import ModelOutput

from slicesight.errors import ModelError
from slicesight.model import tgis
from slicesight.model.configuration import Med2E3Config
from slicesight.model.projector import Projector
from slicesight.model.vision2d import Vision2D, measure_slice_tokens
from slicesight.model.vision3d import Vision3D

VOLUME_INPUTS = ("volumes", "volume_features", "volume_index", "question_mask", "question_ids", "question_ids_mask")


@dataclass
class VolumeFeatures(ModelOutput):
    """What the model keeps of V volumes: 3D tokens (V, K, P, D) and 2D tokens (V, N, L, D), projected; None if unused."""

    tokens_3d_VKPD: Tensor | None = None
    tokens_2d_VNLD: Tensor | None = None


@dataclass
class Med2E3Output(CausalLMOutputWithPast):
    """slice_scores: (B, M, N) float32, each volume's sum to one; None where no 2D slices are aggregated."""

    slice_scores: Tensor | None = None


class Med2E3PreTrainedModel(PreTrainedModel):
    config: Med2E3Config
    config_class = Med2E3Config
    base_model_prefix = ""
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _skip_keys_device_placement = ["past_key_values"]
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True


class Med2E3ForConditionalGeneration(Med2E3PreTrainedModel, GenerationMixin):
    """Med-2E3: two encoders of one volume, slices weighted by the question, a language model."""

    def __init__(self, config: Med2E3Config) -> None:
        super().__init__(config)
        self.num_visual_tokens = count_visual_tokens(config)
        width = config.text_config.hidden_size
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
        scores_by_text = config.uses_scores and "text" in config.scoring_inputs
        has_text_encoder = scores_by_text and config.question_source == "text_encoder"
        self.text_encoder = AutoModel.from_config(config.text_encoder_config) if has_text_encoder else None
        self.question_projection = (
            nn.Linear(config.text_encoder_config.hidden_size, width) if has_text_encoder else None
        )
        self.slice_scorer = nn.Linear(width, 1) if config.uses_scores and not scores_by_text else None
        narrows = scores_by_text and config.score_dim is not None
        self.score_question = nn.Linear(width, config.score_dim, bias=False) if narrows else None
        self.score_slice = nn.Linear(width, config.score_dim, bias=False) if narrows else None
        learns_scale = config.uses_scores and config.learn_score_scale
        self.log_score_scale = nn.Parameter(torch.empty(())) if learns_scale else None
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, Projector):
            for layer in (module[0], module[2]):  # keeps the tokens' size whatever the widths
                init.normal_(layer.weight, std=layer.in_features**-0.5)
        if module is self:
            for layer in (self.score_question, self.score_slice):
                if layer is not None:
                    init.normal_(layer.weight, std=layer.in_features**-0.5)
            if self.log_score_scale is not None:
                init.constant_(self.log_score_scale, math.log(self.config.score_scale))

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language_model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.language_model.get_output_embeddings()

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        self.language_model.set_output_embeddings(new_embeddings)

    def get_decoder(self) -> nn.Module:
        return self.language_model.get_decoder()

    def train(self, mode: bool = True) -> Med2E3ForConditionalGeneration:
        """As usual, but a part whose parameters are all frozen stays in evaluation mode (no dropout, fixed statistics)."""
        super().train(mode)
        for part in self.children():
            if mode and is_frozen(part):
                part.eval()
        return self

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        volumes: Tensor | None = None,
        volume_features: VolumeFeatures | None = None,
        volume_index: Tensor | None = None,
        question_mask: Tensor | None = None,
        question_ids: Tensor | None = None,
        question_ids_mask: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> Med2E3Output:
        """Answer B prompts about V volumes.

        Args:
            volumes: (V, 1, N, H, W) in [0, 1]; or volume_features of an earlier `encode_volumes`.
            volume_index: (B, M) int64; by default one volume for all prompts or one each.
            question_mask: (B, T) bool, the bare question's tokens; needed when the scores read the question.
            question_ids, question_ids_mask: (B, Q) the same question for the text encoder (question_source text_encoder).
            labels: (B, T), -100 is not supervised. In training the logits hold only the positions that are.
        """
        slice_scores = None
        if volumes is not None and volume_features is None:
            volume_features = self.encode_volumes(volumes)
        if inputs_embeds is None:
            assert input_ids is not None
            inputs_embeds = self.embed_tokens(input_ids)
            if volume_features is not None:
                volume_index = resolve_volume_index(volume_index, volume_features, len(input_ids))
                visual_BMSD, slice_scores = self.see(
                    volume_features,
                    volume_index,
                    input_ids=input_ids,
                    question_mask=question_mask,
                    question_ids=question_ids,
                    question_ids_mask=question_ids_mask,
                    inputs_embeds=inputs_embeds,
                )
                inputs_embeds = self.merge(input_ids, inputs_embeds, visual_BMSD, volume_index)
            elif past_key_values is None or past_key_values.get_seq_length() == 0:
                self.refuse_unfilled(input_ids)
        if position_ids is None and attention_mask is not None and attention_mask.ndim == 2 and past_key_values is None:
            position_ids = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)
        if position_ids is not None and self.takes_position_ids:
            kwargs["position_ids"] = position_ids
        if labels is not None and self.training and isinstance(logits_to_keep, int) and logits_to_keep == 0:
            logits_to_keep = find_supervised(labels)
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
                outputs.logits, labels, logits_to_keep, num_items_in_batch=kwargs.get("num_items_in_batch")
            )
        return Med2E3Output(
            loss=loss,
            logits=outputs.logits,
            past_key_values=outputs.get("past_key_values"),
            hidden_states=outputs.get("hidden_states"),
            attentions=outputs.get("attentions"),
            slice_scores=slice_scores,
        )

    def encode_volumes(self, volumes: Tensor) -> VolumeFeatures:
        """Encode and project V volumes (V, 1, N, H, W), once for all their prompts (eq. 2 and 3)."""
        check_volumes(volumes, self.config)
        tokens_3d_VKPD = tokens_2d_VNLD = None
        if self.vision3d is not None:
            with torch.set_grad_enabled(torch.is_grad_enabled() and not is_frozen(self.vision3d)):
                features_VKPC = self.vision3d(volumes)
            tokens_3d_VKPD = self.projector_3d(features_VKPC)
        if self.vision2d is not None:
            with torch.set_grad_enabled(torch.is_grad_enabled() and not is_frozen(self.vision2d)):
                features_SLC = self.vision2d(volumes.transpose(1, 2).flatten(0, 1))
            tokens_2d_VNLD = self.projector_2d(features_SLC).unflatten(0, volumes.shape[:1] + volumes.shape[2:3])
        return VolumeFeatures(tokens_3d_VKPD=tokens_3d_VKPD, tokens_2d_VNLD=tokens_2d_VNLD)

    def see(
        self,
        features: VolumeFeatures,
        volume_index: Tensor,
        *,
        input_ids: Tensor | None = None,
        question_mask: Tensor | None = None,
        question_ids: Tensor | None = None,
        question_ids_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """The visual tokens z_I of every prompt's volumes (B, M, S, D), and their slice scores (B, M, N)."""
        tokens_2d_VNLD, aggregated_BMLD, scores_BMN = features.tokens_2d_VNLD, None, None
        if tokens_2d_VNLD is not None and self.config.aggregation == "max":
            aggregated_BMLD, scores_BMN = tgis.take_slice_maximum(tokens_2d_VNLD, volume_index)
        elif tokens_2d_VNLD is not None:
            question = (input_ids, question_mask, question_ids, question_ids_mask, inputs_embeds)
            scores_BMN = self.score(features, volume_index, *question)
            weights_BMN = F.dropout(scores_BMN, self.config.score_dropout, self.training)
            aggregated_BMLD = tgis.weigh_slices(weights_BMN, tokens_2d_VNLD, volume_index)
        tokens_3d_VKPD = features.tokens_3d_VKPD if "3d" in self.config.fusion.split("+") else None
        return tgis.join_branches(tokens_3d_VKPD, aggregated_BMLD, volume_index), scores_BMN

    def score(
        self,
        features: VolumeFeatures,
        volume_index: Tensor,
        input_ids: Tensor | None,
        question_mask: Tensor | None,
        question_ids: Tensor | None,
        question_ids_mask: Tensor | None,
        inputs_embeds: Tensor | None = None,
    ) -> Tensor:
        """Slice scores (B, M, N) by the configured aggregation, before any dropout; "max" has its own function."""
        config, num_slices = self.config, self.config.num_slices
        assert features.tokens_2d_VNLD is not None
        if config.aggregation == "mean":
            shape = (*volume_index.shape, num_slices)
            return tgis.normalise_scores(torch.zeros(shape, device=volume_index.device), volume_index)
        if config.aggregation == "random":
            asked = input_ids if question_mask is None else input_ids.masked_fill(~question_mask.bool(), -1)
            seed = None if self.training else config.random_seed
            return tgis.draw_random_scores(asked, volume_index, num_slices, seed=seed)
        slices_VND = tgis.describe_slices(
            features.tokens_3d_VKPD if "3d" in config.scoring_inputs else None,
            features.tokens_2d_VNLD if "2d" in config.scoring_inputs else None,
            num_slices=num_slices,
        )
        scale = config.score_scale if self.log_score_scale is None else self.log_score_scale.float().exp()
        if self.slice_scorer is not None:
            relevance_VN = self.slice_scorer(slices_VND.to(self.slice_scorer.weight.dtype)).squeeze(-1).float()
            return tgis.normalise_scores(relevance_VN[volume_index.clamp(min=0)], volume_index, scale=scale)
        question_BD = self.embed_question(input_ids, question_mask, question_ids, question_ids_mask, inputs_embeds)
        if self.score_question is not None:
            question_BD = self.score_question(question_BD.to(self.score_question.weight.dtype))
            slices_VND = self.score_slice(slices_VND.to(self.score_slice.weight.dtype))
        relevance_BMN = tgis.rate_slices(question_BD, slices_VND, volume_index, norm=config.score_norm)
        return tgis.normalise_scores(relevance_BMN, volume_index, scale=scale)

    def score_slices(
        self,
        volume_features: VolumeFeatures,
        *,
        input_ids: Tensor,
        question_mask: Tensor | None = None,
        volume_index: Tensor | None = None,
        question_ids: Tensor | None = None,
        question_ids_mask: Tensor | None = None,
        **unused: Any,
    ) -> Tensor | None:
        """Slice scores (B, M, N) without running the language model; None where no 2D slices are aggregated.

        Takes the processor's whole output: what scoring does not need is ignored.
        """
        volume_index = resolve_volume_index(volume_index, volume_features, len(input_ids))
        if volume_features.tokens_2d_VNLD is None:
            return None
        if self.config.aggregation == "max":
            return tgis.take_slice_maximum(volume_features.tokens_2d_VNLD, volume_index)[1]
        return self.score(volume_features, volume_index, input_ids, question_mask, question_ids, question_ids_mask)

    def embed_question(
        self,
        input_ids: Tensor | None,
        question_mask: Tensor | None,
        question_ids: Tensor | None,
        question_ids_mask: Tensor | None,
        inputs_embeds: Tensor | None = None,
    ) -> Tensor:
        """The question as one vector (B, D): its mean token embedding (paper) or the text encoder's pooled output."""
        if self.text_encoder is not None:
            if question_ids is None:
                raise ModelError(
                    "this model reads the question with its text encoder, but question_ids is missing; "
                    "take the inputs from its own processor."
                )
            with torch.set_grad_enabled(torch.is_grad_enabled() and not is_frozen(self.text_encoder)):
                pooled = self.text_encoder(input_ids=question_ids, attention_mask=question_ids_mask).pooler_output
            return self.question_projection(pooled)
        if question_mask is None:
            raise ModelError(
                "text-guided scores need question_mask, which marks the question inside input_ids; "
                "take the inputs from the processor."
            )
        text_BTD = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        return tgis.average_question(text_BTD, question_mask)

    def embed_tokens(self, input_ids: Tensor) -> Tensor:
        """Token embeddings; placeholders, which may lie outside the vocabulary, are embedded as token 0 for the moment."""
        is_placeholder = input_ids == self.config.placeholder_token_id
        return self.get_input_embeddings()(input_ids.masked_fill(is_placeholder, 0))

    def merge(self, input_ids: Tensor, inputs_embeds: Tensor, visual_BMSD: Tensor, volume_index: Tensor) -> Tensor:
        """Put each prompt's visual tokens where its placeholders stand, in order.

        Raises:
            ModelError: a prompt's placeholders are not S per volume; going on would mix text and visual embeddings.
        """
        is_placeholder = input_ids == self.config.placeholder_token_id
        if not torch.compiler.is_compiling():
            found = is_placeholder.sum(-1)
            expected = (volume_index >= 0).sum(-1) * visual_BMSD.shape[2]
            if not torch.equal(found, expected):
                row = int((found != expected).nonzero()[0])
                raise ModelError(
                    f"prompt {row} holds {int(found[row])} placeholder tokens for {int(expected[row])} visual tokens "
                    f"({visual_BMSD.shape[2]} per volume); make the prompt with this model's own processor."
                )
        slot = (is_placeholder.long().cumsum(-1) - 1).clamp(min=0)
        visual = visual_BMSD.flatten(1, 2).gather(1, slot.unsqueeze(-1).expand(-1, -1, visual_BMSD.shape[-1]))
        return torch.where(is_placeholder.unsqueeze(-1), visual.to(inputs_embeds.dtype), inputs_embeds)

    def refuse_unfilled(self, input_ids: Tensor) -> None:
        """A prompt with placeholders needs volumes."""
        if not torch.compiler.is_compiling() and bool((input_ids == self.config.placeholder_token_id).any()):
            raise ModelError("the prompt has a place for a volume but no volumes were given; pass volumes=.")

    @property
    def takes_position_ids(self) -> bool:
        return "position_ids" in inspect.signature(self.language_model.forward).parameters

    @torch.no_grad()
    def generate(
        self,
        inputs: Tensor | None = None,
        *args: Any,
        volumes: Tensor | None = None,
        volume_features: VolumeFeatures | None = None,
        **kwargs: Any,
    ) -> Any:
        """As GenerationMixin.generate; volumes are encoded once and never repeated for beams or samples."""
        if volumes is not None and volume_features is None:
            volume_features = self.encode_volumes(volumes)
        if volume_features is not None:
            prompts = inputs if inputs is not None else kwargs["input_ids"]
            kwargs["volume_index"] = resolve_volume_index(kwargs.get("volume_index"), volume_features, len(prompts))
        return super().generate(inputs, *args, volume_features=volume_features, **kwargs)

    def prepare_inputs_for_generation(self, input_ids: Tensor, **kwargs: Any) -> dict[str, Any]:
        is_first, use_cache = kwargs.get("is_first_iteration", False), kwargs.get("use_cache", True)
        model_inputs: dict[str, Any] = super().prepare_inputs_for_generation(input_ids, **kwargs)
        if use_cache and not is_first:
            for name in VOLUME_INPUTS:
                model_inputs.pop(name, None)
        elif (mask := model_inputs.get("question_mask")) is not None and mask.shape[1] < input_ids.shape[1]:
            model_inputs["question_mask"] = F.pad(mask, (0, input_ids.shape[1] - mask.shape[1]))
        return model_inputs


def count_visual_tokens(config: Med2E3Config) -> int:
    """S, the placeholders one volume takes in a prompt: K * P for a 3D branch plus L for a 2D branch.

    Raises:
        ModelError: the parts do not fit one another or the volume.
    """
    num_tokens = 0
    if config.needs_3d:
        found, expected = tuple(config.vision3d_config.image_size), tuple(config.image_size)
        if found != expected:
            raise ModelError(
                f"vision3d_config.image_size is {found} but the model's image_size is {expected}; make them equal."
            )
        depth, rows, columns = config.vision3d_config.pooled_grid
        if config.needs_2d and config.num_slices % depth:
            raise ModelError(
                f"{config.num_slices} slices do not divide into the 3D encoder's {depth} depth bins; "
                f"change image_size, patch_size or pool_size so that they do."
            )
        num_tokens += depth * rows * columns if "3d" in config.fusion.split("+") else 0
    if config.needs_2d:
        num_tokens += measure_slice_tokens(config)[0]
    return num_tokens


def check_volumes(volumes: Tensor, config: Med2E3Config) -> None:
    """Volumes are (V, 1, N, H, W) of the configured size."""
    if volumes.ndim != 5 or tuple(volumes.shape[1:]) != (1, *config.image_size):
        raise ModelError(
            f"volumes have shape {tuple(volumes.shape)}; this model reads (V, 1, {', '.join(map(str, config.image_size))}): "
            "resample them to its grid."
        )


def resolve_volume_index(volume_index: Tensor | None, features: VolumeFeatures, num_prompts: int) -> Tensor:
    """volume_index as (B, M); left out it is one volume for all prompts, or one each."""
    tokens = features.tokens_3d_VKPD if features.tokens_3d_VKPD is not None else features.tokens_2d_VNLD
    assert tokens is not None
    num_volumes = tokens.shape[0]
    if volume_index is None:
        if num_volumes not in (1, num_prompts):
            raise ModelError(
                f"{num_prompts} prompts and {num_volumes} volumes; pass volume_index to say which prompt asks about which."
            )
        one_each = torch.arange(num_prompts, device=tokens.device)
        return one_each.unsqueeze(1) if num_volumes == num_prompts else torch.zeros_like(one_each).unsqueeze(1)
    volume_index = volume_index.to(tokens.device)
    volume_index = volume_index.unsqueeze(1) if volume_index.ndim == 1 else volume_index
    if not torch.compiler.is_compiling():
        if len(volume_index) != num_prompts or int(volume_index.max()) >= num_volumes:
            raise ModelError(
                f"volume_index is {tuple(volume_index.shape)} with largest entry {int(volume_index.max())}, for "
                f"{num_prompts} prompts and {num_volumes} volumes; give a row per prompt and entries below {num_volumes}."
            )
        given = volume_index >= 0
        if bool((given[:, 1:] & ~given[:, :-1]).any()):
            raise ModelError("volume_index has -1 before a volume; put each prompt's volumes first.")
    return volume_index


def find_supervised(labels_BT: Tensor) -> Tensor:
    """Positions whose next token is supervised in any prompt, sorted; at least one, so that the logits are not empty."""
    positions = (labels_BT[:, 1:] != -100).any(dim=0).nonzero().squeeze(-1)
    return positions if len(positions) else torch.zeros(1, dtype=torch.long, device=labels_BT.device)


def next_token_loss(
    logits: Tensor, labels_BT: Tensor, kept: int | Tensor, *, num_items_in_batch: Tensor | int | None = None
) -> Tensor:
    """Cross-entropy of each supervised token given those before it, in float32.

    kept: the positions the logits hold (as logits_to_keep). The mean over supervised tokens, or their sum divided by
    num_items_in_batch when the trainer accumulates gradients.
    """
    next_labels_BT = F.pad(labels_BT, (0, 1), value=-100)[:, 1:]
    if isinstance(kept, Tensor):
        next_labels_BT = next_labels_BT[:, kept]
    elif kept > 0:
        next_labels_BT = next_labels_BT[:, -kept:]
    total = F.cross_entropy(
        logits.float().flatten(0, 1), next_labels_BT.flatten().to(logits.device), ignore_index=-100, reduction="sum"
    )
    count = (next_labels_BT != -100).sum().clamp(min=1) if num_items_in_batch is None else num_items_in_batch
    return total / (count.to(total.device) if isinstance(count, Tensor) else count)


def is_frozen(part: nn.Module) -> bool:
    """Whether no parameter of this part is trained."""
    return not any(parameter.requires_grad for parameter in part.parameters())


AutoModelForImageTextToText.register(Med2E3Config, Med2E3ForConditionalGeneration)
