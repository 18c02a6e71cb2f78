"""Which parts make up a Med-2E3, and which option of the configuration chooses which cell of the paper's ablations?

Sizes: N slices, H x W pixels; a 3D encoder's token grid is depth x rows x columns before pooling, and after pooling K
depth bins of P tokens each. Every part is a Hugging Face configuration; those of the 3D encoders are in
models/encoders3d/configuration.py.
"""

from __future__ import annotations

from typing import Any, ClassVar, cast

from transformers import AutoConfig, PreTrainedConfig

from slicesight.data.plugins import known_names
from slicesight.errors import ModelError
from slicesight.models.sub_configs import SubConfigSpec, make_sub_configs, name_sub_configs

FUSIONS = ("3d", "2d", "3d+2d")
AGGREGATIONS = {
    "random": "slicesight.models.med2e3.slice_scorer:score_at_random",
    "max": "slicesight.models.med2e3.slice_scorer:take_maximum",
    "mean": "slicesight.models.med2e3.slice_scorer:score_alike",
    "text_guided": "slicesight.models.med2e3.slice_scorer:score_by_question",
}
"""Name -> module:function, as slice_scorer.py says. Another package adds its own by an entry point of this group."""
AGGREGATION_ENTRY_POINTS = "slicesight.aggregations"
SCORING_INPUTS = ("text", "3d", "2d")
QUESTION_SOURCES = ("lm_embeddings", "text_encoder")
SCORE_NORMS = ("none", "l2")
PLANES = ("axial", "coronal", "sagittal")
VISION2D_FEATURES = ("last_hidden_state", "before_final_norm")

PHI3_MINI_128K: dict[str, Any] = {
    "model_type": "phi3",
    "vocab_size": 32064,
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 131072,
    "original_max_position_embeddings": 4096,
    "bos_token_id": 1,
    "eos_token_id": 32000,
    "pad_token_id": 32000,
    # The published factors come with the published weights; these stand for their number and change no shape.
    "rope_parameters": {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "factor": 32.0,
        "original_max_position_embeddings": 4096,
        "short_factor": [1.0] * 48,
        "long_factor": [1.0] * 48,
    },
}
PRESETS: dict[str, dict[str, Any]] = {"med2e3-phi3": {"text_config": PHI3_MINI_128K}}


@name_sub_configs
class Med2E3Config(PreTrainedConfig):
    """Configuration of Med-2E3; the defaults are the paper's (Phi-3-mini, SigLIP-L/16-256, M3D ViT-B, TG-IS).

    image_size: (N, H, W) of a volume; parts given as dicts without one take this one.
    fusion: what the language model sees. aggregation: how N slices become one. scoring_inputs: what text-guided scores
        are made of; without "text" one Linear(D -> 1) makes them. None: text and every branch of the fusion.
    question_source: the language model's token embeddings (paper) or a text encoder's pooled output (released).
    score_norm, score_scale, learn_score_scale: scores = softmax(scale * dot), for "l2" of normalised vectors.
    score_dim: project question and slices to this width before the dot; None is the paper (no projection).
    score_heads: so many projections, each with its own dot and softmax over the slices; the scores are their mean.
    score_dropout: dropout after the softmax, in training only (released: 0.1).
    slice_mean, slice_std: normalisation before the 2D encoder; the default shows it the raw [0, 1] values.
    slice_pool: side of the square of 2D tokens averaged together (paper: 1, all are kept).
    vision2d_feature: the 2D encoder's last_hidden_state, or the last block's output before the final norm (released).
    planes: slices of these planes, scored together, from a volume stacked axially; None is the volume's own stacking.
    random_seed: of the "random" aggregation in evaluation. placeholder_token_id: stands for visual tokens in input_ids.
    """

    model_type = "med2e3"
    sub_configs_defaults: ClassVar[dict[str, SubConfigSpec]] = {
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="phi3"),
        "vision2d_config": SubConfigSpec(
            config_class=AutoConfig,
            model_type="siglip_vision_model",
            init_kwargs={
                "hidden_size": 1024,
                "intermediate_size": 4096,
                "num_hidden_layers": 24,
                "num_attention_heads": 16,
                "image_size": 256,
                "patch_size": 16,
                "vision_use_head": False,
            },
        ),
        "vision3d_config": SubConfigSpec(config_class=AutoConfig, model_type="m3d_vit"),
        "text_encoder_config": SubConfigSpec(config_class=AutoConfig, model_type="bert", optional=True),
    }

    text_config: Any = None
    vision2d_config: Any = None
    vision3d_config: Any = None
    text_encoder_config: Any = None
    image_size: list[int] | tuple[int, ...] = (32, 256, 256)
    fusion: str = "3d+2d"
    aggregation: str = "text_guided"
    scoring_inputs: Any = None
    question_source: str = "lm_embeddings"
    score_norm: str = "none"
    score_scale: float = 1.0
    learn_score_scale: bool = False
    score_dim: int | None = None
    score_heads: int = 1
    score_dropout: float = 0.0
    slice_mean: float | list[float] = 0.0
    slice_std: float | list[float] = 1.0
    slice_pool: int = 1
    vision2d_feature: str = "last_hidden_state"
    planes: Any = None
    random_seed: int = 0
    placeholder_token_id: int = 32063
    initializer_range: float = 0.02
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        self.image_size = list(self.image_size)
        if self.vision3d_config is None:
            self.vision3d_config = {"model_type": "m3d_vit"}
        if isinstance(self.vision3d_config, dict):
            self.vision3d_config = {"image_size": self.image_size, **self.vision3d_config}
        make_sub_configs(self)
        cast(Any, super()).__post_init__(**kwargs)
        if self.scoring_inputs is None:
            self.scoring_inputs = [name for name in SCORING_INPUTS if name == "text" or name in self.fusion.split("+")]
        order = {name: number for number, name in enumerate(SCORING_INPUTS)}
        self.scoring_inputs = sorted(self.scoring_inputs, key=lambda name: order.get(name, len(order)))
        self.tie_word_embeddings = bool(getattr(self.text_config, "tie_word_embeddings", False))
        check_options(self)

    @property
    def num_slices(self) -> int:
        """N, the slices of a volume."""
        return self.image_size[0]

    @property
    def text_width(self) -> int:
        """D, the width of the language model's token embeddings."""
        return int(self.text_config.get_text_config().hidden_size)

    @property
    def needs_3d(self) -> bool:
        """Whether any part of the answer or of the scores looks at 3D tokens."""
        return "3d" in self.fusion.split("+") or (self.uses_scores and "3d" in self.scoring_inputs)

    @property
    def needs_2d(self) -> bool:
        """Whether slices are encoded on their own."""
        return "2d" in self.fusion.split("+")

    @property
    def uses_scores(self) -> bool:
        """Whether slice weights are computed from the volume (text-guided aggregation of a 2D branch)."""
        return self.needs_2d and self.aggregation == "text_guided"

    @property
    def reads_question(self) -> bool:
        """Whether z_2D may depend on the question; what another package's aggregation reads is not known here."""
        if not self.needs_2d or self.aggregation in ("mean", "max"):
            return False
        return not self.uses_scores or "text" in self.scoring_inputs


