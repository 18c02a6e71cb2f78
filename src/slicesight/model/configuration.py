"""Which parts make up a Med-2E3, and which word of the configuration chooses which cell of the paper's ablations?

Sizes: N slices, H x W pixels; a 3D encoder's token grid is depth x rows x columns before pooling, and after pooling
K depth bins of P tokens each. Every part is a Hugging Face configuration; the 3D encoders' own ones are defined here.
"""

from __future__ import annotations

from typing import Any, ClassVar

from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from slicesight.errors import ModelError

FUSIONS = ("3d", "2d", "3d+2d")
AGGREGATIONS = ("random", "max", "mean", "text_guided")
SCORING_INPUTS = ("text", "3d", "2d")
QUESTION_SOURCES = ("lm_embeddings", "text_encoder")
SCORE_NORMS = ("none", "l2")
PLANES = ("axial", "coronal", "sagittal")
VISION2D_FEATURES = ("last_hidden_state", "before_final_norm")


class Vision3DConfig(PreTrainedConfig):
    """What every 3D encoder's configuration has: the volume it takes and how its token grid is pooled.

    image_size: (N, H, W) it takes. pool_size: token grid cells averaged together along (depth, rows, columns).
    """

    image_size: list[int] | tuple[int, ...] = (32, 256, 256)
    pool_size: list[int] | tuple[int, ...] = (2, 2, 2)
    hidden_size: int = 768
    in_channels: int = 1
    initializer_range: float = 0.02

    @property
    def token_grid(self) -> tuple[int, int, int]:
        """Cells along (depth, rows, columns) before pooling."""
        raise NotImplementedError

    @property
    def pooled_grid(self) -> tuple[int, int, int]:
        """Cells along (depth, rows, columns) after pooling: K is the first, P the product of the other two."""
        for cells, pool, axis in zip(self.token_grid, self.pool_size, ("depth", "row", "column"), strict=True):
            if cells % pool:
                raise ModelError(
                    f"vision3d_config: the token grid {self.token_grid} of image_size {tuple(self.image_size)} does "
                    f"not divide by pool_size {tuple(self.pool_size)} along the {axis} axis; change one of them."
                )
        depth, rows, columns = (c // p for c, p in zip(self.token_grid, self.pool_size, strict=True))
        return depth, rows, columns


class M3DViTConfig(Vision3DConfig):
    """The ViT of M3D: perceptron patches, learned positions, qkv without bias, a class token dropped at the end.

    final_norm: False gives the last block's output before the final norm (released Med-2E3), True after it (LaMed).
    """

    model_type = "m3d_vit"

    patch_size: list[int] | tuple[int, ...] = (4, 16, 16)
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    qkv_bias: bool = False
    use_cls_token: bool = True
    final_norm: bool = False
    layer_norm_eps: float = 1e-5

    @property
    def token_grid(self) -> tuple[int, int, int]:
        for size, patch, axis in zip(self.image_size, self.patch_size, ("slices", "rows", "columns"), strict=True):
            if size % patch:
                raise ModelError(
                    f"vision3d_config: {size} {axis} of image_size {tuple(self.image_size)} do not divide into patches "
                    f"of {patch} (patch_size {tuple(self.patch_size)}); change one of them."
                )
        depth, rows, columns = (s // p for s, p in zip(self.image_size, self.patch_size, strict=True))
        return depth, rows, columns


class CNN3DConfig(Vision3DConfig):
    """A small residual 3D CNN with GroupNorm: one stage per entry of widths, the first convolution of each strided.

    strides: (depth, rows, columns) of each stage; blocks: residual blocks per stage; hidden_size follows from widths.
    """

    model_type = "cnn3d"

    widths: list[int] | tuple[int, ...] = (32, 64, 128)
    blocks: list[int] | tuple[int, ...] = (1, 1, 1)
    strides: list[Any] | tuple[Any, ...] = ((1, 2, 2), (2, 2, 2), (2, 2, 2))
    num_groups: int = 8
    pool_size: list[int] | tuple[int, ...] = (1, 1, 1)

    def __post_init__(self, **kwargs: Any) -> None:
        if not len(self.widths) == len(self.blocks) == len(self.strides):
            raise ModelError(
                f"vision3d_config: {len(self.widths)} widths, {len(self.blocks)} blocks, {len(self.strides)} strides; "
                "a cnn3d needs one of each per stage."
            )
        self.hidden_size = self.widths[-1]
        super().__post_init__(**kwargs)

    @property
    def token_grid(self) -> tuple[int, int, int]:
        grid = list(self.image_size)
        for stride in self.strides:
            grid = [-(-cells // step) for cells, step in zip(grid, stride, strict=True)]
        return grid[0], grid[1], grid[2]


class MonaiViTConfig(M3DViTConfig):
    """MONAI's ViT (its own weights and names); patch_projection is its proj_type, "perceptron" or "conv"."""

    model_type = "monai_vit"

    patch_projection: str = "perceptron"
    use_cls_token: bool = False
    final_norm: bool = True


class SwinUNETRConfig(Vision3DConfig):
    """The Swin encoder of MONAI's SwinUNETR; tokens are its features at output_stage (0 the finest, 4 the coarsest).

    Every stage halves the grid along all three axes, the patch embedding by patch_size; hidden_size follows.
    """

    model_type = "swin_unetr"

    feature_size: int = 24
    patch_size: int = 2
    window_size: int = 7
    depths: list[int] | tuple[int, ...] = (2, 2, 2, 2)
    num_heads: list[int] | tuple[int, ...] = (3, 6, 12, 24)
    output_stage: int = 3
    pool_size: list[int] | tuple[int, ...] = (1, 1, 1)

    def __post_init__(self, **kwargs: Any) -> None:
        if not 0 <= self.output_stage <= len(self.depths):
            raise ModelError(
                f"vision3d_config: output_stage is {self.output_stage}; expected 0 to {len(self.depths)}, the stages."
            )
        self.hidden_size = self.feature_size * 2**self.output_stage
        super().__post_init__(**kwargs)

    @property
    def token_grid(self) -> tuple[int, int, int]:
        step = self.patch_size * 2**self.output_stage
        for size, axis in zip(self.image_size, ("slices", "rows", "columns"), strict=True):
            if size % step:
                raise ModelError(
                    f"vision3d_config: {size} {axis} of image_size {tuple(self.image_size)} do not divide by {step}, "
                    f"the stride of output_stage {self.output_stage}; change image_size or output_stage."
                )
        depth, rows, columns = (size // step for size in self.image_size)
        return depth, rows, columns


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

    text_config: dict[str, Any] | PreTrainedConfig | None = None
    vision2d_config: dict[str, Any] | PreTrainedConfig | None = None
    vision3d_config: dict[str, Any] | PreTrainedConfig | None = None
    text_encoder_config: dict[str, Any] | PreTrainedConfig | None = None
    image_size: list[int] | tuple[int, ...] = (32, 256, 256)
    fusion: str = "3d+2d"
    aggregation: str = "text_guided"
    scoring_inputs: list[str] | tuple[str, ...] | None = None
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
    planes: list[str] | tuple[str, ...] | None = None
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
        super().__post_init__(**kwargs)
        if self.scoring_inputs is None:
            self.scoring_inputs = [name for name in SCORING_INPUTS if name == "text" or name in self.fusion.split("+")]
        self.scoring_inputs = [name for name in SCORING_INPUTS if name in self.scoring_inputs] + [
            name for name in self.scoring_inputs if name not in SCORING_INPUTS
        ]
        self.tie_word_embeddings = bool(getattr(self.text_config, "tie_word_embeddings", False))
        check_words(self)

    @property
    def num_slices(self) -> int:
        """N, the slices of a volume."""
        return self.image_size[0]

    @property
    def num_scored_slices(self) -> int:
        """Slices that share one softmax: N, or N of every plane, plane after plane."""
        return self.num_slices * len(self.planes or (None,))

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


def check_words(config: Med2E3Config) -> None:
    """Raises ModelError for a word outside its list or a combination that means nothing."""
    for field, allowed in (
        ("fusion", FUSIONS),
        ("aggregation", AGGREGATIONS),
        ("question_source", QUESTION_SOURCES),
        ("score_norm", SCORE_NORMS),
        ("vision2d_feature", VISION2D_FEATURES),
    ):
        if getattr(config, field) not in allowed:
            raise ModelError(f"{field} is {getattr(config, field)!r}; expected one of {', '.join(allowed)}.")
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


VISION3D_CONFIGS = (M3DViTConfig, CNN3DConfig, MonaiViTConfig, SwinUNETRConfig)
for own_config in (*VISION3D_CONFIGS, Med2E3Config):
    AutoConfig.register(own_config.model_type, own_config)