def check_options(config: Med2E3Config) -> None:
    """Raises ModelError for a value outside its list or a combination that means nothing."""
    for field, allowed in (
        ("fusion", FUSIONS),
        ("question_source", QUESTION_SOURCES),
        ("score_norm", SCORE_NORMS),
        ("vision2d_feature", VISION2D_FEATURES),
    ):
        if getattr(config, field) not in allowed:
            raise ModelError(f"{field} is {getattr(config, field)!r}; expected one of {', '.join(allowed)}.")
    if config.aggregation not in known_names(AGGREGATIONS, AGGREGATION_ENTRY_POINTS):
        raise ModelError(f"aggregation is {config.aggregation!r}; expected one of {', '.join(AGGREGATIONS)}.")
    unknown = [name for name in config.scoring_inputs if name not in SCORING_INPUTS]
    if unknown:
        raise ModelError(f"scoring_inputs holds {unknown}; expected a subset of {', '.join(SCORING_INPUTS)}.")
    if config.uses_scores and not {"3d", "2d"} & set(config.scoring_inputs):
        raise ModelError(
            'scoring_inputs names no image feature; text alone scores every slice alike: add "3d" or "2d".'
        )
    if len(config.image_size) != 3 or min(config.image_size) < 1:
        raise ModelError(f"image_size is {config.image_size}; expected three positive numbers: slices, rows, columns.")
    if config.planes is not None:
        unknown = [plane for plane in config.planes if plane not in PLANES]
        if unknown or not config.planes or len(set(config.planes)) != len(config.planes):
            raise ModelError(
                f"planes is {list(config.planes)}; expected different ones of {', '.join(PLANES)}, or null."
            )
    if not config.score_scale > 0:
        raise ModelError(f"score_scale is {config.score_scale}; expected a positive number.")
    if config.score_heads < 1 or (config.score_heads > 1 and config.score_dim is None):
        raise ModelError(
            f"score_heads is {config.score_heads}, score_dim {config.score_dim}; several heads need a score_dim each."
        )
    if config.question_source == "text_encoder" and config.text_encoder_config is None:
        raise ModelError("question_source is text_encoder but text_encoder_config is missing; add it (a BERT, say).")


def make_preset(name: str, **overrides: Any) -> Med2E3Config:
    """A named full-size configuration to plan, build and train from, with any of its options changed."""
    if name not in PRESETS:
        raise ModelError(f"no configuration is called {name!r}; known names: {', '.join(sorted(PRESETS))}.")
    return Med2E3Config(**{**PRESETS[name], **overrides})


AutoConfig.register(Med2E3Config.model_type, Med2E3Config)
